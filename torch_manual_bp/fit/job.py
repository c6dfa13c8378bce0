"""The main job: train on a data set, beside the same net by autograd, and write down what came of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console

from .. import equations
from . import checkpoint, progress, report
from .checkpoint import Before
from .dataset import Dataset
from .folder import RunFolder
from .interrupt import Interrupt
from .model_file import Model
from .picture import curves_png
from .settings import Settings
from .train import Training

SEAL = "report.json"
CHECKPOINT = "checkpoint.pt"

# FLOPs of a step below which threads wait for each other longer than they compute; on a busy machine, much longer
_WORTH_THREADS = 1e7


@dataclass(frozen=True)
class Outcome:
    """What `run` leaves behind.

    Attributes:
        report: what was written to report.json.
        files: what was written, report.json last.
        interrupted: whether Ctrl-C ended the run early; the files tell of the steps until then.
    """

    report: dict[str, Any]
    files: list[Path]
    interrupted: bool


def run(
    dataset: Dataset,
    settings: Settings,
    out: str | Path | None = None,
    compare: bool = True,
    console: Console | None = None,
    threads: int | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 10.0,
) -> Outcome:
    """Train, show the progress and the findings, and write them.

    Files: ``curves.png`` and ``curves.csv`` (the losses), ``equations.txt`` (of this very net), ``model.pt`` (see
    `load_model`), ``report.json``. They replace those of an earlier run together. Ctrl-C ends the training after the
    step at hand, and what was learned until then is written; a second one ends everything.

    Beside them stands ``checkpoint.pt``, which is rewritten along the way and at the end. From it a run that was
    interrupted or killed goes on to the same bits (of curves, model and report, but for times) as one that was not,
    given the same versions and threads. A finished run keeps its checkpoint: with more epochs it is trained longer, as
    if it had had them from the start but for which steps compare gradients; with the same, its files are written again.

    Args:
        dataset: what to learn.
        settings: how.
        out: the folder, or None for ``runs/<name of the data set>``.
        compare: whether to train the same net by autograd beside it, and compare.
        console: where to print; None prints to standard output.
        threads: of the CPU, while this runs; None takes the checkpoint's number when there is one to resume from, else
            one for a small net, and else what torch would take.
        resume: go on from the folder's checkpoint, which must be of the same data and settings but for more epochs.
        checkpoint_seconds: a checkpoint is written after the first step that ends so long after the last one.

    Raises:
        Diverged: J became NaN or infinite; no file is written then, and the last checkpoint stays.
        OSError: the folder cannot be written to, or there is no checkpoint in it; found out before training.
        ValueError: threads is below 1; a checkpoint that is damaged or does not fit; and see `Training`.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"train: threads must be at least 1, got {threads}")
    console = console or Console()
    training = Training(dataset, settings, compare)
    place = RunFolder(out or Path("runs") / dataset.name, SEAL)
    before = checkpoint.restore(training, place.path / CHECKPOINT) if resume else Before(0.0, {})
    threads = threads or before.environment.get("threads") or _usual_threads(training)
    with place as folder, Interrupt() as interrupt, _threads(threads):
        _introduce(training, before, console)
        kept = perf_counter()
        began = kept - before.seconds
        for _ in progress.shown(training, console):
            if interrupt.asked:
                break
            now = perf_counter()
            if now - kept >= checkpoint_seconds:
                _keep_checkpoint(folder, training, now - began)
                kept = perf_counter()
        seconds = perf_counter() - began
        interrupted = training.steps_made < training.total_steps
        # first of all: the picture takes a while, and there may be a second Ctrl-C
        files = [_keep_checkpoint(folder, training, seconds)]
        content = report.report(training, seconds, interrupted)
        files += folder.write(_files(training, content))
        _conclude(training, seconds, console)
        if interrupted:
            words = f"Interrupted after step {training.steps_made} of {training.total_steps}; the files tell of these."
            console.print(f"[yellow]{words} --resume goes on from there.[/]", highlight=False, soft_wrap=True)
        console.print("written: " + " ".join(str(path) for path in files), soft_wrap=True, highlight=False)
    return Outcome(content, files, interrupted)


def _keep_checkpoint(folder: RunFolder, training: Training, seconds: float) -> Path:
    return folder.keep(CHECKPOINT, checkpoint.to_bytes(training, seconds, report.environment()))


def _files(training: Training, content: dict[str, Any]) -> dict[str, bytes]:
    settings, dataset = training.settings, training.dataset
    table = equations.table(settings.activation, dataset.loss, settings.hidden_bias, settings.output_bias)
    return {
        "curves.png": curves_png(training),
        "curves.csv": report.curves_csv(training),
        "equations.txt": f"{table}\n".encode(),
        "model.pt": Model.trained(training.mlp, dataset, training.data, settings.weight_decay).to_bytes(),
        SEAL: report.to_json(content),
    }


def _usual_threads(training: Training) -> int:
    """One where a step's matrix products, 6Bh(d + q) FLOPs at most, are too few to be shared."""
    mlp, rows = training.mlp, training.settings.batch_size
    flops = 6 * rows * mlp.hidden_features * (mlp.in_features + mlp.out_features)
    return 1 if flops < _WORTH_THREADS else torch.get_num_threads()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _introduce(training: Training, before: Before, console: Console) -> None:
    dataset, settings, data = training.dataset, training.settings, training.data
    d, q = dataset.x.shape[1], len(dataset.outputs)
    facts = report.environment()
    lines = (
        f"{dataset.name}: {dataset.task}, {len(data.x)} rows to train on, {len(data.x_held_out)} held out",
        f"net: {d}–{settings.hidden}–{q}, φ = {settings.activation}, l = {dataset.loss}, λ = {settings.weight_decay:g}",
        f"by hand: {settings.training_path.step_call} (path {settings.path})",
        f"kernels: {facts['kernels']}",
        f"torch {facts['torch']} on {settings.device}, CPU threads: {facts['threads']}",
    )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if before.environment:
        words = f"resumed after step {training.steps_made} of {training.total_steps}"
        changed = [f"{name} was {was}" for name, was in before.environment.items() if facts.get(name) != was]
        if changed:
            words += f"; the bits may differ from those of a run without a stop: {', '.join(changed)}"
        console.print(words, style="yellow" if changed else None, highlight=False, markup=False, soft_wrap=True)


def _conclude(training: Training, seconds: float, console: Console) -> None:
    console.print(f"{training.steps_made} steps in {seconds:.1f} s", highlight=False)
    console.print(report.results_table(training))
    if len(training.learners) > 1:
        console.print(report.gradients_table(training))
        console.print(report.curves_sentence(training), highlight=False, soft_wrap=True)
