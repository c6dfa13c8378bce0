import stat
import sys

import pytest

from torch_manual_bp.verify import OPS, find_sanitizer, sanitize
from torch_manual_bp.verify.sanitizer import verdict

CLEAN = """========= COMPUTE-SANITIZER
{"begin": "hidden ops"}
========= ERROR SUMMARY: 0 errors
"""
TORCHS = """========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)+0x90
=========     by thread (0,0,0) in block (0,0,0)
========= ERROR SUMMARY: 1 error
"""
OURS = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 16 bytes
=========     at void tmb::<unnamed>::bias_act_octets<float, (tmb::Activation)1>(tmb::Octets)+0x90
=========     by thread (0,0,0) in block (0,0,0)
========= ERROR SUMMARY: 1 error
"""
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at tmb::<unnamed>::add_chunks+0x70 in dact.cu:131
=========     and Read access at tmb::<unnamed>::add_chunks+0x90 in dact.cu:135 [128 hazards]
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


@pytest.mark.parametrize(
    ("output", "errors"), [(CLEAN, 0), (TORCHS, 0), (OURS, 1), (RACE, 2), ("python: not found", None)]
)
def test_errors_in_our_kernels_are_counted(output, errors):
    assert verdict("a tool", output).errors == errors
    assert verdict("a tool", output).ok == (errors == 0)


def test_what_it_said_is_kept():
    assert verdict("memcheck", OURS).said.splitlines()[-1] == "ERROR SUMMARY: 1 error"
    assert "not found" in verdict("memcheck", "python: not found").said


@pytest.fixture
def sanitizer(tmp_path, monkeypatch):
    """Stands in for compute-sanitizer: finds fault with what racecheck watches, and takes long over initcheck."""
    path = tmp_path / "compute-sanitizer"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys, time\nopen({str(tmp_path / 'log')!r}, 'a').write(' '.join("
        "[os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'], *sys.argv[1:]]) + '\\n')\n"
        f"print({{'memcheck': {CLEAN!r}, 'racecheck': {RACE!r}}}.get(sys.argv[2]) or time.sleep(60))\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


def test_each_tool_runs_the_ops(sanitizer, tmp_path):
    assert find_sanitizer() == str(sanitizer)
    found = list(sanitize(str(sanitizer), "cuda", 3.0, worker=("the worker",)))
    assert [(s.tool, s.errors) for s in found] == [("memcheck", 0), ("racecheck", 2), ("initcheck", None)]
    assert found[2].said == "not done after 3 seconds"
    lines = (tmp_path / "log").read_text().splitlines()
    begin = "1 --tool memcheck --show-backtrace no --kernel-name kns=tmb the worker --device cuda --sizes "
    assert lines[0].startswith(begin) and lines[0].endswith(" ".join(OPS))
    assert "kns" in lines[1] and "kns" not in lines[2]


def test_it_need_not_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch_manual_bp.verify.sanitizer.PLACES", ())
    assert find_sanitizer() is None
