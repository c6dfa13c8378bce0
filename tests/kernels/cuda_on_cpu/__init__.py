"""The CUDA kernels, run on the CPU: csrc/cuda as it stands, compiled by g++ against an emulation of CUDA's threads.

It has no speed, and φ and exp are the CPU's; what it shows is that indices, barriers, shuffles and orders are right.
Every load and store of a kernel is checked: it must lie in a tensor that the op was given or has made, and a tensor of
which only a constant pointer was asked for must not be written.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils import cpp_extension

from torch_manual_bp.kernels import _dispatch, fallback

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
RUNTIME = sorted(HERE.glob("*.cpp"))
KERNELS = [*sorted((CSRC / "cuda").glob("*.cu")), HERE / "cases.cu"]
HEADERS = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh"), *HERE.glob("*.h")])

EXTERN_SHARED = re.compile(r"extern __shared__[^;]*?(\w+)\[\]")

COMPILE = [
    "-c", "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE",
    "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{HERE}",
    *(f"-isystem{path}" for path in cpp_extension.include_paths()),
]  # fmt: skip
# Each load and store of a kernel calls memory.cpp, as does what C++ leaves undefined.
CHECKED = [
    "-w", "-x", "c++", "-include", "cuda_runtime.h", "-fno-extern-tls-init",
    "-fsanitize=kernel-address,alignment,bounds,shift,integer-divide-by-zero,signed-integer-overflow",
    "--param=asan-instrumentation-with-call-threshold=0", "--param=asan-stack=0", "--param=asan-globals=0",
]  # fmt: skip
# What the kernels call libtorch for, and libtorch.cpp answers.
WRAPPED = [
    "aoti_torch_empty_strided", "torch_get_mutable_data_ptr", "torch_get_const_data_ptr",
    "aoti_torch_create_device_guard", "aoti_torch_delete_device_guard", "aoti_torch_get_current_cuda_stream",
    "aoti_torch_cuda_addmm_out", "torch_c10_cuda_check_msg", "torch_c10_cuda_free_error_msg", "__assert_fail",
]  # fmt: skip
LINK = [
    "-shared", "-Wl,-z,defs", *(f"-Wl,--wrap={name}" for name in WRAPPED),
    *(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch", "-ltorch_cpu", "-lc10",
]  # fmt: skip


def why_not() -> str:
    """Why the emulation cannot be had here; "" where it can."""
    if _dispatch._cpu is None:  # the ops' schemas are the extension's
        return f"no compiled extension: {_dispatch.backend()}"
    if _dispatch._cuda is not None:
        return "the extension has the CUDA kernels themselves"
    if sys.platform != "linux" or shutil.which("g++") is None:
        return "the CUDA kernels run on the CPU where there is Linux and g++"
    return ""


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return result.stdout


def key(*parts):
    version = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout
    texts = [part.read_text() if isinstance(part, Path) else str(part) for part in (version, torch.__version__, *parts)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def dynamic_shared_memory(objects: list[Path]) -> list[str]:
    """The arrays that stand for a block's dynamic memory are one, whatever their names."""
    names = {name for path in [*KERNELS, *HEADERS] for name in EXTERN_SHARED.findall(path.read_text())}
    undefined = set(run(["nm", "--undefined-only", "--just-symbols", *map(str, objects)]).split())
    arrays = [symbol for symbol in undefined for name in names if symbol.endswith(f"{len(name)}{name}E")]
    return [f"-Wl,--defsym={symbol}=emulator_dynamic_shared" for symbol in sorted(arrays)]


def build(folder: Path) -> Path:
    """Compiles what has changed since the last time, and links it; one process at a time."""

    def compiled(source):
        flags = COMPILE + (CHECKED if source in KERNELS else ["-O2"])
        target = folder / f"{source.stem}-{key(source, *HEADERS, flags)}.o"
        if not target.exists():
            run(["g++", *flags, str(source), "-o", str(part := target.with_suffix(".part"))])
            part.rename(target)
        return target

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock, ThreadPoolExecutor(2) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The emulator's objects come first: of std's templates the linker keeps their copies, which check nothing.
        objects = list(pool.map(compiled, [*RUNTIME, *KERNELS]))
        library = folder / f"cuda_on_cpu-{key(*(path.name for path in objects), LINK)}.so"
        if not library.exists():
            link = [*map(str, objects), *dynamic_shared_memory(objects), *LINK]
            run(["g++", *link, "-o", str(part := library.with_suffix(".part"))])
            part.rename(library)
        for path in folder.iterdir():
            if path not in (*objects, library) and path.name != "lock":
                path.unlink()
    return library


@cache
def load(folder: Path) -> SimpleNamespace:
    """The ops, for CPU tensors: each runs the kernel that is registered for CUDA."""
    torch.ops.load_library(str(build(folder)))
    ops = {name: on_cuda("torch_manual_bp", name) for name in _dispatch._OPS}
    ops["unbind"] = lambda number: None  # the library has bound steps of its own: those of the extension must stay
    return SimpleNamespace(**ops)


def has_cuda_kernel(namespace: str, name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", "CUDA")


def on_cuda(namespace: str, name: str) -> Callable | None:
    """The op's kernel for CUDA, whatever the device of its arguments; plain torch, or None, if it has none."""
    op = getattr(getattr(torch.ops, namespace), name).default
    if not has_cuda_kernel(namespace, name):
        return getattr(fallback, name, None)
    return partial(op.redispatch, torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA))
