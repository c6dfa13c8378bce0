"""What a run found, as data for a file and as tables for a reader."""

import csv
import io
import json
import math
import platform
import statistics
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from rich.table import Table

from .. import kernels
from .dataset import TASKS
from .learner import Learner
from .train import Training


def report(training: Training, seconds: float, interrupted: bool) -> dict[str, Any]:
    """The run in numbers, ready for JSON; NaN is null.

    Args:
        training: the run.
        seconds: its wall-clock time.
        interrupted: whether it was stopped before its end.
    """
    dataset, data = training.dataset, training.data
    result = {
        "data": {
            "name": dataset.name,
            "task": dataset.task,
            "features": dataset.x.shape[1],
            "outputs": len(dataset.outputs),
            "training_rows": len(data.x),
            "held_out_rows": len(data.x_held_out),
        },
        "settings": asdict(training.settings) | {"lr": training.settings.learning_rate},
        "environment": environment(),
        "seconds": seconds,
        "interrupted": interrupted,
        "steps": training.steps_made,
        "score": TASKS[dataset.task].score,
        "nets": {learner.name: _net(learner, training.steps_per_epoch) for learner in training.learners},
    }
    if len(training.learners) > 1:
        result["comparison"] = {
            "largest_loss_difference": training.largest_loss_difference,
            "parameter_differences": training.parameter_differences,
            "gradients": [check._asdict() for check in training.gradients],
        }
    return _without_nan(result)


def environment() -> dict[str, Any]:
    """Versions, kernels and threads: what a number depends on beside the code."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str, which a file would name as code
        "numpy": np.__version__,
        "kernels": kernels.backend(),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def to_json(content: dict[str, Any]) -> bytes:
    """The report as a file's content."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def curves_csv(training: Training) -> bytes:
    """J of every step and net, as a CSV file's content; numbers are written so that they read back exactly."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["step", *(f"J {learner.name}" for learner in training.learners)])
    losses = (learner.curve.losses for learner in training.learners)
    writer.writerows([i, *map(repr, row)] for i, row in enumerate(zip(*losses, strict=True)))
    return buffer.getvalue().encode()


def results_table(training: Training) -> Table:
    """The score and the last losses of each net."""
    score = TASKS[training.dataset.task].score
    table = Table(
        title="the two nets" if len(training.learners) > 1 else "the net",
        caption=f"by hand: {training.settings.training_path.step_call}",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("", f"held-out {score}", "J, last epoch's mean", "median step"):
        table.add_column(name, justify="left" if not name else "right")
    for learner in training.learners:
        net = _net(learner, training.steps_per_epoch)
        scores, means = net["scores"], net["mean_J"]
        table.add_row(
            learner.name,
            f"{scores[-1]:.4f}" if scores else "–",
            f"{means[-1]:.6f}" if means else "–",
            f"{1000 * net['median_step_seconds']:.2f} ms" if means else "–",
        )
    return table


def gradients_table(training: Training) -> Table:
    """The gradients' largest differences over all checks, along the parameters of the net trained by hand."""
    dtype, checks = training.settings.dtype, training.gradients
    path = training.settings.training_path
    table = Table(
        title="the gradients at the same parameters: max|a − b| / max|b|",
        caption=f"Largest of {len(checks)} checks along the way; hand is {path.gradients_call},\n"
        "exact is autograd in float64.\n"
        f"What parts both from it is {dtype}'s rounding: where an example\n"
        "is learned, ∂L/∂o is a difference of near equals.",
        title_justify="left",
        caption_justify="left",
    )
    columns = {
        f"{dtype}\nhand − autograd": "difference",
        f"{dtype}\nhand − exact": "error",
        f"{dtype}\nautograd − exact": "autograd_error",
        "float64\nhand − autograd": "float64",
    }
    table.add_column()
    for heading in columns:
        table.add_column(heading, justify="right")
    for symbol in checks[0].difference if checks else ():
        largest = [max(getattr(check, kind)[symbol] for check in checks) for kind in columns.values()]
        table.add_row(symbol, *(f"{value:.1e}" for value in largest))
    return table


def curves_sentence(training: Training) -> str:
    """The two loss curves' largest difference, in words that a test or a reader can hold against the picture."""
    by_hand, by_autograd = (learner.curve.losses for learner in training.learners)
    equal = sum(a == b for a, b in zip(by_hand, by_autograd, strict=True))
    parameters = max(training.parameter_differences.values())
    return (
        f"largest difference of the two loss curves: {training.largest_loss_difference:.1e} "
        f"(equal to the bit in {equal} of {len(by_hand)} steps)\n"
        f"largest difference of the trained parameters: {parameters:.1e} of the largest one"
    )


def _net(learner: Learner, steps_per_epoch: int) -> dict[str, Any]:
    losses, seconds = learner.curve.losses, learner.curve.seconds
    epochs = [losses[i : i + steps_per_epoch] for i in range(0, len(losses), steps_per_epoch)]
    return {
        "scores": learner.curve.scores,
        "mean_J": [statistics.fmean(epoch) for epoch in epochs],
        "median_step_seconds": statistics.median(seconds) if seconds else None,
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
