"""scripts/profile_pipeline.py as a user starts it: what it writes, refuses, and leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "profile_pipeline.py"
SMALL = ("--sizes", "16", "5", "7", "3", "--microbatches", "2", "--epochs", "1", "--steps", "2", "--device", "cpu")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.slow  # each starts processes that import torch


def start(*arguments):
    variables = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    variables["PYTHONPATH"] = str(SCRIPT.parents[1])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], env=variables, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_it_writes_what_it_says(tmp_path):
    pytest.importorskip("matplotlib")
    process = start(*SMALL, "--schedule", "1f1b", "--out", str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "J and gradients are those of one process" in out
    found = json.loads((tmp_path / "1f1b.json").read_text())
    assert found["measured"]["microbatches"] == 2 and len(found["measured"]["idle"]) == 2
    assert (tmp_path / "1f1b.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "trace" / "1f1b").glob("rank[01].*.pt.trace.json"))) == 2


def members(session):
    """The processes of a session that are still alive."""
    alive = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(of) == session and state != "Z":
            alive.add(int(stat.parent.name))
    return alive


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_no_process_is_left(tmp_path, number):
    """Ctrl-C and kill, with the ranks at work; and where the parent cannot even clean up."""
    process = start(
        "--epochs", "100000", "--schedule", "1f1b", "--steps", "2", "--device", "cpu", "--out", str(tmp_path)
    )
    try:
        assert process.stdout.readline().startswith("2 ranks on cpu")
        assert len(members(process.pid)) >= 3
        process.send_signal(number)
        process.wait(timeout=30)
        deadline = time.monotonic() + 30
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not members(process.pid)
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)  # of the session that this test made
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "10", "--microbatches", "4"), "a batch must divide into 4 microbatches, got 10 rows"),
        (("--schedule", "zero_bubble", "--microbatches", "5", "--batch", "10"), "4 or 6 would do"),
        (("--epochs", "0"), "epochs, steps and threads must be at least 1"),
    ],
)
def test_refusals(arguments, message):
    process = start(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in err
