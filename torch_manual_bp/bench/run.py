"""A question answered: measured as often as asked, and written down."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .report import Question, Report, Row, Settings, combine, environment


def answer(
    question: Question,
    settings: Settings,
    command: str,
    repeat: int = 1,
    tell: Callable[[Row], object] = lambda row: None,
    so_far: Callable[[Report], object] = lambda report: None,
) -> Report:
    """Measure.

    Args:
        question: what.
        settings: how.
        command: by what command, for the caption.
        repeat: how many runs; the rows are the medians over them.
        tell: called with each row once it is there.
        so_far: called with what there is then: the runs that are complete, or the rows of the first.

    Raises:
        BusyMachineError: something else was running; no figure of such a run is kept.
    """
    where = environment(settings.device)
    runs: list[list[Row]] = []
    for _ in range(repeat):
        complete, run = len(runs), list[Row]()
        for row in question.measure(settings):
            tell(row)
            run.append(row)
            so_far(Report(question, combine(runs or [run]), max(complete, 1), command, where))
        runs.append(run)
    return Report(question, combine(runs), repeat, command, where)


def write_text(report: Report, folder: Path) -> None:
    """``name.md`` and ``name.json``, without a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / report.question.name
    path.with_suffix(".md").write_text(replace(report, question=replace(report.question, picture=None)).markdown())
    path.with_suffix(".json").write_text(json.dumps(report.data(), indent=1) + "\n")


def write(report: Report, folder: Path) -> Report:
    """``name.md``, ``name.json`` and, where matplotlib is installed, ``name.png``, in a folder that is made if needed.

    Returns:
        The report as written: without its picture where there is no matplotlib.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        picture = report.png()
    except ImportError:  # the optional dependency; Markdown must then not name the picture
        picture = None
        report = replace(report, question=replace(report.question, picture=None))
    path = folder / report.question.name
    path.with_suffix(".md").write_text(report.markdown())
    path.with_suffix(".json").write_text(json.dumps(report.data(), indent=1) + "\n")
    if picture is not None:
        path.with_suffix(".png").write_bytes(picture)
    return report
