"""What two processes write with torch.distributed.checkpoint one process reads, and the other way round."""

import functools

import pytest
import torch
import torch.distributed as dist
from autograd.processes import found, on_two_processes
from autograd.reference import error

import torch_manual_bp as tmb

from .cases import batch, objective_of

PLANS = ("1f1b", "zero_bubble")


def optimizer_of(module):
    return torch.optim.AdamW(module.parameters(), 0.01)


def states(module, optimizer):
    """As docs/pipeline.md has it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    by_name = StateDictOptions(flatten_optimizer_state_dict=True)  # its keys are parameters' names, not numbers
    return {"model": module.state_dict(), "optimizer": get_optimizer_state_dict(module, optimizer, options=by_name)}


def read(module, optimizer, folder):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    state = states(module, optimizer)
    dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    module.load_state_dict(state["model"])
    set_optimizer_state_dict(
        module, optimizer, state["optimizer"], options=StateDictOptions(flatten_optimizer_state_dict=True)
    )


def write(module, optimizer, folder):
    import torch.distributed.checkpoint as dcp

    dcp.save(states(module, optimizer), checkpoint_id=folder, no_dist=not dist.is_initialized())


def steps(step, optimizer, numbers):
    for i in numbers:
        optimizer.zero_grad()
        step(*batch(seed=i)[:2])
        optimizer.step()


def from_two_to_one(folder):
    pipe = tmb.pipeline.build(objective_of(), 4, PLANS[0])
    optimizer = optimizer_of(pipe)
    steps(pipe.step, optimizer, range(3))
    write(pipe.module, optimizer, f"{folder}/two")


def from_one_to_two(folder):
    """One process's checkpoint, read by both; then one more step."""
    pipe = tmb.pipeline.build(objective_of(), 4, PLANS[1])
    torch.nn.init.zeros_(next(pipe.parameters()))
    optimizer = optimizer_of(pipe)
    read(pipe.module, optimizer, f"{folder}/one")
    steps(pipe.step, optimizer, range(3, 5))
    return {name: p.detach() for name, p in pipe.named_parameters()}


def from_a_file(folder):
    """A state dict of the whole model, by torch.save; each stage takes its part."""
    pipe = tmb.pipeline.build(objective_of(), 4)
    state = torch.load(f"{folder}/model.pt")
    pipe.load_state_dict(state)
    own = list(pipe.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        pipe.load_state_dict({name: value for name, value in state.items() if name != own[0]})
    dist.barrier()
    return pipe.state_dict()


def one_process(upto):
    objective = objective_of()
    optimizer = optimizer_of(objective.mlp)
    steps(lambda x, y: objective(x, y).backward(), optimizer, range(upto))
    return objective.mlp, optimizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    mlp, optimizer = one_process(3)
    write(mlp, optimizer, f"{folder}/one")
    torch.save(mlp.state_dict(), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    """What each rank found, by check."""
    each = (from_two_to_one, from_one_to_two, from_a_file)
    checks = {check.__name__: functools.partial(check, folder) for check in each}
    return on_two_processes(checks, tmp_path_factory.mktemp("ranks"))


def test_from_two_processes_to_one(results, folder):
    """Parameters, moments and step counts: two more steps are those of a run that was never cut."""
    found(results, "from_two_to_one")
    objective = objective_of()
    torch.nn.init.zeros_(objective.mlp.fc1.weight)
    optimizer = optimizer_of(objective.mlp)
    read(objective.mlp, optimizer, f"{folder}/two")
    steps(lambda x, y: objective(x, y).backward(), optimizer, range(3, 5))
    expected, _ = one_process(5)
    for got, p in zip(objective.mlp.parameters(), expected.parameters(), strict=True):
        assert error(got.detach(), p.detach()) <= 1e-11


def test_from_one_process_to_two(results):
    first, second = found(results, "from_one_to_two")
    expected, _ = one_process(5)
    for name, p in expected.named_parameters():
        assert error((first | second)[name], p.detach()) <= 1e-11, name


def test_a_state_dict_of_the_whole_model(results, folder):
    first, second = found(results, "from_a_file")
    state = torch.load(folder / "model.pt")
    assert (first | second).keys() == state.keys()
    assert all(torch.equal((first | second)[name], value) for name, value in state.items())
