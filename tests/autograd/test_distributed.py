"""Data parallelism on two gloo processes, hence on the CPU: gradients equal those of one process on the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import torch_manual_bp as tmb

from .processes import RANKS, on_two_processes

LAMBDA = 0.1


def model():
    torch.manual_seed(0)
    return tmb.MLP(6, 8, 4, "gelu")


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=generator), torch.randint(4, (12,), generator=generator)


def shard():
    x, y = batch()
    return x.chunk(RANKS)[dist.get_rank()], y.chunk(RANKS)[dist.get_rank()]


def whole(weight_decay):
    """One process, the whole batch, torch's own layers."""
    mlp, (x, y) = model(), batch()
    sequential = nn.Sequential(mlp.fc1, nn.GELU(), mlp.fc2)
    J = F.cross_entropy(sequential(x), y)
    J = J + weight_decay / 2 * (mlp.fc1.weight.square().sum() + mlp.fc2.weight.square().sum())
    J.backward()
    return {name: p.grad for name, p in mlp.named_parameters()}


def gradients_of(module):
    """By the MLP's own names, whatever wrapped it; DTensors gathered."""
    found = {}
    for name, p in module.named_parameters():
        grad = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        found[".".join(name.split(".")[-2:])] = grad.detach().clone()
    return found


def ddp_of_the_objective():
    wrapped = nn.parallel.DistributedDataParallel(tmb.Objective(model(), weight_decay=LAMBDA))
    wrapped(*shard()).backward()
    return gradients_of(wrapped)


def ddp_of_the_objective_with_no_sync():
    """Two micro-batches, the first without communication: what it added must be in the reduced gradient."""
    wrapped = nn.parallel.DistributedDataParallel(tmb.Objective(model(), weight_decay=LAMBDA))
    x, y = shard()
    with wrapped.no_sync():
        (wrapped(x[:3], y[:3]) / 2).backward()
    (wrapped(x[3:], y[3:]) / 2).backward()
    return gradients_of(wrapped)


def ddp_of_the_mlp():
    wrapped, (x, y) = nn.parallel.DistributedDataParallel(model()), shard()
    F.cross_entropy(wrapped(x), y).backward()
    return gradients_of(wrapped)


def ddp_trained_for_three_steps():
    """Parameters stay the same on all ranks, and equal to training on the whole batch."""
    wrapped = nn.parallel.DistributedDataParallel(tmb.Objective(model(), weight_decay=LAMBDA))
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(*shard()).backward()
        optimizer.step()
    return {name.removeprefix("module.mlp."): p.detach() for name, p in wrapped.named_parameters()}


def fsdp_of_the_objective():
    from torch.distributed.fsdp import fully_shard

    objective = fully_shard(tmb.Objective(model(), weight_decay=LAMBDA), mesh=mesh())
    objective(*shard()).backward()
    return gradients_of(objective)


def ddp_of_a_tiled_objective():
    wrapped = nn.parallel.DistributedDataParallel(tmb.Objective(model(), weight_decay=LAMBDA, tile_rows=2))
    wrapped(*shard()).backward()
    return gradients_of(wrapped)


def fsdp_of_a_tiled_objective():
    """Its parameters are gathered before forward and let go before backward, which has the gradients at hand."""
    from torch.distributed.fsdp import fully_shard

    objective = fully_shard(tmb.Objective(model(), weight_decay=LAMBDA, tile_rows=2), mesh=mesh())
    objective(*shard()).backward()
    return gradients_of(objective)


def fsdp_of_the_mlp():
    from torch.distributed.fsdp import fully_shard

    mlp, (x, y) = fully_shard(model(), mesh=mesh()), shard()
    F.cross_entropy(mlp(x), y).backward()
    return gradients_of(mlp)


def fsdp_of_a_layer_and_of_the_rest():
    """fc1 gathers its weights in hooks of its own, so it has to be called."""
    from torch.distributed.fsdp import fully_shard

    mlp, (x, y) = model(), shard()
    fully_shard(mlp.fc1, mesh=mesh())
    fully_shard(mlp, mesh=mesh())
    assert mlp.composes
    F.cross_entropy(mlp(x), y).backward()
    return gradients_of(mlp)


def sharded_layer_in_a_sharded_objective(weight_decay):
    from torch.distributed.fsdp import fully_shard

    objective = tmb.Objective(model(), weight_decay=weight_decay)
    fully_shard(objective.mlp.fc1, mesh=mesh())
    return fully_shard(objective, mesh=mesh())


def fsdp_of_a_layer_inside_a_sharded_objective():
    objective = sharded_layer_in_a_sharded_objective(0.0)
    objective(*shard()).backward()
    return gradients_of(objective)


def fsdp_of_a_layer_is_refused_where_there_is_a_penalty():
    """The penalty reads fc1's weight, which is sharded again once fc1 has been called."""
    objective = sharded_layer_in_a_sharded_objective(LAMBDA)
    with pytest.raises(RuntimeError, match=r"Objective: .*fully_shard\(objective\)"):
        objective(*shard()).backward()


def fsdp_of_the_mlp_inside_an_objective_is_refused():
    from torch.distributed.fsdp import fully_shard

    objective = tmb.Objective(model())
    fully_shard(objective.mlp, mesh=mesh())
    with pytest.raises(RuntimeError, match=r"fully_shard\(objective\)"):
        objective(*shard())


def mesh():
    return dist.init_device_mesh("cpu", (RANKS,))


CHECKS = {
    check.__name__: (check, weight_decay)
    for check, weight_decay in (
        (ddp_of_the_objective, LAMBDA),
        (ddp_of_the_objective_with_no_sync, LAMBDA),
        (ddp_of_a_tiled_objective, LAMBDA),
        (fsdp_of_a_tiled_objective, LAMBDA),
        (ddp_of_the_mlp, 0.0),
        (fsdp_of_the_objective, LAMBDA),
        (fsdp_of_the_mlp, 0.0),
        (fsdp_of_a_layer_and_of_the_rest, 0.0),
        (fsdp_of_a_layer_inside_a_sharded_objective, 0.0),
        (fsdp_of_a_layer_is_refused_where_there_is_a_penalty, None),
        (fsdp_of_the_mlp_inside_an_objective_is_refused, None),
        (ddp_trained_for_three_steps, None),
    )
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank found, by check."""
    return on_two_processes({name: check for name, (check, _) in CHECKS.items()}, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes(results, name):
    for rank in range(RANKS):
        found = results[rank][name]
        assert not isinstance(found, str), f"rank {rank}: {found}"
        weight_decay = CHECKS[name][1]
        if weight_decay is not None:
            expected = whole(weight_decay)
            assert found.keys() == expected.keys()
            for parameter, gradient in expected.items():
                assert (found[parameter] - gradient).abs().max() <= 1e-6 * max(1, gradient.abs().max()), parameter


def test_training_on_two_processes_is_training_on_one(results):
    mlp, (x, y) = model(), batch()
    optimizer = torch.optim.SGD(mlp.parameters(), 0.1, momentum=0.9)
    start = {name: p.detach().clone() for name, p in mlp.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        tmb.Objective(mlp, weight_decay=LAMBDA)(x, y).backward()
        optimizer.step()
    first, second = (result["ddp_trained_for_three_steps"] for result in results)
    for name, p in mlp.named_parameters():
        assert torch.equal(first[name], second[name])
        assert (first[name] - p).abs().max() <= 1e-6 < (p - start[name]).abs().max()
