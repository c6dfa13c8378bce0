"""What can be said of a spectrum, exactly where the whole matrix is small enough, and else what products tell of it.

Every number is exact, converged to a stated residual, or a bound that holds; an estimate is called one.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..nn import Objective
from . import diagonals
from .curvature import Curvature
from .null import known_null
from .output import OutputCurvature
from .rows import Rows

EXACT_UP_TO = 4096  # parameters: 128 MiB in float64, and seconds for all eigenvalues
TOLERANCE = 1e-6  # of Lanczos's residuals, of the largest eigenvalue
PROBES, STEPS, MOST_STEPS = 8, 64, 300


class Entries(NamedTuple):
    """The diagonal's entries of one parameter: the smallest, the median, the largest, and the share below 0."""

    smallest: float
    median: float
    largest: float
    negative: float


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What is known of H (or the GGN).

    Attributes:
        ggn: of which of the two.
        exact: whether all eigenvalues were computed.
        trace: Σ λ, exact.
        diagonal: of each parameter, by name, exact.
        rounding: ε times the larger of n |λ|max and Σ_b a_b ‖∂o_b/∂θ‖², the trace before terms of S_b cancel, of which
            little is left where softmax or σ are close to 0 and 1; an eigenvalue that is no larger may be 0.
        largest: those of largest magnitude, in that order; None where Lanczos did not converge.
        smallest: the most negative one (the smallest where none is); None where it is not known.
        negative: how many are below −rounding; at least so many where not exact.
        null: how many are within rounding; of a GGN at least so many where not exact, and None, not known, of an H.
        condition: |λ|max / |λ|min over those above rounding; None where there are none, and where not exact.
        values, counts: eigenvalues, ascending, each 1; or those of a quadrature, and for about how many each stands.
    """

    ggn: bool
    exact: bool
    trace: float
    diagonal: dict[str, Entries]
    rounding: float
    largest: list[float] | None
    smallest: float | None
    negative: int
    null: int | None
    condition: float | None
    values: Tensor
    counts: Tensor


def spectrum(
    c: Curvature, objective: Objective, ggn: bool, k: int | None = None, exact_up_to: int = EXACT_UP_TO,
    generator: torch.Generator | None = None,
) -> Spectrum:  # fmt: skip
    """The spectrum of H (or the GGN): all eigenvalues up to ``exact_up_to`` parameters, and beyond what products tell.

    Args:
        c: the second derivatives.
        objective: whose they are.
        ggn: of the GGN.
        k: how many of the largest eigenvalues; 6, or all n where there are fewer, if not given.
        exact_up_to: the most parameters for which the matrix is made, of n² numbers; its eigenvalues take about n³.
        generator: of random vectors.

    Raises:
        ValueError: k is not between 1 and n, or the trace is not finite.
    """
    if k is None:
        k = min(6, c.n)
    if not 1 <= k <= c.n:
        raise ValueError(f"spectrum: k must be between 1 and n = {c.n}, got {k}")
    diagonal = c.ggn_diagonal() if ggn else c.diagonal()
    trace, entries = float(c.trace(ggn=ggn)), {name: _entries(part) for name, part in diagonal.items()}
    if not math.isfinite(trace):
        raise ValueError(f"spectrum: the trace must be finite, got {trace}")
    eps = torch.finfo(next(iter(diagonal.values())).dtype).eps
    terms = float(c._passes.sum(lambda rows: _terms(rows, *c._biases)))
    if c.n <= exact_up_to:
        values = torch.linalg.eigvalsh(c.dense(ggn=ggn)).double().cpu()
        rounding = eps * max(c.n * float(values.abs().max()), terms)
        largest = values[values.abs().argsort(descending=True)[:k]].tolist()
        negative = int((values < -rounding).sum())
        return Spectrum(
            ggn, True, trace, entries, rounding, largest, float(values[0]), negative,
            *condition(values, rounding), values, torch.ones_like(values),
        )  # fmt: skip
    density = c.spectral_density(ggn=ggn, probes=PROBES, steps=STEPS, generator=generator)
    top = _eigenvalues(c, ggn, k, "LM", generator)
    bottom = None if ggn else _eigenvalues(c, ggn, 1, "SA", generator)
    known = [*density.values[[0, -1]].tolist(), *(top or ()), *(bottom or ())]
    rounding = eps * max(c.n * max(map(abs, known)), terms)
    # a compression has no more negative eigenvalues than the matrix: one probe's Ritz values are at most so many
    below = math.ceil(int((density.values < -rounding).sum()) / PROBES)
    below = max(below, sum(value < -rounding for value in {*(top or ()), *(bottom or ())}))
    null = known_null(diagonal, objective) if ggn else None
    return Spectrum(
        ggn, False, trace, entries, rounding, top, bottom[0] if bottom else None, below, null, None,
        density.values, c.n * density.weights,
    )  # fmt: skip


def condition(values: Tensor, rounding: float) -> tuple[int, float | None]:
    """How many of the eigenvalues (n,) are null, |λ| ≤ rounding, and |λ|max / |λ|min of the others, if any."""
    sizes = values.abs()
    above = sizes[sizes > rounding]
    return len(values) - len(above), float(above.max() / above.min()) if len(above) else None


def _terms(rows: Rows, hidden_bias: bool, output_bias: bool) -> Tensor:
    """Σ_b a_b ‖∂o_b/∂θ‖²: the GGN's trace, were S_b = a_b 1; its own parts, diag(s_b) and p_b p_bᵀ, are no larger."""
    S = OutputCurvature(rows.S.a, None, False)
    return diagonals.trace(rows._replace(S=S), True, hidden_bias, output_bias)


def _eigenvalues(c: Curvature, ggn: bool, k: int, which: str, generator: torch.Generator | None) -> list[float] | None:
    """None where Lanczos does not converge."""
    options: dict[str, Any] = {"tolerance": TOLERANCE, "max_steps": MOST_STEPS, "generator": generator}
    try:
        return c.eigsh(k, which=which, ggn=ggn, **options)[0].tolist()
    except RuntimeError as error:
        if not str(error).startswith("eigsh:"):
            raise
        return None


def _entries(part: Tensor) -> Entries:
    flat = part.flatten().double()
    return Entries(*(float(value) for value in (flat.min(), flat.median(), flat.max(), (flat < 0).double().mean())))
