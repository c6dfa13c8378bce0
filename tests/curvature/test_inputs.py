"""Second derivatives by the inputs against torch.func's."""

import torch
from torch.func import hessian

import torch_manual_bp as tmb

from .conftest import Case, make, plain_loss, plain_phi
from .test_curvature import assert_equal


def test_of_the_loss_and_of_the_outputs(case):
    setting = make(case)
    mlp, x, y, options = setting.mlp, setting.x, setting.y, setting.options
    given = {k: v for k, v in options.items() if k not in ("loss", "weight_decay", "row_weight")}
    w1, b1, w2, b2 = (None if p is None else p.detach() for p in mlp.plain_weights())

    def outputs(x):
        z = torch.nn.functional.linear(x, w1, b1)
        return torch.nn.functional.linear(plain_phi(case.activation)(z), w2, b2)

    H = hessian(lambda x: plain_loss(case, outputs(x), y, options["row_weight"], given))(x)
    rows = torch.arange(len(x))
    assert_equal(setting.curvature.input_hessian(), H[rows, :, rows])
    laplacian = torch.stack([hessian(outputs)(row).diagonal(dim1=1, dim2=2).sum(1) for row in x])
    assert_equal(setting.curvature.laplacian(), laplacian)


def test_they_have_the_shape_of_x():
    mlp, x, y = tmb.MLP(4, 5, 3, "tanh"), torch.randn(2, 6, 4), torch.randint(3, (2, 6))
    c, folded = tmb.curvature.Curvature(mlp, x, y), tmb.curvature.Curvature(mlp, x.view(12, 4), y.view(12))
    assert c.input_hessian().shape == (2, 6, 4, 4)
    assert torch.equal(c.laplacian(), folded.laplacian().view(2, 6, 3))


def test_they_compile_as_one_graph():
    c = make(Case("gelu")).curvature
    for call in (c.input_hessian, c.laplacian, lambda: c.kfac()["fc1"].G):
        assert_equal(torch.compile(call, fullgraph=True, backend="aot_eager")(), call())
