"""What a check finds: a comparison that holds or does not, something left out and why, or an error.

The rule is the package's own: in float64 an error of at most 1e-12, relative to the largest element; in shorter dtypes
at most twice the error that eager PyTorch makes on the same device with the same inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EXACT = 1e-12  # relative error allowed in float64
RATIO = 2.0  # of eager PyTorch's error, allowed in shorter dtypes


@dataclass(frozen=True)
class Finding:
    """One comparison: the largest error relative to the largest element, and eager PyTorch's own.

    `note` says why it was skipped or what was raised; `group` is the check that it belongs to.
    """

    check: str
    dtype: str = ""
    error: float = 0.0
    eager_error: float = 0.0
    ok: bool = True
    note: str = ""
    skipped: bool = False
    group: str = ""

    @property
    def outcome(self) -> str:
        """``holds``, ``FAILED`` or ``skipped``."""
        return "skipped" if self.skipped else "holds" if self.ok else "FAILED"


def compare(
    check: str, dtype: torch.dtype, ours: Tensor, eager: Tensor, truth: Tensor, size: float | None = None,
    steps: float = 1.0,
) -> Finding:  # fmt: skip
    """Ours and eager PyTorch's answer against the truth in float64, by the rule.

    Args:
        check: what is compared.
        dtype: the one whose rounding both owe.
        ours: of any device.
        eager: likewise.
        truth: float64, on the CPU.
        size: what errors are relative to: that of the terms, where the truth is a difference; its largest element else.
        steps: of the dtype's rounding, the least that is doubled: eager can be right by luck.
    """
    if ours.shape != truth.shape:
        return Finding(check, str(dtype), ok=False, note=f"shape {tuple(ours.shape)}, expected {tuple(truth.shape)}")
    scale = size or largest(truth) or 1.0
    error, eager_error = (largest(t.detach().double().cpu() - truth) / scale for t in (ours, eager))
    step = torch.finfo(dtype).eps  # half of it is the rounding of an exact result
    allowed = EXACT if dtype == torch.float64 else RATIO * max(eager_error, steps * step) + step / 2
    return Finding(check, str(dtype), error, eager_error, error <= allowed)


def agree(check: str, ours: Tensor, reference: Tensor, tolerance: float, size: float | None = None) -> Finding:
    """Two ways to compute the same: the largest difference relative to the largest element, or to a size."""
    difference = ours.detach().double() - reference.detach().double()
    error = largest(difference) / (size or largest(reference.detach().double()) or 1.0)
    return Finding(check, str(ours.dtype), error, ok=error <= tolerance)


def same_bits(check: str, ours: Tensor, again: Tensor) -> Finding:
    """Two tensors that must not differ at all; a NaN equals itself."""
    if ours.shape != again.shape:
        return Finding(check, str(ours.dtype), ok=False, note=f"shapes {tuple(ours.shape)} and {tuple(again.shape)}")
    if torch.equal(*(t.detach().contiguous().view(-1).view(torch.uint8) for t in (ours, again))):
        return Finding(check, str(ours.dtype))
    return Finding(check, str(ours.dtype), largest(ours.detach().double() - again.detach().double()), ok=False)


def holds(check: str, ok: bool, note: str = "") -> Finding:
    """Something that is true or not."""
    return Finding(check, ok=bool(ok), note="" if ok else note)


def skipped(check: str, why: str) -> Finding:
    """Something that was not looked at."""
    return Finding(check, note=why, skipped=True)


def largest(t: Tensor) -> float:
    """The largest absolute value; 0 of nothing."""
    return t.abs().max().item() if t.numel() else 0.0
