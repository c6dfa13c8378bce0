"""Kronecker factors against their definition."""

import torch
from torch.func import hessian, jacrev
from torch.nn import functional as F

import torch_manual_bp as tmb

from .conftest import Case, make, plain_loss, plain_phi
from .test_curvature import assert_equal


def test_factors(case):
    setting = make(case)
    mlp, x, y, options = setting.mlp, setting.x, setting.y, setting.options
    given = {k: v for k, v in options.items() if k not in ("loss", "weight_decay", "row_weight")}
    z = mlp.fc1(x).detach()
    h = plain_phi(case.activation)(z)
    outputs = lambda h: F.linear(h, mlp.fc2.weight, mlp.fc2.bias).detach()  # noqa: E731
    S = hessian(lambda o: plain_loss(case, o, y, options["row_weight"], given))(outputs(h))
    rows = torch.arange(len(x))
    S = S[rows, :, rows]  # (B,q,q)
    slope = torch.stack([jacrev(lambda z: F.linear(plain_phi(case.activation)(z), mlp.fc2.weight))(row) for row in z])
    r = torch.ones(len(x), dtype=x.dtype) if options["row_weight"] is None else options["row_weight"]
    r = r if y.is_floating_point() else r * (y != options.get("ignore_index", -100))
    factors = setting.curvature.kfac()
    assert_equal(factors["fc2"].G, S.sum(0))
    assert_equal(factors["fc1"].G, (slope.mT @ S @ slope).sum(0).detach())
    for name, a, bias in (("fc1", x, mlp.fc1.bias), ("fc2", h, mlp.fc2.bias)):
        a = a if bias is None else torch.cat([a, torch.ones(len(a), 1)], 1)
        assert_equal(factors[name].A, (r[:, None] * a).T @ a / r.sum())


def test_ignored_rows_do_not_count():
    mlp, x = tmb.MLP(3, 4, 2, "tanh", dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    x[1:] *= 100  # what a padded batch may hold
    padded = tmb.curvature.Curvature(mlp, x, torch.tensor([1, -100, -100, -100])).kfac()
    alone = tmb.curvature.Curvature(mlp, x[:1], torch.tensor([1])).kfac()
    for name, factors in padded.items():
        assert_equal(factors.A, alone[name].A)
        assert_equal(factors.G, alone[name].G)


def test_for_one_row_they_are_exact():
    c = make(Case("gelu", shape=(1, 4, 5, 3), biases=(0, 0))).curvature
    for name, block in c.blocks("layer", ggn=True).items():
        factors = c.kfac()[name]
        assert_equal(torch.kron(factors.G, factors.A), block)


def test_with_equal_rows_too():
    mlp = tmb.MLP(4, 5, 3, "silu", False, False, dtype=torch.float64)
    x = torch.randn(1, 4, dtype=torch.float64).expand(6, 4)
    c = tmb.curvature.Curvature(mlp, x, torch.randint(3, (6,)))
    for name, block in c.blocks("layer", ggn=True).items():
        factors = c.kfac()[name]
        assert_equal(torch.kron(factors.G, factors.A), block)
