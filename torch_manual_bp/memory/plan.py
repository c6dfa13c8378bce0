"""How many bytes a step or a prediction will take, tensor by tensor, before it is run."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from .. import kernels
from ..equations import loss_named
from ..nn import MLP, Objective
from ..pipeline.orders import order
from ..training.problem import PARAMETERS
from . import eager, one_call, prediction, stages, tiles, update, usual
from .check import check, check_stage
from .cuda import Cuda
from .machine import Machine
from .planned import Plan
from .setting import OPTIMIZERS, Setting

_WAYS: dict[tuple[str, str], Callable[[Machine, Setting], None]] = {
    ("autograd", "whole batch"): usual.gradient_by_backward,
    ("autograd", "tiles"): tiles.gradient_in_backward,
    ("accumulate_grad", "one call"): one_call.accumulated,
    ("accumulate_grad", "tiles"): tiles.accumulated,
    ("step", "one call"): one_call.stepped,
    ("step", "in products"): update.stepped_in_products,
    ("step", "sums"): update.stepped_with_sums,
    ("step", "optimizer"): update.stepped_by_optimizer,
    ("predict", "predict"): prediction.predicted,
    ("eager", "eager"): eager.gradient_by_autograd,
}
_STAGES = (stages.hidden_stage, stages.output_stage)
PATHS = tuple(dict.fromkeys(path for path, _ in _WAYS))
_UPDATE_THEMSELVES = ("step", "predict")


def plan(
    model: MLP | Objective, batch: int, *, path: str = "autograd", loss: str = "cross_entropy",
    weight_decay: float = 0.0, optimizer: str | Optimizer | None = None, tile_rows: int | str | None = None,
    clip_norm: float | None = None, save: str | None = None, dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None, x_requires_grad: bool = False, device: str | torch.device | None = None,
) -> Plan:  # fmt: skip
    """Every tensor of a training step, or of a prediction, with its bytes, its birth and its death.

    Nothing is computed and, but for 16-bit nets, nothing allocated: a model on the meta device does. Peaks are those
    that `measure` finds on the CPU, to the byte; x and y are contiguous, rows have no weights, gradients were set to
    None before. `torch.compile` and torch.func are left out, since what they allocate is theirs to say.

    Args:
        model: an MLP, or an Objective, whose loss, λ and tile_rows are then taken.
        batch: B.
        path: ``"autograd"``: J = objective(x, y), J.backward(), and the optimizer's own step; ``"accumulate_grad"``:
            the same with objective.accumulate_grad(x, y); ``"step"``: objective.step(x, y, optimizer);
            ``"predict"``: mlp(x) without gradients; ``"eager"``: the same net in torch's modules, for comparison.
        loss: of an MLP.
        weight_decay: λ, of an MLP.
        optimizer: "sgd", "momentum" (SGD's), "adamw" (Adam's, too), or one of torch.optim's SGD, Adam, AdamW. None: of
            ``"step"`` plain SGD, of the other paths the gradients alone.
        tile_rows: of a tile; None: none on the path "autograd", "auto" on the others.
        clip_norm: of ``"step"``.
        save: the save policy; the MLP's if not given.
        dtype: of parameters and batch; the MLP's if not given.
        autocast: the dtype of torch.autocast("cpu", …), round forward pass or lean step.
        x_requires_grad: whether ∂J/∂x is asked for.
        device: "cpu" or "cuda", which need not be there; the MLP's if not given, and the CPU for one on meta.

    Raises:
        TypeError: model is no MLP and no Objective.
        ValueError: something unknown, or that the path does not take.
    """
    objective = _objective(model, loss, weight_decay)
    if path not in PATHS:
        raise ValueError(f"plan: path must be one of {', '.join(PATHS)}; got {path!r}")
    setting = _setting(
        objective, batch, path, _name_of(optimizer, path), tile_rows, clip_norm, save, dtype, autocast,
        x_requires_grad, device,
    )  # fmt: skip
    check(setting)
    return planned(setting)


def plan_stages(
    model: MLP | Objective, batch: int, microbatches: int, schedule: str = "1f1b", *, loss: str = "cross_entropy",
    weight_decay: float = 0.0, optimizer: str | Optimizer | None = None, dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> tuple[Plan, Plan]:  # fmt: skip
    """What each of two processes takes for a step of `torch_manual_bp.pipeline`: a plan for each stage.

    Held against measurements with torch 2.13, on two processes with gloo: to the byte, but for some 200 bytes by which
    the stages agree on a call. What NCCL takes for itself is not planned.

    Args:
        model: an MLP, or an Objective, whose loss and λ are then taken; all of its parameters are trained.
        batch: B, a multiple of ``microbatches``.
        microbatches: M.
        schedule: "gpipe", "1f1b" or "zero_bubble".
        loss: of an MLP.
        weight_decay: λ, of an MLP.
        optimizer: as of `plan`.
        dtype: as of `plan`.
        device: as of `plan`.

    Raises:
        TypeError, ValueError: as of `plan`; a schedule that does not take so many microbatches; 16-bit or frozen
            parameters.
    """
    whole = _setting(
        _objective(model, loss, weight_decay), batch, "pipeline", _name_of(optimizer, "pipeline"), None, None, None,
        dtype, None, False, device,
    )  # fmt: skip
    first, last = whole.split(microbatches, schedule)
    for stage, setting in enumerate((first, last)):
        order(schedule, stage, stages.STAGES, microbatches)  # raises where there is none
        check_stage(setting)
    return planned(first), planned(last)


def planned(setting: Setting) -> Plan:
    """The plan of a setting that has been checked."""
    machine = (Machine if setting.on_cpu else Cuda)(setting.sizes)
    for name in setting.parameters:
        machine.stands(name, setting.shape(name), setting.dtype, "parameter")
    if setting.has_x:
        machine.stands("x", ("B", "d"), setting.dtype, "batch")
    if setting.has_y:
        dtype = torch.int64 if setting.loss.takes_classes else setting.dtype
        machine.stands("y", setting.shape("y"), dtype, "batch")
    if setting.class_weight:
        machine.stands("class_weight", ("q",), setting.sums, "batch")
    update.state_stands(machine, setting)
    if setting.path == "pipeline":
        _STAGES[setting.stage](machine, setting)
    else:
        _WAYS[setting.path, setting.choice.way](machine, setting)
    if setting.path not in _UPDATE_THEMSELVES:
        update.own_step(machine, setting)
    return Plan(setting, tuple(machine.tensors), machine.phases, _notes(setting))


def _notes(s: Setting) -> tuple[str, ...]:
    if not s.on_cpu:
        return (
            "on CUDA the workspaces of torch's own ops come on top: cuBLAS's, some MiB that stay, and a few KiB of "
            "reductions; each tensor takes a multiple of 512 bytes; figures not yet held against a GPU",
        )
    if kernels.backend().startswith("python"):
        return ("this is the plan of the compiled kernels, which are not here: in plain torch temporaries are added",)
    return ()


def _objective(model: MLP | Objective, loss: str, weight_decay: float) -> Objective:
    if isinstance(model, Objective):
        if (loss, weight_decay) != ("cross_entropy", 0.0):
            raise ValueError("plan: loss and weight_decay are the Objective's; give them with an MLP only")
        return model
    if not isinstance(model, MLP):
        raise TypeError(f"plan: model must be a torch_manual_bp.MLP or Objective, got {type(model).__name__}")
    return Objective(model, loss_named(loss, "plan"), weight_decay)


def _name_of(optimizer: str | Optimizer | None, path: str) -> str | None:
    if optimizer is None:
        return "sgd" if path == "step" else None
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"plan: optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}")
        return optimizer
    if type(optimizer) is SGD:
        return "momentum" if any(group["momentum"] for group in optimizer.param_groups) else "sgd"
    if type(optimizer) in (Adam, AdamW):
        return "adamw"
    raise ValueError(f"plan: optimizer must be torch's SGD, Adam or AdamW, got {type(optimizer).__name__}")


def _setting(
    objective: Objective, batch: int, path: str, optimizer: str | None, tile_rows: int | str | None,
    clip_norm: float | None, save: str | None, dtype: torch.dtype | None, autocast: torch.dtype | None,
    x_requires_grad: bool, device: str | torch.device | None,
) -> Setting:  # fmt: skip
    mlp = objective.mlp
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"plan: batch must be a positive int, got {batch!r}")
    weights = mlp.plain_weights()
    if weights is None:
        raise ValueError(
            "plan: fc1 and fc2 must be plain nn.Linear layers without hooks: what else they do is not known"
        )
    if path == "autograd" and tile_rows is None:
        tile_rows = objective.tile_rows
    given = dict(zip(PARAMETERS, weights, strict=True))
    parameters: dict[str, nn.Parameter] = {n: p for n, p in given.items() if p is not None}  # type: ignore[misc]
    trained = tuple(n for n, p in parameters.items() if p.requires_grad) if path != "predict" else ()
    return Setting(
        batch, (mlp.in_features, mlp.hidden_features, mlp.out_features), mlp.activation, tuple(parameters), trained,
        objective.loss, objective.weight_decay, objective.class_weight is not None, path, optimizer,
        clip_norm is not None, tile_rows, save or mlp.save, dtype or parameters["w1"].dtype, autocast, x_requires_grad,
        _device(parameters["w1"].device if device is None else torch.device(device)),
    )  # fmt: skip


def _device(device: torch.device) -> str:
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"plan: device must be a CPU or CUDA, got {device}")
    return "cuda" if device.type == "cuda" else "cpu"
