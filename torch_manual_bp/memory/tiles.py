"""Tiles of rows: the table of steps that `training.tiles` executes, read here; and training/gradient.py round it."""

from collections.abc import Iterator

import torch

from ..training.steps import Step, Steps, steps
from .ledger import Planned, Shape
from .machine import EXACT, Machine
from .setting import Setting
from .usual import Made, arguments

_KINDS = {"z": "activation", "h": "activation", "o": "activation", "dh": "upstream gradient"}
_SHOWN = {"z": "z, then h", "o": "o, then Ĝ", "dh": "dh, then dz"}
_ROWS, _CLASSES = "rows", "classes"  # of the tile at hand
_MATRICES: dict[str, Shape] = {
    "x": (_ROWS, "d"), "z": (_ROWS, "h"), "h": (_ROWS, "h"), "g": (_ROWS, _CLASSES), "dz": (_ROWS, "h"),
    "w1": ("h", "d"), "w2": (_CLASSES, "h"), "dw1": ("h", "d"), "dw2": (_CLASSES, "h"),
}  # fmt: skip


def room(m: Machine, s: Setting, names: tuple[str, ...]) -> Made:
    """`gradient.room`."""
    made = {}
    for name in names:
        once = name == "x" or (s.choice.one_tile and name in s.weights and s.dtype is s.product)
        made[f"d{name}"] = m.new(f"d{name}", s.shape(name), s.product if once else s.sums, "gradient")
    return made


class Tiles:
    """One call of `gradient.gradient`, which leaves J and, in ``workspace``, the tiles' buffers."""

    def __init__(self, m: Machine, s: Setting, sums: Made, in_update: bool = False) -> None:
        self.m, self.s, self.sums = m, s, sums
        self.workspace: Made = {}
        self.classes_tiled = s.choice.tile.classes < s.sizes["q"]
        of_weights = [sums[name] for name in ("dw1", "dw2") if name in sums]
        same = all(tensor.dtype is s.product for tensor in of_weights)
        self.table: Steps = steps(
            s.phi, frozenset(sums) | (frozenset({"dw1", "dw2"}) if in_update else frozenset()),
            s.product.itemsize == 2, "left to the update" if in_update else "same" if same else s.longer_sums,
            s.dtype is not s.product, self.classes_tiled, self.classes_tiled and s.loss.takes_classes,
        )  # fmt: skip
        self._statistics: Planned | None = None
        self._row_weight: Planned | None = None
        self._run()

    def _run(self) -> None:
        m, s = self.m, self.s
        self._normalizer()
        if s.dtype is not s.product:
            for name in s.parameters:
                self._take(f"{name} in another dtype", s.shape(name), "temporary")
        total = m.new("Σ l", (), EXACT)
        for rows in _lengths(s.batch, s.choice.tile.rows):
            m.sizes[_ROWS] = rows
            self._tile()
        m.free(self._statistics)
        self._value(total)
        m.free(self._row_weight)

    def _normalizer(self) -> None:
        """N of a mean over classes: `Loss.normalizer`."""
        m, loss = self.m, self.s.loss
        if loss.reduction != "mean" or not loss.takes_classes:
            return
        kept = m.new("y ≠ ignore_index", ("B",), torch.bool)
        with m.number(torch.int64, torch.int64):
            pass
        if self.s.class_weight:
            self._weighted_normalizer()
            m.free(kept)
        else:
            with m.held("N", (), torch.int64):
                m.free(kept)
        if not self.s.on_cpu:  # N stays on the device, and comes into the sums by the rows
            self._row_weight = m.new("1/N for each row", ("B",), self.s.sums)

    def _weighted_normalizer(self) -> None:
        m, dtype = self.m, self.s.sums
        with m.held("y, 0 where ignored", ("B",), torch.int64):
            of_rows = m.new("w of each row", ("B",), dtype)
        with m.held("w of each row, 0 where ignored", ("B",), dtype):
            m.cast(("B",), torch.bool, dtype)
            m.free(of_rows)
            m.brief("N", (), dtype)

    def _tile(self) -> None:
        m, table = self.m, self.table
        for name, shape in table.buffers.items():
            self._take(name, shape, _KINDS.get(name, "temporary"))
        self._do(table.hidden)
        if table.statistics:
            before, self._statistics = self._statistics, m.new("statistics of the rows", (_ROWS, 6), EXACT)
            m.free(before)
            self._each_classes(table.statistics)
            with m.held("Σ l of a tile", (), EXACT):
                m.brief("Σ w", (), EXACT)
        self._each_classes(table.each_classes)
        self._do(table.back)

    def _take(self, name: str, shape: Shape, kind: str) -> None:
        """A buffer of the workspace, as large as the first tile, the largest, needs it."""
        if name not in self.workspace:
            shown = name if name == "z" and self.table.kept == "z" else _SHOWN.get(name, name)
            self.workspace[name] = self.m.new(shown, shape, self.s.product, kind)

    def _each_classes(self, every: tuple[Step, ...]) -> None:
        m, s = self.m, self.s
        copied = self.classes_tiled and not s.loss.takes_classes
        for classes in _lengths(s.sizes["q"], s.choice.tile.classes):
            m.sizes[_CLASSES] = classes
            y = m.new("y of these classes", (_ROWS, _CLASSES), s.dtype) if copied else None
            self._do(every)
            m.free(y)

    def _do(self, every: tuple[Step, ...]) -> None:
        for step in every:
            if step.op.endswith("mm") or step.op == "mm_bias":
                self._product(step)
            elif step.op in _OPS:
                _OPS[step.op](self, step)

    def _product(self, step: Step) -> None:
        left, right = step.reads[:2]
        add = step.op in ("add_mm", "add_classes_mm", "scaled_mm")
        self.m.mm(_shape(left), _shape(right), self.s.product, left.endswith("ᵀ"), add)
        if step.op == "add_short_mm":
            self.m.cast(_shape(step.writes), self.s.product, self.sums[step.writes].dtype)

    def _loss(self, _: Step) -> None:
        s = self.s
        L, scale = self.m.loss(s.sums, _ROWS, _CLASSES, s.loss.takes_classes, "b2" in s.parameters)
        self.m.cast((), self.s.sums, EXACT)
        self.m.free(L, scale)

    def _add_rows(self, step: Step) -> None:
        to = self.sums[step.writes].dtype
        self.m.free(self.m.sum_rows("db2 of a tile", (_CLASSES,), (_ROWS,), self.s.product, to))

    def _dact(self, _: Step) -> None:
        m, s, db1 = self.m, self.s, self.sums.get("db1")
        same = db1 is not None and db1.dtype is s.product
        made = m.dact(_ROWS, s.product, "db1 of a tile" if same else None, s.activation == "identity")
        if db1 is not None and made is None:
            made = m.sum_rows("db1 of a tile", ("h",), (_ROWS,), s.product, db1.dtype)
        m.free(made)

    def _value(self, total: Planned) -> None:
        """J, as `gradient.gradient` ends."""
        m, s = self.m, self.s
        counted = s.loss.reduction == "mean" and s.loss.takes_classes and not s.class_weight  # N is an integer
        with m.number(EXACT, torch.int64 if counted else EXACT):
            L = m.new("L" if s.sums is not EXACT else "J", (), EXACT)
        if s.sums is not EXACT:
            m.new("J", (), s.sums)
            m.free(L)
        if s.weight_decay:
            squares = m.squared_norms(s.weights, s.dtype, s.sums)
            with m.number(s.sums):
                m.brief("s", (), s.sums)
            m.free(squares)
        m.free(total)


_OPS = {"loss": Tiles._loss, "add_rows": Tiles._add_rows, "dact": Tiles._dact}


def _lengths(whole: int, tile: int) -> Iterator[int]:
    """Of the tiles, but for those between the second and the last, which take what the second takes."""
    tiles, rest = divmod(whole, tile)
    yield from (tile,) * min(tiles, 2)
    if rest:
        yield rest


def _shape(name: str) -> Shape:
    return _MATRICES[name[:-1]][::-1] if name.endswith("ᵀ") else _MATRICES[name]


def add_penalty(m: Machine, s: Setting, sums: Made) -> None:
    """λW: `gradient.add_penalty`."""
    if s.weight_decay:
        for name, shape in s.weights.items():
            if f"d{name}" in sums:
                m.cast(shape, s.dtype, sums[f"d{name}"].dtype)


def gradient_in_backward(m: Machine, s: Setting) -> None:
    """The usual loop of a tiled Objective: `TiledObjective`, forward and backward."""
    with arguments(m, s):
        sums = room(m, s, (("x",) if s.x_requires_grad else ()) + s.trained)
        workspace = Tiles(m, s, sums).workspace
        add_penalty(m, s, sums)
        m.free(*workspace.values())
    m.begin("backward pass")
    dJ = m.new("dJ", (), s.sums)
    longer = []
    for name, total in sums.items():
        m.cast((), s.sums, total.dtype)  # dJ, by which the sums are multiplied in place
        if total.dtype is not s.dtype:
            longer.append(total)
            m.new(name, total.shape, s.dtype, "gradient")
    m.free(*longer, dJ)


def accumulated(m: Machine, s: Setting) -> None:
    """`accumulate` in tiles; gradients, J and the workspace stay."""
    with arguments(m, s):
        sums = room(m, s, s.trained)
        if s.x_requires_grad:
            sums |= room(m, s, ("x",))
        Tiles(m, s, sums)
        add_penalty(m, s, sums)
        others = {name: total for name, total in sums.items() if total.dtype is not s.dtype}
        for name, total in others.items():
            m.new(name, total.shape, s.dtype, "gradient")
        m.free(*others.values())
