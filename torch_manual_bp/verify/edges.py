"""Checks: batches without rows, and labels that are no class."""

import subprocess
import sys
from collections.abc import Iterator

import torch
from torch.optim import SGD

from .. import kernels
from ..equations import ACTIVATIONS
from .finding import Finding, holds
from .lean import large_head
from .networks import Case, layers_of, objective_of, values_of
from .setting import DTYPES, Setting

IGNORED = -100


def check_empty_batches(setting: Setting) -> Iterator[Finding]:
    """No rows: each op returns; a mean is NaN, its gradient 0, as in torch; a step leaves the weights alone."""
    for dtype in DTYPES:
        z, y = torch.empty(0, 7, device=setting.device, dtype=dtype), torch.empty(0, device=setting.device).long()
        for activation in ACTIVATIONS:
            kernels.bias_act_(z, None, activation)
            db = kernels.dact_(z.clone(), kernels.act(z, activation), activation, "z", True)
            zero = db is not None and db.shape == (7,) and not bool(db.any())
            yield holds(f"no rows: dact_ with db, {activation}, {dtype}", zero, f"db = {db}")
        for loss in ("cross_entropy", "mse", "bce_with_logits"):
            case = Case("relu", loss, "auto", dtype, (0, *setting.sizes[1:]))
            yield from _without_rows(case, setting)
        for reduction in ("mean", "sum"):
            L, scale = kernels.cross_entropy_(z.clone(), None, y, None, None, 0.0, IGNORED, reduction)
            as_torch = bool(L.isnan() & (scale == 0) if reduction == "mean" else (L == 0) & (scale == 1))
            yield holds(f"no rows: cross_entropy_, {reduction}, {dtype}", as_torch, f"L = {L}, scale = {scale}")


def _without_rows(case: Case, setting: Setting) -> Iterator[Finding]:
    values = values_of(case, setting.device)
    objective = objective_of(case, values)
    objective.weight_decay = 0.0
    x = values["x"].clone().requires_grad_()
    J = objective(x, values["y"])
    J.backward()
    still = all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    yield holds(f"no rows: Objective, {case}, {case.dtype}", bool(J.isnan()) and still, f"J = {J}, gradients not 0")
    objective.zero_grad()
    lean = objective.accumulate_grad(values["x"], values["y"])
    still = all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    yield holds(f"no rows: accumulate_grad, {case}, {case.dtype}", bool(lean.isnan()) and still, f"J = {lean}")
    objective.step(values["x"], values["y"], SGD(objective.parameters(), 0.1))
    for name, p in layers_of(objective.mlp).items():
        same = torch.equal(p.detach(), values[name])
        yield holds(f"no rows: step, {name}, {case}, {case.dtype}", same, "the parameter has changed")


# what a bad label is to end in: on a CUDA device unchecked labels are an assert, which takes the process with it
_BAD_LABEL = """
import sys, torch, torch_manual_bp as tmb
device, tile_rows, B, q = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
objective = tmb.Objective(tmb.MLP(8, 8, q, device=device), tile_rows="auto" if tile_rows == "auto" else None)
y = torch.zeros(B, dtype=torch.int64, device=device)
y[100] = q
J = objective(torch.randn(B, 8, device=device), y)
J.backward()
print("J is", J.item(), "and nothing was raised")
"""


def check_bad_labels(setting: Setting) -> Iterator[Finding]:
    """With validate=True ValueError before anything is computed; without it a device assert, or J = NaN, not a number.

    The assert is looked for in processes of their own. On the CPU all labels are checked, there as well.
    """
    case = Case("relu", "cross_entropy", "auto", torch.float32, setting.sizes)
    values = values_of(case, setting.device)
    bad = values["y"].clone()
    bad[3] = case.sizes[3]
    objective = objective_of(case, values)
    objective.validate = True
    calls = {
        "Objective": lambda: objective(values["x"], bad),
        "accumulate_grad": lambda: objective.accumulate_grad(values["x"], bad),
        "step": lambda: objective.step(values["x"], bad, SGD(objective.parameters(), 0.1)),
    }
    for name, call in calls.items():
        try:
            call()
            said = "nothing was raised"
        except ValueError as error:
            said = str(error)
        yield holds(f"a bad label, validate=True: {name}", f"got {case.sizes[3]}" in said, said)
    B, _, _, q = large_head(setting.device, torch.float32)
    for place, how in (
        ("whole batch", ("whole", 256, 10)),
        ("in tiles", ("auto", 256, 10)),
        ("classes in tiles", ("auto", B, q)),
    ):
        yield _unchecked_label(place, [str(setting.device), *map(str, how)])


def _unchecked_label(place: str, arguments: list[str]) -> Finding:
    command = [sys.executable, "-c", _BAD_LABEL, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = ended.stdout + ended.stderr
    asserted = ended.returncode != 0 and ("device-side assert" in said or "ValueError" in said)
    return holds(f"a bad label, unchecked: {place}", asserted or "J is nan" in said, said[-1000:])
