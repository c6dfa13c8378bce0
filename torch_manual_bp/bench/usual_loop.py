"""Question: what do forward and backward of the usual loop cost, beside the same net in eager PyTorch?

Opponents: `nn.Sequential` with torch's loss and the literal λ/2(‖W1‖² + ‖W2‖²), eager and compiled; and the bare matrix
products of the step (forward two, backward three: x needs no gradient), which are the floor.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import kernels
from ..equations import ACTIVATIONS
from ..nn import MLP, Objective
from .timing import Timings, time_in_turn

# B, d, h, q: a small net, digits-sized ones, a wide one, one with a large output layer
SHAPES = ((32, 20, 64, 10), (128, 784, 256, 10), (1024, 784, 256, 10), (256, 784, 2048, 10), (1024, 256, 1024, 8192))
WEIGHT_DECAY = 1e-4
EAGER, COMPILED, FLOOR = "eager", "torch.compile", "matrix products"


@dataclass(frozen=True)
class Row:
    """One shape and activation: medians in seconds, and our time over each opponent's."""

    shape: tuple[int, int, int, int]
    activation: str
    dtype: str
    seconds: dict[str, float]
    over_eager: float
    over_compiled: float | None
    over_floor: float
    mlp_over_eager: float


def bench_usual_loop(
    shapes: tuple[tuple[int, int, int, int], ...] = SHAPES,
    activations: tuple[str, ...] = ("relu", "gelu"),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    compiled: bool = True,
    budget: float = 10.0,
) -> Iterator[Row]:
    """One `Row` for each shape and activation.

    Args:
        shapes: B, d, h, q each.
        activations: names of φ.
        dtype: of all tensors.
        device: where to run.
        compiled: whether torch.compile is among the opponents (it needs a C++ compiler at run time).
        budget: seconds for each row's rounds.

    Raises:
        BusyMachineError: the floor's own times scatter so much that the row would mean nothing.
    """
    for shape in shapes:
        for activation in activations:
            timings = time_in_turn(
                dict(_candidates(shape, activation, dtype, device, compiled)), budget=budget, sync=device != "cpu"
            )
            timings.require_quiet(FLOOR)
            yield _row(shape, activation, dtype, timings)


def environment(device: str = "cpu") -> dict[str, object]:
    """What the figures were taken on."""
    cuda = torch.cuda.get_device_name(device) if device != "cpu" else None
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "backend": kernels.backend(),
    }


def markdown(rows: list[Row], command: str, where: dict[str, object]) -> str:
    """The rows as a table, with the command and the hardware."""
    lines = [
        f"`{command}`, {where['date']}: {where['gpu'] or where['cpu']}, {where['threads']} threads, "
        f"torch {where['torch']}, kernels: {where['backend']}.",
        "",
        "| B, d, h, q | φ | dtype | Objective | eager | Objective / eager | / torch.compile | / matrix products "
        "| MLP + torch's loss / eager |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        compiled = "–" if row.over_compiled is None else f"{row.over_compiled:.2f}"
        lines.append(
            f"| {', '.join(map(str, row.shape))} | {row.activation} | {row.dtype} | {_time(row.seconds['Objective'])} "
            f"| {_time(row.seconds[EAGER])} | **{row.over_eager:.2f}** | {compiled} | {row.over_floor:.2f} "
            f"| {row.mlp_over_eager:.2f} |"
        )
    return "\n".join(lines) + "\n"


def as_json(rows: list[Row], command: str, where: dict[str, object]) -> dict[str, object]:
    """The rows as data."""
    return {"command": command, "environment": where, "rows": [asdict(row) for row in rows]}


def _candidates(
    shape: tuple[int, int, int, int], activation: str, dtype: torch.dtype, device: str, compiled: bool
) -> Iterator[tuple[str, Callable[[], object]]]:
    B, d, h, q = shape
    torch.manual_seed(0)
    x, y = torch.randn(B, d, dtype=dtype, device=device), torch.randint(q, (B,), device=device)
    mlp = MLP(d, h, q, activation, device=device, dtype=dtype)
    phi = ACTIVATIONS[activation]
    module = phi.module() if phi.module else None
    if module is None:
        raise ValueError(f"bench: activation must have an nn.Module to compare with, got {activation!r}")
    sequential = nn.Sequential(mlp.fc1, module, mlp.fc2)
    parameters = list(mlp.parameters())

    def step(J: Callable[[], Tensor]) -> Callable[[], None]:
        def forward_and_backward() -> None:
            for parameter in parameters:
                parameter.grad = None
            J().backward()

        return forward_and_backward

    def penalty() -> Tensor:
        return WEIGHT_DECAY / 2 * (mlp.fc1.weight.square().sum() + mlp.fc2.weight.square().sum())

    objective = Objective(mlp, "cross_entropy", WEIGHT_DECAY)
    eager = lambda: F.cross_entropy(sequential(x), y) + penalty()  # noqa: E731
    yield FLOOR, _matrix_products(x, mlp.fc1.weight.detach(), mlp.fc2.weight.detach())
    yield EAGER, step(eager)
    if compiled:
        yield COMPILED, step(torch.compile(eager))
    yield "MLP", step(lambda: F.cross_entropy(mlp(x), y) + penalty())
    yield "Objective", step(lambda: objective(x, y))


def _matrix_products(x: Tensor, w1: Tensor, w2: Tensor) -> Callable[[], None]:
    """The five matrix products of a step whose input needs no gradient."""

    def products() -> None:
        h = x @ w1.t()
        o = h @ w2.t()
        o.t() @ h
        (o @ w2).t() @ x

    return products


def _row(shape: tuple[int, int, int, int], activation: str, dtype: torch.dtype, timings: Timings) -> Row:
    return Row(
        shape=shape,
        activation=activation,
        dtype=str(dtype).removeprefix("torch."),
        seconds={name: timings.median(name) for name in timings.seconds},
        over_eager=timings.ratio("Objective", EAGER),
        over_compiled=timings.ratio("Objective", COMPILED) if COMPILED in timings.seconds else None,
        over_floor=timings.ratio("Objective", FLOOR),
        mlp_over_eager=timings.ratio("MLP", EAGER),
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
