"""The picture of timelines: what is drawn, read back from the figure before it becomes pixels."""

import pytest

from torch_manual_bp.pipeline.picture import picture
from torch_manual_bp.pipeline.simulate import simulate
from torch_manual_bp.pipeline.timeline import Timeline

pytest.importorskip("matplotlib")
LONG, SHORT = [(0.01, 0.001, 0.01), (0.012, 0.01, 0.01)], [(0.005, 0.0005, 0.005), (0.006, 0.005, 0.005)]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (save(figure, *a, **k), saved.append(figure))[0])
    return saved


def boxes(axes):
    """Begin and width of each box, by lane from the top, in the order of time."""
    corners = [c.get_paths()[0].get_extents() for c in axes.collections]
    return sorted((round(e.y0 + 0.4), round(e.x0, 9), round(e.width, 9)) for e in corners)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zero_bubble"])
def test_boxes_are_the_spans_in_milliseconds(figures, schedule):
    timelines = {"measured": simulate(schedule, 4, LONG, 0.001), "simulated": simulate(schedule, 4, SHORT)}
    png = picture(timelines, "the title")
    assert png.startswith(b"\x89PNG")
    (figure,) = figures
    assert figure.get_suptitle() == "the title"
    for axes, (name, timeline) in zip(figure.axes, timelines.items(), strict=True):
        spans = [(s.rank, round(s.begin * 1e3, 9), round((s.end - s.begin) * 1e3, 9)) for s in timeline.spans]
        assert [pytest.approx(box, abs=1e-6) for box in boxes(axes)] == sorted(spans)
        assert axes.get_title(loc="left") == f"{name}: {timeline.makespan * 1e3:.4g} ms"
        assert [tick.get_text() for tick in axes.get_yticklabels()] == [
            f"rank {rank}\nidle {share:.0%}" for rank, share in enumerate(timeline.idle)
        ]
        assert axes.get_ylim()[0] > axes.get_ylim()[1], "rank 0 is on top"


def test_one_time_axis(figures):
    timelines = {"measured": simulate("1f1b", 4, LONG), "simulated": simulate("1f1b", 4, SHORT)}
    picture(timelines)
    limits = [axes.get_xlim() for axes in figures[0].axes]
    assert limits[0] == limits[1] == pytest.approx((0, timelines["measured"].makespan * 1e3))


@pytest.mark.parametrize("microbatches", [4, 16, 64])
def test_a_label_is_never_wider_than_its_box(figures, microbatches):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture({"simulated": simulate("zero_bubble", microbatches, LONG)})
    (figure,) = figures
    (axes,) = figure.axes
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes_there = [c.get_paths()[0].get_extents().transformed(axes.transData) for c in axes.collections]
    written = [text for text in axes.texts if text.get_text()]
    assert written or microbatches == 64
    for text in written:
        extent = text.get_window_extent(canvas.get_renderer())
        middle = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
        (own,) = (box for box in boxes_there if box.contains(*middle))
        assert own.x0 <= extent.x0 and extent.x1 <= own.x1, text.get_text()


def test_the_legend_names_what_is_drawn(figures):
    picture({"a": simulate("gpipe", 2, LONG), "b": simulate("zero_bubble", 2, LONG)})
    picture({"a": simulate("gpipe", 2, LONG)})
    both, whole = ([t.get_text()[0] for t in figure.legends[0].get_texts()] for figure in figures)
    assert (both, whole) == (["F", "I", "W", "B"], ["F", "B"])


@pytest.mark.parametrize("timelines", [{}, {"measured": Timeline("gpipe", ())}], ids=["none", "empty"])
def test_nothing_to_draw(timelines):
    with pytest.raises(ValueError, match=r"picture: timelines must hold spans, got (none|measured)"):
        picture(timelines)
