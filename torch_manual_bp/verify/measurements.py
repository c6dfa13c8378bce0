"""Runs measurements, each a command in a process of its own, and gathers the reports that they write."""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

AGAIN = ("--no-compile",)  # a compiler that does not work on this machine is not to cost the other figures


class Measured(NamedTuple):
    """A question, its report as data and as Markdown, or why there is none."""

    question: str
    data: dict[str, Any] | None
    markdown: str
    note: str
    seconds: float

    @property
    def goals(self) -> list[tuple[str, dict[str, Any]]]:
        """Each goal with the case that it is of."""
        rows = self.data["rows"] if self.data else []
        return [(" · ".join(row["labels"].values()), goal) for row in rows for goal in row["goals"]]


def measure(question: str, command: Sequence[str], folder: Path, seconds: float) -> Measured:
    """The report of ``command question --out folder``; once more without torch.compile where it fails.

    Args:
        question: whose report ``folder/question.json`` and ``.md`` are.
        command: what measures.
        folder: for its reports.
        seconds: that it may take, the second attempt included.
    """
    begin = time.monotonic()
    data_file, text_file = folder / f"{question}.json", folder / f"{question}.md"
    for file in (data_file, text_file):  # of another day
        file.unlink(missing_ok=True)
    notes = []
    for more in ((), AGAIN):
        left = seconds - (time.monotonic() - begin)
        if left <= 0:
            notes.append("no time was left")
            break
        note = _run([*command, question, "--out", str(folder), *more], left)
        if not note:
            break
        notes.append(" ".join([*more, note]))
    measured = data_file.exists() and text_file.exists()  # of a run that was cut short, too
    data, markdown = (json.loads(data_file.read_text()), text_file.read_text()) if measured else (None, "")
    return Measured(question, data, markdown, "; ".join(notes), time.monotonic() - begin)


def _run(command: Sequence[str], seconds: float) -> str:
    """Why it failed, or nothing."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:.0f} seconds"
    return "" if ended.returncode == 0 else f"status {ended.returncode}: {ended.stderr[-800:].strip()}"
