"""Question: what does the whole Hessian cost?"""

import math
import time
from collections.abc import Iterator, Sequence

from .goals import Goal, Judged
from .peak import candidate_peak
from .problem import FLOOR, Candidate, Problem, Shape, matrix_products
from .report import Question, Row, Settings, as_bytes, as_time, timed_row
from .second_order import DENSE, FUNC, matrices
from .timing import time_in_turn

SMALL, LARGE = (256, 20, 64, 10), (256, 64, 128, 10)  # n = 1994 and n = 9610
GPU = ((2048, 20, 64, 10), (2048, 64, 128, 10))
WARM_UP = 1.0  # seconds
PATIENCE = 2.5  # a peer is left out of the rounds where a first call of it took so many times as long as the fastest's


def measure(settings: Settings, shapes: Sequence[Shape] = ()) -> Iterator[Row]:
    """A row for each net.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    for activation in settings.activations or ("tanh",):
        for shape in shapes or ((SMALL, LARGE) if settings.on_cpu else GPU):
            problem = Problem(shape, activation, settings.dtype, settings.device)
            ours, *peers = matrices(problem)
            rounds = _worth_waiting_for(peers, {FUNC} if shape == SMALL else set())
            calls = {candidate.name: candidate.call for candidate in (matrix_products(problem), ours, *rounds)}
            timings = time_in_turn(calls, rounds=20, budget=settings.budget, device=settings.device)
            settings.require_quiet(timings, FLOOR)
            peaks = {candidate.name: candidate_peak(candidate, settings.device) for candidate in (ours, *rounds)}
            _, d, h, q = shape
            yield timed_row({"n": str(h * (d + 1) + q * (h + 1)), **problem.labels}, timings, DENSE, peaks)


def _worth_waiting_for(peers: Sequence[Candidate], always: set[str]) -> list[Candidate]:
    """The peers whose first call is not much slower than the fastest one's, and those that are asked for."""
    first = {}
    for peer in peers:
        begin = time.perf_counter()
        try:
            peer.call()
            if time.perf_counter() - begin < WARM_UP:  # of which the first call may be the larger part
                begin = time.perf_counter()
                peer.call()
        except RuntimeError as error:  # too large for this machine's memory
            if "memory" not in str(error):
                raise
            continue
        first[peer.name] = time.perf_counter() - begin
    limit = PATIENCE * min(first.values(), default=math.inf)
    return [peer for peer in peers if peer.name in always or first.get(peer.name, limit) < limit]


def fastest_peer(row: Row) -> str:
    """The name of the fastest that is not ours."""
    peers = [name for name in row.seconds if name not in (FLOOR, DENSE)]
    return min(peers, key=lambda name: row.ratios[f"{name} / {DENSE}"])


def cells(row: Row) -> dict[str, str]:
    """Ours, the fastest peer, and all of them."""
    best = fastest_peer(row)
    by_time = sorted((name for name in row.seconds if name != FLOOR), key=row.seconds.__getitem__)
    return {
        "ours": as_time(row.seconds[DENSE]),
        "fastest peer": best,
        "fastest peer / ours": f"**{row.ratios[f'{best} / {DENSE}']:.3g}**",
        "all, fastest first": ", ".join(
            f"{name} {as_time(row.seconds[name])} ({as_bytes(row.peak_bytes[name])})" for name in by_time
        ),
    }


def goals(row: Row) -> list[Judged]:
    """How many times as fast as torch.func.hessian, and for the larger net as the fastest peer."""
    if row.shape == SMALL:
        return [Judged(f"{FUNC} / ours", row.ratios[f"{FUNC} / {DENSE}"], Goal(25, at_least=True))]
    if row.shape == LARGE:
        return [Judged("fastest peer / ours", row.ratios[f"{fastest_peer(row)} / {DENSE}"], Goal(5, at_least=True))]
    return []


QUESTION = Question(
    "hessian",
    "What does the whole Hessian cost, as a matrix of n² numbers? In brackets: bytes at the peak, the matrix included.",
    measure,
    cells,
    goals,
    notes="Peers of which a first call took more than two and a half times as long as the fastest one's are not in the "
    "table, torch.func.hessian of the small net apart.",
)
