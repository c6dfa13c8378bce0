"""How a run shows that it is alive: a bar on a terminal, a line now and then elsewhere."""

from collections.abc import Iterable, Iterator
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .dataset import TASKS
from .train import Step, Training

_LINES = 10  # about so many lines where there is no terminal,
_SECONDS = 30  # and never silent for much longer than this


def shown(training: Training, console: Console) -> Iterator[Step]:
    """The steps of a run, each shown on the console as it is passed on."""
    show = _bar if console.is_terminal else _lines
    return show(training, training.steps(), console)


def _bar(training: Training, steps: Iterable[Step], console: Console) -> Iterator[Step]:
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=training.total_steps, completed=training.steps_made)
        for step in steps:
            progress.update(task, completed=step.number + 1)
            if step.ends_epoch:
                progress.update(task, description=_line(training, step))
            yield step


def _lines(training: Training, steps: Iterable[Step], console: Console) -> Iterator[Step]:
    epochs = training.settings.epochs
    every = max(1, epochs // _LINES)
    last = monotonic()
    for step in steps:
        done = step.epoch + 1
        due = done in (1, epochs) or done % every == 0 or monotonic() - last > _SECONDS
        if step.ends_epoch and due:
            console.print(_line(training, step))
            last = monotonic()
        yield step


def _line(training: Training, step: Step) -> str:
    score = training.learners[0].curve.scores[-1]
    name = TASKS[training.dataset.task].score
    return f"epoch {step.epoch + 1:3}/{training.settings.epochs}  J {step.J:.4f}  held-out {name} {score:.4f}"
