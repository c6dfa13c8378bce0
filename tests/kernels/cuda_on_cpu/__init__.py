"""The CUDA kernels run on the CPU: csrc/cuda as it stands, compiled against an emulation of CUDA's execution model.

What is shown so is that the kernels compute the right thing, and that no thread waits for one that does not come. How
fast they are, and what a GPU's memory model does to them, is not.
"""

import fcntl
import hashlib
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils import cpp_extension

from torch_manual_bp.kernels import _dispatch, fallback

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
_FLAGS = [
    "-x", "c++", "-std=c++17", "-O1", "-g1", "-fPIC", "-w", "-include", "cuda_runtime.h",
    "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-D__assert_fail=cuda_on_cpu_assert_fail",
]  # fmt: skip
_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


def why_not() -> str:
    """Why the kernels cannot be run so here; empty if they can."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return f"the emulation's fibers are written for x86-64 on Linux, this is {platform.machine()}"
    if shutil.which("g++") is None:
        return "no g++"
    if _dispatch._compiled is None:
        return f"no compiled extension, whose ops they are: {_dispatch.backend()}"
    if _dispatch._cuda is not None:
        return "the extension has CUDA kernels of its own, which cannot be registered twice"
    return ""


def build(sources: list[Path], folder: Path, flags: tuple[str, ...] = ()) -> Path:
    """A library of the sources and the emulation, made once for what goes into it."""
    files = sorted({*CSRC.rglob("*"), *HERE.rglob("*"), *sources})
    content = hashlib.sha256(repr((torch.__version__, _FLAGS, flags, sources)).encode())
    for file in files:
        if file.suffix in (".h", ".cuh", ".cu", ".cpp", ".py"):
            content.update(file.read_bytes())
    library = folder / f"{sources[0].parent.name}-{content.hexdigest()[:16]}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process builds, the others find it done
        if not library.exists():
            for outdated in folder.glob(f"{sources[0].parent.name}-*"):
                outdated.unlink()
            _compile([HERE / "cuda_on_cpu.cpp", *sources], library, flags)
    return library


def _compile(sources: list[Path], library: Path, flags: tuple[str, ...]) -> None:
    includes = [f"-I{path}" for path in (HERE / "include", CSRC / "cuda", *cpp_extension.include_paths())]
    objects = [library.with_suffix(f".{source.stem}.o") for source in sources]

    def compile_one(source: Path, to: Path) -> None:
        _run(["g++", *_FLAGS, *flags, *includes, "-c", str(source), "-o", str(to)])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, objects))
    torch_libraries = [f"-L{cpp_extension.library_paths()[0]}", "-ltorch", "-ltorch_cpu", "-lc10"]
    unfinished = library.with_suffix(".unfinished")
    own_first = "-Wl,-Bsymbolic"  # where torch has a function of the same name
    _run(["g++", "-shared", *flags, own_first, "-o", str(unfinished), *map(str, objects), *torch_libraries])
    unfinished.rename(library)
    for file in objects:
        file.unlink()


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@cache
def kernels(folder: Path) -> SimpleNamespace:
    """Every op as `_dispatch` holds them, with its CUDA kernel, to be called with tensors on the CPU."""
    torch.ops.load_library(str(build(sorted((CSRC / "cuda").glob("*.cu")), folder)))
    assert _has_cuda_kernel("bias_act_")
    return SimpleNamespace(**{name: _redispatched(name) for name in _dispatch._OPS})


def _redispatched(name: str):
    if not _has_cuda_kernel(name):
        return getattr(fallback, name, None)
    op = getattr(torch.ops.torch_manual_bp, name).default

    def call(*arguments):
        return op.redispatch(_CUDA, *arguments)

    return call


def _has_cuda_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"torch_manual_bp::{name}", "CUDA")
