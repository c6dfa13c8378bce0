"""Question: beside the losses that hide their last layer, what do time and memory of the large output layer become?

The peer that runs on a CPU is torch's `LinearCrossEntropyLoss` (torch 2.13 and later), here on top of an eager hidden
layer, in its plain and its chunked form. λ = 0, as it knows none.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import Objective
from .compiled import compile_loss
from .peak import candidate_peak
from .problem import FLOOR, HEAD, SHAPES, Candidate, Problem, Shape, matrix_products
from .report import Question, Row, Settings, as_bytes, as_time, timed_row
from .timing import time_in_turn

EAGER, COMPILED = "eager", "torch.compile of the loss"
TORCH, TORCH_CHUNKED = "LinearCrossEntropyLoss", "LinearCrossEntropyLoss, chunked"
OURS = 'Objective, tile_rows="auto"'
LARGE_OUTPUT = SHAPES[-1]  # on a GPU: HEAD, in bfloat16


def measure(settings: Settings, shape: Shape | None = None) -> Iterator[Row]:
    """A row for each activation.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    for activation in settings.activations or ("relu",):
        if settings.on_cpu:
            problem = Problem(shape or LARGE_OUTPUT, activation, settings.dtype, settings.device)
        else:
            problem = Problem(shape or HEAD, activation, torch.bfloat16, settings.device)
        candidates = list(gradient_candidates(problem, settings.compiled))
        calls = {candidate.name: candidate.call for candidate in (matrix_products(problem), *candidates)}
        timings = time_in_turn(calls, budget=settings.budget, device=settings.device)
        settings.require_quiet(timings, FLOOR)
        peaks = {candidate.name: candidate_peak(candidate, settings.device) for candidate in candidates}
        yield timed_row(problem.labels, timings, OURS, peaks)


def gradient_candidates(problem: Problem, compiled: bool = True) -> Iterator[Candidate]:
    """Forward and backward of L by each way that this torch and this machine have; gradients end in ``.grad``."""
    x, y = problem.batch
    net = problem.eager_mlp()
    yield _candidate(EAGER, lambda: F.cross_entropy(net(x), y), net)
    if compiled:
        other = problem.eager_mlp()
        yield _candidate(COMPILED, compile_loss(lambda: F.cross_entropy(other(x), y)), other)
    if hasattr(nn, "LinearCrossEntropyLoss"):
        yield _linear_cross_entropy(TORCH, problem, None)
        yield _linear_cross_entropy(TORCH_CHUNKED, problem, nn.LinearCrossEntropyOptions())
    objective = Objective(problem.mlp(), "cross_entropy", tile_rows="auto")
    in_tiles = _candidate(OURS, lambda: objective(x, y), objective)
    yield replace(in_tiles, release=objective.release_workspace)


def _linear_cross_entropy(name: str, problem: Problem, options: Any) -> Candidate:
    x, y = problem.batch
    _, _, h, q = problem.shape
    fc1, phi, fc2 = problem.eager_mlp()
    loss = nn.LinearCrossEntropyLoss(h, q, bias=True, device=problem.device, dtype=problem.dtype, options=options)
    loss.linear.load_state_dict(fc2.state_dict())
    return _candidate(name, lambda: loss(phi(fc1(x)), y), nn.ModuleList([fc1, loss.linear]))


def _candidate(name: str, loss: Callable[[], Tensor], module: nn.Module) -> Candidate:
    parameters = list(module.parameters())

    def forward_and_backward() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss().backward()

    return Candidate(name, forward_and_backward, parameters)


def cells(row: Row) -> dict[str, str]:
    """Time (and its ratio to ours) and bytes of each way."""
    return {
        name: f"{as_time(seconds)} ({row.ratios.get(f'{name} / {OURS}', 1.0):.2f}×)"
        + (f", {as_bytes(row.peak_bytes[name])}" if name in row.peak_bytes else "")
        for name, seconds in row.seconds.items()
    }


QUESTION = Question(
    "peers",
    "Beside the losses that hide their last layer, what do time and memory of a large output layer become? Forward and "
    "backward, λ = 0; in brackets, how many times as long as the Objective in tiles.",
    measure,
    cells,
    notes="Not among them: Liger Kernel (0.8.5 tried) and cut-cross-entropy (25.1.1) install without a GPU, but "
    "their kernels are Triton's: “0 active drivers”; what cut-cross-entropy has for a CPU is torch.compile "
    "of the plain loss, without a bias. quack, flash-attention's FusedMLP, TransformerEngine and apex are for CUDA.",
)
