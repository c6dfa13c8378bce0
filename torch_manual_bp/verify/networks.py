"""One network and its batch in three forms: ours, eager PyTorch's, and the equations' own answer in float64."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..equations import ACTIVATIONS, table
from ..nn import MLP, Objective
from .setting import Samples, Sizes

WEIGHT_DECAY = 0.1
PARAMETERS = ("w1", "b1", "w2", "b2")

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A network and its batch, in the sizes B, d, h, q."""

    activation: str
    loss: str
    save: str
    dtype: torch.dtype
    sizes: Sizes

    def __str__(self) -> str:
        return f"{self.activation}, {self.loss}, save={self.save}, B×d×h×q={'×'.join(map(str, self.sizes))}"


@dataclass(frozen=True)
class Graph:
    """J and what it was computed from."""

    J: Tensor
    leaves: Values


def values_of(case: Case, device: torch.device) -> Values:
    """x, y and the parameters of a case."""
    B, d, h, q = case.sizes
    samples = Samples(str(case), device, case.dtype)
    y = samples.labels(B, q) if case.loss == "cross_entropy" else samples.uniform(B, q)
    w1, w2 = samples.normal(h, d) / max(d, 1) ** 0.5, samples.normal(q, h) / max(h, 1) ** 0.5
    return {"x": samples.normal(B, d), "y": y, "w1": w1, "b1": samples.normal(h), "w2": w2, "b2": samples.normal(q)}


def truth_of(case: Case, values: Values) -> Values:
    """Everything in the table, float64 on the CPU."""
    at = {name: value.cpu() for name, value in values.items()} | {"weight_decay": WEIGHT_DECAY}
    return table(case.activation, case.loss).evaluate(at)


def our_mlp(case: Case, values: Values) -> MLP:
    """An MLP with copies of these parameters."""
    mlp = MLP(*case.sizes[1:], case.activation, save=case.save, device=values["x"].device, dtype=case.dtype)
    with torch.no_grad():
        for name, parameter in layers_of(mlp).items():
            parameter.copy_(values[name])
    return mlp


def layers_of(mlp: MLP) -> Values:
    """The parameters by symbol."""
    layers = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    return dict(zip(PARAMETERS, layers, strict=True))


def objective_of(case: Case, values: Values, tile_rows: int | str | None = None) -> Objective:
    """The objective of a net with copies of these parameters."""
    return Objective(our_mlp(case, values), case.loss, WEIGHT_DECAY, tile_rows=tile_rows)


def ours(case: Case, values: Values) -> Graph:
    """J by `Objective`."""
    objective = objective_of(case, values)
    x = values["x"].clone().requires_grad_()
    return Graph(objective(x, values["y"]), {"x": x, **layers_of(objective.mlp)})


_EAGER_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


def eager(case: Case, values: Values) -> Graph:
    """J by torch's own ops, to be differentiated by autograd."""
    v = {name: values[name].clone().requires_grad_() for name in ("x", *PARAMETERS)}
    return Graph(eager_objective(case, v, values["y"]), v)


def eager_objective(case: Case, v: Values, y: Tensor) -> Tensor:
    """J of the values x, w1, b1, w2, b2, as one writes it in torch."""
    h = ACTIVATIONS[case.activation].phi(F.linear(v["x"], v["w1"], v["b1"]))
    o = F.linear(h, v["w2"], v["b2"])
    penalty = WEIGHT_DECAY / 2 * (v["w1"].square().sum() + v["w2"].square().sum())
    return _EAGER_LOSSES[case.loss](o, y.to(o.dtype) if y.is_floating_point() else y) + penalty


def gradients(graph: Graph) -> Values:
    """J, and ∂J/∂x, ∂J/∂w1, … by autograd, by the names dx, dw1 and so on."""
    gradients = torch.autograd.grad(graph.J, list(graph.leaves.values()))
    return {"J": graph.J} | {f"d{name}": gradient for name, gradient in zip(graph.leaves, gradients, strict=True)}
