"""The losses: their equations for the table, their value in plain torch, and their curvature S = ∂²L/∂o².

Notation: l_b is the loss of row b, r_b its weight (1 unless given), N the normaliser of a mean (the weights' sum), and
Ĝ the *unnormalised* gradient, ∂L/∂o = scale · Ĝ: it keeps float16 from underflowing, and all of second order follows
from it (softmax and σ can be read off Ĝ), so that it may stand where o stood.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .indices import Indexed, by_index
from .symbols import CLASSES, SECOND_ORDER, SYMBOLS, TARGETS
from .terms import KRONECKER, Coefficient, Direction, Equation, Factor, Function, Symbol, Term

REDUCTIONS = ("mean", "sum")


class LossEquations(NamedTuple):
    """The part of the table that depends on the loss: what leads to L, ∂J/∂o, and S = ∂²L/∂o_b².

    S is in `curvature` in every form in which equations of second order need it: as p and its diagonal d2o, times a
    tangent (tdo), seen from the hidden layer (d2h, the diagonal of w2ᵀ S_b w2), and as a matrix (dodo).
    """

    forward: tuple[Equation, ...]
    backward: Equation
    curvature: tuple[Equation, ...]


@dataclass(frozen=True)
class Loss:
    """A loss with its options; hashable and without tensors, so that it can be passed around as a constant.

    Attributes:
        name: "cross_entropy", "mse" or "bce_with_logits".
        reduction: "mean" or "sum".
        label_smoothing: ε of cross-entropy.
        ignore_index: the label of rows that cross-entropy leaves out.
    """

    name: str
    reduction: str = "mean"
    label_smoothing: float = 0.0
    ignore_index: int = -100

    @property
    def takes_classes(self) -> bool:
        """Whether y holds class indices (B,) and not targets (B,q)."""
        return self.name == "cross_entropy"

    @property
    def gradient_factor(self) -> float:
        """The number c in ∂l/∂o = c · Ĝ."""
        return 2.0 if self.name == "mse" else 1.0

    def terms(self, q: int) -> int:
        """How many terms of a row a mean is taken over: one, or one for each of the q outputs."""
        return 1 if self.takes_classes else q

    def normalizer(self, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None) -> float | Tensor:
        """N = Σ_b r_b w_{y_b} over the rows that are not ignored, with w = 1 for losses without classes.

        A number where no tensor needs to be read for it, else 0-dim.
        """
        if not self.takes_classes:
            return float(len(y)) if row_weight is None else row_weight.sum()
        kept = y != self.ignore_index
        if class_weight is None:
            return kept.count_nonzero() if row_weight is None else (row_weight * kept).sum()
        weight = class_weight[y.where(kept, 0)] * kept
        return weight.sum() if row_weight is None else (row_weight * weight).sum()

    def value(self, o: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None) -> Tensor:
        """L in plain torch, for o (B,q): the definition, and what compilers and exporters are shown.

        A row weight of 2 counts its row twice, in a mean also in N. Low-precision logits are taken to float32 first,
        so L is float32 or float64.
        """
        o = o.float() if o.dtype in (torch.bfloat16, torch.float16) else o
        return _VALUES[self.name](self, o, y, class_weight, row_weight)

    def curvature(
        self, G: Tensor, v: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None
    ) -> Tensor:
        """Ŝ v, with Ŝ_b = ∂Ĝ_b/∂o_b, from the unnormalised gradient Ĝ (B,q) and y; differentiable by Ĝ and v."""
        return _CURVATURES[self.name](self, G, v, y, class_weight, row_weight)


def loss_named(name: str, op: str = "loss") -> str:
    """The name itself, if there is such a loss.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in LOSSES:
        raise ValueError(f"{op}: loss must be one of {', '.join(LOSSES)}; got {name!r}")
    return name


def loss_equations(name: str, op: str = "loss") -> LossEquations:
    """The loss's equations for the table (mean over the batch, no options).

    Raises:
        ValueError: unknown name.
    """
    return _EQUATIONS[loss_named(name, op)]()


# ---------------------------------------------------------------------------------------------------------- values


def _weighted(rows: Tensor, row_weight: Tensor | None) -> Tensor:
    """Σ_b r_b l_b."""
    return rows.sum() if row_weight is None else (rows * row_weight).sum()


def _cross_entropy(loss: Loss, o: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None) -> Tensor:
    options = {"ignore_index": loss.ignore_index, "label_smoothing": loss.label_smoothing}
    if row_weight is None:
        return F.cross_entropy(o, y, class_weight, reduction=loss.reduction, **options)  # type: ignore[arg-type]
    total = _weighted(F.cross_entropy(o, y, class_weight, reduction="none", **options), row_weight)  # type: ignore[arg-type]
    if loss.reduction == "sum":
        return total
    return total / loss.normalizer(y, class_weight, row_weight)


def _elementwise(loss: Loss, terms: Tensor, row_weight: Tensor | None) -> Tensor:
    total = _weighted(terms.sum(1), row_weight)
    if loss.reduction == "sum":
        return total
    rows = terms.shape[0] if row_weight is None else row_weight.sum()
    return total / (rows * terms.shape[1])


def _mse(loss: Loss, o: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None) -> Tensor:
    return _elementwise(loss, (o - y).square(), row_weight)


def _bce(loss: Loss, o: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None) -> Tensor:
    return _elementwise(loss, F.binary_cross_entropy_with_logits(o, y.to(o.dtype), reduction="none"), row_weight)


_Value = Callable[[Loss, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
_VALUES: dict[str, _Value] = {"cross_entropy": _cross_entropy, "mse": _mse, "bce_with_logits": _bce}
LOSSES = tuple(_VALUES)


# ------------------------------------------------------------------------------------------------------ curvatures


def cross_entropy_mass(
    loss: Loss, y: Tensor, q: int, class_weight: Tensor | None, row_weight: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """T (B,q) and a = Σ_k t (B,1), the weighted smoothed one-hot target, so that Ĝ = a p − t.

    t_bk = r_b ((1−ε) w_y [k=y] + (ε/q) w_k), and 0 in ignored rows.
    """
    kept = y != loss.ignore_index
    target = y.where(kept, 0)
    w = torch.ones(q, dtype=dtype, device=y.device) if class_weight is None else class_weight.to(dtype)
    smooth = loss.label_smoothing
    at_label = (1 - smooth + smooth / q) * w[target]
    t = ((smooth / q) * w).expand(y.shape[0], q).scatter(1, target[:, None], at_label[:, None])
    r = kept.to(dtype) if row_weight is None else kept * row_weight.to(dtype)
    t = t * r[:, None]
    return t, t.sum(1, keepdim=True)


def _cross_entropy_curvature(
    loss: Loss, G: Tensor, v: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None
) -> Tensor:
    t, a = cross_entropy_mass(loss, y, G.shape[1], class_weight, row_weight, G.dtype)
    ap = (G + t) * (a != 0)  # a p; a row without weight has no curvature
    p = ap / torch.where(a != 0, a, torch.ones_like(a))
    return ap * v - p * (ap * v).sum(1, keepdim=True)  # a (p⊙v − p⟨p,v⟩)


def _mse_curvature(
    loss: Loss, G: Tensor, v: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None
) -> Tensor:
    return v if row_weight is None else row_weight[:, None].to(v.dtype) * v


def _bce_curvature(
    loss: Loss, G: Tensor, v: Tensor, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None
) -> Tensor:
    if row_weight is None:
        sigma = G + y
        return sigma * (1 - sigma) * v
    r = row_weight[:, None].to(G.dtype)
    rs = (G + r * y) * (r != 0)
    return rs * (1 - rs / torch.where(r != 0, r, torch.ones_like(r))) * v


_Curvature = Callable[[Loss, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
_CURVATURES: dict[str, _Curvature] = {
    "cross_entropy": _cross_entropy_curvature,
    "mse": _mse_curvature,
    "bce_with_logits": _bce_curvature,
}


# ------------------------------------------------------------------------------------------------------- equations

_SOFTMAX = Function("softmax", r"\operatorname{softmax}", lambda o, _: torch.softmax(o, 1))
_LOG_SOFTMAX = Function("log softmax", r"\log\operatorname{softmax}", lambda o, _: torch.log_softmax(o, 1))
_SIGMA = Function("σ", r"\sigma", lambda o, _: torch.sigmoid(o))
_SOFTPLUS = Function("softplus", r"\operatorname{softplus}", lambda o, _: torch.logaddexp(o, torch.zeros_like(o)))


def _one_hot(y: Tensor, sizes: "dict[str, int]") -> Tensor:
    bad = (y < 0) | (y >= sizes["q"])
    if bad.any():
        raise ValueError(f"table.evaluate: y must hold labels in [0, {sizes['q']}), got {int(y[bad][0])}")
    return F.one_hot(y, sizes["q"]).double()


_ONE_HOT = Function("onehot", r"\operatorname{onehot}", _one_hot, shape=("B", "q"))  # type: ignore[arg-type]


def _over(*sizes: str, number: int = 1) -> Coefficient:
    return Coefficient(Fraction(number), over=sizes)


def _cross_entropy_equations() -> LossEquations:
    o, L, do = SYMBOLS["o"], SYMBOLS["L"], SYMBOLS["do"]
    log_likelihood = (Factor(CLASSES, function=_ONE_HOT), Factor(o, function=_LOG_SOFTMAX))
    forward = Equation(L, (Term(log_likelihood, _over("B", number=-1), fold="sum"),), "5.3.4", "forward")
    gradient = (
        Term((Factor(o, function=_SOFTMAX),), _over("B")),
        Term((Factor(CLASSES, function=_ONE_HOT),), _over("B", number=-1)),
    )
    return LossEquations((forward,), Equation(do, gradient, "5.3.9", "backward"), _cross_entropy_curvature_equations())


def _cross_entropy_curvature_equations() -> tuple[Equation, ...]:
    """S_b = (diag(p_b) − p_b p_bᵀ)/B."""
    o, w2, over = Factor(SYMBOLS["o"], function=_SOFTMAX), SYMBOLS["w2"], _over("B")
    p, d2o, to, tdo, mu, d2h, dodo = (
        SECOND_ORDER[name] for name in ("p", "d2o", "to", "tdo", "mu", "d2h", "dodo")
    )  # fmt: skip
    minus = _over("B", number=-1)
    squares = (Term((Factor(p),), over), Term((Factor(p), Factor(p)), minus))
    return (
        _second(p, Term((o,)), direction="loss"),
        _second(d2o, *squares, direction="loss"),
        by_index(
            tdo["bk"],
            Indexed((p["bk"], to["bk"]), over),
            Indexed((p["bn"], to["bn"], p["bk"]), minus),
            direction="tangent",
        ),
        _second(mu, Term((Factor(p), Factor(w2)), join="matmul"), direction="diagonal"),
        by_index(
            d2h["bj"],
            Indexed((w2["kj"], w2["kj"], p["bk"]), over),
            Indexed((mu["bj"], mu["bj"]), minus),
            direction="diagonal",
        ),
        by_index(
            dodo["bkn"],
            Indexed((KRONECKER["kn"], p["bk"]), over),
            Indexed((p["bk"], p["bn"]), minus),
            direction="blocks",
        ),
    )


def _mse_equations() -> LossEquations:
    o, r, L, do = (SYMBOLS[name] for name in ("o", "r", "L", "do"))
    minus_y = Term((Factor(TARGETS),), Coefficient(Fraction(-1)))
    forward = (
        Equation(r, (Term((Factor(o),)), minus_y), "", "forward"),
        Equation(L, (Term((Factor(r),), _over("B", "q"), fold="norm²"),), "5.3.4", "forward"),
    )
    gradient = Equation(do, (Term((Factor(r),), _over("B", "q", number=2)),), "5.3.9", "backward")
    constant = by_index(SECOND_ORDER["d2o"]["bk"], Indexed((), _over("B", "q", number=2)), direction="loss")
    return LossEquations(forward, gradient, (constant, *_elementwise_curvature_equations()))


def _bce_equations() -> LossEquations:
    o, L, do = SYMBOLS["o"], SYMBOLS["L"], SYMBOLS["do"]
    value = (
        Term((Factor(o, function=_SOFTPLUS),), _over("B", "q"), fold="sum"),
        Term((Factor(TARGETS), Factor(o)), _over("B", "q", number=-1), fold="sum"),
    )
    gradient = (
        Term((Factor(o, function=_SIGMA),), _over("B", "q")),
        Term((Factor(TARGETS),), _over("B", "q", number=-1)),
    )
    p, d2o = SECOND_ORDER["p"], SECOND_ORDER["d2o"]
    sigma = _second(p, Term((Factor(o, function=_SIGMA),)), direction="loss")
    squares = (Term((Factor(p),), _over("B", "q")), Term((Factor(p), Factor(p)), _over("B", "q", number=-1)))
    slope = _second(d2o, *squares, direction="loss")
    return LossEquations(
        (Equation(L, value, "5.3.4", "forward"),),
        Equation(do, gradient, "5.3.9", "backward"),
        (sigma, slope, *_elementwise_curvature_equations()),
    )


def _elementwise_curvature_equations() -> tuple[Equation, ...]:
    """S_b = diag(d2o_b)."""
    w2, d2o, to, tdo, d2h, dodo = (
        SYMBOLS["w2"], *(SECOND_ORDER[name] for name in ("d2o", "to", "tdo", "d2h", "dodo")),
    )  # fmt: skip
    return (
        _second(tdo, Term((Factor(d2o), Factor(to))), direction="tangent"),
        by_index(d2h["bj"], (w2["kj"], w2["kj"], d2o["bk"]), direction="diagonal"),
        by_index(dodo["bkn"], (KRONECKER["kn"], d2o["bk"]), direction="blocks"),
    )


def _second(symbol: Symbol, *terms: Term, direction: Direction) -> Equation:
    return Equation(symbol, terms, "exercise 4", direction)


_EQUATIONS = {
    "cross_entropy": _cross_entropy_equations,
    "mse": _mse_equations,
    "bce_with_logits": _bce_equations,
}
