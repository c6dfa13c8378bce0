"""torch.func, forward mode and torch.autograd.functional against the same transform of the composition."""

import pytest
import torch
from torch import func
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, stack_module_state, vjp, vmap
from torch.utils._pytree import tree_leaves

import torch_manual_bp as tmb

from .reference import (
    NAMES,
    SAVES,
    assert_close,
    composition,
    gradients,
    objective,
    objective_composition,
    targets,
    tensors,
)

TOLERANCE = 1e-11
pytestmark = [
    pytest.mark.usefixtures("on_device"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),  # torch's linearize
]
ALL = tuple(range(5))
SMOOTH = ("tanh", "gelu")  # φ′ from h, and from z


def scalar_pair(activation, save="auto", loss="cross_entropy"):
    """J as functions of the five tensors: ours, and the composition's."""
    y = targets(loss)
    ours, torchs = objective(activation, loss, save), objective_composition(activation, loss)
    return (lambda *t: ours(*t, y)), (lambda *t: torchs(*t, y))


def vector_pair(activation, save="auto"):
    """O as functions of the five tensors."""
    return (lambda *t: tmb.functional.mlp(*t, activation, save)), (lambda *t: composition(*t, activation))


def assert_same(transform, pair, t):
    """The transform of both, leaf by leaf; what would be silently zero is caught by the comparison."""
    ours, torchs = (tree_leaves(transform(f, t)) for f in pair)
    assert_close(ours, torchs, TOLERANCE)
    return ours


def directions(t, seed=1):
    generator = torch.Generator(t[0].device).manual_seed(seed)
    return tuple(torch.randn(a.shape, generator=generator, dtype=a.dtype) for a in t)


def directional(f, t):
    return jvp(f, t, directions(t))[1]


# Each takes f, a function of x, w1, b1, w2, b2, and the five tensors.
OF_ANY = {
    "vjp": lambda f, t: (lambda out, pull: pull(torch.ones_like(out).cumsum(0)))(*vjp(f, *t)),
    "jvp": lambda f, t: jvp(f, t, directions(t)),
    "jvp of one tensor": lambda f, t: jvp(lambda w: f(t[0], w, *t[2:]), t[1:2], directions(t)[1:2]),
    "linearize": lambda f, t: (lambda out, push: (out, push(*directions(t))))(*linearize(f, *t)),
    "jacrev": lambda f, t: jacrev(f, ALL)(*t),
    "jacfwd": lambda f, t: jacfwd(f, ALL)(*t),
    "jvp(jvp)": lambda f, t: jvp(lambda *t: directional(f, t), t, directions(t, 2)),
    "jvp(jvp(jvp))": lambda f, t: jvp(
        lambda *t: jvp(lambda *t: directional(f, t), t, directions(t, 2))[1], t, directions(t, 3)
    ),
    "jacfwd(jacfwd)": lambda f, t: jacfwd(jacfwd(f, (0, 3)), (0, 1, 2))(*t),
    "jacrev(jacrev)": lambda f, t: jacrev(jacrev(f, (0, 3)), (0, 1, 2))(*t),
    "jacrev(jacfwd)": lambda f, t: jacrev(jacfwd(f, (0, 3)), (0, 1, 2))(*t),
}
OF_SCALARS = {
    "grad": lambda f, t: grad(f, ALL)(*t),
    "grad_and_value": lambda f, t: func.grad_and_value(f, ALL)(*t),
    "hessian": lambda f, t: hessian(f, (0, 1, 3))(*t),
    "jvp(grad)": lambda f, t: jvp(grad(f, ALL), t, directions(t)),
    "grad(jvp)": lambda f, t: grad(lambda *t: directional(f, t), ALL)(*t),
    "grad(grad)": lambda f, t: grad(lambda *t: sum(g.sin().sum() for g in grad(f, ALL)(*t)), ALL)(*t),
    "grad(jvp(grad))": lambda f, t: grad(
        lambda *t: sum(g.sin().sum() for g in jvp(grad(f, ALL), t, directions(t))[1]), ALL
    )(*t),
    "vjp(grad)": lambda f, t: vjp(grad(f, ALL), *t)[1](directions(t)),
    "vmap(jvp(grad))": lambda f, t: vmap(lambda v: jvp(lambda w: grad(f, 1)(t[0], w, *t[2:]), t[1:2], (v,))[1])(
        torch.stack([directions(t, seed)[1] for seed in range(3)])
    ),
    "jvp(vmap(grad))": lambda f, t: jvp(
        lambda x: vmap(lambda row: grad(f, 0)(row.expand_as(x), *t[1:]))(x), t[:1], directions(t)[:1]
    ),
}


@pytest.mark.parametrize("name", OF_ANY)
def test_transform_of_the_mlp(name, save):
    for activation in ("relu", *SMOOTH):
        assert_same(OF_ANY[name], vector_pair(activation, save), tensors(requires_grad=False))


@pytest.mark.parametrize("name", OF_ANY | OF_SCALARS)
def test_transform_of_the_objective(name, save):
    for activation in ("relu", *SMOOTH):
        for loss in ("cross_entropy", "bce_with_logits"):
            pair = scalar_pair(activation, save, loss)
            assert_same((OF_ANY | OF_SCALARS)[name], pair, tensors(requires_grad=False))


@pytest.mark.parametrize("name", ["hessian", "jvp(grad)", "grad(jvp(grad))", "jacfwd(jacfwd)"])
def test_second_order_transforms_for_every_activation(name, activation):
    assert_same((OF_ANY | OF_SCALARS)[name], scalar_pair(activation), tensors(requires_grad=False))


@pytest.mark.parametrize("name", OF_SCALARS)
def test_transform_of_the_squared_error(name, save):
    """Against the formula: in forward over reverse F.mse_loss itself raises (torch 2.13: ZeroTensors are immutable)."""
    y = targets("mse")
    ours = objective("tanh", "mse", save, weight_decay=0.0)
    pair = (lambda *t: ours(*t, y)), (lambda *t: (composition(*t, "tanh") - y).square().mean())
    assert_same(OF_SCALARS[name], pair, tensors(requires_grad=False))


@pytest.mark.parametrize("activation", SMOOTH)
def test_nested_forward_mode_is_not_silently_zero(activation, save):
    """jvp(jvp) through a Function that has a jvp is 0 without an error: the Laplacian of a PINN would be."""
    x, *parameters = tensors(requires_grad=False)

    def laplacian(f):
        second = jacfwd(jacfwd(lambda row: f(row[None], *parameters)[0]))
        return vmap(lambda row: second(row).diagonal(dim1=-2, dim2=-1).sum(-1))(x)

    ours, torchs = (laplacian(f) for f in vector_pair(activation, save))
    assert_close([ours], [torchs], TOLERANCE)
    assert ours.abs().min() > 1e-6


# ----------------------------------------------------------------------------------------------------------------- vmap


def test_vmap_over_inputs(activation, save):
    x, *parameters = tensors(requires_grad=False)
    stacked = torch.stack([x, 2 * x, -x], 1)
    ours = vmap(lambda x: tmb.functional.mlp(x, *parameters, activation, save), in_dims=1, out_dims=2)(stacked)
    torchs = torch.stack([composition(a, *parameters, activation) for a in stacked.unbind(1)], 2)
    assert_close([ours], [torchs], 1e-14)


def test_vmap_of_single_rows_and_nested(save):
    x, *parameters = tensors(requires_grad=False)
    ours = vmap(vmap(lambda row: tmb.functional.mlp(row, *parameters, "gelu", save)))(torch.stack([x, -x]))
    assert_close([ours], [torch.stack([composition(a, *parameters, "gelu") for a in (x, -x)])], 1e-14)


def test_per_sample_gradients(activation, save):
    t, y = tensors(requires_grad=False), targets("cross_entropy")
    J = objective(activation, save=save)
    ours = vmap(grad(lambda row, y, *p: J(row, *p, y), (2, 3, 4, 5)), in_dims=(0, 0, *(None,) * 4))(t[0], y, *t[1:])
    torchs = objective_composition(activation)
    rows = [grad(torchs, (1, 2, 3, 4))(x[None], *t[1:], y[None]) for x, y in zip(t[0], y, strict=True)]
    assert_close(ours, [torch.stack(column) for column in zip(*rows, strict=True)], TOLERANCE, NAMES[1:])


def test_ensemble_by_stacked_parameters(save):
    members = [tmb.MLP(5, 6, 4, "silu", save=save, dtype=torch.float64) for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    x = torch.randn(7, 5, dtype=torch.float64)

    def total(parameters):
        o = vmap(lambda p: functional_call(members[0], (p, buffers), (x,)))(parameters)
        return o.square().sum(), o

    ours, o = grad(total, has_aux=True)({name: p.detach() for name, p in parameters.items()})
    torchs = [member(x) for member in members]
    assert_close(o, torchs, 1e-14)
    torch.stack(torchs).square().sum().backward()
    for name, gradient in ours.items():
        assert_close(gradient, [member.get_parameter(name).grad for member in members], TOLERANCE)


def test_vmap_over_each_argument_alone(save):
    """Stacking one tensor only: the others are broadcast, in the backward pass too."""
    t = tensors(requires_grad=False)
    ours, torchs = vector_pair("tanh", save)
    for i in ALL:
        stacked = (*t[:i], torch.stack([t[i], -t[i]]), *t[i + 1 :])
        in_dims = tuple(0 if i == j else None for j in ALL)
        got, expected = (vmap(jacrev(f, ALL), in_dims)(*stacked) for f in (ours, torchs))
        assert_close(got, expected, TOLERANCE, NAMES)


def test_chunked_vmap_and_chunked_jacobian():
    t = tensors(requires_grad=False)
    pair = vector_pair("gelu")
    assert_same(lambda f, t: jacrev(f, ALL, chunk_size=3)(*t), pair, t)
    assert_same(lambda f, t: vmap(lambda row: f(row, *t[1:]), chunk_size=2)(t[0]), pair, t)


# --------------------------------------------------------------------------------------------------- batched cotangents


@pytest.mark.parametrize("frozen", [(), ("w2",), ("w1", "b1")], ids=lambda frozen: "-".join(frozen) or "none")
def test_is_grads_batched(activation, save, frozen):
    t = tensors()
    for name, tensor in zip(NAMES, t, strict=True):
        tensor.requires_grad_(name not in frozen)
    at = [tensor for tensor in t if tensor.requires_grad]
    cotangents = torch.randn(3, 7, 4, dtype=torch.float64)
    ours = gradients(
        tmb.functional.mlp(*t, activation, save), at, grad_outputs=cotangents, is_grads_batched=True, retain_graph=True
    )
    o = composition(*t, activation)
    rows = [gradients(o, at, grad_outputs=do, retain_graph=True) for do in cotangents]
    assert_close(ours, [torch.stack(column) for column in zip(*rows, strict=True)], TOLERANCE)


def test_is_grads_batched_for_the_objective_and_its_gradient(activation, save):
    """The Hessian by one batched backward pass over the gradient."""
    t = tensors()
    results = []
    for f in scalar_pair(activation, save):
        J = f(*t)
        factors = torch.arange(1.0, 4, dtype=J.dtype)
        scaled = gradients(J, t, grad_outputs=factors, is_grads_batched=True, create_graph=True)
        (dw1,) = gradients(J, t[1:2], create_graph=True)
        basis = torch.eye(dw1.numel(), dtype=J.dtype).view(-1, *dw1.shape)
        results.append([*scaled, *gradients(dw1, t, grad_outputs=basis, is_grads_batched=True)])
    assert_close(*results, TOLERANCE)


def test_vmap_over_autograd_grad(activation, save):
    t = tensors()
    cotangents = torch.randn(3, 7, 4, dtype=torch.float64)

    def rows(f):
        o = f(*t)
        return vmap(lambda do: torch.autograd.grad(o, t, do, retain_graph=True))(cotangents)

    ours, torchs = (rows(f) for f in vector_pair(activation, save))
    assert_close(ours, torchs, TOLERANCE, NAMES)


# ------------------------------------------------------------------------------ torch.autograd.functional, dual numbers

FUNCTIONAL = {
    "hessian": lambda f, t: torch.autograd.functional.hessian(f, t),
    "hessian vectorized": lambda f, t: torch.autograd.functional.hessian(f, t, vectorize=True),
    "hessian forward": lambda f, t: torch.autograd.functional.hessian(
        f, t, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "hvp": lambda f, t: torch.autograd.functional.hvp(f, t, directions(t)),
    "vhp": lambda f, t: torch.autograd.functional.vhp(f, t, directions(t)),
    "jvp": lambda f, t: torch.autograd.functional.jvp(f, t, directions(t)),
    "jacobian forward": lambda f, t: torch.autograd.functional.jacobian(f, t, vectorize=True, strategy="forward-mode"),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits"])
@pytest.mark.parametrize("name", FUNCTIONAL)
def test_autograd_functional(name, loss, save):
    for activation in ("relu", *SMOOTH):
        assert_same(FUNCTIONAL[name], scalar_pair(activation, save, loss), tensors())


@pytest.mark.parametrize("which", ["mlp", "objective"])
@pytest.mark.parametrize("moved", [(0,), (1,), (2, 4), (3,), ALL], ids=lambda moved: "-".join(NAMES[i] for i in moved))
def test_dual_numbers(activation, save, which, moved):
    """forward_ad.dual_level, and the backward pass of the tangent: reverse over forward."""
    t = tensors()
    pair = vector_pair(activation, save) if which == "mlp" else scalar_pair(activation, save, "bce_with_logits")

    def tangent(f):
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(a, v) if i in moved else a
                for i, (a, v) in enumerate(zip(t, directions(t), strict=True))
            ]
            primal, tangent = forward_ad.unpack_dual(f(*duals))
        return primal, tangent, *gradients(tangent.square().sum() + primal.sum(), t)

    ours, torchs = (tangent(f) for f in pair)
    assert_close(ours, torchs, TOLERANCE)


@pytest.mark.parametrize("pair", [vector_pair, scalar_pair], ids=["mlp", "objective"])
def test_dual_numbers_without_grad_mode(save, pair):
    """Forward mode alone, as in an evaluation of derivatives that keeps no graph."""
    t = tensors()
    with torch.no_grad(), forward_ad.dual_level():
        x = forward_ad.make_dual(t[0], directions(t)[0])
        got, expected = (forward_ad.unpack_dual(f(x, *t[1:])) for f in pair("gelu", save))
    assert not got.tangent.requires_grad
    assert_close(got, expected, TOLERANCE)


@pytest.mark.parametrize("save", SAVES)
def test_forward_over_reverse_by_dual_numbers(save):
    """The gradient's tangent: dual parameters, then backward inside the level."""
    t = tensors()

    def hvp(f):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(a, v) for a, v in zip(t, directions(t), strict=True)]
            first = torch.autograd.grad(f(*duals), duals, create_graph=True)
            return [forward_ad.unpack_dual(g).tangent for g in first]

    ours, torchs = (hvp(f) for f in scalar_pair("silu", save))
    assert_close(ours, torchs, TOLERANCE, NAMES)
