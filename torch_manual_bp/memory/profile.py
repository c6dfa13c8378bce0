"""Plan and measurement side by side, for each path of a net, with the pictures that show them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from .growth import EAGER, LEAN, PREDICT, TILED, WHOLE, growth, ways
from .measurement import Measurement
from .plan import planned
from .planned import Plan
from .sample import Sample
from .setting import Setting
from .trace import trace

ACCUMULATE = "objective.accumulate_grad"
_MOST_ROWS = 4  # times the setting's own batch, up to which the picture's batches go
_LEAST_ROWS = 16


@dataclass(frozen=True)
class Profiled:
    """One path, planned and measured."""

    way: str
    plan: Plan
    measurement: Measurement

    @property
    def agrees(self) -> bool:
        """Whether the plan is the measurement, to the byte."""
        return self.plan.call_bytes == self.measurement.peak_bytes


def profiled(setting: Setting) -> Iterator[Profiled]:
    """Eager PyTorch, where it can be compared, each path of ours, and prediction."""
    for way, s in compared(setting).items():
        yield Profiled(way, planned(s), Sample(s).measured())


def compared(setting: Setting) -> dict[str, Setting]:
    """Those paths, on one net and batch, with plain SGD."""
    settings = ways(setting)
    lean, prediction = settings.pop(LEAN), settings.pop(PREDICT)
    return {**settings, ACCUMULATE: replace(lean, path="accumulate_grad"), LEAN: lean, PREDICT: prediction}


def write(setting: Setting, rows: list[Profiled], folder: Path) -> list[Path]:
    """The pictures and a report in JSON; the files, in the order in which one reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for row in rows:
        if row.way in (EAGER, WHOLE, TILED, LEAN):
            name = _FILES[row.way]
            files += [folder / f"{name}_planned.png", folder / f"{name}_measured.png"]
            row.plan.save_picture(files[-2])
            row.measurement.save_picture(files[-1])
    files.append(folder / "growth.png")
    batches = [B for k in range(24) if _LEAST_ROWS <= (B := 2**k) <= _MOST_ROWS * max(setting.batch, _LEAST_ROWS)]
    growth(setting, batches, setting.batch).save_picture(files[-1])
    files.append(folder / "report.json")
    files[-1].write_text(json.dumps(report(setting, rows), indent=2, ensure_ascii=False) + "\n")
    return files


def traces(setting: Setting, folder: Path) -> list[Path]:
    """A TensorBoard run for each path: the folders."""
    return [trace(Sample(s), folder / re.sub(r"\W+", "_", way).strip("_")) for way, s in compared(setting).items()]


_FILES = {EAGER: "eager", WHOLE: "objective", TILED: "tiles", LEAN: "step"}


def report(setting: Setting, rows: list[Profiled]) -> dict[str, object]:
    """What was planned and what was measured, as plain data."""
    return {
        "setting": str(setting),
        "given_bytes": planned(setting).given_bytes,
        "ways": [
            {
                "way": row.way,
                "path": str(row.plan.setting),
                "planned_bytes": row.plan.call_bytes,
                "measured_bytes": row.measurement.peak_bytes,
                "formula": row.plan.formula,
                "at_peak": [
                    {"name": t.name, "kind": t.kind, "shape": list(t.shape), "bytes": t.bytes} for t in row.plan.at_peak
                ],
            }
            for row in rows
        ],
    }
