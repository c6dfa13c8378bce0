"""What a bench measured, as rows; and the rows as Markdown and JSON, with command, hardware and goals."""

import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import torch

from .. import kernels
from .goals import Judged
from .problem import FLOOR, SHAPE, Shape
from .timing import NOISE, Timings


@dataclass(frozen=True)
class Settings:
    """How to measure; activations None leaves them to the question."""

    device: str = "cpu"
    budget: float = 10.0  # seconds for the rounds of one row
    compiled: bool = True  # whether torch.compile is among the opponents (it needs a C++ compiler at run time)
    activations: tuple[str, ...] | None = None
    dtype: torch.dtype = torch.float32
    keep_noisy: bool = False  # rows of a busy machine too, with a note: where a machine is to be had for minutes only

    @property
    def on_cpu(self) -> bool:
        """Whether it is measured on the CPU, at its sizes and against its goals."""
        return self.device == "cpu"

    def require_quiet(self, timings: Timings, name: str) -> None:
        """Raise if a candidate that always does the same took very different times and noisy rows are not kept.

        Raises:
            BusyMachineError: as of `Timings.require_quiet`.
        """
        if not self.keep_noisy:
            timings.require_quiet(name)


@dataclass(frozen=True)
class Row:
    """One case: median seconds and peak bytes by candidate, and ratios ``"a / b"`` of their seconds or bytes.

    `noise` is the floor's median over its minimum.
    """

    labels: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: Mapping[str, float] = field(default_factory=dict)
    noise: float = 1.0

    @property
    def shape(self) -> Shape:
        """B, d, h, q from the labels."""
        B, d, h, q = map(int, self.labels[SHAPE].split(", "))
        return B, d, h, q


def timed_row(labels: Mapping[str, str], timings: Timings, to: str, peaks: Mapping[str, int] | None = None) -> Row:
    """A row of each candidate's median, and of its ratio to the candidate `to`: the median over the rounds."""
    seconds = {name: timings.median(name) for name in timings.seconds}
    ratios = {f"{name} / {to}": timings.ratio(name, to) for name in timings.seconds if name != to}
    noise = timings.noise(FLOOR) if FLOOR in seconds else 1.0
    return Row(labels, seconds, ratios, peaks or {}, noise)


@dataclass(frozen=True)
class Question:
    """A bench: what it asks, how it measures, what its table shows, and which figures have goals.

    `cells` gives a row's figures by column, its labels apart; `goals` the figures to be judged; `picture` a PNG file's
    content for rows and a caption; `notes` stand below the table. `gpu_only` questions are asked on a CPU by name only.
    """

    name: str
    asks: str
    measure: Callable[[Settings], Iterator[Row]]
    cells: Callable[[Row], dict[str, str]]
    goals: Callable[[Row], list[Judged]] = lambda row: []
    picture: Callable[[Sequence[Row], str], bytes] | None = None
    notes: str = ""
    gpu_only: bool = False


@dataclass(frozen=True)
class Report:
    """A question's answer."""

    question: Question
    rows: Sequence[Row]
    runs: int
    command: str
    where: Mapping[str, object]

    @property
    def caption(self) -> str:
        """Command, date, hardware and versions in a line."""
        where = self.where
        runs = "" if self.runs == 1 else f", medians of {self.runs} runs"
        return (
            f"`{self.command}`, {where['date']}: {where['gpu'] or where['cpu']}, {where['threads']} threads, "
            f"torch {where['torch']}, Python {where['python']}, kernels: {where['backend']}{runs}."
        )

    def markdown(self) -> str:
        """The question, the caption, a table of the rows and the goals."""
        question = self.question
        lines = [question.asks, "", self.caption, ""]
        cells = [{**row.labels, **question.cells(row)} for row in self.rows]
        header = list(cells[0])
        lines += [_line(header), "|" + "---|" * len(header), *(_line(list(row.values())) for row in cells)]
        judged = [(row, judged) for row in self.rows for judged in question.goals(row)]
        if judged:
            lines += ["", "Goals:", ""]
            lines += [f"- {' · '.join(row.labels.values())}: {goal.describe(self.runs)}" for row, goal in judged]
        if question.notes:
            lines += ["", question.notes]
        if (noise := max(row.noise for row in self.rows)) > NOISE:
            lines += ["", f"Something else was running: the floor's median is up to {noise:.2f} times its minimum."]
        if question.picture is not None:
            lines += ["", f"![{question.name}]({question.name}.png)"]
        return "\n".join(lines) + "\n"

    def data(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "question": self.question.asks,
            "command": self.command,
            "environment": dict(self.where),
            "runs": self.runs,
            "rows": [
                {**asdict(row), "goals": [self._verdict(judged) for judged in self.question.goals(row)]}
                for row in self.rows
            ],
        }

    def png(self) -> bytes | None:
        """The picture, where the question has one."""
        return self.question.picture(self.rows, self.caption.replace("`", "")) if self.question.picture else None

    def _verdict(self, judged: Judged) -> dict[str, object]:
        return {
            "figure": judged.name,
            "value": judged.value,
            "goal": str(judged.goal),
            "verdict": judged.goal.verdict(judged.value, self.runs),
        }


def combine(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """One row for each case: the medians over the runs.

    Raises:
        ValueError: the runs have not the same cases.
    """
    rows = []
    for same in zip(*runs, strict=True):
        if any(row.labels != same[0].labels for row in same):
            raise ValueError(f"bench: runs must have the same cases, got {[dict(row.labels) for row in same]}")
        rows.append(
            Row(
                same[0].labels,
                _medians([row.seconds for row in same]),
                _medians([row.ratios for row in same]),
                _medians([row.peak_bytes for row in same]),
                max(row.noise for row in same),
            )
        )
    return rows


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def environment(device: str = "cpu") -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device != "cpu" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "backend": kernels.backend(),
    }


def as_time(seconds: float) -> str:
    """Microseconds or milliseconds, three digits or more."""
    return f"{seconds * 1e6:.3g} µs" if seconds < 999.5e-6 else f"{seconds * 1e3:.2f} ms"


def as_bytes(count: float) -> str:
    """In MB of 10⁶ bytes, three digits or more."""
    return f"{count / 1e6:.3g} MB" if count < 999.5e6 else f"{count / 1e6:.0f} MB"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
