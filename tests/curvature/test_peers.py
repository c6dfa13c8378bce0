"""Curvature against curvlinops and BackPACK, written by others: what they compute exactly and it has too, in float64.

They know L and not J, so λ is 0 here. Not compared: what they estimate by random vectors or sampled labels (traces, the
diagonals and spectra of curvlinops, DiagGGNMC, KFAC of BackPACK), and what is another quantity (the empirical Fisher,
EKFAC, PCHMP, KFRA of a loss whose S_b differs from row to row).
"""

import warnings
from collections import OrderedDict
from copy import deepcopy
from typing import NamedTuple

import pytest
import torch
from torch import nn

import torch_manual_bp as tmb
from torch_manual_bp.equations import ACTIVATIONS

from .conftest import Case, flat, make, plain_phi
from .test_curvature import assert_equal
from .test_dense import places

pytest.importorskip("backpack", reason="no BackPACK (for Python 3.14.1 there is none: torchvision refuses it)")

from backpack import backpack, extend, extensions
from backpack.hessianfree.ggnvp import ggn_vector_product
from backpack.hessianfree.hvp import hessian_vector_product

with warnings.catch_warnings():  # linear_operator, which curvlinops imports, is written in TorchScript
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
    from curvlinops import GGNLinearOperator, HessianLinearOperator, KFACLinearOperator
    from curvlinops.experimental.activation_hessian import ActivationHessianLinearOperator

LOSSES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss, "bce_with_logits": nn.BCEWithLogitsLoss}
MODULES = [name for name, activation in ACTIVATIONS.items() if activation.module]  # all but relu²
ONE_OUTPUT = (7, 4, 5, 1)


class SiLU(nn.Module):
    """z σ(z), for curvlinops: it works under no_grad, where torch takes silu_backward, without forward derivative."""

    def forward(self, z):
        return z * torch.sigmoid(z)


CURVLINOPS = [
    *(Case(a, loss) for a in MODULES for loss in LOSSES),
    *(Case("gelu", loss, biases=b) for loss in LOSSES for b in [(0, 0), (1, 0), (0, 1)]),
    *(Case("gelu", loss, reduction="sum") for loss in LOSSES),
    *(Case("gelu", options=(o,)) for o in ("class_weight", "label_smoothing", "ignore_index")),
    Case("gelu", options=("class_weight", "label_smoothing", "ignore_index")),
    Case("tanh", shape=(3, 9, 2, 6)),
    Case("softplus", "bce_with_logits", shape=ONE_OUTPUT),
]
CURVLINOPS_KFAC = [
    *(Case(a, loss) for a in ("identity", "relu", "tanh", "gelu") for loss in LOSSES),
    *(Case("silu", loss, biases=b) for loss in LOSSES for b in [(0, 0), (1, 0), (0, 1)]),
    *(Case("silu", loss, reduction="sum") for loss in LOSSES),
    Case("silu", options=("label_smoothing",)),
    Case("tanh", shape=(3, 9, 2, 6)),
]


class Sides(NamedTuple):
    mlp: tmb.MLP
    ours: tmb.curvature.Curvature
    net: nn.Sequential
    loss: nn.Module
    x: torch.Tensor
    y: torch.Tensor


def sides(case):
    """Ours, and a copy of the net in torch's modules, for hooks; with labels of 0 and 1 where there are any."""
    mlp, x, y, options = make(case)[3:]
    y = y.round() if case.loss == "bce_with_logits" else y
    phi = SiLU() if case.activation == "silu" else plain_phi(case.activation)
    layers = OrderedDict(fc1=deepcopy(mlp.fc1), phi=phi, fc2=deepcopy(mlp.fc2))
    theirs = {k.replace("class_", ""): v for k, v in options.items() if k not in ("loss", "weight_decay", "row_weight")}
    ours = tmb.curvature.Curvature(mlp, x, y, **options)
    return Sides(mlp, ours, nn.Sequential(layers), LOSSES[case.loss](**theirs), x, y)


def eye(n):
    return torch.eye(n, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------ curvlinops


def operator(kind, of, rows=None, **options):
    parameters, rows = list(of.net.parameters()), rows or [(of.x, of.y)]
    return kind(of.net, of.loss, parameters, rows, check_deterministic=False, **options)


@pytest.mark.parametrize("case", CURVLINOPS, ids=str)
def test_hessian_of_curvlinops(case):
    of = sides(case)
    H, v = operator(HessianLinearOperator, of), torch.randn(of.ours.n, dtype=torch.float64)
    assert_equal(of.ours.hvp(v), H @ v)
    assert_equal(of.ours.dense(), H @ eye(of.ours.n))


@pytest.mark.parametrize("case", CURVLINOPS, ids=str)
def test_gauss_newton_of_curvlinops(case):
    of = sides(case)
    ggn, v = operator(GGNLinearOperator, of), torch.randn(of.ours.n, dtype=torch.float64)
    assert_equal(of.ours.ggnvp(v), ggn @ v)
    assert_equal(of.ours.dense(ggn=True), ggn @ eye(of.ours.n))


@pytest.mark.parametrize("case", CURVLINOPS, ids=str)
def test_blocks_of_curvlinops(case):
    of = sides(case)
    sizes = [1 + bias for bias in case.biases]  # parameters of a layer
    H = operator(HessianLinearOperator, of, block_sizes=sizes)
    assert_equal(torch.block_diag(*of.ours.blocks("layer").values()), H @ eye(of.ours.n))


@pytest.mark.parametrize("case", CURVLINOPS, ids=str)
def test_hessian_by_the_inputs_of_curvlinops(case):
    of = sides(case)
    x = of.x.clone().requires_grad_()
    H = ActivationHessianLinearOperator(of.net, of.loss, ("fc1", "input", 0), [(x, of.y)], check_deterministic=False)
    assert_equal(torch.block_diag(*of.ours.input_hessian()), H @ eye(x.numel()))


@pytest.mark.parametrize("case", CURVLINOPS_KFAC, ids=str)
def test_kfac_of_curvlinops(case):
    """Its scales are ours: the mean over rows of ÃᵀÃ, and the sum of the curvature of L, be L a mean or a sum.

    (With "mean" it scales √S_b by 1/B and multiplies the sum over b by B: Σ_b S_b / B, which has MSE's and BCE's 1/q.)
    It reads none of cross-entropy's options. For smoothed labels S_b is the same; class weights and ignored rows would
    change S_b and N, and its factors do not.
    """
    of = sides(case)
    kfac = operator(KFACLinearOperator, of, fisher_type="type-2", separate_weight_and_bias=False)
    ours = torch.block_diag(*map(product, of.ours.kfac().values(), case.biases))
    assert_equal(ours, kfac @ eye(of.ours.n))


def product(factors, bias):
    """G ⊗ A, whose order is that of [W b] row by row, in the order of W and then b."""
    K = torch.kron(factors.G, factors.A)
    index = torch.arange(len(K)).view(len(factors.G), -1)
    order = torch.cat([index[:, :-1].flatten(), index[:, -1]]) if bias else index.flatten()
    return K[order][:, order]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_tiles_of_rows_are_batches_of_curvlinops(loss, reduction):
    of = sides(Case("softplus", loss, reduction=reduction))
    ours = tmb.curvature.Curvature(of.mlp, of.x, of.y, loss=loss, reduction=reduction, tile_rows=3)
    rows = list(zip(of.x.split(3), of.y.split(3), strict=True))
    assert_equal(ours.dense(), operator(HessianLinearOperator, of, rows) @ eye(ours.n))
    assert_equal(ours.dense(ggn=True), operator(GGNLinearOperator, of, rows) @ eye(ours.n))
    kfac = operator(KFACLinearOperator, of, rows, fisher_type="type-2", separate_weight_and_bias=False)
    assert_equal(torch.block_diag(*map(product, ours.kfac().values(), (1, 1))), kfac @ eye(ours.n))


# -------------------------------------------------------------------------------------------------------- BackPACK


def of_backpack(*activations, losses=tuple(LOSSES)):
    """Cases that it takes: no class weights, no ignored rows; of BCE, one output and labels of 0 and 1."""
    shape = lambda loss: {"shape": ONE_OUTPUT} if loss == "bce_with_logits" else {}  # noqa: E731
    return [
        *(Case(a, loss, **shape(loss)) for a in activations for loss in losses),
        *(Case("tanh", loss, biases=b, **shape(loss)) for loss in losses for b in [(0, 0), (1, 0), (0, 1)]),
        *(Case("tanh", loss, reduction="sum", **shape(loss)) for loss in losses),
        Case("tanh", options=("label_smoothing",)),
        Case("tanh", shape=(3, 9, 2, 6)),
    ]


WITH_DIAGONALS = ("relu", "leaky_relu", "tanh", "sigmoid", "elu")  # the activations that its extensions know
WITH_PRODUCTS = ("relu", "tanh", "sigmoid")


def left_by(extension, of):
    """What BackPACK leaves at each parameter, by name."""
    net, loss = extend(of.net), extend(of.loss)
    with backpack(extension):  # x asks for a gradient, without which torch warns of BackPACK's hooks
        loss(net(of.x.clone().requires_grad_()), of.y).backward()
    return {name: getattr(p, extension.savefield) for name, p in net.named_parameters()}


@pytest.mark.parametrize("case", of_backpack(*WITH_DIAGONALS), ids=str)
def test_diagonal_of_backpack(case):
    of = sides(case)
    assert_equal(flat(of.ours.diagonal()), flat(left_by(extensions.DiagHessian(), of)))


@pytest.mark.parametrize("case", of_backpack("identity", *WITH_DIAGONALS), ids=str)
def test_gauss_newton_diagonal_of_backpack(case):
    of = sides(case)
    assert_equal(flat(of.ours.ggn_diagonal()), flat(left_by(extensions.DiagGGNExact(), of)))


@pytest.mark.parametrize("ggn", [False, True], ids=["hessian", "gauss_newton"])
@pytest.mark.parametrize("case", [case for case in of_backpack("elu") if case.reduction == "sum"], ids=str)
def test_diagonals_of_single_rows_of_backpack(case, ggn):
    """A row by itself is ours with weight 1, among rows of weight 0."""
    of = sides(case)
    theirs = left_by(extensions.BatchDiagGGNExact() if ggn else extensions.BatchDiagHessian(), of)
    for b, row in enumerate(eye(len(of.x))):
        ours = tmb.curvature.Curvature(of.mlp, of.x, of.y, row, loss=case.loss, reduction="sum")
        assert_equal(flat(ours.ggn_diagonal() if ggn else ours.diagonal()), flat({k: v[b] for k, v in theirs.items()}))


@pytest.mark.parametrize("case", of_backpack("identity", *WITH_DIAGONALS), ids=str)
def test_gauss_newton_of_backpack(case):
    of = sides(case)
    V = torch.cat([v.flatten(0, 1).flatten(1) for v in left_by(extensions.SqrtGGNExact(), of).values()], 1)  # (qB,n)
    assert_equal(of.ours.dense(ggn=True), V.T @ V)


@pytest.mark.parametrize("ggn", [False, True], ids=["hessian", "gauss_newton"])
@pytest.mark.parametrize("case", of_backpack(*WITH_PRODUCTS, losses=("cross_entropy", "mse")), ids=str)
def test_blocks_of_parameters_of_backpack(case, ggn):
    of = sides(case)
    H, times = of.ours.dense(ggn=ggn), left_by(extensions.GGNMP() if ggn else extensions.HMP(), of)
    for name, at in places(of.net).items():
        p = of.net.get_parameter(name)
        assert_equal(H[at, at], times[name](eye(p.numel()).view(-1, *p.shape)).flatten(1))


@pytest.mark.parametrize("case", of_backpack(*WITH_PRODUCTS), ids=str)
def test_products_of_backpack(case):
    """Its functions of autograd's alone, which curvlinops' derivatives by the inputs are made of too."""
    of = sides(case)
    v = [torch.randn_like(p) for p in of.net.parameters()]
    o = of.net(of.x)
    L = of.loss(o, of.y)
    for ours, theirs in (
        (of.ours.hvp(v), hessian_vector_product(L, list(of.net.parameters()), v)),
        (of.ours.ggnvp(v), ggn_vector_product(L, o, of.net, v)),
    ):
        assert_equal(*(torch.cat([part.flatten() for part in parts]) for parts in (ours, theirs)))


@pytest.mark.parametrize("case", of_backpack("identity", *WITH_PRODUCTS), ids=str)
def test_kronecker_factors_of_backpack(case):
    """KFLR is KFAC with S_b itself: G ⊗ A of a weight, where A is without the bias' row and column, and G of a bias."""
    of = sides(case)
    assert_factors(of.ours.kfac(), left_by(extensions.KFLR(), of))


@pytest.fixture
def double_by_default():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("case", [Case(a, "mse", reduction=r) for a in WITH_PRODUCTS for r in ("mean", "sum")], ids=str)
def test_kronecker_factors_of_averages_of_backpack(case, double_by_default):
    """KFRA hands the mean of S_b over the rows down: the same where all rows have the same S_b, as with MSE.

    Of MSE it makes S in the default dtype, and raises where the outputs have another.
    """
    of = sides(case)
    assert_factors(of.ours.kfac(), left_by(extensions.KFRA(), of))


def assert_factors(ours, theirs):
    for name, (G, *A) in theirs.items():
        layer, kind = name.split(".")
        assert_equal(ours[layer].G, G)
        assert len(A) == (kind == "weight")
        for a in A:
            assert_equal(ours[layer].A[: len(a), : len(a)], a)
