"""What was found on a device, as data for JSON and as Markdown; failures and goals that were not met come first."""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .. import kernels
from .finding import Finding
from .measurements import Measured
from .sanitizer import Sanitized
from .supervisor import Checked


@dataclass
class Session:
    """All that was found so far: it grows as the checks go on, and can be written at any time."""

    command: str
    device: torch.device
    checked: list[Checked] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    sanitized: list[Sanitized] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Finding]:
        """What does not hold."""
        return [finding for checked in self.checked for finding in checked.findings if not finding.ok]

    @property
    def ok(self) -> bool:
        """Whether everything that was looked at is right; how fast it is does not count."""
        return not self.failed and not any(sanitized.errors for sanitized in self.sanitized)

    def data(self) -> dict[str, Any]:
        """For JSON: the failures and what was skipped in full, of the others how many hold and the worst."""
        skipped = [finding for checked in self.checked for finding in checked.findings if finding.skipped]
        return {
            "command": self.command,
            **environment(self.device),
            "failed": [asdict(finding) for finding in self.failed],
            "checks": [
                {"name": c.name, "seconds": round(c.seconds, 2), **_counts(c.findings), "worst": _worst(c.findings)}
                for c in self.checked
            ],
            "skipped": [{"group": f.group, "check": f.check, "why": f.note} for f in skipped],
            "sanitizer": [sanitized._asdict() for sanitized in self.sanitized],
            "measurements": [m._asdict() | {"markdown": m.question + ".md"} for m in self.measured],
            "notes": self.notes,
        }

    def markdown(self) -> str:
        """For readers: a table of checks, the failures, the goals, then each measurement's own tables."""
        where = environment(self.device)
        said = ", ".join(f"{name} {where[name]}" for name in ("torch", "cuda", "driver", "python") if where[name])
        lines = [f"# {where['device']}", "", f"`{self.command}`, {where['date']}: {said}, kernels: {where['backend']}."]
        lines += ["", "## Is it right?", "", *_table(CHECK_COLUMNS, check_rows(self.checked))]
        if self.failed:
            lines += ["", "Failed:", ""]
            lines += [f"- **{f.group}**, {f.check} {f.dtype}: {_said(f)}" for f in self.failed[:200]]
        skipped = {f"{f.check}: {f.note}" for c in self.checked for f in c.findings if f.skipped}
        if skipped:
            lines += ["", "Not looked at:", "", *(f"- {line}" for line in sorted(skipped))]
        if self.sanitized:
            rows = [(s.tool, "–" if s.errors is None else str(s.errors), _line(s.said)) for s in self.sanitized]
            lines += ["", "compute-sanitizer, errors in this package's kernels:", ""]
            lines += _table(("tool", "errors", "it said"), rows)
        if self.measured:
            goals = goal_rows(self.measured)
            lines += ["", "## How fast is it?", "", *(_table(GOAL_COLUMNS, goals) if goals else ())]
            lines += [f"\n- {m.question}: {_line(m.note)}" for m in self.measured if m.note]
            folder = name_of(self.device)
            for m in self.measured:
                text = m.markdown.replace("](", f"]({folder}/") or "Nothing was measured.\n"
                lines += ["", f"### {m.question}", "", text.rstrip()]
        lines += [f"\n{note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> Path:
        """``folder/<device>.json`` and ``.md``.

        Returns:
            The Markdown file's path.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name_of(self.device)}.md"
        path.with_suffix(".json").write_text(json.dumps(self.data(), indent=1) + "\n")
        path.write_text(self.markdown())
        return path


CHECK_COLUMNS = ("check", "holds", "failed", "skipped", "largest error / eager's", "seconds")
GOAL_COLUMNS = ("question", "case", "figure", "goal", "value", "verdict")


def check_rows(checked: Sequence[Checked]) -> list[tuple[str, ...]]:
    """A line of the table for each check."""
    rows = []
    for c in checked:
        counts, worst = _counts(c.findings), _worst(c.findings)
        ratio = f"{worst['ratio']:.2f}" if worst else "–"
        rows.append((c.name, *(str(counts[k]) for k in ("holds", "FAILED", "skipped")), ratio, f"{c.seconds:.1f}"))
    return rows


def goal_rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """A line of the table for each goal."""
    rows: list[tuple[str, ...]] = []
    for m in measured:
        for case, goal in m.goals:
            value = f"{goal['value']:.3g}"
            rows.append((m.question, case, goal["figure"], goal["goal"], value, goal["verdict"]))
    return rows


def environment(device: torch.device) -> dict[str, Any]:
    """What it was found on."""
    return {
        "device": device_name(device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": _driver() if device.type == "cuda" else None,
        "python": platform.python_version(),
        "backend": kernels.backend(),
    }


def device_name(device: torch.device) -> str:
    """As the vendor has it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def name_of(device: torch.device) -> str:
    """The device's name for a file."""
    return device_name(device).replace(" ", "-").replace("/", "-").lower()


def _driver() -> str | None:
    """The driver's version of CUDA: 13000 for 13.0."""
    version = getattr(torch._C, "_cuda_getDriverVersion", None)
    return None if version is None else str(version())


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    counts = Counter(finding.outcome for finding in findings)
    return {outcome: counts[outcome] for outcome in ("holds", "FAILED", "skipped")}


def _worst(findings: Sequence[Finding]) -> dict[str, Any] | None:
    """The comparison whose error is the largest beside eager's, or beside a step of its dtype where that is larger."""
    compared = [
        (f, f.error / max(f.eager_error, _STEPS[f.dtype])) for f in findings if f.eager_error > 0 and f.dtype in _STEPS
    ]
    if not compared:
        return None
    worst, ratio = max(compared, key=lambda pair: pair[1])
    return asdict(worst) | {"ratio": ratio}


_STEPS = {str(dtype): torch.finfo(dtype).eps for dtype in (torch.float32, torch.bfloat16, torch.float16)}


def _said(f: Finding) -> str:
    return _line(f.note) if f.note else f"error {f.error:.2e}, eager's {f.eager_error:.2e}"


def _line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
