"""What lands in ``.grad``, and the usual loop by tiles: all that autograd's users do with J but a second derivative."""

import copy
import io
import pickle

import pytest
import torch
from autograd.reference import assert_close
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import torch_manual_bp as tmb

from .cases import LAMBDA, batch, found, objective_of, untiled

pytestmark = pytest.mark.usefixtures("on_device")
TOLERANCE = 1e-12
REFUSED = "^Objective: with tile_rows there is no second derivative.*use tile_rows=None"


@pytest.fixture
def objective():
    return objective_of("gelu", tile_rows=3)


def gradients_of(J, objective, **options):
    return torch.autograd.grad(J, list(objective.parameters()), **options)


# ------------------------------------------------------------------------------------------------------ accumulate_grad


def test_a_second_call_adds_and_keeps_the_tensors_of_the_first(objective):
    (x, y), (x2, y2) = batch(), batch(B=5)
    x.requires_grad_()
    first, second = untiled(objective, x, y), untiled(objective, x2, y2)
    objective.accumulate_grad(x, y, tile_rows=3)
    tensors = [x.grad, *(p.grad for p in objective.parameters())]
    objective.accumulate_grad(x, y, tile_rows=2)
    objective.accumulate_grad(x2, y2)
    assert all(t is now for t, now in zip(tensors, [x.grad, *(p.grad for p in objective.parameters())], strict=True))
    expected = [2 * first[1], *(2 * a + b for a, b in zip(first[2:], second[2:], strict=True))]
    assert_close(tensors, expected, TOLERANCE)


def test_it_joins_what_backward_left_and_the_other_way_round(objective):
    x, y = batch()
    expected = [2 * g for g in untiled(objective, x, y)[2:]]
    for calls in ((objective.accumulate_grad, objective), (objective, objective.accumulate_grad)):
        objective.zero_grad()
        for call in calls:
            J = call(x, y)
            if J.requires_grad:
                J.backward()
        assert_close([p.grad for p in objective.parameters()], expected, TOLERANCE)


GRADS = {
    "transposed": lambda p: torch.randn(*p.shape[::-1], dtype=p.dtype).permute(*range(p.dim() - 1, -1, -1)),
    "every other": lambda p: torch.randn(*p.shape, 2, dtype=p.dtype)[..., 0],
    "part of one vector": lambda p: torch.randn(p.numel() + 3, dtype=p.dtype)[3:].view(p.shape),
    "zeros": torch.zeros_like,
}


@pytest.mark.parametrize("tile_rows", [3, "auto"], ids="tile_rows={}".format)
@pytest.mark.parametrize("layout", GRADS)
def test_grads_of_any_layout_are_added_to_in_their_place(layout, tile_rows, objective):
    """As flattened optimizers and buckets make them; the version says that they changed."""
    x, y = batch()
    expected = untiled(objective, x, y)[2:]
    for p in objective.parameters():
        p.grad = GRADS[layout](p)
    held = [(p.grad, p.grad.clone(), p.grad._version) for p in objective.parameters()]
    objective.accumulate_grad(x, y, tile_rows=tile_rows)
    for p, (grad, before, version), added in zip(objective.parameters(), held, expected, strict=True):
        assert p.grad is grad and grad._version > version
        assert_close([grad], [before + added], TOLERANCE)


def test_some_have_a_gradient_and_some_do_not(objective):
    x, y = batch()
    expected = untiled(objective, x, y)[2:]
    objective.mlp.fc1.bias.grad = torch.ones(6, dtype=torch.float64)
    objective.accumulate_grad(x, y)
    assert_close([p.grad for p in objective.parameters()], [g + (i == 1) for i, g in enumerate(expected)], TOLERANCE)


def test_gradients_are_the_callers_own(objective):
    """Not views of the workspace, which the next call overwrites."""
    x, y = batch()
    objective.accumulate_grad(x, y, tile_rows=3)
    held = [(p.grad, p.grad.clone()) for p in objective.parameters()]
    objective.zero_grad()
    objective.accumulate_grad(2 * x, y, tile_rows=3)
    assert all(torch.equal(grad, before) and grad.is_contiguous() for grad, before in held)


def test_J_and_gradients_have_no_graph(objective):
    x, y = batch()
    J = objective.accumulate_grad(x.requires_grad_(), y)
    assert not J.requires_grad and not x.grad.requires_grad
    assert not any(p.grad.requires_grad for p in objective.parameters())


def test_it_works_under_no_grad_and_leaves_no_version_behind(objective):
    """Gradients are asked for by name, whatever the mode; and parameters are only read."""
    x, y = batch()
    versions = [p._version for p in objective.parameters()]
    with torch.no_grad():
        objective.accumulate_grad(x, y, tile_rows=3)
    assert_close([p.grad for p in objective.parameters()], untiled(objective, x, y)[2:], TOLERANCE)
    assert [p._version for p in objective.parameters()] == versions


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(objective, set_to_none):
    x, y = batch()
    for _ in range(2):
        objective.zero_grad(set_to_none=set_to_none)
        objective.accumulate_grad(x, y)
    assert_close([p.grad for p in objective.parameters()], untiled(objective, x, y)[2:], TOLERANCE)


def test_the_grad_scalers_scale(objective):
    """Scaled by hand, unscaled and stepped by the scaler: what a plain step does."""
    x, y = batch(dtype=torch.float32)
    objective.float()
    twin = copy.deepcopy(objective)
    scaler = torch.amp.GradScaler(x.device.type, init_scale=1024.0)
    optimizer = torch.optim.SGD(objective.parameters(), 0.1)
    scaler.scale(torch.zeros(()))  # makes the scale
    objective.accumulate_grad(x, y, grad_scale=scaler.get_scale())
    scaler.step(optimizer)
    scaler.update()
    plain = torch.optim.SGD(twin.parameters(), 0.1)
    twin(x, y).backward()
    plain.step()
    assert_close(objective.parameters(), twin.parameters(), 1e-6)


# ------------------------------------------------------------------------------------------------------- the usual loop


def test_a_second_backward_of_a_retained_graph_doubles(objective):
    x, y = batch()
    x.requires_grad_()
    expected = untiled(objective, x, y)[1:]
    J = objective(x, y)
    J.backward(retain_graph=True)
    J.backward()
    assert_close(found(J, objective, x)[1:], [2 * g for g in expected], TOLERANCE)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        J.backward()


def test_J_inside_a_larger_loss(objective):
    """Scaled, negated, beside terms of the same parameters and inputs, from two calls of one objective."""
    (x, y), (x2, y2) = batch(), batch(B=5)
    x.requires_grad_()
    w = objective.mlp.fc1.weight

    def larger(module):
        return -3 * module(x, y) + module(x2, y2).exp() + (w * x.sum()).sin().sum()

    at = [x, *objective.parameters()]
    got = torch.autograd.grad(larger(objective), at)
    objective.tile_rows = None
    assert_close(got, torch.autograd.grad(larger(objective), at), TOLERANCE)


def test_inputs_that_were_computed(objective):
    """The layer before it gets its gradient: x is no leaf."""
    layer, (x, y) = nn.Linear(5, 5).double(), batch()
    got = torch.autograd.grad(objective(layer(x), y), [*layer.parameters(), *objective.parameters()])
    objective.tile_rows = None
    expected = torch.autograd.grad(objective(layer(x), y), [*layer.parameters(), *objective.parameters()])
    assert_close(got, expected, TOLERANCE)


def test_targets_that_require_a_gradient_get_one():
    """Distillation: J then takes the whole batch, for which alone ∂J/∂y is derived."""
    objective, (x, y) = objective_of("gelu", "mse", tile_rows=3), batch("mse")
    y.requires_grad_()
    got = torch.autograd.grad(objective(x, y), [y, *objective.parameters()])
    objective.tile_rows = None
    assert_close(got, torch.autograd.grad(objective(x, y), [y, *objective.parameters()]), TOLERANCE)


def test_gradients_by_some_of_the_parameters(objective):
    x, y = batch()
    expected = untiled(objective, x, y)[2:]
    names = [name for name, _ in objective.named_parameters()]
    for i, p in enumerate(objective.parameters()):
        assert_close(torch.autograd.grad(objective(x, y), p), [expected[i]], TOLERANCE, names[i : i + 1])


def test_hooks_on_parameters_see_and_change_the_gradient(objective):
    x, y = batch()
    expected, seen, after = untiled(objective, x, y)[2:], [], []
    for p in objective.parameters():
        p.register_hook(lambda g: seen.append(g.clone()) or 2 * g)
        p.register_post_accumulate_grad_hook(lambda p: after.append(p.grad.clone()))
    objective(x, y).backward()
    assert len(seen) == len(after) == 4
    by_shape = {tuple(g.shape): g for g in seen}
    assert_close([by_shape[tuple(g.shape)] for g in expected], expected, TOLERANCE)
    assert_close([p.grad for p in objective.parameters()], [2 * g for g in expected], TOLERANCE)


def test_gradient_accumulation_over_micro_batches(objective):
    x, y = batch(B=8)
    expected = untiled(objective, x, y)[2:]
    for part in zip(x.split(2), y.split(2), strict=True):
        (objective(*part) / 4).backward()
    assert_close([p.grad for p in objective.parameters()], expected, TOLERANCE)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "autocast bfloat16"])
def test_grad_scaler(dtype):
    objective, (x, y) = objective_of("gelu", dtype=torch.float32, tile_rows=3), batch(dtype=torch.float32)
    twin = copy.deepcopy(objective)
    twin.tile_rows = None
    for module in (objective, twin):
        scaler = torch.amp.GradScaler(x.device.type, init_scale=1024.0)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
                J = module(x, y)
            scaler.scale(J).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 1024.0
    assert_close(objective.parameters(), twin.parameters(), 4 * torch.finfo(dtype or torch.float32).eps)


def test_grad_scaler_skips_a_step_that_overflowed():
    objective, (x, y) = objective_of("relu", dtype=torch.float32, tile_rows=3), batch(dtype=torch.float32)
    before = [p.detach().clone() for p in objective.parameters()]
    scaler = torch.amp.GradScaler(x.device.type, init_scale=2.0**16)
    optimizer = torch.optim.SGD(objective.parameters(), 1.0)
    scaler.scale(objective(x * 1e38, y)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15
    assert all(torch.equal(p, b) for p, b in zip(objective.parameters(), before, strict=True))


def test_backward_outside_autocast_is_that_inside():
    objective, (x, y) = objective_of("gelu", dtype=torch.float32, tile_rows=3), batch(dtype=torch.float32)
    with torch.autocast(x.device.type, torch.bfloat16):
        inside = gradients_of(objective(x, y), objective)
        J = objective(x, y)
    assert all(torch.equal(a, b) for a, b in zip(inside, gradients_of(J, objective), strict=True))


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "mm" in function.name()
        return function(*args, **(kwargs or {}))


def test_a_value_costs_the_two_products_of_the_forward_pass(objective):
    """Evaluation under no_grad, in tiles of which there are three."""
    x, y = batch()
    expected = untiled(objective, x, y)[0]
    objective.eval()
    with torch.no_grad(), Products() as products:
        J = objective(x, y)
    assert products.count == 2 * 3
    assert not J.requires_grad
    assert_close([J], [expected], TOLERANCE)
    with torch.inference_mode():
        assert_close([objective(x, y)], [expected], TOLERANCE)


# --------------------------------------------------------------------------------------------------- second derivatives


def test_a_penalty_on_the_gradient_is_refused_and_not_dropped(objective):
    x, y = batch()
    J = objective(x, y)
    penalty = sum(g.square().sum() for g in gradients_of(J, objective, create_graph=True))
    for loss in (penalty, objective(x, y) + penalty, (J - 1).square() + penalty):
        with pytest.raises(RuntimeError, match=REFUSED):
            loss.backward(retain_graph=True)
    assert all(p.grad is None for p in objective.parameters())


def test_a_penalty_on_the_gradient_by_the_inputs_is_refused(objective):
    """The one of WGAN-GP: x is the only input that is asked for."""
    x, y = batch()
    (dx,) = torch.autograd.grad(objective(x.requires_grad_(), y), x, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        (dx.norm(dim=1) - 1).square().mean().backward()


def test_a_hessian_and_a_hessian_vector_product_are_refused(objective):
    x, y = batch()
    at = list(objective.parameters())
    dw1, *_ = gradients_of(objective(x, y), objective, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.grad(dw1, at, torch.ones_like(dw1), allow_unused=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.functional.hessian(lambda x: objective(x, y), x)


def test_a_derivative_by_what_J_is_multiplied_with_is_refused(objective):
    """By a learned weight of the task: ∂/∂a of a ∂J/∂W is first-order in J, but comes through its gradient."""
    x, y = batch()
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    dw1, *_ = gradients_of(a * objective(x, y), objective, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.grad(dw1.sum(), a)


def test_create_graph_alone_is_right(objective):
    x, y = batch()
    expected = untiled(objective, x, y)[2:]
    assert_close(gradients_of(objective(x, y), objective, create_graph=True), expected, TOLERANCE)
    detached = [g.detach() for g in gradients_of(objective(x, y), objective, create_graph=True)]
    loss = sum((g * p).sum() for g, p in zip(detached, objective.parameters(), strict=True))
    assert_close(gradients_of(loss, objective), expected, TOLERANCE)


def test_is_grads_batched(objective):
    x, y = batch()
    expected = untiled(objective, x, y)[2:]
    cotangents = torch.tensor([1.0, -2.0], dtype=torch.float64)
    got = gradients_of(objective(x, y), objective, grad_outputs=cotangents, is_grads_batched=True)
    assert_close(got, [torch.stack([g, -2 * g]) for g in expected], TOLERANCE)


# --------------------------------------------------------------------------------- copies, hooks, transforms, compilers


def test_only_gradients_are_saved_and_in_numbers_that_do_not_grow_with_the_batch(objective):
    saved = {}
    for B in (7, 70):
        shapes = saved[B] = []

        def pack(t, shapes=shapes):
            shapes.append(tuple(t.shape))
            return t.clone()

        x, y = batch(B=B)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            J = objective(x, y)
        assert_close(gradients_of(J, objective), untiled(objective, x, y)[2:], TOLERANCE)
    assert saved[7] == saved[70] == [tuple(p.shape) for p in objective.parameters()]


def test_a_loss_that_is_kept_for_the_log_keeps_nothing_else(objective):
    """After backward: the gradients are gone with the graph's buffers, J's number is what is left."""
    x, y = batch()
    J = objective(x, y)
    J.backward()
    with pytest.raises(RuntimeError, match="already been freed"):
        _ = J.grad_fn.saved_tensors


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_share_nothing_and_carry_no_workspace(objective, copied):
    x, y = batch(B=300)
    size = len(pickle.dumps(objective))
    objective.accumulate_grad(x, y, tile_rows=100)
    objective.zero_grad()
    assert objective.workspace_bytes > 0 and len(pickle.dumps(objective)) <= size + 64
    twin = copied(objective)
    assert twin.workspace_bytes == 0 and twin.tile_rows == 3
    expected = gradients_of(objective(x, y), objective)
    with torch.no_grad():
        for p in objective.parameters():
            p.zero_()
    assert_close(gradients_of(twin(x, y), twin), expected, TOLERANCE)


def test_state_dict_is_that_without_tiles(objective):
    plain, (x, y) = objective_of("gelu"), batch()
    assert plain.state_dict().keys() == objective.state_dict().keys()
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    plain.load_state_dict(torch.load(file))
    assert_close([objective(x, y)], [plain(x, y)], TOLERANCE)


def test_the_module_moves_between_dtypes(objective):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        objective.to(dtype)
        x, y = batch(dtype=dtype)
        got = gradients_of(objective(x, y), objective)
        assert_close(got, untiled(objective, x, y)[2:], 8 * torch.finfo(dtype).eps)


def test_layers_that_are_called_take_the_whole_batch(objective):
    """A hook on fc1: the layers run as modules, and tile_rows has nothing to say."""
    x, y = batch()
    expected, calls = untiled(objective, x, y)[2:], []
    objective.mlp.fc1.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    assert_close(gradients_of(objective(x, y), objective), expected, TOLERANCE)
    assert calls == [7]


def test_compiled_without_a_break(objective):
    x, y = batch()
    expected = untiled(objective, x, y)
    J = torch.compile(objective, backend="aot_eager", fullgraph=True)(x, y)
    assert_close([J, *gradients_of(J, objective)], [expected[0], *expected[2:]], TOLERANCE)


def test_torch_func(objective):
    """Transforms take the whole batch, at every order."""
    x, y = batch()
    parameters = {name: p.detach() for name, p in objective.named_parameters()}

    def J(parameters, x, y):
        return torch.func.functional_call(objective, parameters, (x, y))

    expected = untiled(objective, x, y)[2:]
    assert_close(torch.func.grad(J)(parameters, x, y).values(), expected, TOLERANCE)
    of_rows = torch.func.vmap(torch.func.grad(J), (None, 0, 0))(parameters, x[:, None], y[:, None])
    assert_close([g.mean(0) for g in of_rows.values()], expected, TOLERANCE)
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}
    value, derivative = torch.func.jvp(lambda p: J(p, x, y), (parameters,), (tangents,))
    inner = sum((g * t).sum() for g, t in zip(expected, tangents.values(), strict=True))
    assert_close([value, derivative], [objective(x, y), inner], TOLERANCE)
    hvp = torch.func.jvp(torch.func.grad(lambda p: J(p, x, y)), (parameters,), (tangents,))[1]
    objective.tile_rows = None
    first = gradients_of(objective(x, y), objective, create_graph=True)
    expected = gradients_of(first, objective, grad_outputs=list(tangents.values()))
    assert_close(hvp.values(), expected, TOLERANCE)


def test_functional_call_in_eager_mode(objective):
    """Other tensors in place of the parameters, computed ones: an ensemble's member, a hypernetwork's output."""
    x, y = batch()
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def by_scale():
        scaled = {name: p.detach() * scale for name, p in objective.named_parameters()}
        return torch.autograd.grad(torch.func.functional_call(objective, scaled, (x, y)), scale)

    got = by_scale()
    objective.tile_rows = None
    assert_close(got, by_scale(), TOLERANCE)


def test_exported(objective):
    x, y = batch()
    exported = torch.export.export(objective, (x, y)).module()
    assert_close([exported(x, y)], untiled(objective, x, y)[:1], TOLERANCE)


def test_checkpointed(objective):
    x, y = batch()
    x.requires_grad_()
    for reentrant in (False, True):
        J = torch.utils.checkpoint.checkpoint(objective, x, y, use_reentrant=reentrant)
        objective.zero_grad()
        x.grad = None
        J.backward()
        assert_close(found(J.detach(), objective, x), untiled(objective, x, y), TOLERANCE)


def test_layers_shared_with_a_sequential():
    """from_linears: the gradients land in the layers' own parameters."""
    fc1, fc2 = nn.Linear(5, 6).double(), nn.Linear(6, 4).double()
    objective = tmb.Objective(tmb.MLP.from_linears(fc1, nn.GELU(), fc2), weight_decay=LAMBDA, tile_rows=3)
    x, y = batch()
    objective(x, y).backward()
    penalty = LAMBDA / 2 * (fc1.weight.square().sum() + fc2.weight.square().sum())
    J = nn.functional.cross_entropy(nn.Sequential(fc1, nn.GELU(), fc2)(x), y) + penalty
    at = [*fc1.parameters(), *fc2.parameters()]
    assert_close([p.grad for p in at], torch.autograd.grad(J, at), TOLERANCE)
