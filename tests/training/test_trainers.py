"""Trainers that own the loop: a tiled objective trains in them as a plain loop trains the untiled one.

On the CPU: which device a model and its batches go to is the trainers' own affair.
"""

import copy
import logging
import os
import warnings

import pytest
import torch
from autograd.reference import assert_close
from torch.utils.data import DataLoader, TensorDataset

from .cases import objective_of

STEPS, ROWS = 6, 8
LR, CLIP = 0.1, 0.5
TOLERANCE = 1e-5


def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(STEPS * ROWS, 5, generator=generator)
    return TensorDataset(x, torch.randint(4, (STEPS * ROWS,), generator=generator))


def twins():
    objective = objective_of("gelu", dtype=torch.float32, tile_rows=3)
    twin = copy.deepcopy(objective)
    twin.tile_rows = None
    return objective, twin


def plain_loop(objective, every=1):
    """SGD with momentum and clipping, a step for every few batches."""
    optimizer = torch.optim.SGD(objective.parameters(), LR, momentum=0.9)
    for step, (x, y) in enumerate(DataLoader(data(), ROWS), start=1):
        (objective(x, y) / every).backward()
        if step % every == 0:
            torch.nn.utils.clip_grad_norm_(objective.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()


def assert_trained_alike(objective, twin, start):
    assert_close(objective.parameters(), twin.parameters(), TOLERANCE)
    assert all((p - before).abs().max() > 1e-3 for p, before in zip(objective.parameters(), start, strict=True))


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """No progress bars, no network, no files but here."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        yield tmp_path


@pytest.mark.parametrize("every", [1, 3], ids="a step for {} batches".format)
def test_lightning(every, quiet):
    lightning = pytest.importorskip("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self, objective):
            super().__init__()
            self.objective = objective

        def training_step(self, batch, index):
            return self.objective(*batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), LR, momentum=0.9)

    objective, twin = twins()
    start = [p.detach().clone() for p in objective.parameters()]
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, gradient_clip_val=CLIP, accumulate_grad_batches=every, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=quiet,
    )  # fmt: skip
    trainer.fit(Module(objective), DataLoader(data(), ROWS))
    plain_loop(twin, every)
    assert_trained_alike(objective, twin, start)


@pytest.mark.parametrize("every", [1, 3], ids="a step for {} batches".format)
def test_accelerate(every, quiet):
    accelerate = pytest.importorskip("accelerate")
    objective, twin = twins()
    start = [p.detach().clone() for p in objective.parameters()]
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=every)
    optimizer = torch.optim.SGD(objective.parameters(), LR, momentum=0.9)
    module, optimizer, loader = accelerator.prepare(objective, optimizer, DataLoader(data(), ROWS))
    for x, y in loader:
        with accelerator.accumulate(module):
            accelerator.backward(module(x, y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(module.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
    plain_loop(twin, every)
    assert_trained_alike(objective, twin, start)


def test_step_with_an_optimizer_that_accelerate_has_wrapped(quiet):
    """It is no SGD by type any more, and takes a step of its own."""
    accelerate = pytest.importorskip("accelerate")
    objective, twin = twins()
    start = [p.detach().clone() for p in objective.parameters()]
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.SGD(objective.parameters(), LR, momentum=0.9))
    for x, y in DataLoader(data(), ROWS):
        objective.step(x, y, optimizer, clip_norm=CLIP)
    plain_loop(twin)
    assert_trained_alike(objective, twin, start)


@pytest.mark.parametrize("every", [1, 3], ids="a step for {} batches".format)
def test_hugging_face_trainer(every, quiet):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")

    class Model(torch.nn.Module):
        def __init__(self, objective):
            super().__init__()
            self.objective = objective

        def forward(self, x, labels):
            return {"loss": self.objective(x, labels)}

    def collate(rows):
        x, y = zip(*rows, strict=True)
        return {"x": torch.stack(x), "labels": torch.stack(y)}

    objective, twin = twins()
    start = [p.detach().clone() for p in objective.parameters()]
    arguments = transformers.TrainingArguments(
        output_dir=str(quiet), per_device_train_batch_size=ROWS, num_train_epochs=1, max_grad_norm=CLIP,
        gradient_accumulation_steps=every, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    optimizer = torch.optim.SGD(objective.parameters(), LR, momentum=0.9)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)

    class InOrder(transformers.Trainer):
        def get_train_dataloader(self):
            return DataLoader(self.train_dataset, ROWS, collate_fn=collate)

    trainer = InOrder(Model(objective), arguments, train_dataset=data(), optimizers=(optimizer, constant))
    trainer.train()
    plain_loop(twin, every)
    assert_trained_alike(objective, twin, start)


def test_the_environment_is_left_alone():
    """A trainer that sets variables for its own processes would turn the tests after it into parts of a group."""
    assert "WORLD_SIZE" not in os.environ and not torch.distributed.is_initialized()
