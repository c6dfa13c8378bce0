"""The compiled extension alone; all metadata stands in pyproject.toml.

Without torch or a C++ compiler in the build environment this builds a pure-Python package, which computes in plain
torch and says so. The CUDA kernels are built in where nvcc is found and torch is a CUDA build; no GPU is needed.
TMB_FORCE_CUDA=1 stops the build where they cannot be (a CPU-only torch has no libtorch_cuda to link them with),
TMB_FORCE_CUDA=0 leaves them out. TORCH_CUDA_ARCH_LIST picks the GPU generations, as for any extension of torch.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# The LibTorch stable ABI of 2.10; with CPython's of 3.10 (py_limited_api, which defines Py_LIMITED_API) one binary
# serves these and all later versions.
MACROS = [("TORCH_TARGET_VERSION", "0x020a000000000000")]
CXX = ["-O3", "-g0", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
NVCC = ["-O3", "--expt-relaxed-constexpr"]


def with_cuda(torch, cpp_extension) -> bool:
    """Whether the CUDA kernels are built in."""
    force = os.environ.get("TMB_FORCE_CUDA")
    home = cpp_extension.CUDA_HOME
    missing = [
        what
        for what, there in (
            ("a CUDA build of torch", torch.version.cuda is not None),
            ("nvcc (set CUDA_HOME)", home is not None and shutil.which("nvcc", path=f"{home}/bin") is not None),
        )
        if not there
    ]
    if force == "1" and missing:
        sys.exit(f"TMB_FORCE_CUDA=1: the CUDA kernels cannot be built without {' and '.join(missing)}")
    return force != "0" and not missing


def extension() -> tuple[dict, str]:
    """setup()'s arguments for the extension; or none, and why."""
    if os.name == "nt":
        return {}, "not built on Windows"
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        return {}, f"built without torch ({error})"
    if shutil.which(cpp_extension.get_cxx_compiler()) is None:
        return {}, "built without a C++ compiler"
    cuda = with_cuda(torch, cpp_extension)
    sources = sorted(str(path) for kind in ("cpp", "cu")[: 1 + cuda] for path in Path("csrc").rglob(f"*.{kind}"))
    make = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    module = make(
        "torch_manual_bp._C",
        sources,
        define_macros=MACROS + [("USE_CUDA", None)] * cuda,
        extra_compile_args={"cxx": CXX, "nvcc": NVCC},
        py_limited_api=True,
    )
    return {"ext_modules": [module], "cmdclass": {"build_ext": cpp_extension.BuildExtension}}, ""


class BuildPy(build_py):
    def run(self):
        super().run()
        if WHY_NOT and not self.editable_mode:  # torch_manual_bp.kernels.backend() reads it
            Path(self.build_lib, "torch_manual_bp", "_no_extension.txt").write_text(WHY_NOT)


ARGUMENTS, WHY_NOT = extension()
if WHY_NOT:
    print(f"torch_manual_bp: no compiled extension: {WHY_NOT}; it will compute in plain torch, slower", file=sys.stderr)
ARGUMENTS.setdefault("cmdclass", {})["build_py"] = BuildPy
setup(options={"bdist_wheel": {"py_limited_api": "cp310"}}, **ARGUMENTS)
