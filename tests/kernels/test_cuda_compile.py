"""The CUDA sources: every one compiles without a warning, and they are the twins of the CPU's. No GPU is needed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils import cpp_extension

CSRC = Path(__file__).parents[2] / "csrc"
CUDA_SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
# What one_call is made of on the CPU, where it takes nets of any size; and what is on the CPU alone, or on no device.
CPU_ONLY = {"large_net", "middle", "products", "small_net"}
CPU_OPS = {"scratch_bytes", "mlp_forward", "unbind"}
REGISTRATION = re.compile(r'\bm\.impl\("(\w+)", TORCH_BOX\(&tmb::(?:Bind<tmb::)?(?:cuda::)?(\w+)(?:>::op)?\)\)')


@pytest.fixture(scope="module")
def nvcc():
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    compiler = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if compiler is None:
        pytest.skip("nvcc is not found: neither on PATH nor under CUDA_HOME")
    return compiler


@pytest.fixture(scope="module")
def targets(nvcc):
    """Code for 8.0 and 9.0, and PTX of the newest that nvcc knows: what is written for one may not suit another."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    newest = max(map(int, re.findall(r"compute_(\d+)", listed)))
    codes = {80: "sm_80", 90: "sm_90", newest: f"compute_{newest}"}
    return [f"-gencode=arch=compute_{number},code={code}" for number, code in codes.items()]


def registered(source):
    return {op: function for op, function in REGISTRATION.findall(source.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("source", CUDA_SOURCES, ids=lambda path: path.stem)
def test_compiles_without_a_warning(source, nvcc, targets, tmp_path):
    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    command = [
        nvcc, "-c", str(source), "-o", str(tmp_path / "object.o"), *includes, *targets,
        "-std=c++17", "--expt-relaxed-constexpr", "-Werror", "all-warnings",
        "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_source_has_its_twin():
    cpu = {path.stem for path in (CSRC / "cpu").glob("*.cpp")}
    assert cpu >= CPU_ONLY and {path.stem for path in CUDA_SOURCES} == cpu - CPU_ONLY


@pytest.mark.parametrize("source", CUDA_SOURCES, ids=lambda path: path.stem)
def test_twins_register_the_same_ops(source):
    cuda = registered(source)
    cpu = registered(CSRC / "cpu" / f"{source.stem}.cpp")
    assert cuda and cuda == {op: function for op, function in cpu.items() if op not in CPU_OPS}


def test_every_op_of_the_library_has_a_kernel():
    schemas = re.findall(r'm\.def\("(\w+)', (CSRC / "library.cpp").read_text())
    kernels = [op for source in (CSRC / "cpu").glob("*.cpp") for op in registered(source)]
    assert sorted(kernels) == sorted(schemas)
