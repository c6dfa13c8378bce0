"""How long the two stages of an MLP would take, from the equations' FLOPs: for a simulation before anything runs."""

from collections.abc import Sequence

from ..equations import Table
from .timeline import Durations

_OF_STAGE: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("z", "h"), ("dz",), ("dw1", "db1")),  # nobody asks for ∂J/∂x: what I has to do on the first stage is φ′(z) ⊙ dh
    (("o", "L"), ("do", "dh"), ("dw2", "db2")),
)


def planned_durations(
    table: Table,
    rows: int,
    d: int,
    h: int,
    q: int,
    rate: float | Sequence[float],
    elementwise_rate: float | None = None,
) -> tuple[Durations, Durations]:
    """Seconds of F, I and W of one microbatch on the two stages: FLOPs over FLOP/s.

    F₀ = {z, h}, I₀ = {dz}, W₀ = {dw1, db1}; F₁ = {o, L}, I₁ = {do, dh}, W₁ = {dw2, db2}. For large sizes F₀ = W₀ = 2mdh
    and F₁ = I₁ = W₁ = 2mhq, so that the stages have the same work where 2d = 3q, and not where d = q.

    Args:
        table: `torch_manual_bp.equations.table` of the activation and the loss.
        rows: m, of a microbatch.
        d: inputs.
        h: hidden variables.
        q: outputs.
        rate: FLOP/s of the matrix products, or one for each stage's device.
        elementwise_rate: operations a second of all else, which memory limits: it is far lower. None leaves it out.

    Raises:
        ValueError: a rate that is not positive, or not two of them.
    """
    rates = [rate] * 2 if isinstance(rate, (int, float)) else list(rate)
    if len(rates) != 2 or not all(r > 0 for r in rates):
        raise ValueError(f"planned_durations: rate must be positive, one or one for each of two stages, got {rate}")
    if elementwise_rate is not None and not elementwise_rate > 0:
        raise ValueError(f"planned_durations: elementwise_rate must be positive, got {elementwise_rate}")
    known = {equation.symbol: equation for equation in table}
    sizes = {"B": rows, "d": d, "h": h, "q": q}

    def seconds(symbols: tuple[str, ...], products: float) -> float:
        equations = [known[symbol] for symbol in symbols if symbol in known]  # without a bias there is no db
        others = sum(e.elementwise_flops(**sizes) for e in equations) / elementwise_rate if elementwise_rate else 0.0
        return sum(e.gemm_flops(**sizes) for e in equations) / products + others

    first, last = (Durations(*(seconds(part, r) for part in parts)) for parts, r in zip(_OF_STAGE, rates, strict=True))
    return first, last
