"""The whole matrix and its blocks against torch.func's."""

import pytest
import torch
from torch.func import hessian

from torch_manual_bp.curvature import dense
from torch_manual_bp.curvature.pairs import Pairs

from .conftest import Case, flat, make
from .test_curvature import assert_equal, ggn_oracle


def test_hessian(setting):
    H = setting.curvature.dense()
    assert_equal(H, hessian(setting.J)(setting.theta))
    assert_equal(H, H.T)


def test_gauss_newton(case):
    setting = make(case)
    ggn = ggn_oracle(case, setting)
    assert_equal(setting.curvature.dense(ggn=True), ggn)
    assert torch.linalg.eigvalsh(setting.curvature.dense(ggn=True))[0] >= -1e-12 * ggn.norm()


def test_product_with_a_unit_vector_is_a_column():
    c = make(Case("gelu", "bce_with_logits", 0.1)).curvature
    assert_equal(c.hvp_block(torch.eye(c.n, dtype=torch.float64)), c.dense())


def test_blocks(setting):
    c, H = setting.curvature, hessian(setting.J)(setting.theta)
    index = {name: torch.arange(c.n)[at] for name, at in places(setting.mlp).items()}
    for name, layer in (("fc1", setting.mlp.fc1), ("fc2", setting.mlp.fc2)):
        own = torch.cat([i for key, i in index.items() if key.startswith(name)])
        assert_equal(c.blocks("layer")[name], H[own][:, own])
        units = c.blocks("hidden_unit" if name == "fc1" else "output")
        weights = index[f"{name}.weight"].view(layer.weight.shape)
        for unit in range(layer.out_features):
            bias = index[f"{name}.bias"][unit : unit + 1] if layer.bias is not None else weights[:0, 0]
            of_unit = torch.cat([weights[unit], bias])
            assert_equal(units[unit], H[of_unit][:, of_unit])


def places(mlp):
    start, found = 0, {}
    for name, p in mlp.named_parameters():
        found[name] = slice(start, start := start + p.numel())
    return found


def test_an_unknown_kind_of_block_is_refused():
    with pytest.raises(ValueError, match="blocks: kind must be one of layer, hidden_unit, output; got 'row'"):
        make(Case()).curvature.blocks("row")


@pytest.mark.parametrize("chunk", [1, 60, 300])
def test_it_is_made_some_units_at_a_time(chunk, monkeypatch):
    c = make(Case("tanh", "bce_with_logits", shape=(5, 3, 7, 4))).curvature
    whole = c.dense()
    monkeypatch.setattr(dense, "_CHUNK", chunk)
    assert_equal(c.dense(), whole)
    assert_equal(c.blocks()["fc1"], whole[:28, :28])
    units = c.blocks("hidden_unit")
    assert_equal(units[:, 0, 0], whole.diagonal()[: 7 * 3 : 3])


def test_many_rows_are_added_up_some_at_a_time(monkeypatch):
    c = make(Case("gelu", weight_decay=0.1, shape=(50, 3, 2, 2))).curvature
    whole = c.dense()
    monkeypatch.setattr(dense, "_CHUNK", 16)
    assert dense.most_rows(c.n, c._layers) < 25
    assert_equal(c.dense(), whole)


def test_pairs():
    pairs = Pairs(3, torch.device("cpu"))
    assert pairs.first.tolist() == [0, 0, 0, 1, 1, 2]
    assert pairs.second.tolist() == [0, 1, 2, 1, 2, 2]
    assert pairs.table.tolist() == [[0, 1, 2], [1, 3, 4], [2, 4, 5]]


def test_pairs_in_parts():
    parts = list(Pairs(4, torch.device("cpu")).chunks(5))
    assert [(part.start, part.stop, part.lengths) for part in parts] == [(0, 1, [4]), (1, 3, [3, 2]), (3, 4, [1])]
    assert [part.numbers for part in parts] == [slice(0, 4), slice(4, 9), slice(9, 10)]
    assert parts[1].first.tolist() == [1, 1, 1, 2, 2]
    assert parts[1].products(torch.tensor([[2.0, 3.0, 5.0, 7.0]])).tolist() == [[9.0, 15.0, 21.0, 25.0, 35.0]]
    assert parts[1].add_to_diagonal(torch.zeros(1, 5), torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [
        [2, 0, 0, 3, 0]
    ]


@pytest.mark.parametrize("tile_rows", [None, 3])
def test_it_compiles_as_one_graph(tile_rows):
    c = make(Case("gelu", weight_decay=0.1), tile_rows=tile_rows).curvature
    V = torch.randn(3, c.n, dtype=torch.float64)
    units = lambda: c.blocks("hidden_unit")  # noqa: E731
    for call in (c.dense, units, lambda: c.hvp_block(V), lambda: c.kfac()["fc1"].G):
        assert_equal(torch.compile(call, fullgraph=True, backend="aot_eager")(), call())


def test_its_diagonal_is_the_diagonal():
    c = make(Case("silu", weight_decay=0.1)).curvature
    assert_equal(c.dense().diagonal(), flat(c.diagonal()))
