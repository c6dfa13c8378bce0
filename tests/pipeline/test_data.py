"""Two pipelines of two stages side by side, on four processes: J and gradients of one process on the rows of both."""

import functools

import pytest
import torch
import torch.distributed as dist
from autograd.processes import found, on_processes
from autograd.reference import error
from torch.nn import functional as F

import torch_manual_bp as tmb

from .cases import SCHEDULES, batch, by_one_process, gradients_of, objective_of, stack_by_one_process, stack_of

ROWS = (24, 16)  # of the 40 rows of the batch; in the first ones are more that are ignored
WAYS = ("mesh", "groups", "fsdp")
OPTIONS = {"ignore_index": 2, "label_smoothing": 0.1}


def mesh():
    return dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("pipeline", "data"))


def my_rows(*tensors):
    replica = mesh().get_coordinate()[1]
    return [tensor.split(ROWS)[replica] for tensor in tensors]


def pipe_of(schedule, way, **options):
    both = mesh()
    objective = objective_of(**OPTIONS | options)
    if both.get_coordinate()[1] == 1:  # the first replica's parameters count
        torch.nn.init.normal_(objective.mlp.fc1.weight)
    if way == "groups":
        groups = {"process_group": both.get_group(0), "data_group": both.get_group(1)}
        return tmb.pipeline.build(objective, 8, schedule, **groups)
    pipe = tmb.pipeline.build(objective, 8, schedule, mesh=both)
    if way == "fsdp":
        from torch.distributed.fsdp import fully_shard

        fully_shard(pipe.module, mesh=both["data"])
    return pipe


def steps(schedule, way, weighted, dtype=torch.float64, frozen=()):
    """Two steps without zero_grad, then prediction and evaluation."""
    pipe = pipe_of(schedule, way, dtype=dtype, frozen=frozen)
    x, y, row_weight = my_rows(*batch(dtype=dtype))
    for _ in range(2):
        J = pipe.step(x, y, row_weight if weighted else None)
    return J, gradients_of(pipe), pipe.evaluate(x, y, row_weight if weighted else None), pipe.predict(x, rows=3)


def training(way):
    """The replicas' parameters stay the same bit for bit."""
    pipe = pipe_of("zero_bubble", way)
    optimizer = torch.optim.AdamW(pipe.parameters(), 0.01)
    for i in range(3):
        optimizer.zero_grad()
        pipe.step(*my_rows(*batch(seed=i)[:2]))
        optimizer.step()
    return {name: getattr(p, "full_tensor", lambda p=p: p)().detach() for name, p in pipe.named_parameters()}


def four_stages(schedule):
    """Two blocks, a layer on each process."""
    pipe = tmb.pipeline.build(stack_of(2), 8, schedule, loss="mse", weight_decay=0.3)
    x, y, _ = batch("mse")
    first, last = pipe.index == 0, pipe.index == 3
    J = pipe.step(x if first else None, y if last else None)
    return J, gradients_of(pipe), pipe.predict(x if first else None, rows=3)


def a_replica_refuses():
    pipe = pipe_of("1f1b", "mesh")
    x, y = my_rows(*batch()[:2])
    wrong = r"must be divisible by 8 microbatches, got 15 rows"
    if mesh().get_coordinate()[1] == 0:
        with pytest.raises(RuntimeError, match=rf"^step: stage 0 of replica 1 refuses its part: step: .*{wrong}"):
            pipe.step(x, y)
    else:
        with pytest.raises(ValueError, match=rf"^step: .*{wrong}"):
            pipe.step(x[1:], y[1:])
    return pipe.step(x, y)


def replicas_that_train_different_parameters():
    pipe = pipe_of("1f1b", "mesh")
    if dist.get_rank() == 1:
        pipe.module.fc1.bias.requires_grad_(False)
    wrong = r"as many: 2 on stage 0 of replica 0, 1 on stage 0 of replica 1$"
    with pytest.raises(ValueError, match=r"^step: the same parameters must be trained on all replicas, got " + wrong):
        pipe.step(*my_rows(*batch()[:2]))


def shards_without_replicas():
    from torch.distributed.fsdp import fully_shard

    both = mesh()
    pipe = tmb.pipeline.build(objective_of(), 8, process_group=both.get_group(0))
    fully_shard(pipe.module, mesh=both["data"])
    with pytest.raises(RuntimeError, match=r"^step: a sharded stage has replicas, whose rows count too"):
        pipe.step(*my_rows(*batch()[:2]))


def a_layer_that_is_sharded_alone():
    from torch.distributed.fsdp import fully_shard

    both = mesh()
    pipe = tmb.pipeline.build(objective_of(), 8, mesh=both)
    for layer in pipe.module.children():
        fully_shard(layer, mesh=both["data"])
    with pytest.raises(RuntimeError, match=r"^step: fc\d must be a plain nn.Linear without hooks"):
        pipe.step(*my_rows(*batch()[:2]))


def numbers_of_microbatches():
    """What upstream's schedules take over two and over four stages, and what they are said to take."""
    from torch_manual_bp.pipeline.check import takes
    from torch_manual_bp.pipeline.upstream import new_schedule, new_stage

    both, differing = mesh(), []
    for pipe in (pipe_of("1f1b", "mesh"), tmb.pipeline.build(stack_of(2), 8, loss="mse")):
        stage = new_stage(pipe._part, pipe._position, 1, (True, True), deferring=True)
        stages = pipe._position.stages
        assert stages in both.shape or stages == 4
        for schedule in SCHEDULES:
            for number in range(1, 14):
                try:
                    new_schedule(schedule, stage, number, F.mse_loss)
                    taken = True
                except ValueError:
                    taken = False
                if taken != takes(schedule, number, stages):
                    differing.append((schedule, number, stages))
    return differing


CASES = [
    *((schedule, way, weighted, torch.float64) for schedule in SCHEDULES for way in WAYS for weighted in (False, True)),
    *((schedule, way, True, torch.float32) for schedule in SCHEDULES for way in WAYS[1:]),
    *(("zero_bubble", way, False, torch.float64, ("fc1.weight", "fc2.bias")) for way in WAYS[1:]),
]
REFUSED = (
    replicas_that_train_different_parameters,
    shards_without_replicas,
    a_layer_that_is_sharded_alone,
)
CHECKS = {str(case): functools.partial(steps, *case) for case in CASES}
CHECKS |= {f"training {way}": functools.partial(training, way) for way in WAYS[1:]}
CHECKS |= {f"four stages {schedule}": functools.partial(four_stages, schedule) for schedule in SCHEDULES}
CHECKS |= {check.__name__: check for check in (a_replica_refuses, numbers_of_microbatches, *REFUSED)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank found, by check."""
    return on_processes(4, CHECKS, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_one_process_with_all_rows(results, case):
    _, _, weighted, dtype, *rest = case
    frozen = rest[0] if rest else ()
    x, y, row_weight = batch(dtype=dtype)
    objective = objective_of(**OPTIONS, dtype=dtype, frozen=frozen)
    J, gradients = by_one_process(objective, x, y, row_weight if weighted else None, steps=2)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    with torch.no_grad():
        outputs = objective.mlp(x).split(ROWS)
    for rank, (J_there, of_stage, evaluated, o) in enumerate(found(results, str(case))):
        assert error(J_there, J) <= tolerance
        assert error(evaluated, J) <= tolerance
        for name, gradient in of_stage.items():
            assert (gradient is None) == (gradients[name] is None), name
            assert gradient is None or error(gradient, gradients[name]) <= tolerance, name
        assert (o is None) == (rank < 2)
        assert o is None or error(o, outputs[rank % 2]) <= tolerance


@pytest.mark.parametrize("way", WAYS[1:])
def test_training_is_training_on_one_process(results, way):
    objective = objective_of(**OPTIONS)
    optimizer = torch.optim.AdamW(objective.parameters(), 0.01)
    for i in range(3):
        optimizer.zero_grad()
        objective(*batch(seed=i)[:2]).backward()
        optimizer.step()
    ranks = found(results, f"training {way}")
    for one, other in ((0, 1), (2, 3)):
        assert all(torch.equal(ranks[one][name], ranks[other][name]) for name in ranks[one])
    for name, p in objective.mlp.named_parameters():
        assert error((ranks[0] | ranks[2])[name], p.detach()) <= 1e-11, name


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_layer_on_each_of_four_processes(results, schedule):
    (x, y, _), model = batch("mse"), stack_of(2)
    J, gradients = stack_by_one_process(model, F.mse_loss, x, y)
    ranks = found(results, f"four stages {schedule}")
    assert [list(of_stage) for _, of_stage, _ in ranks] == [
        [f"{block}.fc{layer}.weight", f"{block}.fc{layer}.bias"] for block in (0, 1) for layer in (1, 2)
    ]
    for J_there, of_stage, _ in ranks:
        assert error(J_there, J) <= 1e-12
        assert all(error(gradient, gradients[name]) <= 1e-12 for name, gradient in of_stage.items())
    assert [o is None for *_, o in ranks] == [True, True, True, False]
    assert error(ranks[3][2], model(x).detach()) <= 1e-12


def test_a_replica_refuses_and_the_next_step_is_right(results):
    J, _ = by_one_process(objective_of(**OPTIONS), *batch()[:2])
    assert all(error(got, J) <= 1e-12 for got in found(results, "a_replica_refuses"))


def test_the_numbers_of_microbatches_that_schedules_take(results):
    assert found(results, "numbers_of_microbatches") == [[]] * 4


@pytest.mark.parametrize("check", REFUSED, ids=lambda check: check.__name__)
def test_refused(results, check):
    found(results, check.__name__)
