"""Runs the ops and the modules on a device and holds them against the equation table in float64.

The rule is the package's own: in float64 an error of at most 1e-12, relative to the largest element; in shorter dtypes
at most twice the error that eager PyTorch makes on the same device with the same inputs.
"""

import itertools
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels
from ..equations import ACTIVATIONS, LOSSES, table
from ..nn import MLP, Objective

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WEIGHT_DECAY = 0.1
EXACT = 1e-12  # relative error allowed in float64
RATIO = 2.0  # of eager PyTorch's error, allowed in shorter dtypes


@dataclass(frozen=True)
class Finding:
    """One comparison: the largest error relative to the largest element, and eager PyTorch's own."""

    check: str
    dtype: str
    error: float
    eager_error: float
    ok: bool


@dataclass(frozen=True)
class Case:
    """A network and its batch, in the sizes B, d, h, q."""

    activation: str
    loss: str
    save: str
    dtype: torch.dtype
    sizes: tuple[int, int, int, int]

    def __str__(self) -> str:
        return f"{self.activation}, {self.loss}, save={self.save}, B×d×h×q={'×'.join(map(str, self.sizes))}"


def check_device(device: torch.device | str, sizes: tuple[int, int, int, int] = (257, 33, 67, 10)) -> Iterator[Finding]:
    """Every activation × loss × save policy × dtype: J and each gradient; a gradient penalty; each kernel on its own.

    Args:
        device: where to compute.
        sizes: B, d, h, q; odd ones by default, so that ragged ends are met.
    """
    device = torch.device(device)
    for activation, loss, save, dtype in itertools.product(ACTIVATIONS, LOSSES, ("auto", "input"), DTYPES):
        yield from _check_objective(Case(activation, loss, save, dtype, sizes), device)
    for activation, loss, save in itertools.product(ACTIVATIONS, LOSSES, ("auto", "input")):
        yield from _check_second_order(Case(activation, loss, save, torch.float64, sizes), device)
    for activation, dtype in itertools.product(ACTIVATIONS, DTYPES):
        yield from _check_hidden_kernels(activation, dtype, device, sizes)


def report(findings: list[Finding], device: torch.device | str) -> dict[str, object]:
    """The findings with what they were found on, ready for JSON; the failures come first."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    failed = [asdict(finding) for finding in findings if not finding.ok]
    return {
        "device": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "backend": kernels.backend(),
        "checks": len(findings),
        "failed": failed,
        "worst ratio to eager": max((f.error / f.eager_error for f in findings if f.eager_error > 0), default=0.0),
        "findings": [asdict(finding) for finding in findings],
    }


def _values(case: Case, device: torch.device) -> dict[str, Tensor]:
    B, d, h, q = case.sizes
    generator = torch.Generator().manual_seed(_seed(str(case)))

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, case.dtype)

    y = torch.randint(q, (B,), generator=generator).to(device)
    if case.loss != "cross_entropy":
        y = torch.rand(B, q, generator=generator, dtype=torch.float64).to(device, case.dtype)
    w1, w2 = randn(h, d) / d**0.5, randn(q, h) / h**0.5
    return {"x": randn(B, d), "y": y, "w1": w1, "b1": randn(h), "w2": w2, "b2": randn(q)}


def _seed(text: str) -> int:
    """A seed that is the same in every process (``hash`` of a string is not)."""
    return int.from_bytes(text.encode(), "little") % (2**63)


def _check_objective(case: Case, device: torch.device) -> Iterator[Finding]:
    values = _values(case, device)
    truth = table(case.activation, case.loss).evaluate(
        {name: value.cpu() for name, value in values.items()} | {"weight_decay": WEIGHT_DECAY}
    )
    ours, eager = (_first_order(run(case, values)) for run in (_ours, _eager))
    for symbol in ours:
        yield _compare(f"{symbol}: {case}", case.dtype, ours[symbol], eager[symbol], truth[symbol])


@dataclass(frozen=True)
class Graph:
    """J and what it was computed from."""

    J: Tensor
    leaves: dict[str, Tensor]


def _first_order(graph: Graph) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(graph.J, list(graph.leaves.values()))
    return {"J": graph.J} | {f"d{name}": gradient for name, gradient in zip(graph.leaves, gradients, strict=True)}


def _check_second_order(case: Case, device: torch.device) -> Iterator[Finding]:
    """The gradients of ‖∂J/∂x‖² + ‖∂J/∂W1‖², which need the backward pass of every backward equation."""
    values = _values(case, device)
    ours, eager = (_penalty_gradients(run(case, values)) for run in (_ours, _eager))
    for symbol in ours:
        truth = eager[symbol].detach().double().cpu()
        yield _compare(f"second order, {symbol}: {case}", case.dtype, ours[symbol], eager[symbol], truth)


def _penalty_gradients(graph: "Graph") -> dict[str, Tensor]:
    first = torch.autograd.grad(graph.J, [graph.leaves["x"], graph.leaves["w1"]], create_graph=True)
    penalty = first[0].square().sum() + first[1].square().sum()
    gradients = torch.autograd.grad(penalty, list(graph.leaves.values()))
    return dict(zip(graph.leaves, gradients, strict=True))


def _compare(check: str, dtype: torch.dtype, ours: Tensor, eager: Tensor, truth: Tensor) -> Finding:
    scale = truth.abs().max().item() or 1.0
    error, eager_error = ((t.detach().double().cpu() - truth).abs().max().item() / scale for t in (ours, eager))
    # a single number can be right by luck; a unit in the last place is what the dtype owes
    allowed = EXACT if dtype == torch.float64 else RATIO * max(eager_error, torch.finfo(dtype).eps)
    return Finding(check, str(dtype), error, eager_error, error <= allowed)


def _ours(case: Case, values: dict[str, Tensor]) -> Graph:
    _, d, h, q = case.sizes
    mlp = MLP(d, h, q, case.activation, save=case.save, device=values["x"].device, dtype=case.dtype)
    layers = {"w1": mlp.fc1.weight, "b1": mlp.fc1.bias, "w2": mlp.fc2.weight, "b2": mlp.fc2.bias}
    with torch.no_grad():
        for name, parameter in layers.items():
            parameter.copy_(values[name])
    x = values["x"].clone().requires_grad_()
    return Graph(Objective(mlp, case.loss, WEIGHT_DECAY)(x, values["y"]), {"x": x, **layers})


_EAGER_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


def _eager(case: Case, values: dict[str, Tensor]) -> Graph:
    v = {name: values[name].clone().requires_grad_() for name in ("x", "w1", "b1", "w2", "b2")}
    h = ACTIVATIONS[case.activation].phi(F.linear(v["x"], v["w1"], v["b1"]))
    o = F.linear(h, v["w2"], v["b2"])
    J = _EAGER_LOSSES[case.loss](o, values["y"]) + WEIGHT_DECAY / 2 * (v["w1"].square().sum() + v["w2"].square().sum())
    return Graph(J, v)


def _check_hidden_kernels(
    activation: str, dtype: torch.dtype, device: torch.device, sizes: tuple[int, ...]
) -> Iterator[Finding]:
    """φ(z + b) in place, kept beside z, and φ′ ⊙ dh with its column sums, against the definitions in float64."""
    B, _, h, _ = sizes
    phi = ACTIVATIONS[activation]
    generator = torch.Generator().manual_seed(0)
    z, dh, b = (torch.randn(*shape, generator=generator).to(dtype) * 3 for shape in ((B, h), (B, h), (h,)))
    at = (z.double() + b.double()).to(dtype)  # z is rounded to its dtype where it is kept
    truth = torch.cat([phi.phi(at.double()).flatten(), (phi.dphi(at.double()) * dh.double()).flatten()])

    kept = z.to(device)
    ours_h = torch.empty_like(kept)
    kernels.bias_act_keep_(kept, ours_h, b.to(device), activation)
    dz = dh.to(device)
    db = kernels.dact_(dz, kept, activation, "z", True)
    assert db is not None
    eager_z = at.to(device).requires_grad_()
    eager_h = phi.phi(eager_z)
    (eager_dz,) = torch.autograd.grad(eager_h, eager_z, dh.to(device))
    ours, eager = (torch.cat([pair[0].flatten(), pair[1].flatten()]) for pair in ((ours_h, dz), (eager_h, eager_dz)))
    yield _compare(f"φ and φ′ kernels: {activation}", dtype, ours, eager, truth)
    yield _compare(f"column sums: {activation}", dtype, db, dz.sum(0), dz.double().cpu().sum(0))
