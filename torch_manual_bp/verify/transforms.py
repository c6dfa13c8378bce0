"""Checks: torch.func, forward mode and torch.compile on the device, against plain autograd there."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, _dynamo
from torch.func import functional_call, grad, hessian, jvp, vmap

from ..nn import MLP, Objective
from .finding import EXACT, Finding, agree
from .networks import Case, layers_of, objective_of, values_of
from .setting import Setting

COMPILED = {torch.float64: 1e-10, torch.float32: 1e-4}  # a compiler fuses and reorders


def check_transforms(setting: Setting) -> Iterator[Finding]:
    """Gradients by row, of a functional call, a Hessian, and a tangent, each against what autograd makes of it."""
    case = Case("gelu", "cross_entropy", "auto", torch.float64, (5, 4, 6, 3))
    values = values_of(case, setting.device)
    objective = objective_of(case, values)
    x, y = values["x"], values["y"]
    parameters = {name: p.detach() for name, p in objective.named_parameters()}

    def J(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional_call(objective, p, (x, y))

    torchs = dict(zip(parameters, torch.autograd.grad(objective(x, y), list(objective.parameters())), strict=True))
    ours = grad(J)(parameters, x, y)
    for name in parameters:
        yield agree(f"torch.func.grad: {name}", ours[name], torchs[name], EXACT)
    by_row = vmap(grad(J), in_dims=(None, 0, 0))(parameters, x[:, None], y[:, None])
    for name in parameters:
        yield agree(f"vmap of grad, mean over rows: {name}", by_row[name].mean(0), torchs[name], EXACT)
    tangent = {name: torch.cos(p) for name, p in parameters.items()}
    dJ = jvp(lambda p: J(p, x, y), (parameters,), (tangent,))[1]
    along = torch.stack([(torchs[name] * tangent[name]).sum() for name in parameters]).sum()
    yield agree("jvp", dJ, along, EXACT)
    H = hessian(lambda b: J(parameters | {"mlp.fc2.bias": b}, x, y))(parameters["mlp.fc2.bias"])
    leaf = parameters["mlp.fc2.bias"].clone().requires_grad_()
    (first,) = torch.autograd.grad(J(parameters | {"mlp.fc2.bias": leaf}, x, y), leaf, create_graph=True)
    rows = [torch.autograd.grad(element, leaf, retain_graph=True)[0] for element in first]
    yield agree("hessian by b2", H, torch.stack(rows), EXACT)


def check_compile(setting: Setting) -> Iterator[Finding]:
    """torch.compile(fullgraph=True) of an Objective and of an MLP, forward and backward, against the eager ones."""
    for dtype, tolerance in COMPILED.items():
        case = Case("gelu", "cross_entropy", "auto", dtype, setting.sizes)
        values = values_of(case, setting.device)
        _dynamo.reset()
        for name, module in (("Objective", objective_of(case, values)), ("MLP", objective_of(case, values).mlp)):
            compiled = torch.compile(module, fullgraph=True, backend=setting.compile_backend)
            arguments = (values["x"], values["y"]) if name == "Objective" else (values["x"],)
            eager, ours = (_gradients(run, module, arguments) for run in (module, compiled))
            for symbol in eager:
                yield agree(f"torch.compile of {name}, {symbol}: {case}", ours[symbol], eager[symbol], tolerance)


def _gradients(run: Callable[..., Tensor], module: MLP | Objective, arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
    x = arguments[0].clone().requires_grad_()
    answer = run(x, *arguments[1:])
    layers = layers_of(module.mlp if isinstance(module, Objective) else module)
    leaves = {"x": x, **layers}
    gradients = torch.autograd.grad(answer.square().mean(), list(leaves.values()))
    return {"answer": answer.detach()} | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}
