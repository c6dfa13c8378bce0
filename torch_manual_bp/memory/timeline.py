"""Bytes over time as a picture, each block a band: of what was measured, or of what is planned."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#1f5fa8", "#e07b1a", "#2b8a5a", "#8a3b8f", "#b5473c", "#557a95", "#8c6d1f")
_GREY = "#9ca3af"
_BANDS = 200  # blocks that have a band of their own; of the others, one for each kind
SEPARATOR = " › "  # in a name whose last part alone is its short form
_LETTER = 0.0066  # of the axes' width, a letter of a band's name
_LEAST_HEIGHT = 0.045  # of the axes' height, a band that has room for its name

_Array = np.ndarray[Any, np.dtype[Any]]


class Span(NamedTuple):
    """A block of memory: held from `born` until before `died`, or to the end (None); blocks of a kind share a colour.

    Where a name does not fit, the part after its last `SEPARATOR` is tried.
    """

    name: str
    kind: str
    bytes: int
    born: float
    died: float | None


class _Band(NamedTuple):
    name: str
    kind: str
    bottom: _Array  # at each time
    top: _Array


def picture(
    spans: Sequence[Span], path: str | Path, label: str, *, end: float | None = None, title: str | None = None
) -> None:
    """Draw the bytes that are held over time, stacked by kind, and the peak (needs matplotlib).

    Args:
        spans: the blocks; births and deaths in whatever unit `label` names: milliseconds, steps of a plan.
        path: the file, a PNG or what else its suffix says.
        label: what the horizontal axis counts.
        end: where that axis ends; by default at the last birth or death.
        title: stands above; by default the peak in bytes.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    times = _times(spans, end)
    bands = list(_bands(spans, times))
    held = bands[-1].top if bands else np.zeros(len(times))
    peak = int(held.argmax())
    shares = _shares(bands, peak)
    colours = {kind: _COLOURS[i] if i < len(_COLOURS) else _GREY for i, kind in enumerate(shares)}

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(times[0], times[-1])
    axes.set_ylim(0, 1.12 * max(held.max(), 1))
    for band in bands:
        _draw(axes, band, times, colours[band.kind])
    axes.axhline(held[peak], color="#374151", linewidth=0.8, linestyle=":")
    axes.set_title(title or f"peak {held[peak]:,.0f} bytes", loc="left")
    axes.set_xlabel(label)
    axes.yaxis.set_major_formatter(EngFormatter("B"))
    axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, shares, colours)
    figure.savefig(path, dpi=150)


def _times(spans: Sequence[Span], end: float | None) -> _Array:
    """Where something changes; two at least, so that there is an axis."""
    times = {0.0, *(span.born for span in spans), *(span.died for span in spans if span.died is not None)}
    last = max(times) if end is None else end
    return np.array(sorted({time for time in times if time <= last} | {last if last > 0 else 1.0}))


def _bands(spans: Sequence[Span], times: _Array) -> Iterator[_Band]:
    """The bands from the lowest to the highest: kinds by their most bytes, the largest first; in a kind, by birth."""
    stop = float(times[-1])
    by_area = sorted(spans, key=lambda s: s.bytes * ((stop if s.died is None else s.died) - s.born), reverse=True)
    alone = set(by_area[:_BANDS])
    kinds: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        kinds[span.kind].append(span)
    heights = {kind: _height(members, times) for kind, members in kinds.items()}
    bottom = np.zeros(len(times))
    for kind in sorted(kinds, key=lambda kind: -heights[kind].max()):
        members = sorted(kinds[kind], key=lambda span: span.born)
        rest = [span for span in members if span not in alone]
        for name, members_of_band in [("", rest), *((span.name, [span]) for span in members if span in alone)]:
            if members_of_band:
                top = bottom + _height(members_of_band, times)
                yield _Band(name, kind, bottom, top)
                bottom = top


def _height(spans: Sequence[Span], times: _Array) -> _Array:
    """The bytes of some blocks together, from each time to the next."""
    changes = np.zeros(len(times) + 1)
    for span in spans:
        changes[np.searchsorted(times, span.born)] += span.bytes
        if span.died is not None:
            changes[np.searchsorted(times, span.died)] -= span.bytes
    return changes.cumsum()[:-1]


def _shares(bands: Sequence[_Band], peak: int) -> dict[str, float]:
    """The bytes of each kind at the peak, from the lowest kind to the highest."""
    shares: dict[str, float] = defaultdict(float)
    for band in bands:
        shares[band.kind] += band.top[peak] - band.bottom[peak]
    return shares


def _draw(axes: "Axes", band: _Band, times: _Array, colour: str) -> None:
    (there,) = np.nonzero(band.top > band.bottom)
    first, last = int(there[0]), min(int(there[-1]) + 1, len(times) - 1)
    life = slice(first, last + 1)
    edge = 0.4 if band.name else 0.0  # between blocks; where a band is many of them, its edge would hide it
    axes.fill_between(
        times[life], band.bottom[life], band.top[life], step="post", facecolor=colour, edgecolor="white", linewidth=edge
    )
    moves = [first, *(i for i in range(first + 1, last) if band.bottom[i] != band.bottom[i - 1]), last]
    start, stop = max(pairwise(moves), key=lambda pair: times[pair[1]] - times[pair[0]])
    low, high = band.bottom[start], band.top[start]
    letters = (times[stop] - times[start]) / (times[-1] - times[0]) / _LETTER
    name = next((name for name in (band.name, band.name.split(SEPARATOR)[-1]) if len(name) < letters), "")
    if name and high - low > _LEAST_HEIGHT * axes.get_ylim()[1]:
        place = (times[start] + times[stop]) / 2, (low + high) / 2
        axes.text(*place, name, ha="center", va="center", fontsize=7.5, color="white")


def _legend(figure: Any, shares: dict[str, float], colours: dict[str, str]) -> None:
    """The kinds as they are stacked, with what they hold at the peak; those without a colour of their own as one."""
    from matplotlib.patches import Patch

    others = [kind for kind in shares if colours[kind] == _GREY]
    entries = [(colours[kind], kind, shares[kind]) for kind in shares if kind not in others]
    if others:
        name = others[0] if len(others) == 1 else f"{len(others)} others"
        entries.append((_GREY, name, sum(shares[kind] for kind in others)))
    handles = [Patch(color=colour, label=f"{kind}: {size:,.0f}") for colour, kind, size in reversed(entries)]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", frameon=False, title="bytes at the peak")
