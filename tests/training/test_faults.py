"""An error or an interrupt at any point before the last call leaves everything as it was, and the next call works."""

import copy
import threading

import pytest
import torch
from autograd.reference import assert_close
from torch.optim import SGD, Adam, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from .cases import assert_same_state, batch, found, objective_of, state_of, untiled

pytestmark = pytest.mark.usefixtures("made_on_device")
TOLERANCE = 1e-12


class Fault(RuntimeError):
    pass


class FailsAt(TorchDispatchMode):
    """Raises in the place of the n-th matrix product or kernel of this package; counts them."""

    def __init__(self, n, error=Fault):
        super().__init__()
        self.n, self.error, self.seen = n, error, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name.startswith("torch_manual_bp::") or "mm" in name:
            self.seen += 1
            if self.seen == self.n:
                raise self.error(name)
        return function(*args, **(kwargs or {}))


OPTIMIZERS = {
    "SGD": lambda p: SGD(p, 0.1),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9),
    "Adam": lambda p: Adam(p, 0.01, weight_decay=0.1),
    "AdamW": lambda p: AdamW(p, 0.01),
}
TILES = pytest.mark.parametrize("tile_rows", [3, 7, "auto"], ids="tile_rows={}".format)
ERRORS = pytest.mark.parametrize("error", [Fault, KeyboardInterrupt, MemoryError], ids=lambda error: error.__name__)


def faults(call, state, error):
    """The call with a fault at its first, second, … op, until it gets through; the state is the same after each."""
    before = state()
    for n in range(1, 1000):
        try:
            with FailsAt(n, error) as mode:
                call()
        except error:
            assert_same_state(state(), before)
        else:
            assert mode.seen == n - 1
            return n - 1
    raise AssertionError("no end of ops")


@TILES
@ERRORS
@pytest.mark.parametrize("with_grad", [True, False], ids=["grad", "no grad"])
def test_accumulate_grad(with_grad, error, tile_rows):
    objective, (x, y) = objective_of("gelu"), batch()
    x.requires_grad_()
    if with_grad:
        objective(2 * x, y).backward()
    earlier = [None if t.grad is None else t.grad.clone() for t in (x, *objective.parameters())]
    expected = untiled(objective, x, y)[1:]
    times = faults(
        lambda: objective.accumulate_grad(x, y, tile_rows=tile_rows),
        lambda: (state_of(objective), None if x.grad is None else x.grad.clone()),
        error,
    )
    assert times >= 1
    sums = [g if before is None else g + before for g, before in zip(expected, earlier, strict=True)]
    assert_close([x.grad, *(p.grad for p in objective.parameters())], sums, TOLERANCE)


@TILES
@ERRORS
def test_the_usual_loop(error, tile_rows):
    objective, (x, y) = objective_of("gelu", tile_rows=tile_rows), batch()
    assert faults(lambda: objective(x, y), lambda: state_of(objective), error) >= 1
    J = objective(x, y)
    J.backward()
    J_and_gradients = untiled(objective, x, y)
    assert_close(found(J, objective), [J_and_gradients[0], *J_and_gradients[2:]], TOLERANCE)


@TILES
@ERRORS
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step(name, clip_norm, error, tile_rows):
    """Of an optimizer that has a state; the step after the faults is that of a twin that had none."""
    objective, (x, y) = objective_of("gelu"), batch()
    optimizer = OPTIMIZERS[name](objective.parameters())
    objective.step(x, y, optimizer)
    twin = copy.deepcopy(objective)
    for p, q in zip(objective.parameters(), twin.parameters(), strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(p)
    twin_optimizer = OPTIMIZERS[name](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def call():
        objective.step(x, y, optimizer, tile_rows=tile_rows, clip_norm=clip_norm)

    assert faults(call, lambda: state_of(objective, optimizer), error) >= 1
    twin.step(x, y, twin_optimizer, tile_rows=tile_rows, clip_norm=clip_norm)
    assert_same_state(state_of(objective, optimizer), state_of(twin, twin_optimizer))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_after_a_fault_is_a_first_step(name):
    """Whatever the failed one has prepared of the optimizer's state."""
    objective, (x, y) = objective_of("gelu"), batch()
    twin = copy.deepcopy(objective)
    optimizers = [OPTIMIZERS[name](module.parameters()) for module in (objective, twin)]
    with pytest.raises(Fault), FailsAt(1):
        objective.step(x, y, optimizers[0])
    assert_same_state(state_of(objective), state_of(twin))
    for module, optimizer in zip((objective, twin), optimizers, strict=True):
        module.step(x, y, optimizer)
    assert_same_state(state_of(objective, optimizers[0]), state_of(twin, optimizers[1]))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_fault_between_classes(loss, three_classes):
    objective, (x, y) = objective_of("tanh", loss, q=8), batch(loss, q=8)
    times = faults(lambda: objective.accumulate_grad(x, y, tile_rows=4), lambda: state_of(objective), Fault)
    assert times > 2 * 3 * 3  # two tiles of rows, three of classes, at least three ops for each
    assert_close([p.grad for p in objective.parameters()], untiled(objective, x, y)[2:], TOLERANCE)


def test_a_bad_label_in_the_last_tile_is_found_before_the_first():
    objective, (x, y) = objective_of(validate=True), batch()  # elsewhere than on the CPU it costs a wait
    optimizer = AdamW(objective.parameters())
    objective.step(x, y, optimizer)
    before = state_of(objective, optimizer)
    y[6] = 4
    for call in (
        lambda: objective.accumulate_grad(x, y, tile_rows=2),
        lambda: objective.step(x, y, optimizer, tile_rows=2),
    ):
        with pytest.raises(ValueError, match="got 4 at row 6"):
            call()
        assert_same_state(state_of(objective, optimizer), before)


# -------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("tile_rows", [3, "auto"], ids="tile_rows={}".format)
def test_two_threads_on_one_objective(tile_rows):
    """Each call has a workspace of its own: values are right whoever is first, and sums are complete.

    ``.grad`` itself is not shared: the threads ask for ∂J/∂x, and parameters are frozen.
    """
    objective = objective_of("gelu", d=40, h=50).requires_grad_(False)
    problems = [batch(B=60, d=40) for _ in range(2)]
    expected = [untiled(objective_like(objective), x, y)[:2] for x, y in problems]
    wrong, barrier = [], threading.Barrier(2)

    def work(i):
        x, y = problems[i]
        barrier.wait()
        for _ in range(40):
            leaf = x.clone().requires_grad_()
            J = objective.accumulate_grad(leaf, y, tile_rows=tile_rows)
            try:
                assert_close([J, leaf.grad], expected[i], TOLERANCE)
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def objective_like(objective):
    return copy.deepcopy(objective).requires_grad_()


def test_backward_in_another_thread():
    objective, (x, y) = objective_of("gelu", tile_rows=3), batch()
    J = objective(x, y)
    thread = threading.Thread(target=J.backward)
    thread.start()
    thread.join()
    assert_close([p.grad for p in objective.parameters()], untiled(objective, x, y)[2:], TOLERANCE)


def test_a_call_inside_a_call_has_a_workspace_of_its_own():
    """From a hook, say: one forward pass while another one's tiles are at work."""
    objective, (x, y) = objective_of("gelu"), batch()
    inner = []

    class Reenters(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if not inner and "mm" in function.name():
                inner.append(None)
                objective.tile_rows = 2
                inner[0] = objective(2 * x, y).detach()
            return result

    with Reenters():
        J = objective.accumulate_grad(x, y, tile_rows=3)
    expected = untiled(objective, x, y)
    assert_close(found(J, objective), [expected[0], *expected[2:]], TOLERANCE)
    assert_close(inner, untiled(objective, 2 * x, y)[:1], TOLERANCE)
