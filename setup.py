"""The compiled extension alone; all metadata stands in pyproject.toml.

Without torch or a C++ compiler in the build environment this builds a pure-Python package, which computes in plain
torch and says so. The CUDA kernels are built in where nvcc is found and torch is a CUDA build; no GPU is needed.
TMB_FORCE_CUDA=1 stops the build where they cannot be, TMB_FORCE_CUDA=0 leaves them out. TORCH_CUDA_ARCH_LIST picks the
GPU generations; unset, they are those of the GPUs in sight, or all from 8.0 on where there is none.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# The LibTorch stable ABI of 2.10; with CPython's of 3.10 (py_limited_api, which defines Py_LIMITED_API) one binary
# serves these and all later versions.
MACROS = [("TORCH_TARGET_VERSION", "0x020a000000000000")]
CXX = ["-O3", "-g0", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
NVCC = ["-O3", "--expt-relaxed-constexpr"]


def nvcc_flags(torch, home) -> list[str] | None:
    """With what to compile the CUDA kernels; None to leave them out."""
    force, version, nvcc = os.getenv("TMB_FORCE_CUDA"), torch.version.cuda, shutil.which("nvcc", path=f"{home}/bin")
    missing = ["a CUDA build of torch"] * (version is None) + ["nvcc (set CUDA_HOME)"] * (nvcc is None)
    if not missing and f"release {version.split('.')[0]}." not in subprocess.check_output([nvcc, "-V"], text=True):
        missing = [f"nvcc of CUDA {version}, with which torch was built (set CUDA_HOME)"]
    if force == "1" and missing:
        sys.exit(f"TMB_FORCE_CUDA=1: the CUDA kernels cannot be built without {' and '.join(missing)}")
    if force == "0" or missing:
        return None
    if os.getenv("TORCH_CUDA_ARCH_LIST") or torch.cuda.device_count():
        return NVCC  # torch adds the targets; with neither to look at, it would stop
    listed = subprocess.check_output([nvcc, "--list-gpu-arch"], text=True)
    known = sorted(n for n in map(int, re.findall(r"compute_(\d+)", listed)) if n >= 80)
    first = {n // 10: n for n in reversed(known)}  # of each generation: what is for 8.0 runs on 8.9 as well
    targets = [(n, f"sm_{n}") for n in sorted(first.values())] + [(known[-1], f"compute_{known[-1]}")]
    return NVCC + [f"-gencode=arch=compute_{n},code={code}" for n, code in targets]  # the last, PTX: for those to come


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
    cuda = (flags := nvcc_flags(torch, cpp_extension.CUDA_HOME)) is not None
    sources = sorted(str(path) for kind in ("cpp", "cu")[: 1 + cuda] for path in Path("csrc").rglob(f"*.{kind}"))
    module = (cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension)(
        "torch_manual_bp._C",
        sources,
        define_macros=MACROS + [("USE_CUDA", None)] * cuda,
        extra_compile_args={"cxx": CXX, "nvcc": flags or []},
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
