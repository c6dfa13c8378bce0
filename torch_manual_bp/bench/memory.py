"""Question: how many bytes does a training step need, above parameters, batch and the optimizer's state?

Each candidate is called once to warm up; then its gradients and its workspace are given back, so that both count.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn import Objective
from .compiled import compile_loss
from .goals import Goal, Judged
from .peak import candidate_peak
from .problem import WEIGHT_DECAY, Candidate, Problem, Shape, penalty
from .report import Question, Row, Settings, as_bytes
from .sgd_steps import LEARNING_RATE

EAGER, COMPILED, UNTILED = "eager", "torch.compile of the loss", "Objective, whole batch"
TILED, ACCUMULATE = 'Objective, tile_rows="auto"', "accumulate_grad"
SGD, ADAMW = "step, SGD", "step, AdamW"
FLAT = (TILED, ACCUMULATE, SGD, ADAMW)  # must not grow with the batch
SHAPES: tuple[Shape, ...] = ((8192, 784, 256, 10), (65536, 784, 256, 10), (4096, 256, 1024, 8192))
GPU_SHAPES: tuple[Shape, ...] = ((16384, 784, 256, 10), (131072, 784, 256, 10), (8192, 1024, 4096, 32768))
LEAST = {SHAPES[1]: 30.0, SHAPES[2]: 6.0}  # eager's bytes over ours


def measure(settings: Settings, shapes: Sequence[Shape] = ()) -> Iterator[Row]:
    """A row for each shape, by default the device's.

    One with the same net as the row before also has the ratio of their bytes.
    """
    before: tuple[Shape, dict[str, int]] | None = None
    for activation in settings.activations or ("relu",):
        for shape in shapes or (SHAPES if settings.on_cpu else GPU_SHAPES):
            problem = Problem(shape, activation, settings.dtype, settings.device)
            peaks = {c.name: candidate_peak(c, settings.device) for c in candidates(problem, settings.compiled)}
            ratios = {f"{EAGER} / {name}": peaks[EAGER] / peak for name, peak in peaks.items() if name != EAGER}
            if before is not None and before[0][1:] == shape[1:]:
                ratios |= {f"{name}, {shape[0]} / {before[0][0]} rows": peaks[name] / before[1][name] for name in FLAT}
            before = shape, peaks
            yield Row(problem.labels, ratios=ratios, peak_bytes=peaks)


def candidates(problem: Problem, compiled: bool = True) -> Iterator[Candidate]:
    """Gradients of J by each way, and whole steps by ours."""
    x, y = problem.batch
    net = problem.eager_mlp()
    parameters = list(net.parameters())

    def J() -> Tensor:
        return F.cross_entropy(net(x), y) + penalty(parameters[0], parameters[2])

    yield Candidate(EAGER, lambda: J().backward(), parameters)
    if compiled:
        compiled_J = compile_loss(J)
        yield Candidate(COMPILED, lambda: compiled_J().backward(), parameters)
    for name, tile_rows in ((UNTILED, None), (TILED, "auto")):
        yield _by_hand(name, Objective(problem.mlp(), "cross_entropy", WEIGHT_DECAY, tile_rows=tile_rows), problem)
    lean = Objective(problem.mlp(), "cross_entropy", WEIGHT_DECAY)
    ours, release = list(lean.parameters()), lean.release_workspace
    yield Candidate(ACCUMULATE, lambda: lean.accumulate_grad(x, y), ours, release)
    sgd, adamw = torch.optim.SGD(ours, LEARNING_RATE), torch.optim.AdamW(ours, LEARNING_RATE)
    yield Candidate(SGD, lambda: lean.step(x, y, sgd), ours, release)
    yield Candidate(ADAMW, lambda: lean.step(x, y, adamw), ours, release)


def _by_hand(name: str, objective: Objective, problem: Problem) -> Candidate:
    x, y = problem.batch
    return Candidate(
        name, lambda: objective(x, y).backward(), list(objective.parameters()), objective.release_workspace
    )


def cells(row: Row) -> dict[str, str]:
    """The bytes of each candidate, and eager's over them."""
    return {
        name: as_bytes(peak) + ("" if name == EAGER else f" ({row.ratios[f'{EAGER} / {name}']:.1f}×)")
        for name, peak in row.peak_bytes.items()
    }


def goals(row: Row) -> list[Judged]:
    """How much less than eager the tiled ways are to need; and that they need the same for any number of rows."""
    least = LEAST.get(row.shape)
    same = [Judged(name, row.ratios[name], Goal(1.0, exact=True)) for name in row.ratios if name.endswith(" rows")]
    if least is None:
        return same
    goal = Goal(least, at_least=True, exact=True)
    return [Judged(f"{EAGER} / {name}", row.ratios[f"{EAGER} / {name}"], goal) for name in FLAT] + same


QUESTION = Question(
    "memory",
    "How many bytes does a training step need, above parameters, batch and the optimizer's state? Gradients and "
    "workspace count; in brackets, how many times as much eager PyTorch needs (MB are 10⁶ bytes; exact, by the "
    "allocator's events).",
    measure,
    cells,
    goals,
)
