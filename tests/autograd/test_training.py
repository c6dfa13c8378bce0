"""Optimizers, schedulers, clipping and scalers: step for step what nn.Sequential does."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_manual_bp as tmb

from .reference import LAMBDA, assert_close
from .twins import batch, penalised, twins

pytestmark = pytest.mark.usefixtures("on_device")
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
}


def train(module, J, optimizer, steps=20):
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    for _ in range(steps):
        x = torch.randn(9, 5, generator=generator, dtype=torch.float64)
        y = torch.randint(4, (9,), generator=generator)
        optimizer.zero_grad()
        J(x, y).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_those_of_sequential(name, activation, save):
    mlp, sequential = twins(activation, save)
    start = [p.detach().clone() for p in mlp.parameters()]
    train(mlp, tmb.Objective(mlp, weight_decay=LAMBDA), OPTIMIZERS[name](mlp.parameters()))
    train(sequential, lambda x, y: penalised(sequential, x, y), OPTIMIZERS[name](sequential.parameters()))
    assert_close(mlp.parameters(), sequential.parameters(), 1e-10)
    assert all((p - before).abs().max() > 1e-3 for p, before in zip(mlp.parameters(), start, strict=True))


def test_lbfgs_with_its_closure():
    mlp, sequential = twins("tanh")
    x, y = batch()
    J = tmb.Objective(mlp, weight_decay=LAMBDA)
    for module, value in ((mlp, J), (sequential, lambda x, y: penalised(sequential, x, y))):
        optimizer = torch.optim.LBFGS(module.parameters(), line_search_fn="strong_wolfe", max_iter=10)

        def closure(optimizer=optimizer, value=value):
            optimizer.zero_grad()
            loss = value(x, y)
            loss.backward()
            return loss

        before = closure().item()
        optimizer.step(closure)
        assert closure().item() < 0.9 * before
    assert_close(mlp.parameters(), sequential.parameters(), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_grad_scaler_with_autocast(dtype):
    """Scaled, unscaled, stepped: to the rounding of the dtype what nn.Sequential gets."""
    mlp, sequential = twins("gelu", dtype=torch.float32)
    x, y = batch(64, torch.float32)
    for module, J in ((mlp, tmb.Objective(mlp)), (sequential, lambda x, y: F.cross_entropy(sequential(x), y))):
        scaler = torch.amp.GradScaler(x.device.type, init_scale=1024.0)
        optimizer = torch.optim.SGD(module.parameters(), 1.0)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(x.device.type, dtype):
                loss = J(x, y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 1024.0
    assert_close(mlp.parameters(), sequential.parameters(), 4 * torch.finfo(dtype).eps)


def test_grad_scaler_skips_a_step_that_overflowed():
    mlp, _ = twins("relu", dtype=torch.float32)
    before = [p.detach().clone() for p in mlp.parameters()]
    x, y = batch(8, torch.float32)
    scaler = torch.amp.GradScaler(x.device.type, init_scale=2.0**16)
    optimizer = torch.optim.SGD(mlp.parameters(), 1.0)
    scaler.scale(tmb.Objective(mlp)(x * 1e38, y)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15
    assert all(torch.equal(p, b) for p, b in zip(mlp.parameters(), before, strict=True))
