"""What a pipe refuses: by name, on all stages at once, before anything is sent, and as usable afterwards as before."""

import functools

import pytest
import torch
import torch.distributed as dist
from autograd.processes import found, on_two_processes
from autograd.reference import error
from torch import nn
from torch.nn.utils import parametrizations

import torch_manual_bp as tmb

from .cases import batch, by_one_process, gradients_of, objective_of

build = tmb.pipeline.build


def objective_with(**options):
    return tmb.Objective(tmb.MLP(5, 6, 4, dtype=torch.float64), **options)


def with_hook_on(choose):
    objective = objective_of()
    choose(objective).register_forward_hook(lambda *_: None)
    return objective


def with_parameter_hook():
    objective = objective_of()
    objective.mlp.fc2.weight.register_hook(lambda gradient: gradient)
    return objective


def compiled(choose):
    objective = objective_of()
    choose(objective).compile()
    return objective


def normalised():
    objective = objective_of()
    parametrizations.weight_norm(objective.mlp.fc1)
    return objective


class OwnForward(tmb.Objective):
    def forward(self, x, y, row_weight=None):
        return 2 * super().forward(x, y, row_weight)


# ---------------------------------------------------------------------------------------------------- by build, at once

MODELS = {
    "an mlp": (lambda: tmb.MLP(5, 6, 4), TypeError, r"model must be an Objective or an nn.Sequential of MLPs, got MLP"),
    "another layer in a stack": (
        lambda: nn.Sequential(tmb.MLP(5, 6, 4), nn.ReLU()), TypeError, r"mlp must be a torch_manual_bp.MLP, got ReLU",
    ),
    "an empty stack": (nn.Sequential, ValueError, r"the stack must hold at least one torch_manual_bp.MLP, got none"),
    "widths": (
        lambda: nn.Sequential(tmb.MLP(5, 6, 4), tmb.MLP(3, 6, 4)), ValueError,
        r"block 1 must take block 0's 4 outputs, it takes 3 inputs",
    ),
    "tiles": (lambda: objective_with(tile_rows="auto"), ValueError, r"must have tile_rows=None, got 'auto'"),
    "a hook on the objective": (lambda: with_hook_on(lambda o: o), RuntimeError, r"model must not carry hooks"),
    "a hook on the mlp": (lambda: with_hook_on(lambda o: o.mlp), RuntimeError, r"mlp must not carry hooks"),
    "a hook on a layer": (lambda: with_hook_on(lambda o: o.mlp.fc1), RuntimeError, r"plain nn.Linear layers without"),
    "a replaced layer": (normalised, RuntimeError, r"plain nn.Linear layers without"),
    "a hook on a gradient": (with_parameter_hook, RuntimeError, r"w2 has hooks on its gradient"),
    "a forward of its own": (
        lambda: OwnForward(tmb.MLP(5, 6, 4)), RuntimeError, r"model must not carry hooks or a forward of its own",
    ),
    "a compiled objective": (lambda: torch.compile(objective_of()), RuntimeError, r"model must not be compiled"),
    "a compiled stage": (lambda: compiled(lambda o: o.mlp.fc1), RuntimeError, r"model must not be compiled"),
    "dtypes": (
        lambda: tmb.Objective(tmb.MLP.from_linears(nn.Linear(5, 6), "relu", nn.Linear(6, 4, dtype=torch.float64))),
        ValueError, r"all parameters must have one dtype.*got torch.float32 and torch.float64",
    ),
}  # fmt: skip
OPTIONS = {
    "a schedule": ({"schedule": "dualpipe"}, ValueError, r"must be one of gpipe, 1f1b, zero_bubble; got 'dualpipe'"),
    "no integer": ({"microbatches": 2.0}, TypeError, r"microbatches must be an int, got 2.0"),
    "none": ({"microbatches": 0}, ValueError, r"microbatches must be at least 1, got 0"),
    "too few for 1f1b": ({"microbatches": 1}, ValueError, r"1f1b over 2 stages does not take 1 microbatches; 2, 3"),
    "rounds of zero bubble": (
        {"schedule": "zero_bubble", "microbatches": 5}, ValueError,
        r"zero_bubble over 2 stages does not take 5 microbatches; 2, 3, 4, 6 would do",
    ),
    "a device too many": (
        {"device": "cuda:99"}, ValueError, r"device must be there, got cuda:99; there are \d+ cuda devices",
    ),
    "options of a stack": ({"loss": "mse"}, TypeError, r"loss belong to a stack; the objective has its own loss"),
    "devices besides": ({"devices": ("cpu", "cpu"), "device": "cpu"}, ValueError, r"device belongs to several proc"),
}  # fmt: skip


def refused_by_build(name):
    """Without a word to the other process."""
    if name in MODELS:
        make, kind, message = MODELS[name]
        options = {"microbatches": 2}
    else:
        options, kind, message = OPTIONS[name]
        options, make = {"microbatches": 2} | options, objective_of
    with pytest.raises(kind, match=r"^build: .*" + message):
        build(make(), **options)


def ddp():
    for schedule in ("1f1b", "zero_bubble"):
        with pytest.raises(RuntimeError, match=r"^build: .*got DistributedDataParallel.*#144530.*data_group="):
            build(nn.parallel.DistributedDataParallel(objective_of()), 2, schedule)


def sharded_before():
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("cpu", (2,))
    with pytest.raises(RuntimeError, match=r"^build: model must not be sharded; after build: fully_shard\(pipe.module"):
        build(fully_shard(objective_of(), mesh=mesh), 2)


def wrong_numbers_of_processes():
    alone = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
    with pytest.raises(
        ValueError, match=r"^build: an MLP is cut into 2 stages, one a process; the group has 1 proc.*2"
    ):
        build(objective_of(), 2, process_group=alone)


def a_mesh_and_a_group():
    mesh = dist.init_device_mesh("cpu", (2,))
    with pytest.raises(ValueError, match=r"^build: give mesh or process_group and data_group, not both"):
        build(objective_of(), 2, mesh=mesh, process_group=dist.group.WORLD)
    assert build(objective_of(), 2, mesh=mesh).index == dist.get_rank()


def different_pipelines():
    with pytest.raises(ValueError, match=r"^build: .*microbatches differs: 2 on process 0, 4 on process 1"):
        build(objective_of(), 2 if dist.get_rank() == 0 else 4)


# --------------------------------------------------------------------------------------------- by step, on both at once


def arguments(**changed):
    x, y, row_weight = batch()
    given = {"x": x, "y": y, "row_weight": row_weight} | changed
    return given if dist.get_rank() else {"x": given["x"]}


def bad_label():
    y = batch()[1]
    y[3] = 17
    return {"y": y}


STEPS = {  # what stage 0 and stage 1 say; each raises what is wrong on its own side, and names the other's
    "width": (lambda: {"x": torch.randn(40, 6).double()}, 0, ValueError, r"x must have shape \(\.\.\., 5\), got"),
    "no x": (lambda: {"x": None}, 0, TypeError, r"x must be a tensor on the first stage, got NoneType"),
    "dtype": (lambda: {"x": batch()[0].float()}, 0, TypeError, r"x must have .* torch.float64, got torch.float32"),
    "device": (lambda: {"x": batch()[0].to("meta")}, 0, ValueError, r"x must be on .* device cpu, got meta"),
    "a gradient by x": (lambda: {"x": batch()[0].requires_grad_()}, 0, ValueError, r"x must not require a gradient"),
    "no y": (lambda: {"y": None}, 1, TypeError, r"y must be a tensor on the last stage, got NoneType"),
    "a label": (bad_label, 1, ValueError, r"y must hold labels in \[0, 4\).*got 17 at row 3"),
    "row weights": (lambda: {"row_weight": torch.ones(3)}, 1, ValueError, r"row_weight must have shape \(40,\)"),
    "not divisible": (
        lambda: {"x": batch()[0][:30]}, 0, ValueError,
        r"divisible by 8 microbatches, got 30 rows; 24 or 32 rows would do, or 3, 5, 6, 10 microbatches",
    ),
    "fewer than microbatches": (
        lambda: {"x": batch()[0][:3]}, 0, ValueError, r"got 3 rows; 8 rows would do, or 1, 3 microbatches",
    ),
    "no rows": (lambda: {"x": batch()[0][:0]}, 0, ValueError, r"got 0 rows; 8 rows would do$"),
}  # fmt: skip


def refused_by_step(name):
    """And the next step is as good as ever."""
    change, stage, kind, message = STEPS[name]
    pipe = build(objective_of(), 8)
    if dist.get_rank() == stage:
        with pytest.raises(kind, match=r"^step: .*" + message):
            pipe.step(**arguments(**change()))
    else:
        with pytest.raises(RuntimeError, match=rf"^step: stage {stage} refuses its part: .*{message}"):
            pipe.step(**arguments(**change()))
    assert all(p.grad is None for p in pipe.parameters())
    return pipe.step(**arguments()), gradients_of(pipe)


def refused_by_both(calls):
    """What only both together show; the message is the same on both."""
    pipe = build(objective_of(), 8)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        calls(pipe)
    return type(caught.value).__name__, str(caught.value), pipe.step(**arguments())


def different_rows(pipe):
    pipe.step(batch()[0][:8], *batch()[1:])


def different_calls(pipe):
    pipe.predict(batch()[0]) if pipe.index else pipe.step(batch()[0])


def different_dtypes(pipe):
    before = {name: p.clone() for name, p in pipe.state_dict().items()}
    if pipe.index:
        pipe.module.float()
    try:
        pipe.step(*batch()[:2])
    finally:
        pipe.module.double().load_state_dict(before)


def nothing_to_train(pipe):
    pipe.module.requires_grad_(False)
    try:
        pipe.step(*batch()[:2])
    finally:
        pipe.module.requires_grad_(True)


def changed_stages():
    """What has happened to a stage since it was built."""
    rank = dist.get_rank()

    def refuses(change, message, repair):
        pipe = build(objective_of(), 8)
        if rank == 1:
            change(pipe)
        expected = rf"^step: {message}" if rank == 1 else rf"^step: stage 1 refuses its part: step: {message}"
        with pytest.raises(RuntimeError, match=expected):
            pipe.step(*batch()[:2])
        if rank == 1:
            repair(pipe)
        pipe.step(*batch()[:2])

    handles = []

    def hook(pipe):
        handles.append(pipe.module.fc2.register_forward_hook(lambda *_: None))

    def hook_on_gradient(pipe):
        handles.append(pipe.module.fc2.bias.register_post_accumulate_grad_hook(lambda _: None))

    def unhook(pipe):
        handles.pop().remove()

    refuses(hook, "fc2 must be a plain nn.Linear without hooks", unhook)
    refuses(hook_on_gradient, "fc2.bias has hooks on its gradient", unhook)

    def compile_(pipe):
        pipe.module.compile()

    def uncompile(pipe):
        pipe.module._compiled_call_impl = None

    refuses(compile_, "a stage must not be compiled", uncompile)


def autocast():
    pipe = build(objective_of(dtype=torch.float32), 8)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match=r"autocast must be off"):
        pipe.step(*batch(dtype=torch.float32)[:2])


def rows_of_predict():
    pipe = build(objective_of(), 8)
    for rows, kind, message in ((0, ValueError, "at least 1, got 0"), (2.5, TypeError, "an int, got 2.5")):
        with pytest.raises(kind, match=rf"^predict: rows must be {message}"):
            pipe.predict(batch()[0], rows=rows)


AT_ONCE = (ddp, sharded_before, wrong_numbers_of_processes, a_mesh_and_a_group, different_pipelines, changed_stages,
           autocast, rows_of_predict)  # fmt: skip
TOGETHER = {
    different_rows: (
        "ValueError",
        r"step: all stages must be given one batch, got rows: 8 on stage 0, 40 on stage 1",
    ),
    different_calls: ("RuntimeError", r"all stages must make the same call, got step on stage 0, predict on stage 1"),
    different_dtypes: ("ValueError", r"one dtype, got torch.float64 on stage 0, torch.float32 on stage 1"),
    nothing_to_train: ("RuntimeError", r"step: no parameter of any stage requires a gradient"),
}
CHECKS = {f"build {name}": functools.partial(refused_by_build, name) for name in (*MODELS, *OPTIONS)}
CHECKS |= {f"step {name}": functools.partial(refused_by_step, name) for name in STEPS}
CHECKS |= {check.__name__: check for check in AT_ONCE}
CHECKS |= {f"both {check.__name__}": functools.partial(refused_by_both, check) for check in TOGETHER}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank found, by check."""
    return on_two_processes(CHECKS, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(
    "name", [f"build {name}" for name in (*MODELS, *OPTIONS)] + [check.__name__ for check in AT_ONCE]
)
def test_refused(results, name):
    found(results, name)


@pytest.mark.parametrize("name", STEPS)
def test_refused_on_both_and_the_next_step_is_right(results, name):
    J, gradients = by_one_process(objective_of(), *batch())
    for J_there, of_stage in found(results, f"step {name}"):
        assert error(J_there, J) <= 1e-12
        assert all(error(of_stage[n], gradients[n]) <= 1e-12 for n in of_stage)


@pytest.mark.parametrize("check", TOGETHER, ids=lambda check: check.__name__)
def test_refused_by_both_together(results, check):
    J, _ = by_one_process(objective_of(), *batch())
    kind, message = TOGETHER[check]
    for rank, (kind_there, message_there, J_there) in enumerate(found(results, f"both {check.__name__}")):
        assert kind_there == kind
        if check is not different_calls or rank == 0:
            assert message in message_there
        assert error(J_there, J) <= 1e-12


# ------------------------------------------------------------------------------------------------ without any processes


def test_no_process_group():
    with pytest.raises(RuntimeError, match=r"^build: no process group .*torchrun --nproc-per-node 2.*devices="):
        build(objective_of(), 2)


def test_devices_of_one_process():
    with pytest.raises(ValueError, match=r"^build: device must be there, got cuda:99; there are \d+ cuda devices"):
        build(objective_of(), 2, devices=("cpu", "cuda:99"))
    with pytest.raises(ValueError, match=r"^build: an MLP can be cut into 2 stages, one a process; got 3"):
        build(objective_of(), 3, devices=("cpu",) * 3)
    with pytest.raises(ValueError, match=r"^build: devices= runs the order of 1f1b, got schedule 'gpipe'"):
        build(objective_of(), 2, "gpipe", devices=("cpu", "cpu"))
