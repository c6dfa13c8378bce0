"""accumulate_grad and step of two gloo processes: those of one process on the whole batch, to 1e-12 in float64."""

import functools

import pytest
import torch
import torch.distributed as dist
from autograd.processes import RANKS, found, on_two_processes
from autograd.reference import assert_close
from torch.optim import SGD, AdamW, RMSprop

from .cases import batch, objective_of, untiled

TOLERANCE = 1e-12
STEPS = 3
ROWS = (5, 2)  # of the whole batch's seven: shards of different sizes


def problem(**options):
    """The same on every process, and in the test."""
    torch.manual_seed(5)
    return objective_of("gelu", **options)


def whole(loss="cross_entropy", step=0, B=7):
    torch.manual_seed(7 + step)
    x, y = batch(loss, B)
    if loss == "cross_entropy":
        y[1], y[6] = 2, 2
    return x, y, torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.0], dtype=torch.float64)


def part(tensors, rank=None):
    return [t.split(ROWS)[dist.get_rank() if rank is None else rank] for t in tensors]


OBJECTIVES = {
    "cross_entropy": {},
    "rows ignored": {"ignore_index": 2, "label_smoothing": 0.1},
    "class weights": {"class_weight": torch.tensor([0.2, 1.5, 0.7, 1.0], dtype=torch.float64)},
    "mse": {"loss": "mse"},
    "sum of bce_with_logits": {"loss": "bce_with_logits", "reduction": "sum"},
}
OPTIMIZERS = {
    "SGD": lambda p: SGD(p, 0.1),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9),
    "AdamW": lambda p: AdamW(p, 0.01),
    "RMSprop": lambda p: RMSprop(p, 0.01),
}


# ------------------------------------------------------------------------------------------------ run on both processes


def gradient(options, weighted):
    objective = problem(**options)
    x, y, row_weight = part(whole(options.get("loss", "cross_entropy")))
    x.requires_grad_()
    J = objective.accumulate_grad(x, y, row_weight if weighted else None, tile_rows=2, process_group=dist.group.WORLD)
    return [J, x.grad, *(p.grad for p in objective.parameters())]


def steps(make, clip_norm):
    objective = problem()
    optimizer = make(objective.parameters())
    for step in range(STEPS):
        x, y, _ = part(whole(step=step))
        objective.step(x, y, optimizer, clip_norm=clip_norm, process_group=dist.group.WORLD)
    return [p.detach() for p in objective.parameters()]


def an_empty_shard():
    """The last batch of an epoch: rank 1 has no row of it."""
    objective, (x, y, _) = problem(), whole()
    rows = slice(0, 7) if dist.get_rank() == 0 else slice(0, 0)
    J = objective.accumulate_grad(x[rows], y[rows], process_group=dist.group.WORLD)
    return [J, *(p.grad for p in objective.parameters())]


def neither_group_nor_local():
    objective, (x, y, _) = problem(), part(whole())
    optimizer = SGD(objective.parameters(), 0.1)
    before = [p.detach().clone() for p in objective.parameters()]
    for op, call in (
        ("accumulate_grad", lambda: objective.accumulate_grad(x, y)),
        ("step", lambda: objective.step(x, y, optimizer)),
    ):
        message = f"^{op}: there are 2 processes, whose gradients would differ; give process_group.*local=True"
        with pytest.raises(RuntimeError, match=message):
            call()
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(objective.parameters(), before, strict=True))


def local():
    """Each on its own rows: another J and other gradients on each."""
    objective, (x, y, _) = problem(), part(whole())
    J = objective.accumulate_grad(x, y, local=True)
    objective.step(x, y, SGD(objective.parameters(), 0.1), local=True)
    return [J, *(p.grad for p in objective.parameters())]


def a_group_of_one():
    """A subgroup is summed over, and no one else."""
    groups = [dist.new_group([rank]) for rank in range(RANKS)]
    objective, (x, y, _) = problem(), part(whole())
    J = objective.accumulate_grad(x, y, process_group=groups[dist.get_rank()])
    return [J, *(p.grad for p in objective.parameters())]


CHECKS = {check.__name__: check for check in (an_empty_shard, neither_group_nor_local, local, a_group_of_one)}
GRADIENTS = [(name, weighted) for name in OBJECTIVES for weighted in (False, True)]
UPDATES = [(name, clip_norm) for name in OPTIMIZERS for clip_norm in (None, 0.05)]
CHECKS |= {str(case): functools.partial(gradient, OBJECTIVES[case[0]], case[1]) for case in GRADIENTS}


def steps_of(name, clip_norm):
    return steps(OPTIMIZERS[name], clip_norm)


CHECKS |= {str(case): functools.partial(steps_of, *case) for case in UPDATES}


# ----------------------------------------------------------------------------------------------------------- and judged


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank found, by check."""
    return on_two_processes(CHECKS, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(("name", "weighted"), GRADIENTS, ids=str)
def test_gradients_are_those_of_the_whole_batch(results, name, weighted):
    """J and ∂J/∂p on both ranks, and each rank's rows of ∂J/∂x."""
    options = OBJECTIVES[name]
    x, y, row_weight = whole(options.get("loss", "cross_entropy"))
    J, dx, *gradients = untiled(problem(**options), x, y, row_weight if weighted else None)
    for rank, got in enumerate(found(results, str((name, weighted)))):
        assert_close(got, [J, *part([dx], rank), *gradients], TOLERANCE)


@pytest.mark.parametrize(("name", "clip_norm"), UPDATES, ids=str)
def test_steps_are_those_of_one_process(results, name, clip_norm):
    """The ranks' parameters stay the same bit for bit, without being told of each other."""
    objective = problem()
    optimizer = OPTIMIZERS[name](objective.parameters())
    for step in range(STEPS):
        x, y, _ = whole(step=step)
        optimizer.zero_grad()
        objective(x, y).backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(objective.parameters(), clip_norm)
        optimizer.step()
    first, second = found(results, str((name, clip_norm)))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert_close(first, [p.detach() for p in objective.parameters()], 1e-11)


def test_an_empty_shard(results):
    J, _, *gradients = untiled(problem(), *whole()[:2])
    for got in found(results, "an_empty_shard"):
        assert_close(got, [J, *gradients], TOLERANCE)


def test_neither_group_nor_local_is_refused(results):
    found(results, "neither_group_nor_local")


@pytest.mark.parametrize("name", ["local", "a_group_of_one"])
def test_ranks_that_are_left_apart(results, name):
    for rank, got in enumerate(found(results, name)):
        J, _, *gradients = untiled(problem(), *part(whole()[:2], rank))
        assert_close(got, [J, *gradients], TOLERANCE)
