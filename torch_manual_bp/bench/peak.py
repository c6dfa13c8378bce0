"""The peak of a candidate's memory: gradients and workspace included, caches of earlier calls not."""

from ..memory import measure
from .problem import Candidate


def candidate_peak(candidate: Candidate, device: str = "cpu") -> int:
    """The peak of a warm candidate's call; gradients and workspace are given back before, so that they count."""
    candidate.call()
    _release(candidate)
    peak = measure(candidate.call, device).peak_bytes
    _release(candidate)
    return peak


def _release(candidate: Candidate) -> None:
    for parameter in candidate.parameters:
        parameter.grad = None
    candidate.release()
