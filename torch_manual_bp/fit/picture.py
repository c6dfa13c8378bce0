"""The curves of a run as a picture: both losses, how far they lie apart, and the held-out score."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .dataset import TASKS, Array
from .learner import Learner
from .train import Training

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#e07b1a", "#6b7280"
_WINDOW = 25  # most steps that the smooth curve is a mean of


def curves_png(training: Training) -> bytes:
    """The picture as a PNG file's content; the middle panel is there where there are two nets."""
    panels = [_losses, _differences, _scores] if len(training.learners) > 1 else [_losses, _scores]
    heights = [3.0, *[2.0] * (len(panels) - 1)]
    figure = Figure(figsize=(9, 1 + 1.05 * sum(heights)), layout="constrained")
    settings, dataset = training.settings, training.dataset
    d, q = dataset.x.shape[1], len(dataset.outputs)
    figure.suptitle(
        f"{dataset.name}: {d}–{settings.hidden}–{q} {settings.activation} net, {settings.optimizer}, "
        f"learning rate {settings.learning_rate:g}, λ = {settings.weight_decay:g}\n"
        f"by hand: {settings.training_path.step_call}",
        fontsize=12,
    )
    axes = np.atleast_1d(figure.subplots(len(panels), sharex=True, height_ratios=heights))
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis, training)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
    axes[-1].set_xlabel("epoch")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _losses(axis: Axes, training: Training) -> None:
    steps = _epochs(training)
    first = np.array(training.learners[0].curve.losses)
    axis.plot(steps, first, color=_BLUE, alpha=0.18, linewidth=0.7)
    for learner, style in _styled(training):
        axis.plot(steps, _smooth(np.array(learner.curve.losses)), label=learner.name, **style)
    if (first > 0).all():
        axis.set_yscale("log")
    axis.set_ylabel("objective J = L + s\n(faint: each batch)")
    axis.legend(frameon=False)


def _differences(axis: Axes, training: Training) -> None:
    by_hand, by_autograd = (np.array(learner.curve.losses) for learner in training.learners)
    steps = _epochs(training)
    difference = np.abs(by_hand - by_autograd)
    apart = difference > 0  # a logarithm has no place for the steps that agree to the bit
    axis.plot(steps[apart], difference[apart], ".", color=_GREY, markersize=2.5, label="|J by hand − J by autograd|")
    rounding = np.finfo(training.settings.dtype).eps * by_autograd
    axis.plot(steps, _smooth(rounding), color=_BLUE, linewidth=1, label=f"{training.settings.dtype}: ε · J")
    axis.set_yscale("log")
    axis.set_ylabel("difference")
    title = f"equal to the bit in {np.count_nonzero(~apart)} of {len(apart)} steps"
    axis.legend(frameon=False, title=title, alignment="left", ncols=2)


def _scores(axis: Axes, training: Training) -> None:
    for learner, style in _styled(training):
        scores = learner.curve.scores
        label = f"{learner.name}: {scores[-1]:.4f} in the end" if scores else learner.name
        axis.plot(range(1, len(scores) + 1), scores, marker="o", markersize=style["linewidth"], label=label, **style)
    axis.set_ylabel(f"held-out {TASKS[training.dataset.task].score}")
    axis.legend(frameon=False, loc="lower right")


def _styled(training: Training) -> Iterator[tuple[Learner, dict[str, Any]]]:
    """Each net with its line: a wide pale one, and a thin dashed one that shows on top of it."""
    wide = {"color": _BLUE, "linewidth": 4.0, "alpha": 0.55}
    thin = {"color": _ORANGE, "linewidth": 1.4, "linestyle": "--"}
    yield from zip(training.learners, (wide, thin), strict=False)


def _epochs(training: Training) -> Array:
    """Each step's place on the axis of epochs: how many epochs were over after it."""
    return (np.arange(len(training.learners[0].curve.losses)) + 1) / training.steps_per_epoch


def _smooth(values: Array) -> Array:
    """The mean of a value and up to 24 before it."""
    if not len(values):
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - _WINDOW)
    return (total[end] - total[start]) / (end - start)
