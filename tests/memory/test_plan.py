"""plan = measure, to the byte: for every path, over shapes, activations, losses, dtypes and options."""

from collections import Counter
from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_manual_bp as tmb
from torch_manual_bp.equations import ACTIVATIONS
from torch_manual_bp.memory import measure, plan

pytestmark = pytest.mark.skipif(
    tmb.kernels.backend().startswith("python"), reason="a plan is that of the compiled kernels, which are not here"
)

LEAST = 64  # bytes: of the numbers that torch makes tensors of, only those are planned that stand at a peak
LOSSES = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters),
}

TINY, SMALL, NARROW, WIDE, LONG = (
    (1, 5, 3, 2),
    (40, 20, 30, 50),
    (64, 100, 700, 12),
    (64, 70, 300, 50),
    (600, 30, 40, 60),
)
SHAPES = (TINY, SMALL, NARROW, WIDE, LONG)  # one thread's, one thread's, few outputs, many, many rows


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    path: str
    optimizer: str | None = None
    tile_rows: int | str | None = None
    activation: str = "relu"
    loss: str = "cross_entropy"
    weight_decay: float = 0.0
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    save: str = "auto"
    biases: tuple[bool, bool] = (True, True)
    frozen: tuple[str, ...] = ()
    x_requires_grad: bool = False
    clip_norm: float | None = None
    reduction: str = "mean"
    class_weight: bool = False

    def __str__(self) -> str:
        defaults = self._field_defaults
        given = {name: value for name, value in self._asdict().items() if value != defaults.get(name)}
        return "-".join(str(value).removeprefix("torch.") for value in given.values())


TRAINING = (
    ("autograd", None, None), ("autograd", "momentum", None), ("autograd", "adamw", None), ("autograd", None, 32),
    ("accumulate_grad", None, None), ("accumulate_grad", "adamw", 32), ("step", "sgd", None), ("step", "sgd", 32),
    ("step", "momentum", None), ("step", "momentum", 32), ("step", "adamw", None), ("step", "adamw", 32),
)  # fmt: skip
PATHS = (*TRAINING, ("predict", None, None))
FEW = (("autograd", None, None), ("autograd", None, 32), ("accumulate_grad", None, None), ("step", "sgd", 32))


def cases():
    for shape in SHAPES:
        for path in PATHS:
            for loss, decay in zip(LOSSES, (0.1, 0.0, 0.1), strict=True):
                yield Case(shape, *path, "gelu", loss, decay)
            yield Case(shape, *path, "tanh")
        for path in (("eager", None, None), ("eager", "adamw", None)):
            yield from (Case(shape, *path, activation, loss) for activation in ("relu", "silu") for loss in LOSSES)
    for activation in ACTIVATIONS:
        for shape in (SMALL, NARROW, WIDE):
            yield from (Case(shape, *path, activation, weight_decay=0.1) for path in (*FEW, ("predict", None, None)))
            yield Case(shape, *FEW[0], activation, save="input")
        if ACTIVATIONS[activation].module is not None:
            yield Case(SMALL, "eager", activation=activation)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        for path in PATHS:
            for shape, activation, loss in (
                (TINY, "elu", "mse"),
                (WIDE, "gelu", "cross_entropy"),
                (LONG, "relu", "mse"),
            ):
                if not (dtype is torch.float16 and path[0] in ("autograd", "predict") and shape is not TINY):  # minutes
                    yield Case(shape, *path, activation, loss, 0.1, dtype)
    for path in (*PATHS, ("step", "sgd", "auto")):
        for shape, activation, decay in ((SMALL, "relu", 0.0), (LONG, "gelu", 0.1)):
            yield Case(shape, *path, activation, weight_decay=decay, autocast=True)
    for path in (*TRAINING, ("predict", None, None), ("eager", None, None)):
        yield from (Case(SMALL, *path, biases=biases) for biases in ((True, False), (False, True), (False, False)))
    for path in (*TRAINING, ("eager", None, None)):
        for frozen in (("fc1.weight",), ("fc1.weight", "fc1.bias"), ("fc2.weight",), ("fc2.weight", "fc2.bias")):
            yield from (Case(WIDE, *path, activation, frozen=frozen) for activation in ("relu", "gelu"))
    for path in (*FEW[:3], ("accumulate_grad", None, 32), ("eager", None, None)):
        yield from (Case(SMALL, *path, activation, x_requires_grad=True) for activation in ("relu", "gelu"))
    for path in (path for path in TRAINING if path[0] == "step"):
        for dtype in (torch.float32, torch.bfloat16):
            yield Case(SMALL, *path, dtype=dtype, clip_norm=0.5)
    for path in PATHS[:-1]:
        yield from (Case(SMALL, *path, loss=loss, reduction="sum") for loss in LOSSES)
        yield Case(LONG, *path, class_weight=True)
    yield Case((2500, 30, 20, 20000), "accumulate_grad")  # classes are tiled
    yield Case((2500, 30, 20, 20000), "autograd", None, "auto", "gelu", "mse", 0.1)
    yield Case((1100, 784, 256, 10), "step", "sgd", activation="gelu")
    yield Case((1100, 784, 256, 10), "autograd", "adamw", weight_decay=0.1, save="input", dtype=torch.bfloat16)


def made(case):
    """The objective, and the call that the plan is about."""
    torch.manual_seed(0)
    B, d, h, q = case.shape
    x = torch.randn(B, d).to(case.dtype).requires_grad_(case.x_requires_grad)
    y = torch.randint(q, (B,)) if case.loss == "cross_entropy" else torch.rand(B, q).to(case.dtype)
    mlp = tmb.MLP(d, h, q, case.activation, *case.biases, save=case.save, dtype=case.dtype)
    for name in case.frozen:
        mlp.get_parameter(name).requires_grad_(False)
    objective = tmb.Objective(
        mlp, case.loss, case.weight_decay, reduction=case.reduction,
        class_weight=torch.rand(q) if case.class_weight else None,
        tile_rows=case.tile_rows if case.path == "autograd" else None,
    )  # fmt: skip
    optimizer = OPTIMIZERS[case.optimizer]([p for p in mlp.parameters() if p.requires_grad]) if case.optimizer else None
    tile_rows = case.tile_rows or "auto"
    eager = nn.Sequential(mlp.fc1, ACTIVATIONS[case.activation].module(), mlp.fc2) if case.path == "eager" else None

    def gradient():
        if case.path == "accumulate_grad":
            return objective.accumulate_grad(x, y, tile_rows=tile_rows)
        J = objective(x, y) if eager is None else LOSSES[case.loss](eager(x), y)
        J.backward()
        return J

    def call():
        with torch.autocast("cpu", torch.bfloat16) if case.autocast else nullcontext():
            if case.path == "predict":
                with torch.no_grad():
                    return mlp(x)
            if case.path == "step":
                return objective.step(x, y, optimizer, tile_rows=tile_rows, clip_norm=case.clip_norm)
            J = gradient()
            if optimizer is not None:
                optimizer.step()
            return J

    def give_back():
        mlp.zero_grad()
        x.grad = None
        objective.release_workspace()

    return objective, call, give_back


@pytest.mark.filterwarnings("ignore:torch_manual_bp. float16")
@pytest.mark.parametrize("case", list(cases()), ids=str)
def test_a_plan_is_what_is_measured(case):
    objective, call, give_back = made(case)
    for _ in range(2):  # the second makes the fast way, if there is one
        call()
    give_back()
    measured = measure(call, "cpu")
    planned = plan(
        objective, case.shape[0], path=case.path, optimizer=case.optimizer, tile_rows=case.tile_rows,
        clip_norm=case.clip_norm, autocast=torch.bfloat16 if case.autocast else None,
        x_requires_grad=case.x_requires_grad,
    )  # fmt: skip
    assert planned.call_bytes == measured.peak_bytes
    assert planned.left_bytes == measured.left_bytes
    way, tile, _ = planned.setting.choice
    if way in ("tiles", "sums", "optimizer", "in products") and tile.rows * 3 <= case.shape[0]:
        return  # of the tiles between the second and the last there is none in the plan
    own = Counter(tensor.bytes for tensor in planned.tensors if tensor.born > 0 and tensor.bytes >= LEAST)
    assert own == Counter(block.bytes for block in measured.allocations if block.bytes >= LEAST)
