"""The checks of the ops under NVIDIA's compute-sanitizer, where it is installed.

memcheck and racecheck watch this package's kernels alone, which have its namespace in their names. initcheck has to see
every kernel that writes, torch's too; what it says of those is not counted.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .checks import OPS
from .supervisor import WORKER

NAMESPACE = "tmb"
TOOLS = {
    "memcheck": ("--kernel-name", f"kns={NAMESPACE}"),
    "racecheck": ("--kernel-name", f"kns={NAMESPACE}"),
    "initcheck": (),
}
SIZES = ("--sizes", "37", "5", "19", "5")
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


class Sanitized(NamedTuple):
    """What one tool said; `errors` are those in this package's kernels, None where it did not come to an end."""

    tool: str
    errors: int | None
    said: str

    @property
    def ok(self) -> bool:
        """Whether it ended and found nothing of ours."""
        return self.errors == 0


def find_sanitizer() -> str | None:
    """The path of compute-sanitizer, or None."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
    return shutil.which("compute-sanitizer", path=path)


def sanitize(
    sanitizer: str, device: str, seconds: float, worker: Sequence[str] = WORKER, tools: Sequence[str] = tuple(TOOLS)
) -> Iterator[Sanitized]:
    """Each tool's verdict on the ops at small sizes.

    Args:
        sanitizer: the path of compute-sanitizer.
        device: where the ops compute.
        seconds: that one tool may take.
        worker: the command that runs checks.
        tools: which of `TOOLS`.
    """
    for tool in tools:
        watched = [sanitizer, "--tool", tool, "--show-backtrace", "no", *TOOLS[tool]]
        command = [*watched, *worker, "--device", device, *SIZES, *OPS]
        # without torch's cache each tensor is an allocation of its own, whose bounds the tool knows
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
        except subprocess.TimeoutExpired:
            yield Sanitized(tool, None, f"not done after {seconds:.0f} seconds")
            continue
        yield verdict(tool, ended.stdout + ended.stderr)


def verdict(tool: str, output: str) -> Sanitized:
    """What the tool's output comes to."""
    lines = [line.removeprefix("=========").strip() for line in output.splitlines() if line.startswith("=========")]
    summary = [line for line in lines if "SUMMARY" in line]
    if not summary:
        return Sanitized(tool, None, "it printed no summary: " + "\n".join(output.splitlines()[-5:]))
    ours = [line for line in lines if re.search(rf"\b{NAMESPACE}::", line)]
    return Sanitized(tool, len(ours), "\n".join([*ours[:20], summary[-1]]))
