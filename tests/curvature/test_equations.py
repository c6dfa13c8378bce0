"""Everything that Curvature computes against the equations of second order: the same numbers, by the fast ways."""

import pytest
import torch

from torch_manual_bp.equations import second_order

from .conftest import CASES, NAMES, flat, make
from .test_curvature import assert_equal

SYMBOLS = dict(zip(NAMES, ("w1", "b1", "w2", "b2"), strict=True))
OF_THE_TABLE = [case for case in CASES if case.reduction == "mean" and not case.options]


class Pair:
    """A Curvature and the table's values at the same point; blocks of it in the order of the parameters."""

    def __init__(self, case):
        setting = make(case)
        self.curvature, self.theta, mlp = setting.curvature, setting.theta, setting.mlp
        self.parameters = {SYMBOLS[name]: p.detach() for name, p in mlp.named_parameters()}
        self.way = torch.randn_like(self.theta)
        parts = self.way.split([p.numel() for p in self.parameters.values()])
        ways = {f"t{n}": t.view_as(p) for (n, p), t in zip(self.parameters.items(), parts, strict=True)}
        values = {"x": setting.x, "y": setting.y, "weight_decay": case.weight_decay, **self.parameters, **ways}
        self.table = second_order(case.activation, case.loss, *map(bool, case.biases)).evaluate(values)

    def of_all(self, before):
        """One vector of the table's dw1, db1, …, or of others that are called so."""
        return torch.cat([self.table[f"{before}{name}"].flatten() for name in self.parameters])

    def matrix(self):
        """The table's blocks as one matrix."""
        names, found = list(self.parameters), {}
        for i, a in enumerate(names):
            for b in names[i:]:
                block = self.table[f"d{a}d{b}"].reshape(self.parameters[a].numel(), self.parameters[b].numel())
                found[a, b], found[b, a] = block, block.T
        return torch.cat([torch.cat([found[a, b] for b in names], 1) for a in names])


@pytest.fixture(params=OF_THE_TABLE, ids=str)
def pair(request):
    return Pair(request.param)


def test_gradient_and_products(pair):
    assert_equal(flat(pair.curvature.gradient()), pair.of_all("d"))
    assert_equal(pair.curvature.hvp(pair.way), pair.of_all("td"))
    assert_equal(pair.curvature.ggnvp(pair.way), pair.of_all("gtd"))


def test_diagonals_and_traces(pair):
    assert_equal(flat(pair.curvature.diagonal()), pair.of_all("d2"))
    of_output = {name: pair.table[f"d2{name}"] for name in ("w2", "b2") if name in pair.parameters}
    of_hidden = {name: pair.table[f"gd2{name}"] for name in ("w1", "b1") if name in pair.parameters}
    assert_equal(flat(pair.curvature.ggn_diagonal()), flat(of_hidden | of_output))
    assert_equal(pair.curvature.trace(), pair.table["trace"])
    assert_equal(pair.curvature.trace(ggn=True), pair.table["gtrace"])


def test_the_matrix(pair):
    assert_equal(pair.curvature.dense(), pair.matrix())


@pytest.mark.parametrize(("kind", "i"), [("hidden_unit", 1), ("output", 2)])
def test_blocks_of_a_unit(pair, kind, i):
    expected = pair.table[f"U{i}"]
    if f"b{i}" in pair.parameters:
        column, corner = pair.table[f"u{i}"], pair.table[f"d2b{i}"]
        below = torch.cat([column, corner[:, None]], 1)[:, None]
        expected = torch.cat([torch.cat([expected, column[:, :, None]], 2), below], 1)
    assert_equal(pair.curvature.blocks(kind), expected)


def test_kronecker_factors(pair):
    for name, i in (("fc1", 1), ("fc2", 2)):
        A, G = pair.table[f"A{i - 1}"], pair.table[f"G{i}"]
        if f"b{i}" in pair.parameters:
            a = pair.table[f"a{i - 1}"][:, None]
            A = torch.cat([torch.cat([A, a], 1), torch.cat([a.T, torch.ones(1, 1)], 1)])
        assert_equal(pair.curvature.kfac()[name].A, A)
        assert_equal(pair.curvature.kfac()[name].G, G)


def test_by_the_inputs(pair):
    assert_equal(pair.curvature.input_hessian(), pair.table["dxdx"])
    assert_equal(pair.curvature.laplacian(), pair.table["laplacian"])
