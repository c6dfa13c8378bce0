"""Runs checks in a process beside this one, and a new one where a check took it along: a crash is a finding.

An illegal address on the device, an abort and a check that hangs cost the check that they belong to, not the others.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from .finding import Finding, skipped

WORKER = (sys.executable, "-m", "torch_manual_bp.verify")
LIMIT = 240.0  # seconds that one check may take
NO_TIME = "no time was left"


class Checked(NamedTuple):
    """A check, what it found, and the seconds that it took."""

    name: str
    findings: list[Finding]
    seconds: float


def supervise(
    names: Sequence[str], options: Sequence[str], seconds: float, worker: Sequence[str] = WORKER, limit: float = LIMIT
) -> Iterator[Checked]:
    """Each check's findings, once it has ended in whatever way.

    Args:
        names: the checks, in order.
        options: of ``python -m torch_manual_bp.verify``: the device, sizes.
        seconds: after which no check goes on; what was not looked at is told as skipped.
        worker: the command that runs checks.
        limit: seconds that one check may take.
    """
    deadline = time.monotonic() + seconds
    left = list(names)
    while left:
        if time.monotonic() >= deadline:
            yield from (Checked(name, [skipped(name, NO_TIME)], 0.0) for name in left)
            return
        before = len(left)
        for checked in _one_worker([*worker, *options, *left], deadline, limit):
            left = left[left.index(checked.name) + 1 :]
            yield checked
        if len(left) == before:  # it did not come as far as the first check, nor will another
            lost = Finding("crashed", ok=False, note="no process came as far as this check")
            yield from (Checked(name, [replace(lost, group=name)], 0.0) for name in left)
            return


def _one_worker(command: Sequence[str], deadline: float, limit: float) -> Iterator[Checked]:
    """What one process finds until it ends; the check during which it ended has a finding that says so."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert process.stdout is not None
        watch = _Watch(process, deadline, limit)
        name, findings, begin = "", list[Finding](), time.monotonic()
        try:
            for event in _events(process.stdout):
                if "begin" in event:
                    name, findings, begin = event["begin"], [], time.monotonic()
                    watch.start_again()
                elif "end" in event:
                    yield Checked(name, findings, time.monotonic() - begin)
                    name = ""
                elif name:
                    findings.append(Finding(**event))
            process.wait()
        finally:
            watch.stop()
            process.kill()
            process.wait()
        if name:
            stderr.seek(0)
            why = watch.said or f"the process ended with status {process.returncode}: {stderr.read()[-1500:].strip()}"
            findings.append(Finding("crashed", ok=False, note=why, group=name))
            yield Checked(name, findings, time.monotonic() - begin)


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The lines that are events; whatever else a library prints is passed over."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


class _Watch:
    """Kills a process that takes too long over a check, or longer than there is time at all."""

    def __init__(self, process: "subprocess.Popen[str]", deadline: float, limit: float) -> None:
        self.said = ""
        self._process, self._deadline, self._limit = process, deadline, limit
        self._timer = threading.Timer(0, lambda: None)
        self.start_again()

    def start_again(self) -> None:
        self._timer.cancel()
        seconds = max(0.0, min(self._limit, self._deadline - time.monotonic()))
        self._timer = threading.Timer(seconds, self._kill, [seconds])
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()

    def _kill(self, seconds: float) -> None:
        self.said = f"not done after {seconds:.0f} seconds"
        self._process.kill()
