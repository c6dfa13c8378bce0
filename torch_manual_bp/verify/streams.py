"""Checks of what exists on CUDA alone: graphs, calls that wait for the device, streams, a second device.

What is compared is apart from how it is captured or watched, so that the comparison itself can be tried on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from .finding import EXACT, Finding, agree, holds, skipped
from .hidden import check_hidden_ops
from .lean import check_lean_gradients
from .losses import check_cross_entropy
from .networks import Case, Values, gradients, layers_of, objective_of, ours, values_of
from .setting import Samples, Setting

NO_CUDA = "exists on CUDA only"
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}  # products may differ in a capture
WARM_UP, REPLAYS = 3, 4
EPSILON = 1e-3  # of AdamW: with torch's 1e-8 its first steps are signs, which rounding decides
NETS = {"small": (64, 20, 64, 10), "tiled": (300, 33, 67, 10)}  # one call; tiles of ROWS
ROWS = 128

Call = Callable[[], object]
Capture = Callable[[Call], Call]


class Loop:
    """A training loop whose x stays where it is, as a captured graph needs it; `call` is one turn of it."""

    def __init__(self, way: str, net: str, dtype: torch.dtype, device: torch.device) -> None:
        self.case = Case("gelu", "cross_entropy", "auto", dtype, NETS[net])
        self.values = values_of(self.case, device)
        self.objective = objective_of(self.case, self.values)
        self.x, self.y, self.J = self.values["x"].clone(), self.values["y"], torch.tensor(torch.nan)
        self._tile: int | str = "auto" if net == "small" else ROWS
        self._optimizer: Optimizer | None = None
        if way.startswith("step"):
            self._optimizer = _OPTIMIZERS[way](self.objective.parameters())
        self.call: Call = {"backward": self._backward, "accumulate_grad": self._accumulate}.get(way, self._step)

    def results(self) -> Values:
        """J, the parameters, and the gradients where the loop leaves some."""
        layers = layers_of(self.objective.mlp)
        return {"J": self.J} | layers | {f"d{n}": p.grad for n, p in layers.items() if p.grad is not None}

    def _backward(self) -> None:
        for p in self.objective.parameters():
            p.grad = None
        J = self.objective(self.x, self.y)
        J.backward()
        self.J = J.detach()

    def _accumulate(self) -> None:
        self.J = self.objective.accumulate_grad(self.x, self.y, tile_rows=self._tile)

    def _step(self) -> None:
        assert self._optimizer is not None
        self.J = self.objective.step(self.x, self.y, self._optimizer, tile_rows=self._tile)


_OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "step, SGD": lambda p: SGD(p, 0.1),
    "step, SGD with momentum": lambda p: SGD(p, 0.1, 0.9),
    "step, AdamW": lambda p: AdamW(p, 0.01, eps=EPSILON),
    "step, AdamW, capturable": lambda p: AdamW(p, 0.01, eps=EPSILON, capturable=True),
}
# AdamW keeps its count of steps on the CPU unless it is capturable: a graph would replay the first count for ever
CAPTURABLE = ("backward", "accumulate_grad", "step, SGD", "step, SGD with momentum", "step, AdamW, capturable")
UNWATCHED = ("backward", "accumulate_grad", *_OPTIMIZERS)


def check_graphs(setting: Setting) -> Iterator[Finding]:
    """A CUDA graph of a training loop's turn, replayed with other rows, is the same as turns that are called."""
    if setting.on_cuda:
        yield from replays_equal_calls(setting, captured, CAPTURABLE)
    else:
        yield skipped("CUDA graphs", NO_CUDA)


def captured(call: Call) -> Call:
    """The replay of what a call launches, after `WARM_UP` calls on a stream beside the current one."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def replays_equal_calls(setting: Setting, capture: Capture, ways: tuple[str, ...]) -> Iterator[Finding]:
    """Two equal loops side by side, one called and one captured; `capture` makes the warm-up's turns."""
    for dtype, tolerance in TOLERANCES.items():
        for net in NETS:
            for way in ways:
                what = f"CUDA graph of {way}, {net} net, {dtype}"
                try:
                    called, replayed = (Loop(way, net, dtype, setting.device) for _ in range(2))
                    replay = capture(replayed.call)
                    for _ in range(WARM_UP):
                        called.call()
                    samples = Samples("replays", setting.device, dtype)
                    for _ in range(REPLAYS):
                        x = samples.normal(*called.x.shape)
                        for loop, turn in ((called, called.call), (replayed, replay)):
                            loop.x.copy_(x)
                            turn()
                except Exception as error:  # what one way cannot do says nothing about the others
                    yield holds(what, False, f"{type(error).__name__}: {error}")
                    continue
                expected, got = called.results(), replayed.results()
                for symbol in expected:
                    yield agree(f"{what}: {symbol}", got[symbol], expected[symbol], tolerance)


def check_waiting(setting: Setting) -> Iterator[Finding]:
    """No call waits for the device: torch raises where one would."""
    if setting.on_cuda:
        yield from calls_under(setting, _waiting_is_an_error, UNWATCHED)
    else:
        yield skipped("calls that wait for the device", NO_CUDA)


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def calls_under(
    setting: Setting, watch: Callable[[], AbstractContextManager[None]], ways: tuple[str, ...]
) -> Iterator[Finding]:
    """Each loop's turn, warmed up, in a context that raises at what must not happen."""
    for net in NETS:
        for way in ways:
            loop = Loop(way, net, torch.float32, setting.device)
            for _ in range(WARM_UP):
                loop.call()
            try:
                with watch():
                    loop.call()
            except Exception as error:
                yield holds(f"{way} does not wait, {net} net", False, f"{type(error).__name__}: {error}")
            else:
                yield holds(f"{way} does not wait, {net} net", True)


def check_side_stream(setting: Setting) -> Iterator[Finding]:
    """Everything is launched on the current stream: what is read there is there only after a long wait."""
    if setting.on_cuda:
        yield from results_within(setting, _held_up_stream)
    else:
        yield skipped("a side stream", NO_CUDA)


@contextmanager
def _held_up_stream() -> Iterator[None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: a tenth of a second, in which another stream would read x too early
        yield
    torch.cuda.current_stream().wait_stream(stream)


def results_within(setting: Setting, beside: Callable[[], AbstractContextManager[None]]) -> Iterator[Finding]:
    """Gradients and steps of an x that is written within the context, against those outside of it."""
    case = Case("gelu", "cross_entropy", "auto", torch.float64, NETS["tiled"])
    values = values_of(case, setting.device)
    expected = gradients(ours(case, values))
    late = values | {"x": torch.full_like(values["x"], torch.nan)}
    with beside():
        late["x"].copy_(values["x"])
        got = gradients(ours(case, late))
    for symbol in expected:
        yield agree(f"a side stream: Objective, {symbol}", got[symbol], expected[symbol], EXACT)
    for way in ("accumulate_grad", "step, SGD", "step, AdamW"):
        plain, other = (Loop(way, "tiled", torch.float64, setting.device) for _ in range(2))
        plain.call()
        x = other.x.clone()
        other.x.fill_(torch.nan)
        with beside():
            other.x.copy_(x)
            other.call()
        results: tuple[dict[str, Tensor], ...] = (other.results(), plain.results())
        for symbol in results[1]:
            yield agree(f"a side stream: {way}, {symbol}", results[0][symbol], results[1][symbol], EXACT)


def check_second_device(setting: Setting) -> Iterator[Finding]:
    """Tensors on a device that is not the current one."""
    if not setting.on_cuda:
        yield skipped("a second device", NO_CUDA)
    elif torch.cuda.device_count() < 2:
        yield skipped("a second device", "there is one only")
    else:
        yield from elsewhere(replace(setting, device=torch.device("cuda", 1 - torch.cuda.current_device())))


def elsewhere(setting: Setting) -> Iterator[Finding]:
    """Ops, losses and lean gradients on the setting's device, which need not be the current one."""
    for check in (check_hidden_ops, check_cross_entropy, check_lean_gradients):
        for finding in check(setting):
            yield replace(finding, check=f"on {setting.device}: {finding.check}")
