"""The memory of the tiles: what the table of steps names is what is held, and nothing of it grows with the batch."""

import pytest
import torch
from torch.optim import AdamW

from torch_manual_bp.equations import ACTIVATIONS, LOSSES
from torch_manual_bp.training.steps import steps
from torch_manual_bp.training.workspace import Workspace, WorkspaceSlot

from .cases import batch, objective_of

EVERY = frozenset({"dx", "dw1", "db1", "dw2", "db2"})


def bytes_of(buffers, sizes, itemsize):
    total = 0
    for shape in buffers.values():
        numbers = itemsize
        for name in shape:
            numbers *= sizes[name]
        total += numbers
    return total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_held_is_what_the_table_names(activation, loss, dtype):
    """dx is asked for as well; 7 rows in tiles of three."""
    objective, (x, y) = objective_of(activation, loss, dtype=dtype), batch(loss, dtype=dtype)
    objective.accumulate_grad(x.requires_grad_(), y, tile_rows=3)
    short = dtype == torch.bfloat16
    table = steps(ACTIVATIONS[activation], EVERY, short, "rounded" if short else "same")
    sizes = {"c": 3, "k": 4, "d": 5, "h": 6}
    assert objective.workspace_bytes == bytes_of(table.buffers, sizes, dtype.itemsize)


def test_classes_in_tiles(three_classes):
    objective, (x, y) = objective_of("gelu", q=8), batch(q=8)
    objective.accumulate_grad(x, y, tile_rows=4)
    table = steps(ACTIVATIONS["gelu"], EVERY - {"dx"}, classes_tiled=True, statistics=True)
    assert objective.workspace_bytes == bytes_of(table.buffers, {"c": 4, "k": 3, "d": 5, "h": 6}, 8)


@pytest.mark.parametrize("tile_rows", [3, "auto"], ids="tile_rows={}".format)
@pytest.mark.parametrize("kind", ["accumulate_grad", "step"])
def test_it_does_not_grow_with_the_batch(kind, tile_rows):
    """A tile by itself has 2048 rows at most."""
    objective = objective_of("gelu")
    optimizer = AdamW(objective.parameters())
    held = []
    for B in (4096, 8192, 3 * 4096 + 5):
        x, y = batch(B=B)
        if kind == "step":
            objective.step(x, y, optimizer, tile_rows=tile_rows)
        else:
            objective.accumulate_grad(x, y, tile_rows=tile_rows)
        held.append(objective.workspace_bytes)
    assert held[0] == held[1] == held[2] > 0


def test_the_usual_loop_holds_nothing():
    """What waits for the backward pass is the gradients alone."""
    objective, (x, y) = objective_of("gelu", tile_rows=3), batch()
    J = objective(x, y)
    assert objective.workspace_bytes == 0
    J.backward()
    assert objective.workspace_bytes == 0


def test_a_smaller_batch_does_not_shrink_it_and_release_does():
    objective, (x, y) = objective_of("gelu"), batch(B=100)
    assert objective.workspace_bytes == 0
    objective.accumulate_grad(x, y, tile_rows=50)
    held = objective.workspace_bytes
    objective.accumulate_grad(x[:10], y[:10], tile_rows=5)
    assert objective.workspace_bytes == held > 0
    objective.release_workspace()
    assert objective.workspace_bytes == 0
    objective.accumulate_grad(x, y, tile_rows=50)
    assert objective.workspace_bytes == held


def test_it_grows_to_the_largest_tile_and_changes_its_dtype():
    objective, (x, y) = objective_of("relu"), batch(B=200)
    held = []
    for tile_rows in (10, 100):
        objective.accumulate_grad(x, y, tile_rows=tile_rows)
        held.append(objective.workspace_bytes)
    assert held[1] == 10 * held[0]
    objective.float().zero_grad()
    objective.accumulate_grad(x.float(), y, tile_rows=100)
    assert objective.workspace_bytes == held[1] // 2


def test_buffers_are_taken_again_and_are_contiguous():
    workspace, cpu = Workspace(), torch.device("cpu")
    first = workspace.take({"a": (6, 4), "b": (3,)}, torch.float32, cpu)
    again = workspace.take({"a": (2, 4), "b": (3,)}, torch.float32, cpu)
    assert again["a"].shape == (2, 4) and again["a"].is_contiguous()
    assert first["a"].data_ptr() == again["a"].data_ptr() != again["b"].data_ptr()
    assert workspace.bytes == 4 * (24 + 3)
    larger = workspace.take({"a": (7, 4)}, torch.float32, cpu)
    assert larger["a"].shape == (7, 4) and workspace.bytes == 4 * (28 + 3)
    assert workspace.take({"a": (7, 4)}, torch.float64, cpu)["a"].dtype == torch.float64
    assert workspace.take({"a": (0, 4)}, torch.float64, cpu)["a"].shape == (0, 4)


def test_a_slot_lends_to_one_call_at_a_time_and_takes_back_after_an_error():
    slot = WorkspaceSlot()
    with pytest.raises(KeyError), slot.lend() as outer:
        outer.take({"a": (4,)}, torch.float64, torch.device("cpu"))
        assert slot.bytes == 0
        with slot.lend() as inner:
            assert inner is not outer
        raise KeyError
    assert slot.bytes == 32
    with slot.lend() as again:
        assert again is outer
