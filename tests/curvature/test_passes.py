"""Tiles of rows, and rows on two processes: the sums of one pass over all of them."""

import pytest
import torch
import torch.distributed as dist
from autograd.processes import RANKS, on_two_processes

import torch_manual_bp as tmb
from torch_manual_bp.memory import measure

from .conftest import Case, flat, make
from .test_curvature import assert_equal

WEIGHTED = ("class_weight", "row_weight", "label_smoothing", "ignore_index")
CASES = [
    Case("gelu", weight_decay=0.1, options=WEIGHTED),
    Case("silu", "mse", 0.2, (0, 1)),
    Case("tanh", "bce_with_logits", reduction="sum", options=("row_weight",)),
]


def everything(c):
    """All that adds up over rows."""
    v, V = torch.linspace(-1, 1, c.n).double(), torch.linspace(-2, 1, 2 * c.n).double().view(2, -1)
    factors = c.kfac().values()
    return {
        "gradient": flat(c.gradient()), "hvp": c.hvp(v), "hvp_block": c.hvp_block(V), "ggnvp": c.ggnvp(v),
        "diagonal": flat(c.diagonal()), "ggn_diagonal": flat(c.ggn_diagonal()), "trace": c.trace(),
        "dense": c.dense(), "layer": c.blocks()["fc1"], "units": c.blocks("hidden_unit"), "outputs": c.blocks("output"),
        "A": torch.cat([f.A.flatten() for f in factors]), "G": torch.cat([f.G.flatten() for f in factors]),
        "eigenvalues": c.eigsh(2, which="LA")[0],
    }  # fmt: skip


@pytest.mark.parametrize("tile_rows", [1, 3, 7, 100])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiles_add_up(case, tile_rows):
    setting = make(case)
    tiled = tmb.curvature.Curvature(setting.mlp, setting.x, setting.y, tile_rows=tile_rows, **setting.options)
    whole = everything(setting.curvature)
    for name, value in everything(tiled).items():
        assert_equal(value, whole[name])
    assert_equal(tiled.input_hessian(), setting.curvature.input_hessian())
    assert_equal(tiled.laplacian(), setting.curvature.laplacian())


def test_memory_does_not_grow_with_the_batch():
    mlp = tmb.MLP(8, 64, 3, "tanh")

    def peak(rows):
        x, y = torch.randn(rows, 8), torch.randint(3, (rows,))
        c = tmb.curvature.Curvature(mlp, x, y, tile_rows=32)
        v = torch.randn(c.n)
        return measure(lambda: c.hvp(v)).peak_bytes

    assert peak(4096) <= peak(64) + 1024


@pytest.mark.parametrize("tile_rows", [0, -1, 2.0, True, "many"])
def test_what_is_no_number_of_rows_is_refused(tile_rows):
    with pytest.raises(ValueError, match="Curvature: tile_rows must be None or a positive int, got"):
        make(Case(), tile_rows=tile_rows)


# ------------------------------------------------------------------------------------------------ run on both processes


def shares(tile_rows):
    """What each process finds of its own share of the rows, five on one and two on the other."""
    found = []
    for case in CASES:
        torch.manual_seed(1)
        setting = make(case, local=True)
        mine = slice(0, 5) if dist.get_rank() == 0 else slice(5, 7)
        row_weight = setting.options["row_weight"]
        options = {**setting.options, "row_weight": None if row_weight is None else row_weight[mine], "local": False}
        torch.manual_seed(dist.get_rank())  # (what is random must not differ)
        c = tmb.curvature.Curvature(
            setting.mlp, setting.x[mine], setting.y[mine], tile_rows=tile_rows,
            process_group=dist.group.WORLD, **options,
        )  # fmt: skip
        found.append((everything(c), everything(setting.curvature)))
    return found


def in_one_pass():
    return shares(None)


def in_tiles():
    return shares(2)


def without_a_group():
    with pytest.raises(RuntimeError, match=r"Curvature: there are 2 processes.*give process_group.*local=True"):
        make(Case())
    return True


PROCESS_CHECKS = {check.__name__: check for check in (in_one_pass, in_tiles, without_a_group)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return on_two_processes(PROCESS_CHECKS, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("check", ["in_one_pass", "in_tiles"])
def test_two_processes_find_what_one_finds_of_the_whole_batch(results, check):
    for rank in range(RANKS):
        assert not isinstance(results[rank][check], str), results[rank][check]
        for ours, whole in results[rank][check]:
            for name, value in ours.items():
                assert_equal(value, whole[name])


def test_several_processes_without_a_group_are_refused(results):
    assert all(result["without_a_group"] is True for result in results)
