"""The objective of a training step as a module."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..autograd import check, door, pure
from ..equations import ACTIVATIONS, Loss, loss_named
from ..equations.losses import REDUCTIONS
from ..training.accumulate import TiledObjective, accumulate
from ..training.gradient import Share
from ..training.problem import Batch, Goal, Net
from ..training.tiling import Tiling, tiling
from ..training.update import step
from ..training.workspace import Workspace, WorkspaceSlot
from . import lean
from .bound import BoundCalls, bind_gradient, bind_step
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
        tile_rows: None keeps what the backward pass needs of the whole batch. A number, or "auto", makes ``forward``
            compute the gradients as well, that many rows at a time, and keep nothing else: memory does not grow with
            the batch, ``J.backward()`` hands the gradients over, and a second derivative is refused. Under
            ``torch.compile``, ``torch.func`` and export the whole batch is taken at once.
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
        tile_rows: int | str | None = None,
        validate: bool = False,
    ) -> None:
        if not isinstance(mlp, MLP):
            raise TypeError(
                f"Objective: mlp must be a torch_manual_bp.MLP, got {type(mlp).__name__}; "
                "MLP.from_linears(fc1, activation, fc2) makes one from two nn.Linear"
            )
        goal = goal_of(
            "Objective", mlp.out_features, loss, weight_decay, reduction=reduction, label_smoothing=label_smoothing,
            ignore_index=ignore_index, class_weight=class_weight,
        )  # fmt: skip
        if tile_rows is not None:
            _rows_of_a_tile("Objective", tile_rows)
        super().__init__()
        self.mlp, self.tile_rows = mlp, tile_rows
        self.loss, self.weight_decay = goal.loss, goal.weight_decay
        self.validate = validate
        self.register_buffer("class_weight", class_weight, persistent=False)
        self._workspace, self._bound = WorkspaceSlot(), BoundCalls()

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
            if self.tile_rows is not None:
                J = self._in_tiles(x, y, row_weight, self.tile_rows)
                if J is not None:
                    return J
            return door.objective(
                x, y, *weights, ACTIVATIONS[mlp.activation], mlp.save,
                loss, class_weight, row_weight, self.weight_decay, self.validate, "Objective",
            )  # fmt: skip
        if self.weight_decay:
            _refuse_sharded(mlp)
        o, w1, w2 = mlp(x), mlp.fc1.weight, mlp.fc2.weight
        door.check_loss(o, y, loss, class_weight, row_weight, self.validate, "Objective")
        return pure.objective(o, y, w1, w2, loss, class_weight, row_weight, self.weight_decay)

    def _in_tiles(self, x: Tensor, y: Tensor, row_weight: Tensor | None, tile_rows: int | str) -> Tensor | None:
        """J with its gradients, tile by tile; None where torch does not run eagerly, or asks for a gradient by y."""
        net = lean.net_of(self.mlp, "Objective")
        arguments = self._arguments(net, x, y, row_weight, "Objective")
        if arguments is None or y.requires_grad:
            return None
        batch, goal, dtype = arguments
        tile = _tiling("Objective", net, batch, dtype, tile_rows)
        workspace = Workspace()  # not kept: beside what waits for the backward pass it would be the peak
        return TiledObjective.apply(
            batch.x, batch.y, *net[:4], batch.row_weight, net.phi, goal, tile, dtype, workspace,
            torch.is_grad_enabled(),
        )  # fmt: skip

    def _arguments(
        self, net: Net, x: Tensor, y: Tensor, row_weight: Tensor | None, op: str
    ) -> tuple[Batch, Goal, torch.dtype] | None:
        given = door.lean_arguments(
            x, y, *net[:4], self.loss, self.class_weight, row_weight, self.validate, op
        )  # fmt: skip
        if given is None:
            return None
        check_decay(self.weight_decay)  # again: it is an attribute that can be set
        goal = Goal(self.loss, given.class_weight, self.weight_decay)
        return Batch(given.x, given.y, given.row_weight), goal, given.dtype

    def accumulate_grad(
        self, x: Tensor, y: Tensor, row_weight: Tensor | None = None, *, tile_rows: int | str = "auto",
        grad_scale: float | Tensor = 1.0, normalizer: float | Tensor | None = None, process_group: Any = None,
        local: bool = False,
    ) -> Tensor:  # fmt: skip
        """J, and ∂J/∂p added to ``p.grad`` of each parameter, a tile of rows at a time, without an autograd graph.

        ``p.grad`` becomes what ``objective(x, y).backward()`` would have made of it, to rounding. A leaf x that
        requires a gradient gets its ``x.grad`` as well. All is computed before the first ``.grad`` is written. Under
        autocast the matrix products have its dtype, and losses and gradients are summed in float32.

        Args:
            x: inputs, as of `forward`.
            y: labels or targets, as of `forward`.
            row_weight: as of `forward`.
            tile_rows: rows of a tile, or "auto".
            grad_scale: what J is multiplied with before it is differentiated, ``scaler.get_scale()`` for one; the J
                that is returned is not.
            normalizer: N of a batch of which these rows are a part (how many rows it has, or the sum of their weights):
                the calls for its parts add up to J and gradient of the whole, penalty included. None: these rows are
                the batch.
            process_group: the processes whose rows make up the batch together; each gets J and gradient of the whole.
            local: where there are several processes, leave each to itself.

        Raises:
            TypeError, ValueError: as of `forward`, and for these arguments.
            RuntimeError: layers or parameters with hooks, x computed from what requires a gradient, several processes
                and neither process_group nor local, or a call under torch.compile or torch.func.
        """
        op = "accumulate_grad"
        can_be_bound = (
            row_weight is None and normalizer is None and process_group is None
            and isinstance(grad_scale, float) and grad_scale == 1
        )  # fmt: skip
        bound = self._bound.gradient if can_be_bound else None
        if bound is not None and bound.asked_by(self, tile_rows) and (J := bound(x, y)) is not None:
            return J
        net, batch, goal, dtype, parameters = self._lean(x, y, row_weight, op)
        scale = lean.checked_number(op, "grad_scale", grad_scale, positive=False)
        if normalizer is not None:
            normalizer = lean.checked_number(op, "normalizer", normalizer, positive=True)
            if self.loss.reduction == "sum":
                raise ValueError(f"{op}: normalizer belongs to a mean, this objective is a sum")
        share = Share(scale, normalizer, lean.group_of(process_group, local, op))
        tile = _tiling(op, net, batch, dtype, tile_rows)
        if can_be_bound:
            bound = bind_gradient(self, tile_rows, net, goal, batch, tile, dtype, share, parameters)
            if bound is not None and (J := bound(x, y)) is not None:
                self._bound.gradient = bound
                return J
        with self._workspace.lend() as workspace:
            leaf = x if x.requires_grad else None
            return accumulate(net, goal, batch, parameters, leaf, tile, dtype, workspace, share)

    def step(
        self, x: Tensor, y: Tensor, optimizer: Optimizer, row_weight: Tensor | None = None, *,
        tile_rows: int | str = "auto", clip_norm: float | None = None, process_group: Any = None, local: bool = False,
    ) -> Tensor:  # fmt: skip
        """One training step, gradient and update in one; J before it.

        The optimizer's update is the one that its ``step()`` would have made of this batch's gradient, to rounding. Its
        state, learning rates and schedulers stay its own. ``.grad`` is neither read nor written. Plain SGD updates the
        weights inside the matrix products that make their gradients; SGD with momentum, Adam and AdamW are fused; any
        other optimizer, and options that are not fused, take their own ``step()``.

        All parameters and all of the state are written by one call at the end: an error or an interrupt before leaves
        them as they were. (The own ``step()`` of another optimizer can be interrupted half-way, as ever.)

        Args:
            x: inputs, as of `forward`.
            y: labels or targets, as of `forward`.
            row_weight: as of `forward`.
            optimizer: of this MLP's parameters, or some of them; the others are left alone.
            tile_rows: rows of a tile, or "auto".
            clip_norm: the largest norm of the gradient, as of `torch.nn.utils.clip_grad_norm_`; None for any.
            process_group: as of `accumulate_grad`.
            local: as of `accumulate_grad`.

        Raises:
            TypeError, ValueError: as of `forward`, and for these arguments; an optimizer of other parameters as well.
            RuntimeError: as of `accumulate_grad`; parameters that are views or share memory; an x that requires a
                gradient; a CUDA graph that is being captured, and an Adam that counts its steps on the CPU.
        """
        op = "step"
        can_be_bound = row_weight is None and process_group is None
        bound = self._bound.step if can_be_bound else None
        if bound is not None and bound.asked_by(self, tile_rows) and bound.clip_norm == clip_norm:
            J = bound(x, y, optimizer)
            if J is not None:
                return J
        if clip_norm is not None:
            clip_norm = lean.checked_number(op, "clip_norm", clip_norm, positive=True)
        net, batch, goal, dtype, parameters = self._lean(x, y, row_weight, op)
        if x.requires_grad:
            raise RuntimeError(f"{op}: x must not require a gradient: its graph would need the weights as they were")
        parameters = lean.trained_by(optimizer, parameters, op)
        lean.check_writable(parameters, op)
        share = Share(group=lean.group_of(process_group, local, op))
        tile = _tiling(op, net, batch, dtype, tile_rows)
        if can_be_bound:
            bound = bind_step(self, tile_rows, net, goal, batch, tile, dtype, share, parameters, optimizer, clip_norm)
            if bound is not None and (J := bound(x, y, optimizer)) is not None:
                self._bound.step = bound
                return J
        with self._workspace.lend() as workspace:
            return step(net, goal, batch, optimizer, parameters, tile, dtype, workspace, share, clip_norm)

    def _lean(
        self, x: Tensor, y: Tensor, row_weight: Tensor | None, op: str
    ) -> tuple[Net, Batch, Goal, torch.dtype, dict[str, nn.Parameter]]:
        _refuse_wrapped(self.mlp)
        net = lean.net_of(self.mlp, op)
        arguments = self._arguments(net, x, y, row_weight, op)
        if arguments is None:
            raise RuntimeError(f"{op}: runs eagerly on plain tensors; torch.compile, torch.func … take objective(x, y)")
        if not x.is_leaf or y.requires_grad:
            raise RuntimeError(
                f"{op}: x must be a leaf and y must not require a gradient, since no graph is made; "
                "pass x.detach().requires_grad_() and go on with x.backward(its .grad)"
            )
        return net, *arguments, lean.parameters_of(net, op)

    @property
    def workspace_bytes(self) -> int:
        """What the tiles' temporaries hold between calls, in bytes."""
        return self._workspace.bytes

    def release_workspace(self) -> None:
        """Give the temporaries' memory back; the next call allocates it anew."""
        self._workspace.release()

    def extra_repr(self) -> str:
        """The loss and λ."""
        return f"loss={self.loss.name!r}, weight_decay={self.weight_decay}, reduction={self.loss.reduction!r}"


def goal_of(
    op: str, outputs: int, loss: str = "cross_entropy", weight_decay: float = 0.0, *, reduction: str = "mean",
    label_smoothing: float = 0.0, ignore_index: int = -100, class_weight: Tensor | None = None,
) -> Goal:  # fmt: skip
    """What is to become small, from the options of `Objective`, for a net with so many outputs.

    Raises:
        TypeError, ValueError: as of `Objective`, in the name of ``op``.
    """
    loss_named(loss, op)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    for option, value in (("weight_decay", weight_decay), ("label_smoothing", label_smoothing)):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{op}: {option} must be a number, got {value!r}")
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"{op}: ignore_index must be an int, got {ignore_index!r}")
    check_decay(weight_decay, op)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing must lie in [0, 1], got {label_smoothing}")
    if loss != "cross_entropy" and (label_smoothing or class_weight is not None or ignore_index != -100):
        raise ValueError(f"{op}: label_smoothing, ignore_index and class_weight are not options of {loss}")
    if class_weight is not None:
        check.weights(op, "class_weight", class_weight, (outputs,), class_weight)
    return Goal(
        Loss(loss, reduction, float(label_smoothing), int(ignore_index)), class_weight, float(weight_decay)
    )  # fmt: skip


def check_decay(weight_decay: float, op: str = "Objective") -> None:
    """Raise unless λ is finite and not negative.

    Raises:
        ValueError: it is not.
    """
    if not (0 <= weight_decay < math.inf):
        raise ValueError(f"{op}: weight_decay must be finite and not negative, got {weight_decay}")


def _rows_of_a_tile(op: str, tile_rows: int | str) -> int | None:
    if tile_rows == "auto":
        return None
    if not isinstance(tile_rows, int) or isinstance(tile_rows, bool):
        raise TypeError(f'{op}: tile_rows must be an int or "auto", got {tile_rows!r}')
    if tile_rows < 1:
        raise ValueError(f"{op}: tile_rows must be at least 1, got {tile_rows}")
    return tile_rows


def _tiling(op: str, net: Net, batch: Batch, dtype: torch.dtype, tile_rows: int | str) -> Tiling:
    return tiling(len(batch.x), net.sizes, dtype.itemsize, _rows_of_a_tile(op, tile_rows), net.w1.device)


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
