"""The scripts in docs/pipeline.md run as they stand, on as many processes as their first line says."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pipeline.md").read_text(), re.DOTALL)
SECONDS = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0].split()[-1])
def test_scripts_of_the_documentation_run(tmp_path, block):
    """With the environment that torchrun makes, up to their last line.

    What comes then is torch's: once in a while gloo's threads, which live as long as a mesh does, abort an interpreter
    that is shutting down.
    """
    script = tmp_path / "script.py"
    finite = "assert J.isfinite()\n" if "J = " in block else ""
    script.write_text(f"{block}\n{finite}import os\nos._exit(0)\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environments = [environment]
    if processes := re.match(r"# torchrun --nproc-per-node (\d)", block):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": processes[1]}
        ranks = range(int(processes[1]))
        environments = [{**environment, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks]
    running = [
        subprocess.Popen([sys.executable, str(script)], env=env, stderr=subprocess.PIPE, text=True)
        for env in environments
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in running:
            process.kill()
            process.wait()
