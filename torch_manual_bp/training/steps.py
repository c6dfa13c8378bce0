"""The table of steps: what a tile of rows runs through, which buffers it needs, and what takes the place of what.

The equations say what is true; this table says in which order it is computed and where it is put, which is what memory
is made of. `tiles` executes it, and whoever plans memory reads it.

A tile has c rows. Where the logits of so many rows would be too large they are walked over in tiles of k classes:
``each_classes`` is then run for every tile of classes, after ``statistics`` has been. ``gᵀ`` reads g transposed.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ..equations import Activation

# Where dW1 and dW2 go: into sums of the products' own dtype; of a longer one, which the product writes itself; of a
# longer one, to which the rounded product is added; nowhere, since who updates the weights makes the products.
_ADD = {"same": "add_mm", "longer": "add_longer_mm", "rounded": "add_short_mm"}
SUMS = (*_ADD, "left to the update")


class Step(NamedTuple):
    """One call.

    Attributes:
        op: the name of a method in `tiles`.
        writes: the tensor that it makes or, for ``add_…``, adds to.
        reads: the tensors that it takes.
        over: the buffer whose place ``writes`` takes, and whose contents are gone afterwards.
    """

    op: str
    writes: str
    reads: tuple[str, ...]
    over: str = ""


class Steps(NamedTuple):
    """The steps of a tile in order, and its buffers.

    Attributes:
        hidden: the hidden layer.
        statistics: of the tile's rows over all classes, for each tile of classes.
        each_classes: the output layer, the loss, and what comes back from them, for each tile of classes.
        back: the hidden layer's backward pass.
        kept: what φ′ follows from, "h" or "z".
        buffers: the shape of each buffer by names of sizes: c, k, d, h.
    """

    hidden: tuple[Step, ...]
    statistics: tuple[Step, ...]
    each_classes: tuple[Step, ...]
    back: tuple[Step, ...]
    kept: str
    buffers: Mapping[str, tuple[str, ...]]


def steps(
    phi: Activation,
    wanted: frozenset[str],
    short: bool = False,
    sums: str = "same",
    cast: bool = False,
    classes_tiled: bool = False,
    statistics: bool = False,
) -> Steps:
    """The table for φ and the wanted gradients.

    Args:
        phi: φ; h takes z's place where φ′ follows from h.
        wanted: some of dx, dw1, db1, dw2, db2; none gives the loss alone.
        short: whether products are made in a 16-bit dtype: b1 is then added before they are rounded.
        sums: where the products that make dw1 and dw2 go: one of `SUMS`.
        cast: whether x has another dtype than the products.
        classes_tiled: whether there is more than one tile of classes.
        statistics: whether the loss then needs a walk over all classes before the one that gives its gradient.
    """
    through_hidden = bool(wanted & {"dx", "dw1", "db1"})
    kept = "z" if through_hidden and not phi.from_output else "h"
    # Z = X W1ᵀ + 1 b1ᵀ
    z = Step("mm_bias", "z", ("x", "w1ᵀ", "b1")) if short else Step("mm", "z", ("x", "w1ᵀ"))
    b1 = "nothing" if short else "b1"
    add, later = _ADD.get(sums), sums == "left to the update"
    # H = φ(Z)
    h = Step("bias_act_keep", "h", ("z", b1)) if kept == "z" else Step("bias_act", "h", ("z", b1), over="z")
    o = Step("mm", "o", ("h", "w2ᵀ"))  # O = H W2ᵀ; the loss adds b2
    loss = Step("class_loss" if statistics else "loss", "g", ("o", "b2", "y", "row_weight"), over="o")  # Ĝ = N ∂L/∂O
    each_classes, back = [o, loss], []
    if "dw2" in wanted and add:
        each_classes.append(_sum(add, "dw2", "gᵀ", "h"))  # dW2 = dOᵀ H
    if "db2" in wanted:
        each_classes.append(Step("add_rows", "db2", ("g",)))  # db2 = dOᵀ 1
    if through_hidden:
        h_is_free = kept == "z" and not classes_tiled and not later
        dh = "add_classes_mm" if classes_tiled else "mm"
        each_classes.append(Step(dh, "dh", ("g", "w2"), over="h" if h_is_free else ""))  # dH = dO W2
        back.append(Step("dact", "dz", ("dh", kept, "db1"), over="dh"))  # dZ = φ′(Z) ⊙ dH, and db1 = dZᵀ 1
    if "dw1" in wanted and add:
        back.append(_sum(add, "dw1", "dzᵀ", "x"))  # dW1 = dZᵀ X
    if "dx" in wanted:
        back.append(Step("scaled_mm", "dx", ("dz", "w1")))  # dX = dZ W1
    x = (Step("cast", "x", ("given x",)),) if cast else ()
    walk = (o, Step("statistics_of", "statistics", ("o", "b2", "y"))) if statistics else ()
    every = (*x, z, h, *each_classes, *back)
    return Steps((*x, z, h), walk, tuple(each_classes), tuple(back), kept, _buffers(every))


def _sum(add: str, gradient: str, left: str, right: str) -> Step:
    product = (f"{gradient} of a tile",) if add == "add_short_mm" else ()
    return Step(add, gradient, (left, right, *product))


_SHAPES = {
    "x": ("c", "d"),
    "z": ("c", "h"),
    "h": ("c", "h"),
    "o": ("c", "k"),
    "dh": ("c", "h"),
    "dw1 of a tile": ("h", "d"),
    "dw2 of a tile": ("k", "h"),
}


def _buffers(every: tuple[Step, ...]) -> dict[str, tuple[str, ...]]:
    """Those of the tensors that need memory of their own."""
    named = [name for step in every for name in (step.writes, *step.reads)]
    given = {"x"} - {step.writes for step in every}
    elsewhere = {step.writes for step in every if step.over}
    return {name: _SHAPES[name] for name in dict.fromkeys(named) if name in _SHAPES and name not in elsewhere | given}
