"""Second and third order, both modes, and every choice of what is differentiated."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torch_manual_bp as tmb
from torch_manual_bp.equations import LOSSES

from .reference import (
    NAMES,
    SAVES,
    assert_close,
    composition,
    gradients,
    leaves,
    objective,
    objective_composition,
    targets,
    tensors,
)

pytestmark = pytest.mark.usefixtures("on_device")
SMALL = {"B": 2, "d": 3, "h": 4, "q": 3}
SIZES = {name: size for name, size in SMALL.items() if name != "B"}


def check_all_orders(function, arguments):
    """First order in both modes, second order reverse over reverse and forward over reverse, and batched cotangents."""
    assert gradcheck(
        function, arguments, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(function, arguments, check_fwd_over_rev=True, check_batched_grad=True)


def test_mlp(activation, save):
    check_all_orders(lambda *t: tmb.functional.mlp(*t, activation, save), tensors(**SMALL))


@pytest.mark.parametrize("loss", LOSSES)
def test_objective(activation, save, loss):
    y, J = targets(loss, SMALL["B"], SMALL["q"]), objective(activation, loss, save, **SIZES)
    check_all_orders(lambda *t: J(*t, y), tensors(**SMALL))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_objective_with_row_weights_and_options(loss, reduction):
    classes = {"label_smoothing": 0.1, "ignore_index": 1, "class_weight": torch.rand(3, dtype=torch.float64)}
    options = {"reduction": reduction} | (classes if loss == "cross_entropy" else {})
    y = torch.tensor([0, 1, 2]) if loss == "cross_entropy" else targets(loss, 3, 3)
    row_weight, J = torch.rand(3, dtype=torch.float64), objective("tanh", loss, **SIZES, **options)
    check_all_orders(lambda *t: J(*t, y, row_weight), tensors(**SMALL | {"B": 3}))


def test_y_that_requires_a_gradient(loss="bce_with_logits"):
    y, J = targets(loss, 2, 3).requires_grad_(), objective("gelu", loss, **SIZES)
    check_all_orders(J, (*tensors(**SMALL), y))


# ---------------------------------------------------------------------------------------------- against the composition


def three_orders(value, at):
    """g, ∂(v · sin g)/∂ for a v that is the same in every call, and the same once more of that."""
    directions = torch.Generator(value.device).manual_seed(1)
    orders = []
    for _ in range(3):
        first = gradients(value, at, create_graph=True)
        orders += first
        value = sum((torch.randn(g.shape, generator=directions, dtype=g.dtype) * g.sin()).sum() for g in first)
        if not value.requires_grad:  # all of it constant: piecewise linear, and one tensor only
            return orders + [torch.zeros_like(t) for t in at] * (3 - len(orders) // len(at))
    return orders


def test_third_order_of_the_mlp(activation, save):
    t = tensors()
    ours = three_orders(tmb.functional.mlp(*t, activation, save).square().sum(), t)
    torchs = three_orders(composition(*t, activation).square().sum(), t)
    assert_close(ours, torchs, 1e-11)


@pytest.mark.parametrize("loss", LOSSES)
def test_third_order_of_the_objective(activation, save, loss):
    t, y = tensors(), targets(loss)
    ours = three_orders(objective(activation, loss, save)(*t, y), t)
    torchs = three_orders(objective_composition(activation, loss)(*t, y), t)
    assert_close(ours, torchs, 1e-11)


SUBSETS = [subset for size in range(1, 6) for subset in itertools.combinations(NAMES, size)]
KINDS_OF_PHI = ["relu", "leaky_relu", "tanh", "gelu"]  # a mask without w2's gradient (two slopes), h, and z


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
@pytest.mark.parametrize("activation", KINDS_OF_PHI)
def test_every_choice_of_frozen_tensors(activation, subset):
    t, y = tensors(requires_grad=False), targets("cross_entropy")
    at = [tensor.requires_grad_() for name, tensor in zip(NAMES, t, strict=True) if name in subset]
    expected_o = three_orders(composition(*t, activation).sin().sum(), at)
    expected_J = three_orders(objective_composition(activation)(*t, y), at)
    for save in SAVES:
        assert_close(three_orders(tmb.functional.mlp(*t, activation, save).sin().sum(), at), expected_o, 1e-11)
        assert_close(three_orders(objective(activation, save=save)(*t, y), at), expected_J, 1e-11)


@pytest.mark.parametrize(
    "frozen", [("w2",), ("w1",), ("w1", "b1"), ("x", "w1", "w2"), ("w1", "b1", "w2", "b2")], ids="-".join
)
@pytest.mark.parametrize("activation", KINDS_OF_PHI)
def test_frozen_tensors_in_both_modes(activation, frozen, save):
    t = tensors(**SMALL)
    for name, tensor in zip(NAMES, t, strict=True):
        tensor.requires_grad_(name not in frozen)
    check_all_orders(lambda *t: tmb.functional.mlp(*t, activation, save), t)


# ----------------------------------------------------------------------------------------------- what people do with it


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_penalty(activation, save, loss):
    """‖∂J/∂x‖² in the loss; fused ops of others drop its second-order term without a word."""
    t, y = tensors(), targets(loss)

    def penalised(J):
        (dx,) = gradients(J, t[:1], create_graph=True)
        return gradients(J + 10 * dx.square().sum(), t[1:])

    ours = penalised(objective(activation, loss, save)(*t, y))
    assert_close(ours, penalised(objective_composition(activation, loss)(*t, y)), 1e-11, NAMES[1:])


@pytest.mark.parametrize("loss", LOSSES)
def test_hessian_vector_product(activation, save, loss):
    t, y = tensors(), targets(loss)
    v = [torch.randn_like(tensor) for tensor in t]

    def hvp(J):
        return gradients(gradients(J, t, create_graph=True), t, grad_outputs=v)

    ours = hvp(objective(activation, loss, save)(*t, y))
    assert_close(ours, hvp(objective_composition(activation, loss)(*t, y)), 1e-12, NAMES)


def test_hessian_is_symmetric(activation, save):
    """uᵀHv = vᵀHu, without any other implementation to compare with."""
    t, y = tensors(), targets("cross_entropy")
    first = gradients(objective(activation, save=save)(*t, y), t, create_graph=True)
    u, v = ([torch.randn_like(tensor) for tensor in t] for _ in range(2))

    def bilinear(left, right):
        hv = gradients(first, t, grad_outputs=right, retain_graph=True)
        return sum((a * b).sum() for a, b in zip(left, hv, strict=True))

    torch.testing.assert_close(bilinear(u, v), bilinear(v, u), rtol=1e-12, atol=1e-13)


def test_the_second_backward_pass_gives_the_same(activation, save):
    """Nothing that was saved is overwritten: to the bit, with create_graph before, between and after."""
    t, y = tensors(), targets("cross_entropy")
    for value in (objective(activation, save=save)(*t, y), tmb.functional.mlp(*t, activation, save).square().sum()):
        first = gradients(value, t, retain_graph=True)
        recorded = gradients(value, t, create_graph=True)
        again = gradients(value, t, create_graph=True)
        last = gradients(value, t)
        assert all(torch.equal(a, b) for a, b in zip(first, last, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(recorded, again, strict=True))
        assert_close(recorded, first, 1e-14)


def test_backward_twice_adds_into_grad(save):
    t, y = tensors(), targets("mse")
    J = objective("silu", "mse", save)(*t, y)
    J.backward(retain_graph=True)
    once = [leaf.grad.clone() for leaf in leaves(*t)]
    J.backward()
    assert_close([leaf.grad for leaf in leaves(*t)], [2 * grad for grad in once], 1e-15)


def test_a_graph_that_was_freed_says_so(save):
    t = tensors()
    o = tmb.functional.mlp(*t, "gelu", save)
    gradients(o.sum(), t)
    with pytest.raises(RuntimeError, match="second time"):
        gradients(o.sum(), t)
