"""Runs the table of steps over the tiles of a batch: the loss, and sums of gradients, without an autograd graph."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import kernels
from .problem import Batch, Goal, Maybe, Net, exact_dtype
from .steps import Step, Steps
from .tiling import Tiling
from .workspace import Workspace


class _Names(dict[str, Maybe]):
    """The tensors of a tile by name; ``gᵀ`` is g transposed, and what is not there is None."""

    def __missing__(self, name: str) -> Maybe:
        tensor = self[name[:-1]] if name.endswith("ᵀ") else None
        return None if tensor is None else tensor.t()


def run_tiles(
    table: Steps, net: Net, goal: Goal, batch: Batch, tiling: Tiling, factor: float, sums: Mapping[str, Tensor],
    workspace: Workspace,
) -> tuple[Tensor, Mapping[str, Maybe]]:  # fmt: skip
    """Walk over the batch, B > 0 rows, and sum up the loss and the gradients.

    Args:
        table: what to do with each tile.
        net: in the dtype of the products; every tile of x is taken to it.
        goal: the loss; its reduction is not looked at.
        batch: the rows.
        tiling: the largest tile.
        factor: what Ĝ is multiplied with in the sums to be ∂J/∂O.
        sums: dw1, db1, dw2, db2 as far as the table makes them, and dx (B,d) in the dtype of the products; overwritten.
        workspace: where the buffers come from.

    Returns:
        Σ_b r_b l_b, in float64 where the device has it; and what the last tile leaves behind: x, h, g, dz.
    """
    walk = _Walk(table, net, goal, batch, tiling, factor, sums, workspace)
    for begin in range(0, len(batch.x), tiling.rows):
        walk.tile(begin, min(begin + tiling.rows, len(batch.x)))
    return walk.total, walk.tensors


class _Walk:
    """The tile at hand, and the ops of the table on its tensors: each takes what it writes, then what it reads."""

    def __init__(
        self, table: Steps, net: Net, goal: Goal, batch: Batch, tiling: Tiling, factor: float,
        sums: Mapping[str, Tensor], workspace: Workspace,
    ) -> None:  # fmt: skip
        self.table, self.net, self.goal, self.batch, self.tiling = table, net, goal, batch, tiling
        self.sums, self.workspace, self.q = sums, workspace, net.w2.shape[0]
        self.alpha = factor
        self.total = torch.zeros((), dtype=exact_dtype(net.w1.device), device=net.w1.device)
        self.tensors = _Names()
        self._buffers: dict[tuple[int, int], dict[str, Tensor]] = {}

    def tile(self, begin: int, end: int) -> None:
        """Rows [begin, end)."""
        table, w1 = self.table, self.net.w1
        x, y, r, dx = self.batch.x[begin:end], self.batch.y[begin:end], self.batch.row_weight, self.sums.get("dx")
        self.first_rows = begin == 0
        self.tensors = _Names(self.sums)
        self.tensors["x" if x.dtype is w1.dtype else "given x"] = x
        self.tensors.update(
            self._sized(end - begin, min(self.tiling.classes, self.q)),
            w1=w1,
            b1=self.net.b1,
            row_weight=None if r is None else r[begin:end],
            dx=None if dx is None else dx[begin:end],
        )
        self._do(table.hidden)
        if table.statistics:
            self.statistics = kernels.new_statistics(end - begin, w1)
            self._do_for_classes(table.statistics, y)
            self.total.add_(self._class_loss(y))
        self._do_for_classes(table.each_classes, y)
        self._do(table.back)

    def _do(self, steps: tuple[Step, ...]) -> None:
        tensors = self.tensors
        for op, writes, reads, over in steps:
            if over:
                tensors[writes] = tensors[over]
            getattr(self, op)(tensors[writes], *[tensors[name] for name in reads])

    def _do_for_classes(self, steps: tuple[Step, ...], y: Tensor) -> None:
        """The steps for each tile of classes, with its part of all that has a q."""
        net, tensors, goal, every = self.net, self.tensors, self.goal, self.tiling.classes
        self.first_class, self.class_weight = 0, goal.class_weight
        if every >= self.q:
            tensors.update(w2=net.w2, b2=net.b2, y=y)
            self._do(steps)
            return
        for begin in range(0, self.q, every):
            part = slice(begin, min(begin + every, self.q))
            self.first_class = begin
            self.class_weight = None if goal.class_weight is None else goal.class_weight[part]
            tensors.update(self._sized(len(y), part.stop - begin))
            tensors.update(
                {name: self.sums[name][part] for name in ("dw2", "db2") if name in self.sums},
                w2=net.w2[part],
                b2=None if net.b2 is None else net.b2[part],
                y=y if goal.loss.takes_classes else y[:, part].contiguous(),
            )
            self._do(steps)

    def _sized(self, c: int, k: int) -> dict[str, Tensor]:
        """The buffers of a tile of c rows and k classes."""
        if (c, k) not in self._buffers:
            d, h, _ = self.net.sizes
            sizes = {"c": c, "k": k, "d": d, "h": h}
            shapes = {name: tuple(sizes[size] for size in shape) for name, shape in self.table.buffers.items()}
            self._buffers[c, k] = self.workspace.take(shapes, self.net.w1.dtype, self.net.w1.device)
        return self._buffers[c, k]

    # ----------------------------------------------------------------------------------------------- matrix products

    def mm(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """``out ← A B``."""
        torch.mm(a, b, out=out)

    def scaled_mm(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """``out ← factor · A B``."""
        out.addmm_(a, b, beta=0, alpha=self.alpha)

    def mm_bias(self, out: Tensor, a: Tensor, b: Tensor, bias: Maybe) -> None:
        """``out ← A B + 1 biasᵀ``."""
        if bias is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(bias, a, b, out=out)

    def add_classes_mm(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """``total ← total + A B``, a sum over the tiles of classes."""
        total.addmm_(a, b, beta=0 if self.first_class == 0 else 1)

    def add_mm(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """``total ← total + factor · A B``, a sum over the tiles of rows."""
        total.addmm_(a, b, beta=0 if self.first_rows else 1, alpha=self.alpha)

    def add_longer_mm(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """As `add_mm`, for A and B in a shorter dtype than the sum's."""
        beta = 0 if self.first_rows else 1
        torch.addmm(total, a, b, total.dtype, beta=beta, alpha=self.alpha, out=total)

    def add_short_mm(self, total: Tensor, a: Tensor, b: Tensor, product: Tensor) -> None:
        """As `add_longer_mm`, on devices whose products have no longer dtype than their factors."""
        self._add(total, torch.mm(a, b, out=product))

    def add_rows(self, total: Tensor, a: Tensor) -> None:
        """``total ← total + factor · Aᵀ 1``."""
        self._add(total, torch.sum(a, 0, dtype=total.dtype))

    def _add(self, total: Tensor, term: Tensor) -> None:
        if self.first_rows:
            total.zero_()
        total.add_(term, alpha=self.alpha)  # in the sum's dtype, whatever the term's

    # ---------------------------------------------------------------------------------------- what lies between them

    def cast(self, out: Tensor, x: Tensor) -> None:
        """``out ← x``, in the dtype of the products."""
        out.copy_(x)

    def bias_act(self, h: Tensor, z: Tensor, b1: Maybe) -> None:
        """``h ← φ(z + 1 b1ᵀ)``; h is z's buffer."""
        kernels.bias_act_(z, b1, self.net.phi.name)

    def bias_act_keep(self, h: Tensor, z: Tensor, b1: Maybe) -> None:
        """``z ← z + 1 b1ᵀ``, ``h ← φ(z)``."""
        kernels.bias_act_keep_(z, h, b1, self.net.phi.name)

    def loss(self, g: Tensor, o: Tensor, b2: Maybe, y: Tensor, row_weight: Maybe) -> None:
        """``o ← Ĝ``, and the tile's share of ΣrL."""
        L, _ = kernels.loss_(o, b2, y, self.class_weight, row_weight, self.goal.loss, "sum")
        self.total.add_(L)

    def statistics_of(self, _: None, o: Tensor, b2: Maybe, y: Tensor) -> None:
        """What the loss of a row needs to know of these classes."""
        kernels.class_statistics_(o, b2, y, self.class_weight, self.first_class, self.statistics)

    def _class_loss(self, y: Tensor) -> Tensor:
        loss, row_weight = self.goal.loss, self.tensors["row_weight"]
        return kernels.class_loss(
            self.statistics, y, row_weight, self.q, loss.label_smoothing, loss.ignore_index
        )[0]  # fmt: skip

    def class_loss(self, g: Tensor, o: Tensor, b2: Maybe, y: Tensor, row_weight: Maybe) -> None:
        """``o ← Ĝ`` for these classes of all."""
        loss = self.goal.loss
        kernels.cross_entropy_classes_(
            o, b2, y, self.class_weight, row_weight, self.first_class, self.q,
            loss.label_smoothing, loss.ignore_index, self.statistics,
        )  # fmt: skip

    def dact(self, dz: Tensor, dh: Tensor, kept: Tensor, db1: Maybe) -> None:
        """``dh ← φ′ ⊙ dh``, and ``db1 ← db1 + factor · dzᵀ 1``."""
        same = db1 is not None and db1.dtype is dh.dtype
        rows = kernels.dact_(dh, kept, self.net.phi.name, self.table.kept, same)
        if db1 is not None:
            self._add(db1, torch.sum(dz, 0, dtype=db1.dtype) if rows is None else rows)
