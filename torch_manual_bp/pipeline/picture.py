"""A picture of timelines, as PNG: a lane for each rank, a box for each action, white where a rank waits.

Boxes are told apart by shade and letter too, so that grey paper will do.
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .orders import MEANING, Kind
from .timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILL: dict[Kind, str] = {"F": "#1f5fa8", "I": "#e07b1a", "W": "#8fcaa6", "B": "#b5473c"}
_INK: dict[Kind, str] = {"F": "white", "I": "black", "W": "black", "B": "white"}
_INCHES = 10.0  # of the time axis
_LETTER = 0.062  # inches that a letter of a label takes


def picture(timelines: Mapping[str, Timeline], title: str = "", unit: str = "ms", per_unit: float = 1e-3) -> bytes:
    """Timelines below each other on one time axis, for instance ``{"measured": …, "simulated": …}``.

    Args:
        timelines: what is drawn, by the name that stands over it.
        title: what stands over all.
        unit: how the time axis is labelled.
        per_unit: what of the timelines' own unit makes one of these: 1e-3 for seconds in milliseconds.

    Returns:
        The picture as PNG.

    Raises:
        ValueError: there is nothing to draw.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not timelines or not all(timeline.spans for timeline in timelines.values()):
        raise ValueError(f"picture: timelines must hold spans, got {', '.join(timelines) or 'none'}")
    end = max(timeline.makespan for timeline in timelines.values()) / per_unit
    heights = [len(timeline.lanes) for timeline in timelines.values()]
    figure = Figure(figsize=(_INCHES + 1.5, 1.2 + sum(0.45 * n + 0.45 for n in heights)), layout="constrained")
    panels = figure.subplots(len(timelines), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, timeline) in zip(panels, timelines.items(), strict=True):
        _draw(axes, timeline, per_unit, end)
        axes.set_title(f"{name}: {timeline.makespan / per_unit:.4g} {unit}", loc="left", fontsize=10)
    panels[-1].set_xlabel(unit)
    panels[-1].set_xlim(0, end)
    kinds = [kind for kind in MEANING if any(span.kind == kind for t in timelines.values() for span in t.spans)]
    figure.legend(
        handles=[Patch(facecolor=_FILL[kind], edgecolor="black", label=f"{kind} {MEANING[kind]}") for kind in kinds],
        loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=9,
    )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw(axes: "Axes", timeline: Timeline, per_unit: float, end: float) -> None:
    inches = _INCHES / end
    for rank, lane in enumerate(timeline.lanes):
        for span in lane:
            begin, width = span.begin / per_unit, (span.end - span.begin) / per_unit
            axes.broken_barh(
                [(begin, width)], (rank - 0.4, 0.8), facecolor=_FILL[span.kind], edgecolor="black", linewidth=0.4
            )
            full = f"{span.kind}{span.microbatch}"
            label = next((text for text in (full, span.kind) if len(text) * _LETTER < 0.9 * width * inches), "")
            axes.text(
                begin + width / 2, rank, label, ha="center", va="center", fontsize=7, color=_INK[span.kind]
            )  # fmt: skip
    axes.set_yticks(
        range(len(timeline.lanes)), [f"rank {rank}\nidle {share:.0%}" for rank, share in enumerate(timeline.idle)]
    )
    axes.set_ylim(len(timeline.lanes) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
