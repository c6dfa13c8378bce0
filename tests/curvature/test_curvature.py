"""Products, diagonals and trace against torch.func on J in plain torch, and the laws between them."""

import pytest
import torch
from torch.func import grad, hessian, jvp

import torch_manual_bp as tmb
from torch_manual_bp.equations import LOSSES

from .conftest import Case, flat, make, plain_loss, plain_phi

EXACT = 1e-11  # float64: some hundred roundings of 1e-16, at most 1e5 times larger in a sum that cancels


def assert_equal(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= EXACT * theirs.abs().max().clamp(min=1e-3)


def ggn_oracle(case, setting):
    """Jᵀ S J + λ I on the weights, from the Jacobian of the outputs and the Hessian of the loss in the outputs."""
    mlp, x, y, options = setting.mlp, setting.x, setting.y, setting.options
    names = [name for name, _ in mlp.named_parameters()]
    sizes = [p.numel() for p in mlp.parameters()]
    shapes = [p.shape for p in mlp.parameters()]

    def outputs(theta):
        parts = {n: t.view(s) for n, t, s in zip(names, theta.split(sizes), shapes, strict=True)}
        z = torch.nn.functional.linear(x, parts["fc1.weight"], parts.get("fc1.bias"))
        h = plain_phi(case.activation)(z)
        return torch.nn.functional.linear(h, parts["fc2.weight"], parts.get("fc2.bias"))

    given = {k: v for k, v in options.items() if k not in ("loss", "weight_decay", "row_weight")}
    o = outputs(setting.theta)
    S = hessian(lambda o: plain_loss(case, o, y, options["row_weight"], given))(o).reshape(o.numel(), o.numel())
    jacobian = torch.func.jacrev(outputs)(setting.theta).reshape(o.numel(), -1)
    decayed = torch.cat([torch.full((s,), float("weight" in n)) for n, s in zip(names, sizes, strict=True)]).double()
    return jacobian.T @ S @ jacobian + case.weight_decay * decayed.diag()


def test_gradient(setting):
    assert_equal(flat(setting.curvature.gradient()), grad(setting.J)(setting.theta))


def test_hessian_product(setting):
    v = torch.randn_like(setting.theta)
    assert_equal(setting.curvature.hvp(v), jvp(grad(setting.J), (setting.theta,), (v,))[1])


def test_k_hessian_products_in_one_pass(setting):
    V = torch.randn(3, len(setting.theta), dtype=torch.float64)
    assert_equal(setting.curvature.hvp_block(V), V @ hessian(setting.J)(setting.theta))


def test_diagonal_and_trace(setting):
    H = hessian(setting.J)(setting.theta)
    assert_equal(flat(setting.curvature.diagonal()), H.diagonal())
    assert_equal(setting.curvature.trace(), H.trace())


def test_gauss_newton(case):
    setting = make(case)
    ggn = ggn_oracle(case, setting)
    v = torch.randn_like(setting.theta)
    assert_equal(setting.curvature.ggnvp(v), ggn @ v)
    V = torch.stack([v, torch.randn_like(v), torch.randn_like(v)])
    assert_equal(setting.curvature.ggnvp_block(V), V @ ggn)
    diagonal = flat(setting.curvature.ggn_diagonal())
    assert_equal(diagonal, ggn.diagonal())
    assert diagonal.min() >= 0
    assert_equal(setting.curvature.trace(ggn=True), ggn.trace())


def test_finite_differences_of_the_gradient_of_the_objective():
    case = Case("gelu", weight_decay=0.2)
    setting = make(case)
    v, eps = torch.randn_like(setting.theta), 1e-5
    objective = tmb.Objective(setting.mlp, case.loss, case.weight_decay)

    def gradient(theta):
        torch.nn.utils.vector_to_parameters(theta, setting.mlp.parameters())
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(objective(setting.x, setting.y), setting.mlp.parameters())]
        )

    numeric = (gradient(setting.theta + eps * v) - gradient(setting.theta - eps * v)) / (2 * eps)
    torch.testing.assert_close(setting.curvature.hvp(v), numeric, rtol=0, atol=1e-8)  # error ε² + rounding/ε


def test_symmetry():
    c = make(Case("silu", weight_decay=0.1)).curvature
    u, v = torch.randn(2, c.n, dtype=torch.float64)
    assert_equal(u @ c.hvp(v), v @ c.hvp(u))
    assert_equal(u @ c.ggnvp(v), v @ c.ggnvp(u))


def test_relus_hessian_is_not_its_gauss_newton_matrix():
    c = make(Case("relu")).curvature
    v = torch.randn(c.n, dtype=torch.float64)
    assert (c.hvp(v) - c.ggnvp(v)).norm() > 0.01 * c.hvp(v).norm()
    assert_equal(flat(c.diagonal()), flat(c.ggn_diagonal()))  # they part where W1 meets W2 only


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_of_weight_two_counts_twice(loss):
    setting = make(Case("tanh", loss))
    weighted = tmb.curvature.Curvature(
        setting.mlp, setting.x, setting.y, torch.tensor([2.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64), loss=loss
    )
    twice = [torch.cat([t[:1], t]) for t in (setting.x, setting.y)]
    doubled = tmb.curvature.Curvature(setting.mlp, *twice, loss=loss)
    assert_equal(flat(weighted.diagonal()), flat(doubled.diagonal()))
    for ours, theirs in zip(weighted.kfac().values(), doubled.kfac().values(), strict=True):
        assert_equal(ours.A, theirs.A)
        assert_equal(ours.G, theirs.G)


@pytest.mark.parametrize("tile_rows", [None, 2])
def test_where_no_row_counts_all_is_0(tile_rows):
    mlp, x = tmb.MLP(4, 5, 3, "gelu", dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    c = tmb.curvature.Curvature(mlp, x, torch.full((6,), -100), tile_rows=tile_rows)  # J is 0/0, and its gradient 0
    assert not flat(c.gradient()).any() and not c.trace().any() and not c.dense().any()
    assert not any(factor.any() for factors in c.kfac().values() for factor in factors)


@pytest.mark.parametrize("seed", [6, 7, 11])  # of nets whose Σ_k p_k w_k² − (Σ_k p_k w_k)² is rounded to below 0
def test_the_gauss_newton_diagonal_is_not_negative_where_the_softmax_is_nearly_certain(seed):
    torch.manual_seed(seed)
    mlp = tmb.MLP(3, 4, 3, "tanh", dtype=torch.float64)
    with torch.no_grad():
        mlp.fc2.bias[0] = 36
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.randint(3, (40,))
    assert flat(tmb.curvature.Curvature(mlp, x, y).ggn_diagonal()).min() >= 0


def test_no_vectors_give_no_products():
    c = make(Case("gelu")).curvature
    assert c.hvp_block(torch.empty(0, c.n, dtype=torch.float64)).shape == (0, c.n)
    assert c.ggnvp_block(torch.empty(0, c.n, dtype=torch.float64)).shape == (0, c.n)


def test_an_objectives_tiles_are_taken_over():
    mlp, x, y = tmb.MLP(4, 5, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    tiled = tmb.curvature.Curvature(tmb.Objective(mlp, tile_rows=4), x, y)
    assert tiled._passes._kept is None and len(tiled._passes._tiles) == 2
    assert_equal(tiled.trace(), tmb.curvature.Curvature(mlp, x, y).trace())


def test_weights_that_change_later_do_not_change_it():
    mlp, x, y = tmb.MLP(4, 5, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    row_weight, class_weight = torch.rand(6, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    c = tmb.curvature.Curvature(mlp, x, y, row_weight, class_weight=class_weight, reduction="sum", tile_rows=2)
    before = c.trace()
    row_weight.zero_(), class_weight.zero_()
    assert torch.equal(c.trace(), before)


def test_forms_of_a_vector():
    setting = make(Case("gelu", weight_decay=0.1))
    c, (v, u) = setting.curvature, torch.randn(2, len(setting.theta), dtype=torch.float64)
    names, shapes = zip(*((n, p.shape) for n, p in setting.mlp.named_parameters()), strict=True)
    parts = [p.view(s) for p, s in zip(v.split([s.numel() for s in shapes]), shapes, strict=True)]
    by_name = c.hvp(dict(zip(names, parts, strict=True)))
    assert list(by_name) == list(names)
    assert torch.equal(flat(by_name), c.hvp(v))
    in_order = c.hvp(parts)
    assert isinstance(in_order, list)
    assert all(torch.equal(a, b) for a, b in zip(in_order, by_name.values(), strict=True))
    block = c.hvp_block([torch.stack([p, 2 * p]) for p in parts])
    assert [b.shape for b in block] == [(2, *s) for s in shapes]
    assert_equal(torch.cat([b[1].flatten() for b in block]), 2 * c.hvp(v))
    assert_equal(c.hvp_block(torch.stack([v, u]))[1], c.hvp(u))


def test_rows_in_several_dimensions():
    mlp, x, y = (
        tmb.MLP(4, 5, 3, dtype=torch.float64),
        torch.randn(2, 6, 4, dtype=torch.float64),
        torch.randint(3, (2, 6)),
    )
    folded = tmb.curvature.Curvature(mlp, x, y)
    assert_equal(folded.trace(), tmb.curvature.Curvature(mlp, x.view(12, 4), y.view(12)).trace())


def test_a_later_step_does_not_change_it():
    setting = make(Case("tanh", weight_decay=0.1))
    before = flat(setting.curvature.gradient())
    with torch.no_grad():
        for p in setting.mlp.parameters():
            p.add_(1)
    assert torch.equal(flat(setting.curvature.gradient()), before)


def test_an_objective_brings_its_options():
    mlp, x, y = tmb.MLP(4, 5, 3, "gelu"), torch.randn(6, 4), torch.randint(3, (6,))
    objective = tmb.Objective(mlp, weight_decay=0.3, label_smoothing=0.1)
    own = tmb.curvature.Curvature(objective, x, y)
    given = tmb.curvature.Curvature(mlp, x, y, loss="cross_entropy", weight_decay=0.3, label_smoothing=0.1)
    assert torch.equal(own.trace(), given.trace())
    with pytest.raises(ValueError, match="Objective has its own weight_decay"):
        tmb.curvature.Curvature(objective, x, y, weight_decay=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_short_dtypes_are_computed_in_float32(dtype):
    mlp, x, y = tmb.MLP(40, 30, 10, "tanh", dtype=dtype), torch.randn(64, 40, dtype=dtype), torch.randint(10, (64,))
    short = flat(tmb.curvature.Curvature(mlp, x, y).diagonal())
    exact = flat(tmb.curvature.Curvature(mlp.double(), x.double(), y).diagonal())
    assert short.dtype == torch.float32
    assert (short - exact).norm() < 64 * torch.finfo(torch.float32).eps * exact.norm()  # sums of 64 rows


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_compiles_as_one_graph_and_gives_the_same(activation, loss):
    c = make(Case(activation, loss, 0.1)).curvature
    v = torch.randn(c.n, dtype=torch.float64)
    calls = (lambda: c.hvp(v), lambda: c.ggnvp(v), c.trace, lambda: flat(c.diagonal()), lambda: flat(c.gradient()))
    for call in calls:
        assert_equal(torch.compile(call, fullgraph=True, backend="aot_eager")(), call())


def test_no_graph_is_made():
    c = make(Case("tanh")).curvature
    v = torch.randn(c.n, dtype=torch.float64, requires_grad=True)
    assert not c.hvp(v).requires_grad
    assert not c.trace().requires_grad


@pytest.mark.parametrize(
    ("v", "error", "words"),
    [
        (torch.zeros(3, dtype=torch.float64), ValueError, r"hvp: v must have shape \(43,\), got \(3,\)"),
        (torch.zeros(43), TypeError, r"hvp: v must have dtype torch.float64, got torch.float32"),
        ({"fc1.weight": torch.zeros(5, 4)}, ValueError, "hvp: v must have the names fc1.weight, fc1.bias, .*; got fc1"),
        ([torch.zeros(5, 4)], ValueError, "hvp: v must hold 4 tensors, got 1"),
        (3, TypeError, "hvp: v must be a tensor, a dict or a list of them, got int"),
        ([1, 2, 3, 4], TypeError, r"hvp: v\['fc1.weight'\] must be a tensor, got int"),
    ],
    ids=["shape", "dtype", "names", "length", "type", "part"],
)
def test_what_is_no_vector_is_refused(v, error, words):
    with pytest.raises(error, match=words):
        make(Case()).curvature.hvp(v)


def test_hooks_are_refused():
    mlp = tmb.MLP(4, 5, 3)
    mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="Curvature: mlp's fc1 and fc2 must be plain"):
        tmb.curvature.Curvature(mlp, torch.randn(2, 4), torch.tensor([0, 1]))
    mlp = tmb.MLP(4, 5, 3)
    mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="must not carry hooks"):
        tmb.curvature.Curvature(mlp, torch.randn(2, 4), torch.tensor([0, 1]))


def test_tied_parameters_and_unknown_options_are_refused():
    mlp, x, y = tmb.MLP(4, 3, 3), torch.randn(2, 4), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"Curvature: options are reduction, .*; got los"):
        tmb.curvature.Curvature(mlp, x, y, los="mse")
    mlp.fc2.bias = mlp.fc1.bias
    with pytest.raises(ValueError, match=r"fc1.bias and fc2.bias must be two tensors"):
        tmb.curvature.Curvature(mlp, x, y)
