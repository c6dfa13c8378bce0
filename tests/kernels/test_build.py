"""The build where something is missing: a working pure-Python package, and a plain word on why."""

import os
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


@pytest.fixture
def source(tmp_path):
    """What is built from, without build products."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("csrc", "torch_manual_bp"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_no_*"))
    return copy


def run(command, cwd, **environment):
    environment = {**os.environ, "PYTHONPATH": "", **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def build_wheel(source, **environment):
    result = run([sys.executable, "setup.py", "-q", "bdist_wheel"], source, **environment)
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


def test_the_switch_keeps_the_extension_out():
    result = run([sys.executable, "-c", USE], ROOT, PYTHONPATH=str(ROOT), TMB_DISABLE_EXTENSION="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1] == "python (TMB_DISABLE_EXTENSION is set)"


@pytest.mark.slow
def test_one_binary_for_every_python(source, tmp_path):
    """The wheel carries the stable ABI's tag, and its library loads, where there is a compiler."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    wheel, _ = build_wheel(source, MAX_JOBS="2", TMB_FORCE_CUDA="0")
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        assert "torch_manual_bp/_C.abi3.so" in archive.namelist()
        archive.extractall(tmp_path / "installed")
    command = [sys.executable, "-c", "from torch_manual_bp import kernels; print(kernels.backend())"]
    assert run(command, tmp_path, PYTHONPATH=str(tmp_path / "installed")).stdout.strip() == "cpu"
