"""What each compiled op returns, in shapes and dtypes alone: for fake tensors, export and ``torch.library.opcheck``.

Imported once the extension has been loaded, since a fake kernel can only be given to an op that exists.
"""

import torch
from torch import Tensor
from torch.library import register_fake

Maybe = Tensor | None


@register_fake("torch_manual_bp::bias_act_")
def _(z: Tensor, bias: Maybe, activation: int) -> None:
    return None


@register_fake("torch_manual_bp::bias_act_keep_")
def _(z: Tensor, h: Tensor, bias: Maybe, activation: int) -> None:
    return None


@register_fake("torch_manual_bp::bias_act_mask_")
def _(z: Tensor, bias: Maybe, activation: int) -> Tensor:
    return z.new_empty((z.shape[0], (z.shape[1] + 7) // 8), dtype=torch.uint8)


@register_fake("torch_manual_bp::act")
def _(z: Tensor, activation: int) -> Tensor:
    return torch.empty_like(z)


@register_fake("torch_manual_bp::dact_")
def _(dh: Tensor, saved: Tensor, activation: int, kind: int) -> None:
    return None


@register_fake("torch_manual_bp::dact_bias_grad_")
def _(dh: Tensor, saved: Tensor, activation: int, kind: int) -> Tensor:
    return dh.new_empty((dh.shape[1],))


@register_fake("torch_manual_bp::scaled")
def _(g: Tensor, factor: Tensor) -> Tensor:
    return torch.empty_like(g)


def _loss_and_scale(o: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if o.dtype == torch.float64 else torch.float32
    return o.new_empty((), dtype=dtype), o.new_empty((), dtype=dtype)


@register_fake("torch_manual_bp::cross_entropy_")
def _(
    o: Tensor, bias: Maybe, target: Tensor, class_weight: Maybe, row_weight: Maybe, label_smoothing: float,
    ignore_index: int, mean: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _loss_and_scale(o)


@register_fake("torch_manual_bp::class_statistics_")
def _(o: Tensor, bias: Maybe, target: Tensor, class_weight: Maybe, first_class: int, statistics: Tensor) -> None:
    return None


@register_fake("torch_manual_bp::class_loss")
def _(
    statistics: Tensor, target: Tensor, row_weight: Maybe, classes: int, label_smoothing: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    return statistics.new_empty(()), statistics.new_empty(())


@register_fake("torch_manual_bp::cross_entropy_classes_")
def _(
    o: Tensor, bias: Maybe, target: Tensor, class_weight: Maybe, row_weight: Maybe, first_class: int, classes: int,
    label_smoothing: float, ignore_index: int, statistics: Tensor,
) -> None:  # fmt: skip
    return None


@register_fake("torch_manual_bp::mse_")
def _(o: Tensor, bias: Maybe, target: Tensor, row_weight: Maybe, mean: bool) -> tuple[Tensor, Tensor]:
    return _loss_and_scale(o)


@register_fake("torch_manual_bp::bce_with_logits_")
def _(o: Tensor, bias: Maybe, target: Tensor, row_weight: Maybe, mean: bool) -> tuple[Tensor, Tensor]:
    return _loss_and_scale(o)


@register_fake("torch_manual_bp::find_bad_label")
def _(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    return target.new_empty(())


@register_fake("torch_manual_bp::mlp_forward")
def _(x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, activation: int) -> Tensor:
    return x.new_empty((x.shape[0], w2.shape[0]))


@register_fake("torch_manual_bp::scratch_bytes")
def _(x: Tensor, hidden: int, outputs: int, activation: int) -> Tensor:
    return x.new_empty(6, dtype=torch.int64)


@register_fake("torch_manual_bp::fits_one_call")
def _(x: Tensor, hidden: int, outputs: int) -> bool:
    return x.device.type == "cpu"  # a device that is not there has no shared memory


def _value_of_a_step(x: Tensor, *arguments: object) -> Tensor:
    return x.new_empty(())


def _nothing(*arguments: object) -> None:
    return None


for _op in ("objective_gradient_", "objective_sgd_", "objective_adam_"):
    register_fake(f"torch_manual_bp::{_op}", _value_of_a_step)
for _op in ("sgd_", "sgd_products_", "adam_"):
    register_fake(f"torch_manual_bp::{_op}", _nothing)
