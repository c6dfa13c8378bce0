"""The table of steps against literals, and the laws that an order of steps has to keep."""

import itertools

import pytest

from torch_manual_bp.equations import ACTIVATIONS
from torch_manual_bp.training.steps import SUMS, steps

GRADIENTS = ("dx", "dw1", "db1", "dw2", "db2")
LEFT = "left to the update"
SUBSETS = [frozenset(s) for n in range(6) for s in itertools.combinations(GRADIENTS, n)]
MODES = [
    {"short": short, "sums": sums, "classes_tiled": tiled, "statistics": statistics}
    for short, sums, tiled, statistics in itertools.product((False, True), SUMS, (False, True), (False, True))
    if (tiled or not statistics) and not (tiled and sums == LEFT)
]
MODE_IDS = ["-".join(str(on) if name == "sums" else name for name, on in mode.items() if on) for mode in MODES]


def written(table):
    """The steps of a tile in the order in which they run, one tile of classes."""
    return (*table.hidden, *table.statistics, *table.each_classes, *table.back)


def test_relu_by_hand():
    """h takes z's place, Ĝ takes o's, dz takes dh's: three buffers, B (2h + q) numbers."""
    table = steps(ACTIVATIONS["relu"], frozenset(GRADIENTS))
    assert [(step.op, step.writes) for step in written(table)] == [
        ("mm", "z"), ("bias_act", "h"), ("mm", "o"), ("loss", "g"),
        ("add_mm", "dw2"), ("add_rows", "db2"), ("mm", "dh"), ("dact", "dz"), ("add_mm", "dw1"), ("scaled_mm", "dx"),
    ]  # fmt: skip
    assert table.kept == "h" and table.buffers == {"z": ("c", "h"), "o": ("c", "k"), "dh": ("c", "h")}


def test_gelu_by_hand():
    """z is kept, and dh takes the place of h, which nobody reads after dw2: as much memory as for relu."""
    table = steps(ACTIVATIONS["gelu"], frozenset(GRADIENTS))
    assert table.kept == "z" and table.buffers == {"z": ("c", "h"), "h": ("c", "h"), "o": ("c", "k")}


def test_a_loss_alone_has_two_products_and_nothing_behind_them():
    for phi in ACTIVATIONS.values():
        table = steps(phi, frozenset())
        assert [step.op for step in written(table)] == ["mm", "bias_act", "mm", "loss"]
        assert table.buffers == {"z": ("c", "h"), "o": ("c", "k")}


def test_the_output_layer_alone_needs_no_hidden_gradient():
    """fc1 frozen: neither z nor dh."""
    table = steps(ACTIVATIONS["gelu"], frozenset({"dw2", "db2"}))
    assert "dh" not in table.buffers and table.back == () and table.kept == "h"


@pytest.mark.parametrize("mode", MODES, ids=MODE_IDS)
def test_laws(activation, mode):
    """What is wanted is made and nothing else; what a step reads was written before, and not overwritten since."""
    arguments = {"x", "y", "w1", "b1", "w2", "b2", "row_weight", "nothing"}
    for wanted in SUBSETS:
        table = steps(ACTIVATIONS[activation], wanted, **mode)
        made, gone, outputs = set(), set(), set()
        for step in written(table):
            for name in step.reads:
                name = name.removesuffix("ᵀ")
                assert name not in gone, f"{step} reads {name}, which was overwritten"
                assert name in arguments | made | set(GRADIENTS) or name.endswith("of a tile"), f"{step}: {name}"
            made.add(step.writes)
            gone |= {step.over} if step.over else set()
            gone.discard(step.writes)
            outputs |= {name for name in (step.writes, *step.reads) if name in GRADIENTS}
        left = {"dw1", "dw2"} if mode["sums"] == LEFT else set()
        # asked for or not, dact is given db1, which is then None
        assert outputs - {"db1"} == wanted - {"db1"} - left and ("db1" not in wanted or "db1" in outputs)
        if "dw1" in wanted & left:
            assert {"h", "g", "dz"} <= made - gone, "the update's products need them"
        everything = [name.removesuffix("ᵀ") for step in written(table) for name in (step.writes, *step.reads)]
        assert set(table.buffers) <= set(everything)


@pytest.mark.parametrize("phi", ["relu", "gelu"])
def test_tiles_of_classes_keep_h_to_the_last_of_them(phi):
    """dw2's tiles read h, while dh is being summed up: no place is shared."""
    table = steps(ACTIVATIONS[phi], frozenset(GRADIENTS), classes_tiled=True, statistics=True)
    assert not any(step.over == "h" for step in written(table))
    assert [step.op for step in table.statistics] == ["mm", "statistics_of"]
    assert "add_classes_mm" in [step.op for step in table.each_classes]
