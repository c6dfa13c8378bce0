"""Calls that were bound once: whatever changes between two of them, the second is what a first call would have been."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.optim.optimizer import register_optimizer_step_pre_hook

import torch_manual_bp as tmb

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
}
of_optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
TOLERANCE = 1e-11


class Case:
    """An objective with its optimizer and rows; on a device by name, for under a mode no call is bound."""

    def __init__(self, name, device, dtype=torch.float64, **options):
        torch.manual_seed(0)
        mlp = tmb.MLP(6, 6, 6, "tanh", device=device, dtype=dtype)
        self.objective = tmb.Objective(mlp, weight_decay=0.1, **options)
        self.optimizer = OPTIMIZERS[name](self.objective.parameters())
        self.like = {"device": device, "dtype": dtype}
        self.x, self.y = torch.randn(7, 6, **self.like), self.labels(7)
        self.clip_norm = None

    def labels(self, rows):
        return torch.randint(6, (rows,), device=self.like["device"])

    def lean(self):
        """A step, and J and gradients at where it leads."""
        return [self.objective.step(self.x, self.y, self.optimizer, clip_norm=self.clip_norm), *self.gradients()]

    def gradients(self):
        for p in self.objective.parameters():
            p.grad = None
        J = self.objective.accumulate_grad(self.x, self.y)
        found = [J, *(p.grad.clone() for p in self.objective.parameters() if p.grad is not None)]
        self.objective.accumulate_grad(self.x, self.y)
        return [*found, *(p.grad.clone() for p in self.objective.parameters() if p.grad is not None)]

    def usual(self):
        """The same by autograd, and the loss alone by torch's own functions."""
        mlp, objective = self.objective.mlp, self.objective

        def J_of_sequential():
            o = F.linear(tmb.equations.ACTIVATIONS[mlp.activation].phi(mlp.fc1(self.x)), mlp.fc2.weight, mlp.fc2.bias)
            weight = None if objective.class_weight is None else objective.class_weight.to(o.dtype)
            J = F.cross_entropy(o, self.y, weight, ignore_index=objective.loss.ignore_index)
            return J + objective.weight_decay / 2 * (mlp.fc1.weight.square().sum() + mlp.fc2.weight.square().sum())

        self.optimizer.zero_grad()
        first = J_of_sequential()
        first.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(objective.parameters(), self.clip_norm)
        self.optimizer.step()
        for p in objective.parameters():
            p.grad = None
        J = J_of_sequential()
        J.backward()
        gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        return [first.detach(), J.detach(), *gradients, *(2 * g for g in gradients)]

    def parameters(self):
        return [p.detach().clone() for p in self.objective.parameters()]


def rows_of_another_kind(case):
    case.x, case.y = torch.randn(4, 6, **case.like), case.labels(4)


def more_rows(case):
    case.x, case.y = torch.randn(300, 6, **case.like), case.labels(300)


def rows_with_strides(case):
    case.x = torch.randn(6, 7, **case.like).t()
    case.y = case.y.repeat_interleave(2)[::2]


def another_weight_decay(case):
    case.objective.weight_decay = 0.3


def no_weight_decay(case):
    case.objective.weight_decay = 0.0


def another_activation(case):
    case.objective.mlp.activation = "gelu"


def another_loss(case):
    case.objective.loss = tmb.Objective(case.objective.mlp, ignore_index=2).loss
    case.y[3] = 2


def weights_of_classes(case):
    case.objective.class_weight = torch.tensor([0.1, 2.0, 1.0, 0.5, 1.0, 3.0], **case.like)


def another_mlp(case):
    """The optimizer goes on with its parameters."""
    case.objective.mlp = copy.deepcopy(case.objective.mlp)
    with torch.no_grad():
        case.objective.mlp.fc1.weight.mul_(2)
    case.optimizer = type(case.optimizer)(case.objective.parameters(), 0.05)


def another_layer(case):
    case.objective.mlp.fc1 = nn.Linear(6, 6, **case.like)
    case.optimizer = type(case.optimizer)(case.objective.parameters(), 0.05)


def another_parameter(case):
    case.objective.mlp.fc2.weight = nn.Parameter(torch.randn(6, 6, **case.like))
    case.optimizer = type(case.optimizer)(case.objective.parameters(), 0.05)


def other_data_in_a_parameter(case):
    case.objective.mlp.fc2.weight.data = torch.ones(6, 6, **case.like)


def the_same_memory_transposed(case):
    """Of a square weight: neither its address nor its shape changes."""
    case.objective.mlp.fc1.weight.data = case.objective.mlp.fc1.weight.data.t()


def data_written_in_place(case):
    with torch.no_grad():
        case.objective.mlp.fc1.weight.mul_(0.5)


def a_state_dict_loaded(case):
    case.objective.load_state_dict({name: 0.5 * t for name, t in case.objective.state_dict().items()})


def a_state_dict_assigned(case):
    state = {name: 0.5 * t for name, t in case.objective.state_dict().items()}
    case.objective.load_state_dict(state, assign=True)
    case.optimizer = type(case.optimizer)(case.objective.parameters(), 0.05)


def another_dtype(case):
    case.objective.float()
    case.x = case.x.float()
    case.optimizer = type(case.optimizer)(case.objective.parameters(), 0.05)


def no_bias_any_more(case):
    case.objective.mlp.fc1.bias = None
    case.optimizer = type(case.optimizer)(case.objective.parameters(), 0.05)


def a_frozen_layer(case):
    case.objective.mlp.fc1.requires_grad_(False)


def thawed_again(case):
    case.objective.mlp.fc1.requires_grad_(False)
    case.lean_or_usual()
    case.objective.mlp.fc1.requires_grad_(True)


def another_learning_rate(case):
    case.optimizer.param_groups[0]["lr"] = 0.03


def a_learning_rate_that_is_a_tensor(case):
    case.optimizer.param_groups[0]["lr"] = torch.tensor(0.03)
    case.optimizer.param_groups[0]["foreach"] = False


def the_optimizers_own_weight_decay(case):
    case.optimizer.param_groups[0]["weight_decay"] = 0.2


def maximize(case):
    case.optimizer.param_groups[0]["maximize"] = True


def a_group_added(case):
    group = case.optimizer.param_groups[0]
    bias = group["params"].pop()
    case.optimizer.add_param_group({"params": [bias], "lr": 0.5 * group["lr"]})


def a_parameter_taken_out(case):
    case.optimizer.param_groups[0]["params"].pop()


def parameters_in_another_order(case):
    case.optimizer.param_groups[0]["params"].reverse()


def another_optimizer(case):
    case.optimizer = torch.optim.Adam(case.objective.parameters(), 0.02, weight_decay=0.1)


def an_optimizers_state_loaded(case):
    """Of another time: the buffers of before are no one's any more. Twice: the first load reorders the options."""
    for _ in range(2):
        saved = copy.deepcopy(case.optimizer.state_dict())
        for state in saved["state"].values():
            for key, value in state.items():
                if value is not None and key != "step":
                    value.mul_(0.5)
        case.optimizer.load_state_dict(saved)
        case.lean_or_usual()


def an_optimizers_state_cleared(case):
    case.optimizer.state.clear()


def an_optimizers_state_of_one_parameter_cleared(case):
    case.optimizer.state.pop(case.objective.mlp.fc1.weight, None)


def a_number_of_the_state_replaced(case):
    for state in case.optimizer.state.values():
        for key, value in state.items():
            if value is not None:
                state[key] = value * 0.5 if key != "step" else value + 3


def clipping(case):
    case.clip_norm = 0.05


def other_clipping(case):
    case.clip_norm = 0.05
    case.lean_or_usual()
    case.clip_norm = 0.01


def a_hook_on_a_layer(case):
    """A lean step refuses it: the call afterwards is as right as it ever was, when the hook is gone."""
    handle = case.objective.mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"must be plain nn.Linear"):
        case.objective.step(case.x, case.y, case.optimizer)
    handle.remove()


CHANGES = [
    rows_of_another_kind, more_rows, rows_with_strides, another_weight_decay, no_weight_decay, another_activation,
    another_loss, weights_of_classes, another_mlp, another_layer, another_parameter, other_data_in_a_parameter,
    data_written_in_place, a_state_dict_loaded, a_state_dict_assigned, another_dtype, no_bias_any_more,
    a_frozen_layer, thawed_again, another_learning_rate, a_learning_rate_that_is_a_tensor,
    the_optimizers_own_weight_decay, maximize, a_group_added, a_parameter_taken_out, parameters_in_another_order,
    another_optimizer, an_optimizers_state_loaded, an_optimizers_state_cleared,
    an_optimizers_state_of_one_parameter_cleared, a_number_of_the_state_replaced, clipping, other_clipping,
    a_hook_on_a_layer,
]  # fmt: skip


@of_optimizers
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.replace("_", " "))
def test_a_change_between_two_calls(change, name, device):
    ours, torchs = Case(name, device), Case(name, device)
    ours.lean_or_usual, torchs.lean_or_usual = ours.lean, torchs.usual
    for case in (ours, torchs):
        for _ in range(2):
            case.lean_or_usual()
    for case in (ours, torchs):
        torch.manual_seed(1)
        change(case)
    for _ in range(3):  # found changed, bound anew, and run
        found, expected = ours.lean(), torchs.usual()
        tolerance = TOLERANCE if ours.x.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(ours.parameters(), torchs.parameters(), rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------------------------- what is refused later


def hook(case):
    case.objective.mlp.fc2.register_forward_hook(lambda *_: None)


def own_forward(case):
    case.objective.mlp.fc2.forward = lambda h: h


def another_class(case):
    """As torch's parametrizations, and some quantisers, put theirs in the place of nn.Linear."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    case.objective.mlp.fc1.__class__ = Doubled


def pruned(case):
    prune.l1_unstructured(case.objective.mlp.fc1, "weight", 0.5)


def weight_norm(case):
    parametrizations.weight_norm(case.objective.mlp.fc1)


def hook_of_the_mlp(case):
    case.objective.mlp.register_forward_hook(lambda *_: None)


def hook_of_a_parameter(case):
    case.objective.mlp.fc1.weight.register_hook(lambda g: g)


def hook_after_accumulation(case):
    case.objective.mlp.fc1.weight.register_post_accumulate_grad_hook(lambda p: None)


def tied_weights(case):
    case.objective.mlp.fc2.weight = case.objective.mlp.fc1.weight


def memory_shared(case):
    case.objective.mlp.fc2.weight.data = case.objective.mlp.fc1.weight.data


def transposed(case):
    the_same_memory_transposed(case)


def other_rows(case):
    case.y = case.y.clone()
    case.y[2] = 6


def a_number_for_x(case):
    case.x = torch.tensor(1.0, **case.like)


def x_that_was_computed(case):
    case.x = case.x.clone().requires_grad_() * 2


def others_in_the_optimizer(case):
    case.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1, **case.like))]})


def another_in_a_parameters_place(case):
    case.optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.zeros(6, 6, **case.like))


BOTH = [hook, own_forward, another_class, pruned, weight_norm, hook_of_the_mlp, hook_of_a_parameter]
BOTH += [hook_after_accumulation, other_rows, a_number_for_x, x_that_was_computed]
STEP = [tied_weights, memory_shared, transposed, others_in_the_optimizer, another_in_a_parameters_place]


def refused(change, name, device, op, call):
    if change is other_rows and device != "cpu":
        pytest.skip("labels on an accelerator are looked at on request alone: it would wait for them")
    case = Case(name, device)
    for _ in range(2):
        case.lean()
    change(case)
    before = case.parameters(), copy.deepcopy(list(case.optimizer.state.values()))
    grads = [(p.grad, None if p.grad is None else p.grad.clone()) for p in case.objective.parameters()]
    with pytest.raises((RuntimeError, ValueError, TypeError), match=f"^({op}|Objective): "):
        call(case)
    after = case.parameters(), list(case.optimizer.state.values())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    for p, (grad, value) in zip(case.objective.parameters(), grads, strict=True):
        assert p.grad is grad and (grad is None or torch.equal(grad, value))


@of_optimizers
@pytest.mark.parametrize("change", BOTH + STEP, ids=lambda change: change.__name__.replace("_", " "))
def test_step_refuses_what_it_would_have_refused_at_first(change, name, device):
    refused(change, name, device, "step", lambda case: case.objective.step(case.x, case.y, case.optimizer))


@pytest.mark.parametrize("change", BOTH, ids=lambda change: change.__name__.replace("_", " "))
def test_accumulate_grad_refuses_what_it_would_have_refused_at_first(change, device):
    refused(change, "SGD", device, "accumulate_grad", lambda case: case.objective.accumulate_grad(case.x, case.y))


# ------------------------------------------------------------------------------------------------ gradients, and around


def test_a_tied_parameters_gradient_is_the_sum_of_both_uses_on_every_call(device):
    like = {"device": device, "dtype": torch.float64}
    mlp = tmb.MLP(6, 6, 6, "tanh", **like)
    mlp.fc2.weight = mlp.fc1.weight
    objective = tmb.Objective(mlp)
    x, y = torch.randn(7, 6, **like), torch.randint(6, (7,), device=device)
    objective(x, y).backward()
    expected = [p.grad.clone() for p in objective.parameters()]
    for _ in range(3):
        objective.zero_grad()
        objective.accumulate_grad(x, y)
        torch.testing.assert_close([p.grad for p in objective.parameters()], expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("with_grad", [0, 3], ids=["the first", "the last"])
def test_one_parameter_has_a_gradient_and_the_others_do_not(with_grad, device):
    case = Case("SGD", device)
    for _ in range(2):
        case.lean()
    parameters = list(case.objective.parameters())
    case.objective.zero_grad()
    case.objective(case.x, case.y).backward()
    expected = [p.grad + (i == with_grad) for i, p in enumerate(parameters)]
    case.objective.zero_grad()
    parameters[with_grad].grad = torch.ones_like(parameters[with_grad])
    case.objective.accumulate_grad(case.x, case.y)
    torch.testing.assert_close([p.grad for p in parameters], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_class_weights_changed_in_place(device):
    """In another dtype than the net's, of which a copy may be at work."""
    for dtype in (torch.float32, torch.float64):
        case = Case("SGD", device, class_weight=torch.ones(6, device=device, dtype=dtype))
        for _ in range(2):
            case.lean()
        case.objective.class_weight[2:] = 5.0
        J = case.objective.accumulate_grad(case.x, case.y)
        torch.testing.assert_close(J, case.objective(case.x, case.y).detach(), rtol=TOLERANCE, atol=0)


def test_a_step_put_in_the_place_of_the_optimizers_afterwards_is_taken(device):
    case, calls = Case("SGD", device), []
    for _ in range(2):
        case.lean()
    own = case.optimizer.step
    case.optimizer.step = lambda closure=None: calls.append(1) or own(closure)
    case.lean()
    assert calls == [1]


def test_hooks_of_the_optimizer_registered_afterwards_are_called(device):
    case, calls = Case("AdamW", device), []
    for _ in range(2):
        case.lean()
    case.optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    handle = register_optimizer_step_pre_hook(lambda *_: calls.append("all"))
    try:
        case.lean()
    finally:
        handle.remove()
    assert calls == ["all", "post"]


def test_a_scheduler_made_afterwards(device):
    ours, torchs = Case("momentum", device), Case("momentum", device)
    for _ in range(2):
        ours.lean()
        torchs.usual()
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(case.optimizer, 0.5) for case in (ours, torchs)]
    for _ in range(3):
        torch.testing.assert_close(ours.lean(), torchs.usual(), rtol=TOLERANCE, atol=TOLERANCE)
        for scheduler in schedulers:
            scheduler.step()


def test_autocast_around_a_bound_call_is_heard(device):
    case = Case("SGD", device, dtype=torch.float32)
    for _ in range(2):
        case.lean()
    plain = case.gradients()
    with torch.autocast(device, torch.bfloat16):
        short = case.gradients()
    assert all(g.dtype == torch.float32 for g in short)
    differences = [(a - b).norm() / a.norm() for a, b in zip(plain[1:], short[1:], strict=True)]
    assert 1e-5 < max(differences) < 0.05


def test_a_global_hook_around_a_bound_call_is_heard(device):
    case = Case("SGD", device)
    for _ in range(2):
        case.lean()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match=r"^step: mlp's fc1 and fc2 must be plain"):
            case.lean()
    finally:
        handle.remove()


def test_transforms_around_a_bound_call_are_refused(device):
    case = Case("SGD", device)
    for _ in range(2):
        case.lean()
    with pytest.raises(RuntimeError, match=r"^accumulate_grad: runs eagerly on plain tensors"):
        torch.func.vmap(lambda x: case.objective.accumulate_grad(x, case.y))(case.x.expand(2, 7, 6))
    with pytest.raises(RuntimeError, match=r"^step: runs eagerly on plain tensors"):
        torch.func.grad(lambda a: case.objective.step(case.x, case.y, case.optimizer) * a)(
            torch.ones((), device=device)
        )
    compiled = torch.compile(lambda: case.objective.accumulate_grad(case.x, case.y), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="accumulate_grad: runs eagerly on plain tensors"):
        compiled()


def test_a_deep_copy_is_bound_to_its_own_parameters(device):
    case = Case("SGD", device)
    for _ in range(2):
        case.lean()
    twin = copy.deepcopy(case.objective)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(0.5)
    twin.zero_grad()
    J = twin.accumulate_grad(case.x, case.y)
    torch.testing.assert_close(J, twin(case.x, case.y).detach(), rtol=TOLERANCE, atol=0)
    assert all(p.grad is not None for p in twin.parameters())


def test_a_shallow_copy_has_options_of_its_own(device):
    """The same net under two penalties."""
    case = Case("SGD", device)
    for _ in range(2):
        case.lean()
    twin = copy.copy(case.objective)
    twin.weight_decay = 5.0
    for _ in range(2):
        for objective in (twin, case.objective):
            J = objective.accumulate_grad(case.x, case.y)
            torch.testing.assert_close(J, objective(case.x, case.y).detach(), rtol=TOLERANCE, atol=0)
            J = objective(case.x, case.y).detach()
            torch.testing.assert_close(objective.step(case.x, case.y, case.optimizer), J, rtol=TOLERANCE, atol=0)


def test_versions_move_on_every_call(device):
    """Of parameters by step, of gradients that are added to by accumulate_grad."""
    case = Case("AdamW", device)
    for _ in range(4):
        versions = [p._version for p in case.objective.parameters()]
        case.objective.step(case.x, case.y, case.optimizer)
        assert all(p._version > v for p, v in zip(case.objective.parameters(), versions, strict=True))
        case.objective.accumulate_grad(case.x, case.y)
        versions = [p.grad._version for p in case.objective.parameters()]
        case.objective.accumulate_grad(case.x, case.y)
        assert all(p.grad._version > v for p, v in zip(case.objective.parameters(), versions, strict=True))
