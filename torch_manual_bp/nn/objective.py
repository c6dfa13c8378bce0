"""The objective of a training step as a module."""

import math
from numbers import Real

from torch import Tensor, nn

from ..autograd import check, door, pure
from ..equations import ACTIVATIONS, Loss, loss_named
from ..equations.losses import REDUCTIONS
from .mlp import MLP, is_untouched


class Objective(nn.Module):
    """J = L + s: the loss of an MLP on a batch and the penalty s = λ/2 (‖W1‖² + ‖W2‖²), D2L 5.3.4 to 5.3.6.

    L is the mean (or sum) of l(o_b, y_b); biases are not penalised. λ here is the one of ``torch.optim.SGD``'s
    ``weight_decay`` (coupled L2), so give it to one of the two only; it is not AdamW's.
    J is float32 for float32 and shorter dtypes, and float64 for float64.

    Wrap the Objective, not the MLP, for data parallelism: ``DDP(objective)``, ``fully_shard(objective)``.

    Args:
        mlp: the network.
        loss: ``"cross_entropy"`` (y int64 class indices), ``"mse"`` or ``"bce_with_logits"`` (y like the outputs).
        weight_decay: λ ≥ 0.
        reduction: ``"mean"`` (over the batch and, for mse and bce_with_logits, the outputs) or ``"sum"``.
        label_smoothing: ε in [0, 1] of cross-entropy.
        ignore_index: the label of rows that cross-entropy leaves out.
        class_weight: shape (q,), cross-entropy's weight of each class.
        validate: check labels on an accelerator too, which waits for it; on the CPU they are always checked. Unchecked
            labels out of range end in a device assert, as in torch.

    Raises:
        TypeError: mlp is no `torch_manual_bp.MLP`, or class_weight no floating-point tensor.
        ValueError: an unknown loss or reduction, an option that the loss does not have, λ or ε out of range.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        mlp: MLP,
        loss: str = "cross_entropy",
        weight_decay: float = 0.0,
        *,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        class_weight: Tensor | None = None,
        validate: bool = False,
    ) -> None:
        if not isinstance(mlp, MLP):
            raise TypeError(
                f"Objective: mlp must be a torch_manual_bp.MLP, got {type(mlp).__name__}; "
                "MLP.from_linears(fc1, activation, fc2) makes one from two nn.Linear"
            )
        _check_options(loss, weight_decay, reduction, label_smoothing, ignore_index, class_weight)
        if class_weight is not None:
            check.weights("Objective", "class_weight", class_weight, (mlp.out_features,), class_weight)
        super().__init__()
        self.mlp = mlp
        self.loss = Loss(loss, reduction, float(label_smoothing), int(ignore_index))
        self.weight_decay = float(weight_decay)
        self.validate = validate
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, x: Tensor, y: Tensor, row_weight: Tensor | None = None) -> Tensor:
        """J for a batch, a 0-dimensional tensor.

        Args:
            x: inputs, shape (..., d).
            y: class indices, shape (...), or targets, shape (..., q).
            row_weight: weight of each row, shape (...): a weight of 2 counts the row twice, in a mean's normaliser too.

        Raises:
            TypeError: as of `torch_manual_bp.functional.mlp`, and for y's or row_weight's dtype.
            ValueError: shapes or devices that do not fit; a label that is no class.
            RuntimeError: the MLP itself carries hooks or is sharded.
        """
        mlp, loss = self.mlp, self.loss
        _refuse_wrapped(mlp)
        weights, class_weight = mlp.plain_weights(), self.class_weight
        if weights is not None:
            return door.objective(
                x, y, *weights, ACTIVATIONS[mlp.activation], mlp.save,
                loss, class_weight, row_weight, self.weight_decay, self.validate, "Objective",
            )  # fmt: skip
        if self.weight_decay:
            _refuse_sharded(mlp)
        o, w1, w2 = mlp(x), mlp.fc1.weight, mlp.fc2.weight
        door.check_loss(o, y, loss, class_weight, row_weight, self.validate, "Objective")
        return pure.objective(o, y, w1, w2, loss, class_weight, row_weight, self.weight_decay)

    def extra_repr(self) -> str:
        """The loss and λ."""
        return f"loss={self.loss.name!r}, weight_decay={self.weight_decay}, reduction={self.loss.reduction!r}"


def _check_options(
    loss: str,
    weight_decay: float,
    reduction: str,
    label_smoothing: float,
    ignore_index: int,
    class_weight: Tensor | None,
) -> None:
    loss_named(loss, "Objective")
    if reduction not in REDUCTIONS:
        raise ValueError(f"Objective: reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    for option, value in (("weight_decay", weight_decay), ("label_smoothing", label_smoothing)):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"Objective: {option} must be a number, got {value!r}")
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"Objective: ignore_index must be an int, got {ignore_index!r}")
    if not (0 <= weight_decay < math.inf):
        raise ValueError(f"Objective: weight_decay must be finite and not negative, got {weight_decay}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"Objective: label_smoothing must lie in [0, 1], got {label_smoothing}")
    if loss != "cross_entropy" and (label_smoothing or class_weight is not None or ignore_index != -100):
        raise ValueError(f"Objective: label_smoothing, ignore_index and class_weight are not options of {loss}")


def _refuse_wrapped(mlp: MLP) -> None:
    if type(mlp).forward is not MLP.forward or not is_untouched(mlp):
        raise RuntimeError(
            f"Objective: its mlp ({type(mlp).__name__}) carries hooks or a forward of its own, which Objective would "
            "pass by; wrap the Objective instead: DDP(objective), fully_shard(objective)"
        )


def _refuse_sharded(mlp: MLP) -> None:
    for name in ("fc1", "fc2"):
        if hasattr(getattr(mlp, name).weight, "device_mesh"):  # a DTensor, whole only while its layer is called
            raise RuntimeError(
                f"Objective: {name}.weight is sharded by itself, so the penalty cannot read it; "
                "shard the Objective instead: fully_shard(objective)"
            )
