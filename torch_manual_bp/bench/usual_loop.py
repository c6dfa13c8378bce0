"""Question: what do forward and backward of the usual loop cost, beside the same net in eager PyTorch?

Opponents: `nn.Sequential` with torch's loss and the literal λ/2(‖W1‖² + ‖W2‖²), eager and compiled; and the bare matrix
products of the step (forward two, backward three: x needs no gradient), which are the floor.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from ..nn import Objective
from .compiled import compile_loss
from .problem import FLOOR, GPU_SHAPES, SHAPES, WEIGHT_DECAY, Candidate, Problem, Shape, matrix_products, penalty
from .report import Question, Row, Settings, as_time, timed_row
from .timing import time_in_turn

EAGER, COMPILED, MLP, OBJECTIVE = "eager", "torch.compile", "MLP", "Objective"


def measure(settings: Settings, shapes: Sequence[Shape] = ()) -> Iterator[Row]:
    """A row for each shape, by default the device's, and activation.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    for shape in shapes or (SHAPES if settings.on_cpu else GPU_SHAPES):
        for activation in settings.activations or ("relu", "gelu"):
            problem = Problem(shape, activation, settings.dtype, settings.device)
            candidates = (matrix_products(problem), *gradient_candidates(problem, settings.compiled))
            calls = {candidate.name: candidate.call for candidate in candidates}
            timings = time_in_turn(calls, budget=settings.budget, device=settings.device)
            settings.require_quiet(timings, FLOOR)
            row = timed_row(problem.labels, timings, OBJECTIVE)
            yield replace(row, ratios={**row.ratios, f"{MLP} / {EAGER}": timings.ratio(MLP, EAGER)})


def gradient_candidates(problem: Problem, compiled: bool = True) -> Iterator[Candidate]:
    """Forward and backward of J by each way; gradients end in ``.grad``."""
    x, y = problem.batch
    net, mlp = problem.eager_mlp(), problem.mlp()
    parameters = list(net.parameters())
    objective = Objective(problem.mlp(), "cross_entropy", WEIGHT_DECAY)

    def eager() -> Tensor:
        return F.cross_entropy(net(x), y) + penalty(parameters[0], parameters[2])

    yield _candidate(EAGER, eager, parameters)
    if compiled:
        yield _candidate(COMPILED, compile_loss(eager), parameters)
    with_torchs_loss = lambda: F.cross_entropy(mlp(x), y) + penalty(mlp.fc1.weight, mlp.fc2.weight)  # noqa: E731
    yield _candidate(MLP, with_torchs_loss, list(mlp.parameters()))
    yield _candidate(OBJECTIVE, lambda: objective(x, y), list(objective.parameters()))


def _candidate(name: str, J: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Candidate:
    def forward_and_backward() -> None:
        for parameter in parameters:
            parameter.grad = None
        J().backward()

    return Candidate(name, forward_and_backward, parameters)


def cells(row: Row) -> dict[str, str]:
    """The table's columns beside the labels; a compiled opponent that was left out is a dash."""
    over = {name: f"{1 / row.ratios[f'{name} / {OBJECTIVE}']:.2f}" for name in row.seconds if name != OBJECTIVE}
    return {
        "Objective": as_time(row.seconds[OBJECTIVE]),
        "eager": as_time(row.seconds[EAGER]),
        "Objective / eager": f"**{over[EAGER]}**",
        "/ torch.compile": over.get(COMPILED, "–"),
        "/ matrix products": over[FLOOR],
        "MLP + torch's loss / eager": f"{row.ratios[f'{MLP} / {EAGER}']:.2f}",
    }


QUESTION = Question(
    "usual_loop",
    "What do forward and backward of the usual loop cost, beside the same net in eager PyTorch?",
    measure,
    cells,
)
