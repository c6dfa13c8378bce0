"""Bytes and time as the batch grows: training beside prediction, the whole batch beside tiles (exercises 3 and 5)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from .plan import planned
from .sample import Sample
from .setting import Setting

EAGER, WHOLE, TILED, LEAN, PREDICT = (
    "eager PyTorch", "Objective", 'Objective, tile_rows="auto"', "objective.step", "prediction",
)  # fmt: skip
_COLOURS = {EAGER: "#b5473c", WHOLE: "#e07b1a", TILED: "#8a3b8f", LEAN: "#1f5fa8", PREDICT: "#2b8a5a"}
_RUNS = 5  # of which the median counts


@dataclass(frozen=True)
class Growth:
    """What each way takes at each size of the batch.

    Attributes:
        setting: the net and the objective.
        batches: B.
        planned: bytes above parameters and batch, by way.
        measured: the same, measured, at the sizes that were run.
        rows_per_second: of a training step, by way, at the same sizes.
    """

    setting: Setting
    batches: tuple[int, ...]
    planned: Mapping[str, tuple[int, ...]]
    measured: Mapping[str, tuple[int, ...]]
    rows_per_second: Mapping[str, tuple[float, ...]]

    @property
    def run(self) -> tuple[int, ...]:
        """The sizes that were run, the smaller ones."""
        return self.batches[: len(next(iter(self.measured.values()), ()))]

    def save_picture(self, path: str | Path) -> None:
        """Bytes over B, planned as lines and measured as dots; and rows a second over B (needs matplotlib)."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter

        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for way, sizes in self.planned.items():
            left.plot(self.batches, sizes, color=_COLOURS[way], label=way)
            if way in self.measured:
                left.plot(self.run, self.measured[way], "o", color=_COLOURS[way], markersize=4)
        for way, speeds in self.rows_per_second.items():
            right.plot(self.run, speeds, "o-", color=_COLOURS[way], markersize=4)
        left.set_title("bytes above parameters and batch: planned, and ● measured", loc="left", fontsize=10)
        right.set_title("training rows a second", loc="left", fontsize=10)
        left.yaxis.set_major_formatter(EngFormatter("B"))
        right.yaxis.set_major_formatter(EngFormatter())
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("rows of the (mini)batch, B")
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        left.legend(frameon=False, fontsize=8)
        figure.suptitle("d, h, q = {}, {}, {} · {} · {}".format(*self.setting.widths, self.setting.activation,
                        str(self.setting.dtype).removeprefix("torch.")), fontsize=10)  # fmt: skip
        figure.savefig(path, dpi=150)


def growth(setting: Setting, batches: Sequence[int], run_up_to: int = 0) -> Growth:
    """Plan each way at each size of the batch, and run the smaller ones.

    Args:
        setting: the net and the objective; its path is not looked at.
        batches: B, growing.
        run_up_to: the largest B that is measured and timed; 0: none.
    """
    settings = ways(setting)
    plans = {way: tuple(planned(replace(s, batch=B)).call_bytes for B in batches) for way, s in settings.items()}
    measured: dict[str, list[int]] = {way: [] for way in settings}
    speeds: dict[str, list[float]] = {way: [] for way in settings if way != PREDICT}
    for B in (B for B in batches if run_up_to >= B):
        samples = {way: Sample(replace(s, batch=B)) for way, s in settings.items()}
        for way, sample in samples.items():
            measured[way].append(sample.measured().peak_bytes)
        for way, seconds in _in_turn({way: samples[way] for way in speeds}).items():
            speeds[way].append(B / seconds)
    return Growth(
        setting, tuple(batches), plans, {way: tuple(sizes) for way, sizes in measured.items() if sizes},
        {way: tuple(of_way) for way, of_way in speeds.items() if of_way},
    )  # fmt: skip


def ways(s: Setting) -> dict[str, Setting]:
    """The ways that are compared, with plain SGD; eager PyTorch where it has the loss and φ."""
    plain = replace(s, tile_rows=None, clipped=False, autocast=None, x_requires_grad=False, optimizer="sgd")
    ways = {
        EAGER: replace(plain, path="eager", weight_decay=0.0),
        WHOLE: replace(plain, path="autograd"),
        TILED: replace(plain, path="autograd", tile_rows="auto"),
        LEAN: replace(plain, path="step"),
        PREDICT: replace(plain, path="predict", optimizer=None, trained=()),
    }
    special = s.phi.module is None or s.class_weight or s.loss.label_smoothing or s.loss.reduction != "mean"
    if special or not s.on_cpu:
        del ways[EAGER]
    return ways


def _in_turn(samples: Mapping[str, Sample]) -> dict[str, float]:
    """Seconds of a call, medians of calls in turn, so that a drifting machine drifts under all alike."""
    seconds: dict[str, list[float]] = {way: [] for way in samples}
    for _ in range(_RUNS):
        for way, sample in samples.items():
            sample()
            start = time.perf_counter()
            sample()
            seconds[way].append(time.perf_counter() - start)
    return {way: median(of_way) for way, of_way in seconds.items()}
