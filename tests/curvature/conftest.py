"""Cases, and the oracle of all of them: J as torch's own operators compute it, differentiated by torch.func."""

from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as F

import torch_manual_bp as tmb
from torch_manual_bp.equations import ACTIVATIONS

NAMES = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


class Case(NamedTuple):
    activation: str = "tanh"
    loss: str = "cross_entropy"
    weight_decay: float = 0.0
    biases: tuple[bool, bool] = (True, True)
    reduction: str = "mean"
    options: tuple[str, ...] = ()  # class_weight, row_weight, label_smoothing, ignore_index
    shape: tuple[int, int, int, int] = (7, 4, 5, 3)

    def __str__(self):
        biases = "".join(map(str, map(int, self.biases)))
        return "-".join(map(str, (*self[:3], biases, self.reduction, *self.options, *self.shape)))


CASES = [
    *(Case(a, loss, 0.3) for a in ACTIVATIONS for loss in tmb.equations.LOSSES),
    *(Case("tanh", loss, biases=b) for loss in tmb.equations.LOSSES for b in [(0, 0), (1, 0), (0, 1)]),
    *(Case("gelu", loss, 0.1, reduction="sum", options=("row_weight",)) for loss in tmb.equations.LOSSES),
    *(Case("gelu", loss, 0.1, options=("row_weight",)) for loss in tmb.equations.LOSSES),
    Case("silu", options=("class_weight",)),
    Case("silu", options=("label_smoothing",)),
    Case("silu", options=("ignore_index",)),
    Case("sigmoid", weight_decay=0.2, options=("class_weight", "row_weight", "label_smoothing", "ignore_index")),
    Case("softplus", "mse", shape=(1, 1, 1, 1)),
    Case("softplus", "bce_with_logits", shape=(6, 3, 4, 1)),
    Case("tanh", shape=(3, 9, 2, 6)),
]


class Setting(NamedTuple):
    curvature: tmb.curvature.Curvature
    J: object  # a function of the flat parameters
    theta: torch.Tensor
    mlp: tmb.MLP
    x: torch.Tensor
    y: torch.Tensor
    options: dict


def flat(named):
    return torch.cat([part.flatten() for part in named.values()])


def make(case, dtype=torch.float64, **more):
    B, d, h, q = case.shape
    hidden_bias, output_bias = map(bool, case.biases)
    mlp = tmb.MLP(d, h, q, case.activation, hidden_bias, output_bias, dtype=dtype)
    x = torch.randn(B, d, dtype=dtype)
    y = torch.randint(q, (B,)) if case.loss == "cross_entropy" else torch.rand(B, q, dtype=dtype)
    options, row_weight = {"reduction": case.reduction}, None
    if "class_weight" in case.options:
        options["class_weight"] = torch.rand(q, dtype=dtype) + 0.5
    if "label_smoothing" in case.options:
        options["label_smoothing"] = 0.2
    if "ignore_index" in case.options:
        options["ignore_index"] = 1
        y[0], y[1] = 1, 0
    if "row_weight" in case.options:
        row_weight = torch.rand(B, dtype=dtype)
        row_weight[2] = 0
    names, shapes = zip(*((name, p.shape) for name, p in mlp.named_parameters()), strict=True)

    def J(theta):
        parts = theta.split([shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, shape, part in zip(names, shapes, parts, strict=True)}
        w1, b1, w2, b2 = (named.get(name) for name in NAMES)
        o = F.linear(plain_phi(case.activation)(F.linear(x, w1, b1)), w2, b2)
        penalty = case.weight_decay / 2 * (w1.square().sum() + w2.square().sum())
        return plain_loss(case, o, y, row_weight, options) + penalty

    theta = torch.nn.utils.parameters_to_vector(mlp.parameters()).detach()
    everything = {"loss": case.loss, "weight_decay": case.weight_decay, "row_weight": row_weight, **options, **more}
    return Setting(tmb.curvature.Curvature(mlp, x, y, **everything), J, theta, mlp, x, y, everything)


def plain_phi(name):
    """The activation as torch.nn has it; relu² is its square."""
    module = ACTIVATIONS[name].module
    return module() if module else lambda z: F.relu(z).square()


def plain_loss(case, o, y, row_weight, options):
    r = torch.ones(len(o), dtype=o.dtype) if row_weight is None else row_weight
    if case.loss == "cross_entropy":
        given = {k: v for k, v in options.items() if k != "reduction"}
        rows = F.cross_entropy(o, y, given.pop("class_weight", None), reduction="none", **given)
        kept = y != options.get("ignore_index", -100)
        N = (r * kept * options["class_weight"][y] if "class_weight" in options else r * kept).sum()
    else:
        of = F.mse_loss if case.loss == "mse" else F.binary_cross_entropy_with_logits
        rows = of(o, y, reduction="none").sum(1)
        N = r.sum() * o.shape[1]
    total = (r * rows).sum()
    return total / N if case.reduction == "mean" else total


@pytest.fixture(params=CASES, ids=str)
def setting(request):
    return make(request.param)


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param
