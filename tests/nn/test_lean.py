"""What accumulate_grad and step refuse, by name, before anything is written.

On the CPU: it is refused in Python, and before anybody asks where the tensors are.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import torch_manual_bp as tmb


def objective_of(dtype=torch.float32, **options):
    return tmb.Objective(tmb.MLP(5, 6, 4, dtype=dtype), weight_decay=0.1, **options)


def batch(dtype=torch.float32):
    return torch.randn(3, 5).to(dtype), torch.tensor([0, 1, 3])


def call_accumulate_grad(objective, x, y, *, optimizer=None, **options):
    return objective.accumulate_grad(x, y, **options)


def call_step(objective, x, y, *, optimizer=None, **options):
    if optimizer is None:
        optimizer = torch.optim.AdamW(objective.parameters())
    return objective.step(x, y, optimizer, **options)


CALLS = {"accumulate_grad": call_accumulate_grad, "step": call_step}
of_both = pytest.mark.parametrize("op", CALLS)


def everything(objective, optimizer=None):
    state = [(p.detach().clone(), p.grad, p.grad is not None and p.grad.clone()) for p in objective.parameters()]
    return state, copy.deepcopy(optimizer.state_dict()) if optimizer else None


def assert_refused(op, objective, error, message, x=None, y=None, **options):
    """The error, in the op's name; every parameter, ``.grad`` and state of the optimizer as it was."""
    for p in objective.parameters():
        p.grad = torch.randn_like(p) if p.is_leaf else None
    optimizer = options.get("optimizer")
    optimizer = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
    before = everything(objective, optimizer)
    default = batch(next(objective.parameters()).dtype)
    with pytest.raises(error, match=f"^{op}: {message}"):
        CALLS[op](objective, default[0] if x is None else x, default[1] if y is None else y, **options)
    torch.testing.assert_close(everything(objective, optimizer), before, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------------- layers


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def forward_hook(mlp):
    mlp.fc1.register_forward_hook(lambda *_: None)


def backward_hook(mlp):
    mlp.fc2.register_full_backward_hook(lambda *_: None)


def own_forward(mlp):
    mlp.fc2.forward = lambda x: x


def subclass(mlp):
    mlp.fc1 = Doubled(5, 6)


def pruned(mlp):
    prune.l1_unstructured(mlp.fc1, "weight", 0.5)


def weight_norm(mlp):
    parametrizations.weight_norm(mlp.fc1)


def spectral_norm(mlp):
    parametrizations.spectral_norm(mlp.fc2)


LAYERS = (forward_hook, backward_hook, own_forward, subclass, pruned, weight_norm, spectral_norm)


@of_both
@pytest.mark.parametrize("change", LAYERS, ids=lambda change: change.__name__)
def test_layers_that_would_have_to_be_called(change, op):
    objective = objective_of()
    change(objective.mlp)
    assert_refused(op, objective, RuntimeError, "mlp's fc1 and fc2 must be plain nn.Linear layers.*the usual loop")


@of_both
def test_global_hooks(op):
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert_refused(op, objective_of(), RuntimeError, "mlp's fc1 and fc2 must be plain nn.Linear layers")
    finally:
        handle.remove()


@of_both
def test_a_wrapped_mlp(op):
    """The mlp's own hooks (DDP's, FSDP's, a profiler's) would be passed by."""
    objective = objective_of()
    objective.mlp.register_forward_pre_hook(lambda *_: None)
    before = everything(objective)
    with pytest.raises(RuntimeError, match=r"^Objective: its mlp \(MLP\) carries hooks.*wrap the Objective instead"):
        CALLS[op](objective, *batch())
    torch.testing.assert_close(everything(objective), before, rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------------------- parameters

NAMES = {"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"}


@of_both
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_a_parameters_gradient(kind, name, op):
    objective = objective_of()
    handle = getattr(objective.mlp.get_parameter(NAMES[name]), kind)(lambda *_: None)
    assert_refused(op, objective, RuntimeError, f"{name} has hooks on its gradient.*remove them, or use the usual loop")
    handle.remove()
    CALLS[op](objective, *batch())


@of_both
def test_hooks_on_a_frozen_parameter_have_nothing_to_see(op):
    objective = objective_of()
    objective.mlp.fc1.weight.register_hook(lambda g: 1 / 0)
    objective.mlp.fc1.weight.requires_grad_(False)
    CALLS[op](objective, *batch())


@of_both
def test_parameters_that_were_computed(op):
    """By functional_call, or by a parametrization that caches: they have no ``.grad``, and no optimizer."""
    objective = objective_of()
    given = {name: p * 2 for name, p in objective.named_parameters()}

    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = objective

        def forward(self, x, y):
            return CALLS[op](self.inner, x, y, optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))]))

    with pytest.raises(TypeError, match=f"^{op}: w1 must be a parameter, got a tensor that was computed"):
        torch.func.functional_call(Calls(), {f"inner.{name}": t for name, t in given.items()}, batch())


def two_views_of_one_vector(mlp):
    flat = torch.randn(30 + 24)
    mlp.fc1.weight.data, mlp.fc2.weight.data = flat[:30].view(6, 5), flat[30:].view(4, 6)
    return RuntimeError, "w2 must own its memory, it shares that of w1"


def tied_layers(mlp):
    """An autoencoder, whose layers are one parameter."""
    mlp.fc1, mlp.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)
    mlp.fc2.weight = mlp.fc1.weight
    return RuntimeError, "w2 must own its memory, it shares that of w1"


def tied_biases(mlp):
    mlp.fc1, mlp.fc2 = nn.Linear(5, 4), nn.Linear(4, 4)
    mlp.fc2.bias = mlp.fc1.bias
    return RuntimeError, "b2 must own its memory, it shares that of b1"


def transposed(mlp):
    mlp.fc2.weight = nn.Parameter(torch.randn(6, 4).t())
    return ValueError, r"w2 must be contiguous, got strides \(1, 4\)"


def zero_stride(mlp):
    mlp.fc1.bias = nn.Parameter(torch.zeros(1).expand(6))
    return ValueError, r"b1 must be contiguous, got strides \(0,\)"


MEMORY = (two_views_of_one_vector, tied_layers, tied_biases, transposed, zero_stride)
of_odd_memory = pytest.mark.parametrize("change", MEMORY, ids=lambda change: change.__name__)


@of_odd_memory
def test_parameters_that_another_tensor_would_notice(change):
    """step overwrites them in place, and all of its errors come before."""
    objective = objective_of()
    error, message = change(objective.mlp)
    d = objective.mlp.in_features
    optimizer = torch.optim.SGD(objective.parameters(), 0.1)
    assert_refused("step", objective, error, message, torch.randn(3, d), optimizer=optimizer)


@of_odd_memory
def test_accumulate_grad_only_reads_them(change):
    """What step refuses, gradients are right for: a tied parameter's is the sum of both its uses."""
    objective = objective_of()
    change(objective.mlp)
    x, y = torch.randn(3, objective.mlp.in_features), torch.tensor([0, 1, 3])
    objective(x, y).backward()
    expected = [p.grad for p in objective.parameters()]
    objective.zero_grad()
    objective.accumulate_grad(x, y, tile_rows=2)
    objective.accumulate_grad(x, y)
    for p, grad in zip(objective.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, 2 * grad, rtol=1e-5, atol=1e-6)


def test_a_parameter_that_is_a_view_of_a_tensor_with_a_history():
    flat = torch.randn(30, requires_grad=True)
    with torch.no_grad():
        view = flat.view(6, 5)
    objective = objective_of()
    del objective.mlp.fc1.weight
    objective.mlp.fc1.weight = view.requires_grad_()
    optimizer = torch.optim.SGD([objective.mlp.fc1.weight], 0.1)
    assert_refused("step", objective, RuntimeError, "w1 must own its memory, got a view", optimizer=optimizer)


# ------------------------------------------------------------------------------------------------------------ arguments

X, Y = batch()
BAD_BATCHES = [
    ({"x": X[0].expand(3, 5)[:, :4]}, ValueError, r"x must have shape \(..., 5\) to fit w1 \(6, 5\), got \(3, 4\)"),
    ({"x": X.double()}, TypeError, "w1 must have x's dtype torch.float64, got torch.float32"),
    ({"x": X.long()}, TypeError, "x must have a floating-point dtype, got torch.int64"),
    ({"x": X.to("meta")}, ValueError, "w1 must be on x's device meta, got cpu"),
    ({"x": X.tolist()}, TypeError, "x must be a tensor, got list"),
    ({"y": torch.tensor([0, 4, 3])}, ValueError, r"y must hold labels in \[0, 4\) or ignore_index -100; got 4 at row"),
    ({"y": torch.tensor([0, 1, -1])}, ValueError, r"y must hold labels in \[0, 4\).*; got -1 at row 2"),
    ({"y": Y.int()}, TypeError, "y must hold class indices of dtype torch.int64 for cross_entropy, got torch.int32"),
    ({"y": Y[:2]}, ValueError, r"y must hold class indices of shape \(3,\) for cross_entropy, got \(2,\)"),
    ({"y": [0, 1, 3]}, TypeError, "y must be a tensor, got list"),
    ({"row_weight": torch.ones(2)}, ValueError, r"row_weight must have shape \(3,\), got \(2,\)"),
    ({"row_weight": torch.ones(3, dtype=torch.bool)}, TypeError, "row_weight must be a floating-point tensor"),
    ({"row_weight": torch.ones(3, requires_grad=True)}, ValueError, "row_weight must not require a gradient"),
    ({"tile_rows": 0}, ValueError, "tile_rows must be at least 1, got 0"),
    ({"tile_rows": -3}, ValueError, "tile_rows must be at least 1, got -3"),
    ({"tile_rows": 2.0}, TypeError, r'tile_rows must be an int or "auto", got 2\.0'),
    ({"tile_rows": "all"}, TypeError, "tile_rows must be an int or \"auto\", got 'all'"),
    ({"tile_rows": True}, TypeError, 'tile_rows must be an int or "auto", got True'),
    ({"tile_rows": None}, TypeError, 'tile_rows must be an int or "auto", got None'),
    ({"process_group": object(), "local": True}, ValueError, "give process_group or local=True, not both"),
]  # fmt: skip


@of_both
@pytest.mark.parametrize(("options", "error", "message"), BAD_BATCHES, ids=[case[2] for case in BAD_BATCHES])
def test_arguments_of_both(options, error, message, op):
    assert_refused(op, objective_of(), error, message, **options)


BAD_SHARES = [
    ({"grad_scale": float("nan")}, ValueError, "grad_scale must be finite, got nan"),
    ({"grad_scale": torch.tensor(float("inf"))}, ValueError, "grad_scale must be finite, got inf"),
    ({"grad_scale": "2"}, TypeError, "grad_scale must be a number, got '2'"),
    ({"grad_scale": True}, TypeError, "grad_scale must be a number, got True"),
    ({"grad_scale": torch.ones(2)}, TypeError, r"grad_scale must be a number, got tensor\(\[1., 1.\]\)"),
    ({"normalizer": 0}, ValueError, "normalizer must be finite and positive, got 0"),
    ({"normalizer": -1.5}, ValueError, r"normalizer must be finite and positive, got -1\.5"),
    ({"normalizer": float("inf")}, ValueError, "normalizer must be finite and positive, got inf"),
    ({"normalizer": [3]}, TypeError, r"normalizer must be a number, got \[3\]"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_SHARES, ids=[case[2] for case in BAD_SHARES])
def test_shares(options, error, message):
    assert_refused("accumulate_grad", objective_of(), error, message, **options)


def test_a_sum_has_no_normalizer():
    message = "normalizer belongs to a mean, this objective is a sum"
    assert_refused("accumulate_grad", objective_of(reduction="sum"), ValueError, message, normalizer=3)


@pytest.mark.parametrize(
    ("clip_norm", "error", "message"),
    [
        (0.0, ValueError, r"clip_norm must be finite and positive, got 0\.0"),
        (-1, ValueError, "clip_norm must be finite and positive, got -1"),
        (float("nan"), ValueError, "clip_norm must be finite and positive, got nan"),
        (float("inf"), ValueError, "clip_norm must be finite and positive, got inf"),
        ("1", TypeError, "clip_norm must be a number, got '1'"),
        (True, TypeError, "clip_norm must be a number, got True"),
    ],
    ids=str,
)
def test_clip_norms(clip_norm, error, message):
    assert_refused("step", objective_of(), error, message, clip_norm=clip_norm)


@pytest.mark.parametrize("tile_rows", [0, -1, 1.5, "some", False], ids=repr)
def test_tile_rows_of_an_objective(tile_rows):
    error = ValueError if type(tile_rows) is int else TypeError
    with pytest.raises(error, match=r"^Objective: tile_rows must be .*, got "):
        objective_of(tile_rows=tile_rows)


# -------------------------------------------------------------------------------------------------- inputs with a graph


@of_both
def test_inputs_that_were_computed(op):
    """No graph is made, so the layer before would never hear of it."""
    x, y = batch()
    message = r"x must be a leaf.*since no graph is made; pass x.detach\(\).requires_grad_\(\)"
    assert_refused(op, objective_of(), RuntimeError, message, x.requires_grad_() * 2, y)


@of_both
def test_targets_that_require_a_gradient(op):
    objective = tmb.Objective(tmb.MLP(5, 6, 4), "mse")
    y = torch.rand(3, 4, requires_grad=True)
    assert_refused(op, objective, RuntimeError, ".*y must not require a gradient", y=y)
    assert y.grad is None


def test_step_has_no_gradient_for_its_inputs():
    x, y = batch()
    assert_refused("step", objective_of(), RuntimeError, "x must not require a gradient", x.requires_grad_(), y)
    assert x.grad is None


# ----------------------------------------------------------------------------------------------------------- optimizers


def test_optimizers_of_other_parameters():
    objective, other = objective_of(), nn.Linear(2, 2)
    for parameters, message in (
        (
            [*objective.parameters(), *other.parameters()],
            "optimizer must train this mlp's parameters alone, it trains 2 others",
        ),
        (list(other.parameters()), "optimizer must train this mlp's parameters alone, it trains 2 others"),
    ):
        optimizer = torch.optim.AdamW(parameters)
        assert_refused("step", objective, ValueError, message, optimizer=optimizer)
        assert not optimizer.state


def test_an_optimizer_of_frozen_parameters_alone():
    objective = objective_of()
    optimizer = torch.optim.SGD(objective.mlp.fc1.parameters(), 0.1)
    objective.mlp.fc1.requires_grad_(False)
    assert_refused("step", objective, ValueError, "optimizer must train.*none of them", optimizer=optimizer)


@pytest.mark.parametrize("optimizer", [0.1, torch.optim.SGD, nn.Linear(1, 1)], ids=["a number", "a class", "a module"])
def test_what_is_no_optimizer(optimizer):
    assert_refused(
        "step", objective_of(), TypeError, r"optimizer must be a torch.optim.Optimizer, got", optimizer=optimizer
    )


def test_an_optimizer_that_evaluates_J_by_itself():
    objective = objective_of()
    optimizer = torch.optim.LBFGS(objective.parameters())
    message = "optimizer must make its step of one gradient, got LBFGS.*accumulate_grad"
    assert_refused("step", objective, ValueError, message, optimizer=optimizer)


# ------------------------------------------------------------------------------------------------ compilers, transforms

EAGERLY = "runs eagerly on plain tensors"


@of_both
def test_under_compile(op):
    objective, (x, y) = objective_of(), batch()
    optimizer = torch.optim.SGD(objective.parameters(), 0.1)
    before = everything(objective, optimizer)
    compiled = torch.compile(lambda: CALLS[op](objective, x, y, optimizer=optimizer), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=f"{op}: {EAGERLY}"):
        compiled()
    torch.testing.assert_close(everything(objective, optimizer), before, rtol=0, atol=0)


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x))(x),
    "vmap": lambda f, x: torch.func.vmap(f)(x.expand(2, 3, 5)),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
}


@of_both
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_under_torch_func(transform, op):
    objective, (x, y) = objective_of(), batch()
    optimizer = torch.optim.SGD(objective.parameters(), 0.1)
    before = everything(objective, optimizer)
    with pytest.raises(RuntimeError, match=f"^{op}: {EAGERLY}"):
        TRANSFORMS[transform](lambda x: CALLS[op](objective, x, y, optimizer=optimizer), x)
    torch.testing.assert_close(everything(objective, optimizer), before, rtol=0, atol=0)


@of_both
def test_tensor_subclasses(op):
    class Tagged(torch.Tensor):
        pass

    x, y = batch()
    assert_refused(op, objective_of(), RuntimeError, EAGERLY, x.as_subclass(Tagged), y)


@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -0.1])
@pytest.mark.parametrize(
    "make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop], ids=lambda make: make.__name__
)
def test_a_learning_rate_that_makes_no_step(make, lr):
    """Torch checks it once, when the optimizer is made; a scheduler can still set it."""
    objective, (x, y) = objective_of(), batch()
    optimizer = make(objective.parameters(), 0.1)
    objective.step(x, y, optimizer)
    optimizer.param_groups[0]["lr"] = lr
    before = [p.detach().clone() for p in objective.parameters()]
    with pytest.raises(ValueError, match=f"step: the optimizer's lr must be finite and not negative, got {lr}"):
        objective.step(x, y, optimizer)
    assert all(torch.equal(p, q) for p, q in zip(objective.parameters(), before, strict=True))


@pytest.mark.parametrize("weight_decay", [float("nan"), float("inf"), -0.1])
def test_a_penalty_that_was_set_to_nonsense(weight_decay):
    objective, (x, y) = objective_of(), batch()
    optimizer = torch.optim.SGD(objective.parameters(), 0.1)
    objective.step(x, y, optimizer)
    objective.weight_decay = weight_decay
    before = [p.detach().clone() for p in objective.parameters()]
    for call in (lambda: objective.step(x, y, optimizer), lambda: objective.accumulate_grad(x, y)):
        with pytest.raises(ValueError, match=f"weight_decay must be finite and not negative, got {weight_decay}"):
            call()
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(objective.parameters(), before, strict=True))
