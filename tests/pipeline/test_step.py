"""A step over two processes: J and gradients of one process on the whole batch, whatever is cut and when it is run."""

import functools
import gc
import weakref
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from autograd.processes import found, on_two_processes
from autograd.reference import error
from torch.nn import functional as F

import torch_manual_bp as tmb
from torch_manual_bp import kernels
from torch_manual_bp.memory import measure

from .cases import (
    LOSSES,
    SCHEDULES,
    B,
    batch,
    by_one_process,
    gradients_of,
    h,
    objective_of,
    q,
    stack_by_one_process,
    stack_of,
)

TOLERANCE = 1e-12


class Case(NamedTuple):
    schedule: str
    microbatches: int
    activation: str = "gelu"
    loss: str = "every option of cross_entropy"
    weighted: bool = False
    frozen: tuple = ()
    biases: tuple = (True, True)
    weight_decay: float = 0.3
    steps: int = 1
    dtype: torch.dtype = torch.float64

    def objective(self):
        hidden_bias, output_bias = self.biases
        return objective_of(
            self.activation, frozen=self.frozen, hidden_bias=hidden_bias, output_bias=output_bias,
            weight_decay=self.weight_decay, dtype=self.dtype, **LOSSES[self.loss],
        )  # fmt: skip

    def batch(self, seed=0):
        x, y, row_weight = batch(LOSSES[self.loss].get("loss", "cross_entropy"), self.dtype, seed=seed)
        return x, y, row_weight if self.weighted else None


RUNS = [
    *(("gpipe", M) for M in ((1, 2, 5, 8) if torch.__version__ >= "2.11" else (2, 5, 8))),
    *(("1f1b", M) for M in (2, 5, 8)),
    *(("zero_bubble", M) for M in (1, 2, 8)),
]
EACH = [(schedule, 8) for schedule in SCHEDULES]
STEPS = [
    *(Case(*run, activation) for run in RUNS for activation in ("relu", "gelu")),  # h is kept, and z
    *(Case(*run, "tanh", loss, weighted) for run in EACH for loss in LOSSES for weighted in (False, True)),
    *(Case(*run, biases=biases) for run in EACH for biases in ((True, False), (False, True), (False, False))),
    *(Case(*run, frozen=frozen) for run in EACH for frozen in (
        ("fc1.weight",), ("fc1.bias",), ("fc2.weight",), ("fc2.weight", "fc2.bias"), ("fc1.weight", "fc1.bias"),
    )),
    *(Case(*run, weight_decay=0.0) for run in EACH),
    *(Case(*run, steps=3) for run in EACH),
]  # fmt: skip


SHORTER = [
    *(Case(*run, activation, dtype=torch.float32) for run in EACH for activation in ("relu", "gelu")),
    *(Case(*run, dtype=torch.bfloat16) for run in EACH),
]
SEEDS = 5


# ------------------------------------------------------------------------------------------------ run on both processes


def mine(x, y, row_weight=None):
    """What each stage needs, and None for the rest."""
    return (x, None, None) if dist.get_rank() == 0 else (None, y, row_weight)


def step(case):
    pipe = tmb.pipeline.build(case.objective(), case.microbatches, case.schedule)
    for _ in range(case.steps):
        J = pipe.step(*mine(*case.batch()))
    return J, gradients_of(pipe)


def steps_of_seeds(case):
    """J and gradients of several batches."""
    pipe = tmb.pipeline.build(case.objective(), case.microbatches, case.schedule)
    each = []
    for seed in range(SEEDS):
        pipe.module.zero_grad()
        J = pipe.step(*mine(*case.batch(seed)))
        each.append({"J": J} | gradients_of(pipe))
    return each


def training():
    """Batches of changing size, an optimizer on each process, a layer that is frozen and thawed."""
    objective = objective_of()
    pipe = tmb.pipeline.build(objective, 4, "1f1b")
    optimizer = torch.optim.SGD(pipe.parameters(), 0.1, momentum=0.9)
    for i, rows in enumerate((40, 40, 8, 40, 12)):
        x, y, _ = batch(rows=rows, seed=i)
        pipe.module.requires_grad_(i != 2 or pipe.index == 1)
        optimizer.zero_grad()
        pipe.step(x, y)
        optimizer.step()
    return {name: p.detach() for name, p in pipe.named_parameters()}


def sent(schedule, frozen):
    """Shapes and dtypes of all that the stages send each other, in both directions."""
    from torch_manual_bp.pipeline.upstream import Stage

    class Listening(Stage):
        def get_fwd_send_ops(self, chunk):
            return self.heard(super().get_fwd_send_ops(chunk), "forward")

        def get_bwd_send_ops(self, chunk):
            return self.heard(super().get_bwd_send_ops(chunk), "backward")

        def heard(self, ops, direction):
            messages.extend((direction, tuple(op.tensor.shape), op.tensor.dtype) for op in ops)
            return ops

    messages = []
    pipe = tmb.pipeline.build(objective_of(frozen=frozen), 8, schedule, stage_class=Listening)
    pipe.step(*mine(*batch()[:2]))
    return messages


def weights_wait():
    """Under zero bubble stage 1 has sent ∂J/∂h before it makes ∂J/∂W2 of the same microbatch."""
    from torch_manual_bp.pipeline.upstream import Stage

    class Watching(Stage):
        def get_bwd_send_ops(self, chunk):
            ops = super().get_bwd_send_ops(chunk)
            events.extend(f"send {chunk}" for _ in ops)
            return ops

        def backward_weight_one_chunk(self, chunk, *args, **kwargs):
            before = None if self.submod.fc2.weight.grad is None else self.submod.fc2.weight.grad.clone()
            super().backward_weight_one_chunk(chunk, *args, **kwargs)
            after = self.submod.fc2.weight.grad
            assert not torch.equal(after, torch.zeros_like(after) if before is None else before)
            events.append(f"weights {chunk}")

    events = []
    last = dist.get_rank() == 1
    pipe = tmb.pipeline.build(objective_of(), 4, "zero_bubble", stage_class=Watching if last else None)
    pipe.step(*mine(*batch()[:2]))
    return events


def nothing_is_left(schedule):
    """After a step: the losses have no graph, no gradient waits, and neither batch nor activations are alive."""
    from torch_manual_bp.pipeline.upstream import Stage

    class Remembering(Stage):
        def backward_one_chunk(self, chunk, loss=None, *args, **kwargs):
            graphs.append(None if loss is None else weakref.ref(loss.grad_fn))
            super().backward_one_chunk(chunk, loss, *args, **kwargs)
            graphs.append(loss is None or loss.grad_fn is None)

    graphs = []
    pipe = tmb.pipeline.build(objective_of(), 8, schedule, stage_class=Remembering)
    x, y, _ = batch()
    pipe.step(*mine(x, y))
    refs = graphs[::2]
    gc.collect()
    return all(graphs[1::2]), [r is None or r() is None for r in refs], len(pipe._part.gradients._waiting)


def what_is_not_kept():
    """The other stage's weights, once the model itself is gone."""
    objective = objective_of()
    weights = [weakref.ref(layer.weight) for layer in (objective.mlp.fc1, objective.mlp.fc2)]
    pipe = tmb.pipeline.build(objective, 8)
    del objective
    gc.collect()
    assert pipe.index == dist.get_rank()
    return [weight() is None for weight in weights]


def predictions():
    pipe = tmb.pipeline.build(objective_of(), 8, "1f1b")
    found = {}
    for rows, size in ((1024, 40), (3, 40), (3, 37), (1024, 1), (4, 0)):
        x = batch(rows=40)[0][:size]
        found[rows, size] = pipe.predict(x if dist.get_rank() == 0 else None, rows=rows)
    x, y, row_weight = batch()
    found["step between"] = pipe.step(x, y)
    found["J"] = pipe.evaluate(*mine(x[:37], y[:37], row_weight[:37]), rows=3)
    found["no gradient"] = [p.grad for p in pipe.parameters()]
    pipe.evaluate(x, y)
    found["as it was"] = all(
        torch.equal(p.grad, g) for p, g in zip(pipe.parameters(), found["no gradient"], strict=True)
    )
    return found


def stack(blocks, schedule):
    pipe = tmb.pipeline.build(stack_of(blocks), 4, schedule, loss="mse", weight_decay=0.3)
    x, y, _ = batch("mse")
    J = pipe.step(*mine(x, y))
    o = pipe.predict(x, rows=7)
    return J, gradients_of(pipe), o, list(pipe.state_dict())


def objects_of_upstream():
    from torch.distributed import pipelining

    pipe = tmb.pipeline.build(objective_of(), 4, "zero_bubble")
    with pytest.raises(RuntimeError, match=r"^schedule: it is made in the first step"):
        _ = pipe.schedule
    pipe.step(*batch())
    first = pipe.schedule
    pipe.step(*batch())
    assert pipe.schedule is first
    assert isinstance(pipe.stage, pipelining.PipelineStage)
    assert repr(pipe) == f"Pipe(stage {dist.get_rank()} of 2 on cpu, zero_bubble, microbatches=4)"
    return type(pipe.schedule).__name__, type(pipe.module).__name__


def memory_of_prediction():
    """Peak bytes beside o, of two batches; after a first call that makes the buffers."""
    pipe = tmb.pipeline.build(objective_of(), 8)
    peaks = []
    for rows in (512, 4096):
        x = batch(rows=rows)[0]
        pipe.predict(x, rows=16)
        pipe.predict(x, rows=16)
        peaks.append(measure(lambda x=x: pipe.predict(x, rows=16)).peak_bytes - pipe.index * rows * q * 8)
    return peaks


def memory_of_a_step(schedule):
    """Peak bytes of steps with 4 and with 16 microbatches of 64 rows, the buffers that are received into left out."""
    peaks = []
    for microbatches in (4, 16):
        pipe = tmb.pipeline.build(objective_of("tanh"), microbatches, schedule)
        x, y, _ = batch(rows=64 * microbatches)
        pipe.step(x, y)
        pipe.step(x, y)
        peaks.append(measure(lambda: pipe.step(x, y)).peak_bytes)  # noqa: B023
    return peaks


CHECKS = {str(case): functools.partial(step, case) for case in STEPS}
CHECKS |= {str(case): functools.partial(steps_of_seeds, case) for case in SHORTER}
SENT = [(schedule, frozen) for schedule in SCHEDULES for frozen in ((), ("fc1.weight", "fc1.bias"))]
CHECKS |= {f"sent {case}": functools.partial(sent, *case) for case in SENT}
STACKS = [(blocks, schedule) for blocks in (1, 2, 3) for schedule in SCHEDULES]
CHECKS |= {f"stack {case}": functools.partial(stack, *case) for case in STACKS}
CHECKS |= {f"left {schedule}": functools.partial(nothing_is_left, schedule) for schedule in SCHEDULES}
CHECKS |= {
    check.__name__: check for check in (training, weights_wait, what_is_not_kept, predictions, objects_of_upstream)
}
CHECKS |= {f"memory {schedule}": functools.partial(memory_of_a_step, schedule) for schedule in SCHEDULES}
CHECKS |= {"memory of prediction": memory_of_prediction}


# ----------------------------------------------------------------------------------------------------------- and judged


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank found, by check."""
    return on_two_processes(CHECKS, tmp_path_factory.mktemp("ranks"))


def assert_same(results, J, gradients, tolerance=TOLERANCE):
    """Each rank has J, and both together the gradients, None where one process has None."""
    merged = {}
    for J_there, of_stage, *_ in results:
        assert J_there.dim() == 0
        assert error(J_there, J) <= tolerance
        assert not merged.keys() & of_stage.keys()
        merged |= of_stage
    assert merged.keys() == gradients.keys()
    for name, expected in gradients.items():
        assert (merged[name] is None) == (expected is None), name
        if expected is not None:
            assert error(merged[name], expected) <= tolerance, f"{name}: {error(merged[name], expected):.2e}"


@pytest.mark.parametrize("case", STEPS, ids=str)
def test_gradients_are_those_of_one_process(results, case):
    J, gradients = by_one_process(case.objective(), *case.batch(), steps=case.steps)
    assert_same(found(results, str(case)), J, gradients)


def rms(errors):
    return (sum(e * e for e in errors) / len(errors)) ** 0.5


@pytest.mark.parametrize("case", SHORTER, ids=str)
def test_shorter_dtypes_are_as_near_to_float64_as_one_process(results, case):
    """At most twice its error; microbatches are summed in another order, in bfloat16's case in float32."""
    one, exact = case.objective(), case.objective().double()
    own, twin = {}, {}
    for seed, each in enumerate(zip(*found(results, str(case)), strict=True)):
        x, y, _ = case.batch(seed)
        one.zero_grad()
        exact.zero_grad()
        J, gradients = by_one_process(exact, x.double(), y)
        J_one, by_one = by_one_process(one, x, y)
        for name, value in ({"J": J} | gradients).items():
            twin.setdefault(name, []).append(error(({"J": J_one} | by_one)[name], value))
            for got in (of_stage[name] for of_stage in each if name in of_stage):
                assert got.dtype == (torch.float32 if name == "J" else case.dtype)
                own.setdefault(name, []).append(error(got, value))
    for name, errors in own.items():  # J is one number: a rounding of it more or less is luck
        luck = torch.finfo(torch.float32).eps if name == "J" else 0
        assert rms(errors) <= max(2 * rms(twin[name]), luck), name


def test_training_with_batches_of_changing_size(results):
    objective = objective_of()
    optimizer = torch.optim.SGD(objective.parameters(), 0.1, momentum=0.9)
    for i, rows in enumerate((40, 40, 8, 40, 12)):
        x, y, _ = batch(rows=rows, seed=i)
        objective.mlp.fc1.requires_grad_(i != 2)
        optimizer.zero_grad()
        objective(x, y).backward()
        optimizer.step()
    first, second = found(results, "training")
    for name, p in objective.mlp.named_parameters():
        assert error((first | second)[name], p.detach()) <= 1e-11, name


@pytest.mark.parametrize(("schedule", "frozen"), SENT, ids=str)
def test_only_h_goes_over_and_only_its_gradient_comes_back(results, schedule, frozen):
    """None does to a first stage that is frozen (torch before 2.13 sends it all the same)."""
    first, second = found(results, f"sent {(schedule, frozen)}")
    rows = B // 8
    assert first == [("forward", (rows, h), torch.float64)] * 8
    if not frozen:
        assert second == [("backward", (rows, h), torch.float64)] * 8
    elif torch.__version__ >= "2.13":
        assert second == []


def test_weight_gradients_wait(results):
    _, events = found(results, "weights_wait")
    assert sorted(events) == sorted([f"{what} {i}" for what in ("send", "weights") for i in range(4)])
    assert all(events.index(f"send {i}") < events.index(f"weights {i}") for i in range(4))
    assert events[0] == "send 0"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_is_left_of_a_step(results, schedule):
    for detached, gone, waiting in found(results, f"left {schedule}"):
        assert detached
        assert len(gone) == 8
        assert all(gone)
        assert waiting == 0


def test_a_process_keeps_its_stage_alone(results):
    assert found(results, "what_is_not_kept") == [[False, True], [True, False]]


def test_predictions_and_evaluation(results):
    first, second = found(results, "predictions")
    objective = objective_of()
    x, y, row_weight = batch()
    for rows, size in ((1024, 40), (3, 40), (3, 37), (1024, 1), (4, 0)):
        assert first[rows, size] is None
        if size:
            o = second[rows, size]
            assert o.shape == (size, q)
            assert error(o, objective.mlp(x[:size]).detach()) <= TOLERANCE
    assert error(second["step between"], objective(x, y).detach()) <= TOLERANCE
    for got in (first, second):
        assert error(got["J"], objective(x[:37], y[:37], row_weight[:37]).detach()) <= TOLERANCE
        assert got["as it was"]


def test_memory_of_prediction_does_not_grow_with_the_batch(results):
    for small, large in found(results, "memory of prediction"):
        assert small > 0
        assert abs(large - small) < 16 * h * 8  # less than one microbatch's h, for 224 microbatches more


@pytest.mark.parametrize(("schedule", "kept"), [("gpipe", (1, 1)), ("1f1b", (0, 0)), ("zero_bubble", (1, 1))])
def test_memory_of_a_step(results, schedule, kept):
    """Under 1F1B two microbatches are under way, and all that the others held is let go, their losses' graphs too.

    GPipe needs every h on stage 0; it and zero bubble hold what was sent, h and ∂J/∂h, until upstream's step ends.
    """
    if kernels.backend().startswith("python"):
        pytest.skip("in plain torch a loss has temporaries of its own")
    activation = 64 * h * 8
    for rank, (few, many) in enumerate(found(results, f"memory {schedule}")):
        assert abs(many - few - 12 * kept[rank] * activation) < activation, (rank, (many - few) / 12)


@pytest.mark.parametrize(("blocks", "schedule"), STACKS, ids=str)
def test_stacks(results, blocks, schedule):
    """Three blocks: two of them on the first stage; one: a layer on each."""
    (x, y, _), model = batch("mse"), stack_of(blocks)
    J, gradients = stack_by_one_process(model, F.mse_loss, x, y)
    got = found(results, f"stack {(blocks, schedule)}")
    assert_same(got, J, gradients)
    assert got[0][2] is None
    assert error(got[1][2], model(x).detach()) <= TOLERANCE
    assert [*got[0][3], *got[1][3]] == list(model.state_dict())


def test_objects_of_upstream(results):
    assert found(results, "objects_of_upstream") == [
        ("ScheduleInterleavedZeroBubble", "Hidden"),
        ("ScheduleInterleavedZeroBubble", "Output"),
    ]
