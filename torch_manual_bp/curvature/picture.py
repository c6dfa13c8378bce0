"""A spectrum as a picture, PNG; H and the GGN are told apart by dashes and fill too, so that grey paper will do."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from torch import Tensor

from .spectrum import Spectrum

_GREY = "#6b7280"
_STYLES: dict[bool, dict[str, Any]] = {
    False: {"color": "#1f5fa8", "linestyle": "-"},
    True: {"color": "#d2691e", "linestyle": "--"},
}
_NAMES = {False: "H", True: "GGN"}
_DECADES = 8  # shown of sizes, at most; what is smaller is one bar in the middle
_BARS = 6  # a decade


def spectrum_png(spectra: Sequence[Spectrum], caption: str) -> bytes:
    """How many eigenvalues lie where, and all of them by rank, as a PNG file's content; on a symmetric-log axis.

    Args:
        spectra: of one or both matrices.
        caption: below it: what was computed, and how.
    """
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    figure.supxlabel("\n".join(textwrap.wrap(caption, 150)), fontsize=8, color=_GREY)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    linear, low, high = _range(spectra)
    for spectrum in spectra:
        _histogram(left, spectrum, _edges(linear, low, high))
        _by_rank(right, spectrum)
    how = "" if all(s.exact for s in spectra) else ", estimated"
    left.set_title(f"how many eigenvalues lie where{how}", loc="left", fontsize=10)
    right.set_title(f"eigenvalues by rank{how}", loc="left", fontsize=10)
    left.set_xlabel("eigenvalue (triangles: the largest in magnitude, and the most negative one)", fontsize=9)
    right.set_xlabel("rank", fontsize=9)
    left.set_yscale("log")
    left.set_ylim(0.5)
    _symmetric_log(left, "x", linear, low, high)
    _symmetric_log(right, "y", linear, low, high)
    right.set_xlim(0, None)
    for axes in (left, right):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    if low < -linear:
        left.axvspan(low, -linear, color=_GREY, alpha=0.08, linewidth=0)
        left.text(0.01, 0.98, "negative", transform=left.transAxes, va="top", fontsize=8, color=_GREY)
        right.axhspan(low, -linear, color=_GREY, alpha=0.08, linewidth=0)
        right.text(0.02, 0.02, "negative", transform=right.transAxes, fontsize=8, color=_GREY)
    left.legend(frameon=False, fontsize=8, loc="upper right" if low > -linear else "upper center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _histogram(axes: Axes, s: Spectrum, edges: Tensor) -> None:
    heights, _ = torch.histogram(s.values, edges, weight=s.counts)
    colour, dashes = _STYLES[s.ggn].values()
    below = f", {'' if s.exact else '≥ '}{s.negative} below 0" if s.negative else ""
    label = f"{_NAMES[s.ggn]}: trace {s.trace:.4g}{below}"
    options: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.6, "label": label, "baseline": 0.5}
    shown = heights.clamp(min=0.5)
    if not s.ggn:
        axes.stairs(shown, edges, fill=True, alpha=0.18, color=colour, baseline=0.5)
    axes.stairs(shown, edges, **options)
    for value in [*(s.largest or ()), *([s.smallest] if s.smallest is not None and s.smallest < -s.rounding else [])]:
        axes.plot(value, 0.5, marker="^" if s.ggn else "v", color=colour, markersize=6, clip_on=False, zorder=5)


def _by_rank(axes: Axes, s: Spectrum) -> None:
    ranks = torch.cat([torch.zeros(1), s.counts.flip(0).cumsum(0)])
    values = s.values.flip(0)
    axes.stairs(values, ranks, baseline=None, linewidth=1.8, label=_NAMES[s.ggn], **_STYLES[s.ggn])


def _range(spectra: Sequence[Spectrum]) -> tuple[float, float, float]:
    """Up to which size the axis is linear, and its ends."""
    sizes = torch.cat([s.values.abs() for s in spectra])
    largest = float(sizes.max()) or 1.0
    rounding = max(s.rounding for s in spectra)
    above = sizes[sizes > max(rounding, largest * 10**-_DECADES)]
    linear = 10.0 ** math.floor(math.log10(float(above.min()) if len(above) else largest / 10))
    lowest = min(float(s.values.min()) for s in spectra)
    return linear, (1.5 * lowest if lowest < -linear else -linear), 1.5 * largest


def _edges(linear: float, low: float, high: float) -> Tensor:
    """Bars of equal width on the axis: the logarithm's on both sides, and the middle.

    Powers of ten are inside of bars: where λ is one, rounding does not deal its many eigenvalues out over two.
    """

    def beyond(end: float) -> Tensor:
        count = max(0, math.ceil(_BARS * math.log10(end / linear) - 0.5))
        return linear * 10 ** ((torch.arange(count + 1, dtype=torch.float64) + 0.5) / _BARS)

    middle = torch.tensor([-linear, linear], dtype=torch.float64)
    negative = [-beyond(-low).flip(0)] if low < -linear else []
    return torch.cat([*negative, middle, beyond(high)])


def _symmetric_log(axes: Axes, which: str, linear: float, low: float, high: float) -> None:
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    decades = math.log10(high / linear) + (math.log10(low / -linear) if low < -linear else 0)
    set_scale("symlog", linthresh=linear, linscale=max(0.5, decades / 14))
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis = axes.xaxis if which == "x" else axes.yaxis
    sides = [-1, 1] if low < -linear else [1]
    first, last = round(math.log10(linear)), math.floor(math.log10(high))
    shown = range(first, last + 1, 1 + (last - first) * len(sides) // 10)
    ticks = [0.0, *(side * 10.0**decade for side in sides for decade in shown)]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: "0" if value == 0 else _power(value))


def _power(value: float) -> str:
    return f"${'-' if value < 0 else ''}10^{{{round(math.log10(abs(value)))}}}$"
