"""The build: where something is missing a working pure-Python package, and a plain word on why; one binary for all."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# (an editable install of this project, if there is one, would lend its extension to the package under test)
USE = """
import sys, warnings
sys.meta_path = [finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable__")]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from torch_manual_bp import kernels
    assert not caught, [str(w.message) for w in caught]
    z = torch.tensor([[-1.0, 2.0]])
    kernels.bias_act_(z, None, "relu")
    kernels.bias_act_(z, None, "relu")
assert z.tolist() == [[0.0, 2.0]]
print(len(caught), caught[0].category.__name__, caught[0].message)
print(kernels.backend())
"""


def copy_of_sources(folder):
    """What is built from, without build products."""
    copy = folder / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("csrc", "torch_manual_bp"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_no_*"))
    return copy


@pytest.fixture
def source(tmp_path):
    return copy_of_sources(tmp_path)


def run(command, cwd, timeout=300, **environment):
    environment = {**os.environ, "PYTHONPATH": "", "TMB_DISABLE_EXTENSION": "", **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def build_wheel(source, **environment):
    result = run([sys.executable, "setup.py", "-q", "bdist_wheel"], source, timeout=900, **environment)
    assert result.returncode == 0, result.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel, result.stderr


def use(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    result = run([sys.executable, "-c", USE], tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_without_a_compiler(source, tmp_path):
    wheel, said = build_wheel(source, PATH=str(tmp_path / "empty"), CXX="", CC="")
    assert "no compiled extension: built without a C++ compiler; it will compute in plain torch" in said
    assert wheel.name.endswith("-py3-none-any.whl")
    warned, backend = use(wheel, tmp_path)
    assert backend == "python (no compiled extension: built without a C++ compiler)"
    assert warned.startswith("1 UserWarning torch_manual_bp computes in plain torch on cpu")


def test_without_torch_in_the_build_environment(source, tmp_path):
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    wheel, said = build_wheel(source, PYTHONPATH=str(absent))
    assert "no compiled extension: built without torch" in said
    _, backend = use(wheel, tmp_path)
    assert backend == "python (no compiled extension: built without torch (No module named 'torch'))"


def test_forced_cuda_stops_the_build_where_it_cannot_be(source, tmp_path):
    result = run([sys.executable, "setup.py", "--version"], source, TMB_FORCE_CUDA="1", CUDA_HOME=str(tmp_path))
    assert result.returncode != 0
    assert "TMB_FORCE_CUDA=1: the CUDA kernels cannot be built without" in result.stderr
    assert "nvcc (set CUDA_HOME)" in result.stderr


# A CUDA build of torch and no GPU, as far as setup.py asks; it is asked no further than for the flags.
PRETEND = """
import runpy, sys, torch
from torch.utils import cpp_extension
torch.version.cuda, cpp_extension.CUDA_HOME, torch.cuda.device_count = "13.0", sys.argv[1], lambda: 0
cpp_extension.CUDAExtension = lambda *_, extra_compile_args, **__: sys.exit(" ".join(extra_compile_args["nvcc"]))
sys.argv = ["setup.py", "--version"]
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.fixture
def flags_for(source, tmp_path):
    """What the build gives to an nvcc of this release that knows these targets."""

    def flags(release, known, **environment):
        nvcc = tmp_path / "cuda" / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True, exist_ok=True)
        listed = "".join(f"compute_{number}\\n" for number in known)
        nvcc.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "release {release}, V{release}.1" || printf "{listed}"\n')
        nvcc.chmod(0o755)
        command = [sys.executable, "-c", PRETEND, str(tmp_path / "cuda")]
        return run(command, source, **{"TMB_FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "", **environment}).stderr

    return flags


def test_without_a_gpu_there_is_code_for_every_generation(flags_for):
    """Of its first member, for it runs on the others, and as PTX of the newest, for those to come."""
    said = flags_for("13.0", (75, 80, 86, 89, 90, 100, 103, 120, 121))
    assert re.findall(r",code=(\w+)", said) == ["sm_80", "sm_90", "sm_100", "sm_120", "compute_121"]
    assert re.findall(r"arch=compute_(\w+)", said) == ["80", "90", "100", "120", "121"]


def test_the_list_of_generations_is_left_to_torch_where_it_is_given(flags_for):
    said = flags_for("13.0", (80, 90), TORCH_CUDA_ARCH_LIST="8.6")
    assert "--expt-relaxed-constexpr" in said and "arch=" not in said


def test_an_nvcc_of_another_release_than_torchs(flags_for):
    said = flags_for("12.8", (80, 90))
    assert "cannot be built without nvcc of CUDA 13.0, with which torch was built (set CUDA_HOME)" in said


def test_the_switch_keeps_the_extension_out():
    result = run([sys.executable, "-c", USE], ROOT, PYTHONPATH=str(ROOT), TMB_DISABLE_EXTENSION="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1] == "python (TMB_DISABLE_EXTENSION is set)"


# ------------------------------------------------------------------------------------------------------- one for all

# Pythons with another torch, or of another version, or both, each with pytest, xdist, hypothesis and numpy.
OTHERS = [path for path in os.environ.get("TMB_OTHER_PYTHONS", "").split(os.pathsep) if path]
# What calls each op, in every dtype and under autograd, and the one call and its bindings, which hold on to tensors.
CORE = (
    "autograd/test_oracle.py",
    "kernels",
    "nn/test_bound.py",
    "training/test_gradient.py",
    "training/test_update.py",
)
NOT_OF_A_WHEEL = ("kernels/test_build.py", "kernels/test_cuda_compile.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built here, where there is a compiler; takes a minute or two."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    built, _ = build_wheel(copy_of_sources(tmp_path_factory.mktemp("wheel")), MAX_JOBS="2", TMB_FORCE_CUDA="0")
    return built


@pytest.fixture
def installed(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    return tmp_path / "installed"


@pytest.mark.slow
def test_one_binary_for_every_python(wheel, installed, tmp_path):
    """The wheel carries the stable ABI's tag, and its library loads."""
    assert "-cp310-abi3-" in wheel.name
    assert (installed / "torch_manual_bp" / "_C.abi3.so").exists()
    command = [sys.executable, "-c", "from torch_manual_bp import kernels; print(kernels.backend())"]
    assert run(command, tmp_path, PYTHONPATH=str(installed)).stdout.strip() == "cpu"


@pytest.mark.slow
def test_the_tag_is_true(wheel):
    """Nothing of CPython but what its stable ABI of 3.10 has."""
    pytest.importorskip("abi3audit")
    result = run([sys.executable, "-m", "abi3audit", "--strict", "--report", str(wheel)], wheel.parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("python", OTHERS or [None])
def test_the_core_under_another_torch(python, request, tmp_path):
    """The binary that was built against this torch, in the environments that TMB_OTHER_PYTHONS names."""
    if python is None:
        pytest.skip("TMB_OTHER_PYTHONS names no other Python, one with another torch: see CONTRIBUTING.md")
    installed = request.getfixturevalue("installed")
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [python, "-c", "from torch_manual_bp import kernels; print(kernels.__file__, kernels.backend())"]
    said = run(command, tmp_path, **environment)
    assert said.stdout.split() == [str(installed / "torch_manual_bp" / "kernels" / "__init__.py"), "cpu"], said.stderr
    command = [python, "-m", "pytest", "-q", "-n", "2", *(f"tests/{name}" for name in CORE)]
    command += [f"--ignore=tests/{name}" for name in NOT_OF_A_WHEEL]
    result = run(command, tmp_path, timeout=1800, **environment)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
