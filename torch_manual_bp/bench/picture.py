"""Pictures of a bench's rows, as PNG; lines are told apart by dashes and labels too, so that grey paper will do."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .problem import FLOOR
from .report import Row
from .second_order import DENSE, GRADIENT
from .sgd_steps import STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = (
    {"color": "#1f5fa8", "linestyle": "-", "marker": "o"},
    {"color": "#e07b1a", "linestyle": "--", "marker": "s"},
    {"color": "#2b8a5a", "linestyle": "-.", "marker": "^"},
    {"color": "#8a3b8f", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "D"},
    {"color": "#b5473c", "linestyle": (0, (5, 1)), "marker": "v"},
    {"color": "#557a95", "linestyle": (0, (1, 2)), "marker": "P"},
    {"color": "#8c6d1f", "linestyle": (0, (4, 2, 1, 2)), "marker": "X"},
)
_GREY = {"color": "#6b7280", "linestyle": ":", "marker": "|"}


def growth_png(rows: Sequence[Row], caption: str) -> bytes:
    """Time a row, and peak bytes, over the rows of a batch; one line for each candidate, named at its end."""
    figure = _figure(caption, (11, 5.2))
    time, memory = figure.subplots(1, 2)
    batches = [row.shape[0] for row in rows]
    styles = _styles(rows)
    names = list(rows[0].seconds)
    _lines(
        time,
        batches,
        {n: [row.seconds[n] / B * 1e6 for row, B in zip(rows, batches, strict=True)] for n in names},
        styles,
    )
    _lines(memory, batches, {n: [row.peak_bytes[n] / 1e6 for row in rows] for n in rows[0].peak_bytes}, styles)
    time.set_title("time a row, µs", loc="left")
    memory.set_title("peak above parameters and batch, MB", loc="left")
    for axes in (time, memory):
        axes.set_xlabel("rows in the batch")
    return _png(figure)


def curvature_growth_png(rows: Sequence[Row], caption: str) -> bytes:
    """Time and peak bytes of the second derivatives, over B and over n; one line for each, named at its end."""
    figure = _figure(caption, (12, 8.4))
    grids = figure.subplots(2, 2)
    parts = [[row for row in rows if row.labels["grows"] == what] for what in ("B", "n")]
    first = GRADIENT
    styles = {first: _GREY} | {name: style for name, style in _styles(rows).items() if name not in (first, STEP, FLOOR)}
    for at, (part, over) in enumerate(zip(parts, ("rows B of the batch", "parameters n"), strict=True)):
        x = [row.shape[0] if at == 0 else int(row.labels["n"]) for row in part]
        fixed = f"n = {part[0].labels['n']}" if at == 0 else f"B = {part[0].shape[0]}"
        for axes, what, unit in ((grids[0][at], "seconds", 1e3), (grids[1][at], "peak_bytes", 1e-6)):
            figures = [getattr(row, what) for row in part]
            names = [name for name in styles if all(name in of or name == DENSE for of in figures)]
            ys = {name: [of[name] * unit if name in of else math.nan for of in figures] for name in names}
            _lines(axes, x, ys, styles)
            axes.set_title(f"{'time, ms' if what == 'seconds' else 'peak, MB'}, {fixed}", loc="left")
            axes.set_xlabel(over)
    return _png(figure)


def over_floor_png(rows: Sequence[Row], caption: str) -> bytes:
    """Each candidate's time over the matrix products alone, a line of marks for each case."""
    figure = _figure(caption, (10, 1.8 + 0.5 * len(rows)))
    axes = figure.subplots()
    styles = _styles(rows)
    for name, style in styles.items():
        places = [(_over_floor(row, name), -i) for i, row in enumerate(rows) if name in row.seconds]
        ours = name == STEP  # a ring, so that an opponent of the same time shows inside of it
        mark = {"color": style["color"], "marker": style["marker"], "markersize": 12 if ours else 6}
        axes.plot(
            *zip(*places, strict=True), label=name, linestyle="none", fillstyle="none" if ours else "full", **mark
        )
    axes.set_xscale("log")
    axes.axvline(1, color=_GREY["color"], linewidth=0.8)
    axes.set_yticks([-i for i in range(len(rows))], [" · ".join(row.labels.values()) for row in rows])
    axes.set_xlabel("time over that of the bare matrix products")
    _plain_ticks(axes.xaxis)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    _tidy(axes)
    return _png(figure)


def _over_floor(row: Row, name: str) -> float:
    ratios = {**row.ratios, f"{STEP} / {STEP}": 1.0}
    return ratios[f"{name} / {STEP}"] / ratios[f"{FLOOR} / {STEP}"]


def _lines(axes: "Axes", x: Sequence[float], ys: dict[str, list[float]], styles: dict[str, dict[str, Any]]) -> None:
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    for name, y in ys.items():
        axes.plot(x, y, markersize=4, linewidth=1.6, **styles[name])
    _tidy(axes)
    axes.set_xticks(x, [f"{B:,}".replace(",", " ") for B in map(int, x)], rotation=45)
    axes.set_xlim(x[0], x[-1] * (x[-1] / x[0]) ** 0.02)
    _plain_ticks(axes.yaxis)
    last = {name: max(at for at, value in enumerate(y) if not math.isnan(value)) for name, y in ys.items()}
    heights = _apart({name: y[last[name]] for name, y in ys.items()}, axes)
    for name, height in heights.items():
        axes.annotate(
            name,
            (x[last[name]], ys[name][last[name]]),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            color=styles[name]["color"],
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": styles[name]["color"], "linewidth": 0.6},
        )


def _apart(ends: dict[str, float], axes: "Axes", gap: float = 0.06) -> dict[str, float]:
    """Heights for the lines' names, as fractions of the axes: near the lines' ends, but one above the other."""
    to_fraction = axes.transScale + axes.transLimits
    heights = {name: float(to_fraction.transform((1.0, end))[1]) for name, end in ends.items()}
    last = -gap
    for name in sorted(heights, key=heights.__getitem__):
        last = heights[name] = max(heights[name], last + gap)
    return {name: height - max(0.0, last - 1) for name, height in heights.items()}


def _styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """A style for each candidate of the rows; ours has the first one, the floor is grey."""
    names = dict.fromkeys(name for row in rows for name in row.seconds if name not in (FLOOR, STEP))
    styles = {name: _STYLES[1 + i % (len(_STYLES) - 1)] for i, name in enumerate(names)}
    return {FLOOR: _GREY, **styles, STEP: _STYLES[0]}


def _figure(caption: str, size: tuple[float, float]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.supxlabel("\n".join(textwrap.wrap(caption, 130)), fontsize=8, color=_GREY["color"])
    return figure


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _tidy(axes: "Axes") -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
