"""All candidates make the same step: else a comparison of their times would be none."""

import shutil

import pytest
import torch

from torch_manual_bp.bench import adamw_steps, sgd_steps
from torch_manual_bp.bench.problem import WEIGHT_DECAY, Problem, matrix_products
from torch_manual_bp.equations import table

STEPS = 3


def changes(candidate, problem, steps):
    """What `steps` steps added to the parameters; a compiled candidate made none while it was compiled."""
    start = [p.detach().clone() for p in problem.mlp().parameters()]
    for parameter, first in zip(candidate.parameters, start, strict=True):
        assert torch.equal(parameter, first), candidate.name
    for _ in range(steps):
        candidate.call()
    return [p.detach() - first for p, first in zip(candidate.parameters, start, strict=True)]


def assert_same(changes, expected, tolerance):
    for change, other in zip(changes, expected, strict=True):
        assert (change - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_sgd_steps_are_the_equations(activation, shape):
    """In float64 the part of λ shows: ηλW is 1e-7 of W."""
    problem = Problem(shape, activation, torch.float64)
    candidates = list(sgd_steps.sgd_candidates(problem, backend="aot_eager"))
    assert [c.name for c in candidates] == ["eager", "eager, fused SGD", "torch.compile", "step"]
    x, y = problem.batch
    w1, b1, w2, b2 = (p.detach() for p in problem.mlp().parameters())
    values = {"x": x, "y": y, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "weight_decay": WEIGHT_DECAY}
    exact = table(activation, "cross_entropy").evaluate(values)
    expected = [-sgd_steps.LEARNING_RATE * exact[name] for name in ("dw1", "db1", "dw2", "db2")]
    for candidate in candidates:
        assert_same(changes(candidate, problem, 1), expected, 1e-11)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_adamw_steps_are_torchs(activation, shape):
    problem = Problem(shape, activation, torch.float64)
    eager, *others = adamw_steps.adamw_candidates(problem, backend="aot_eager")
    expected = changes(eager, problem, STEPS)
    by_hand = [c for c in others if c.parameters]
    names = [c.name for c in by_hand]
    assert names == ["torch.compile", *(["NumPy by hand"] if activation == "relu" else []), "step"]
    for candidate in by_hand:
        assert_same(changes(candidate, problem, STEPS), expected, 1e-10)


def test_the_gradient_is_clipped_in_every_candidate(monkeypatch, shape):
    """A bound far below the gradient's norm leaves Adam's ε visible, so a candidate that did not clip would differ."""
    problem = Problem(shape, "relu", torch.float64)
    monkeypatch.setattr(adamw_steps, "CLIP_NORM", 1e-6)
    candidates = [c for c in adamw_steps.adamw_candidates(problem, backend="aot_eager") if c.parameters]
    first, *rest = [changes(candidate, problem, STEPS) for candidate in candidates]
    for other in rest:
        assert_same(other, first, 1e-10)
    monkeypatch.setattr(adamw_steps, "CLIP_NORM", 1e6)
    unclipped = changes(adamw_steps.eager(problem), problem, STEPS)
    assert (unclipped[0] - first[0]).norm() > 1e-3 * first[0].norm()


def test_scikit_learn_trains_the_same_net(shape):
    sklearn = pytest.importorskip("sklearn.neural_network")
    problem = Problem(shape, "relu")
    candidate = adamw_steps.sklearn_step(problem)
    net = candidate.call()
    assert isinstance(net, sklearn.MLPClassifier)
    assert [w.shape for w in net.coefs_] == [(5, 7), (7, 3)]
    assert net.t_ == 2 * len(problem.batch[0])  # rows seen: one step while it was made, one now


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("module", [sgd_steps, adamw_steps], ids=["sgd", "adamw"])
def test_the_compiled_step_is_the_eager_one(module, shape):
    """As it is timed: float32, Inductor and its C++ wrapper."""
    problem = Problem(shape, "relu")
    expected = changes(module.eager(problem), problem, STEPS)
    start = [p.detach() for p in problem.mlp().parameters()]
    for change, other, first in zip(
        changes(module.compiled_step(problem), problem, STEPS), expected, start, strict=True
    ):
        assert (change - other).norm() <= 1e-5 * first.norm()
        assert (change - other).norm() <= 1e-2 * other.norm()  # λ's part is below float32's rounding, the rest is not


def test_another_problem_is_compiled_for_its_own_sizes_alone():
    """Dynamo would make the second problem's sizes dynamic, and an opponent that is compiled so is a slow one."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for rows in (8, 9):
        sgd_steps.compiled_step(Problem((rows, 5, 7, 3), "relu"), backend=keep)
    assert len(graphs) == 2
    for graph in graphs:
        sizes = [node.meta["example_value"].shape for node in graph.graph.nodes if node.op == "placeholder"]
        assert all(isinstance(size, int) for shape in sizes for size in shape)


def test_the_floor_is_five_products(shape):
    with torch.profiler.profile() as recorded:
        matrix_products(Problem(shape)).call()
    assert sum(event.count for event in recorded.key_averages() if event.key == "aten::mm") == 5


def test_an_activation_without_a_module_has_no_opponent(shape):
    with pytest.raises(ValueError, match="got 'relu_squared'"):
        Problem(shape, "relu_squared")
