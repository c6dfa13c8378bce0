"""`draw`: from a net or a table to a picture, in whichever form is asked for."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..equations import Table
from ..equations import table as table_of
from ..nn import MLP, Objective
from .cost import cost
from .data import as_json
from .derive import graph_of
from .html import html
from .mermaid import mermaid
from .model import Facts, Graph
from .svg import svg
from .text import text
from .values import run


class Drawing:
    """A computational graph, drawn. Each form is a string, made when it is asked for; notebooks show the SVG.

    Attributes:
        graph: nodes, edges, equations and facts, as `torch_manual_bp.graph.model` has them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @cached_property
    def svg(self) -> str:
        """800 pixels wide, light or dark as the reader's screen is; no font, script or file beside it."""
        return svg(self.graph)

    @cached_property
    def html(self) -> str:
        """A page that needs nothing else: pointing at a node shows its equations as formulas."""
        return html(self.graph)

    @cached_property
    def mermaid(self) -> str:
        """A Mermaid flowchart."""
        return mermaid(self.graph)

    @cached_property
    def text(self) -> str:
        """The picture in letters, and the equations."""
        return text(self.graph)

    @cached_property
    def json(self) -> str:
        """All of the graph as data; `torch_manual_bp.graph.from_json` reads it."""
        return as_json(self.graph)

    def save(self, path: str | Path) -> None:
        """Write one form, by the file's suffix: .svg, .html, .mmd, .txt or .json.

        Raises:
            ValueError: another suffix.
        """
        path = Path(path)
        if path.suffix not in FORMS:
            raise ValueError(f"save: path must end in {', '.join(FORMS)}; got {str(path)!r}")
        path.write_text(getattr(self, FORMS[path.suffix]), encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Drawing({self.graph.title!r}, {len(self.graph.nodes)} nodes, {len(self.graph.edges)} edges)"


FORMS = {".svg": "svg", ".html": "html", ".mmd": "mermaid", ".txt": "text", ".json": "json"}


def draw(
    model: MLP | Objective | Table, batch: int | None = None, *, loss: str = "cross_entropy", backward: bool = True,
    tangent: bool = False, values: Mapping[str, Any] | None = None, wrong: Collection[str] = (),
) -> Drawing:  # fmt: skip
    """The computational graph of a net as in D2L 5.3: squares are variables, darker ones parameters, circles operators.

    Everything is read off the equation table; bytes and what is kept for the backward pass off the memory plan.

    Args:
        model: a net, an Objective (whose loss and λ are then taken), or a table of equations.
        batch: B; without it shapes and bytes are letters.
        loss: of an MLP.
        backward: whether the backward pass is drawn over it, each arrow with its part of the gradient.
        tangent: whether the tangent pass (forward mode) is.
        values: to show norms, and the largest error against autograd: x (B,d), y, and of a table the parameters and
            ``weight_decay``. Under an equation's name (``"dw2"``) what somebody else has computed for it: it is
            compared in the equation's place, and red if it is wrong.
        wrong: names of what wrong equations give, drawn in red, for instance a checker's findings.

    Raises:
        TypeError: model is nothing of these.
        ValueError: an Objective whose loss is not the table's (a sum, label smoothing, class weights); a batch without
            a net; names that the table does not have; as of `torch_manual_bp.memory.plan`.
        KeyError: values that are missing.
    """
    table, objective = _table_and_objective(model, loss)
    if batch is not None and objective is None:
        raise ValueError(f"draw: batch belongs to a net, whose sizes are known; got {batch!r} with a table")
    unknown = [name for name in wrong if name not in {equation.symbol for equation in table}]
    if unknown:
        raise ValueError(f"draw: wrong must hold names of equations; got {', '.join(unknown)}")
    graph, taken = graph_of(table, backward, tangent), cost(table, objective, batch)
    found = {} if values is None else run(table, {**_parameters(objective), **values})
    facts = {
        name: _together(taken.facts.get(name, Facts()), found.get(name, Facts()), name in wrong)
        for name in dict.fromkeys([*taken.facts, *found, *wrong])
    }
    if objective is not None and batch is not None:
        graph = _with_numbers(graph, _sizes(objective.mlp, batch))
    return Drawing(replace(graph, facts=facts, totals=taken.totals))


def _table_and_objective(model: MLP | Objective | Table, loss: str) -> tuple[Table, Objective | None]:
    if isinstance(model, Table):  # (what is of second order is no arrow of the graph)
        return model.first_order, None
    if isinstance(model, MLP):
        model = Objective(model, loss)
    if not isinstance(model, Objective):
        raise TypeError(
            f"draw: model must be a torch_manual_bp.MLP, an Objective or a table of equations, "
            f"got {type(model).__name__}"
        )
    options = model.loss
    if options.reduction != "mean" or options.label_smoothing or model.class_weight is not None:
        raise ValueError(
            "draw: the equations are those of a mean without label smoothing and class weights; "
            f"got {options}{' with class weights' if model.class_weight is not None else ''}"
        )
    mlp = model.mlp
    if mlp.plain_weights() is None:
        raise ValueError(
            "draw: fc1 and fc2 must be plain nn.Linear layers without hooks: what else they do is not known"
        )
    biases = (mlp.fc1.bias is not None, mlp.fc2.bias is not None)
    return table_of(mlp.activation, options.name, *biases), model


def _parameters(objective: Objective | None) -> dict[str, Any]:
    if objective is None:
        return {}
    weights = objective.mlp.plain_weights() or ()
    named = zip(("w1", "b1", "w2", "b2"), weights, strict=False)
    return {"weight_decay": objective.weight_decay, **{name: value for name, value in named if value is not None}}


def _sizes(mlp: MLP, batch: int) -> dict[str, int]:
    return {"B": batch, "d": mlp.in_features, "h": mlp.hidden_features, "q": mlp.out_features}


def _with_numbers(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with numbers for the letters in all shapes."""

    def numbers(part: Any) -> Any:
        return replace(part, shape=tuple(sizes.get(size, size) for size in part.shape))

    nodes, edges, lines = (tuple(map(numbers, parts)) for parts in (graph.nodes, graph.edges, graph.lines))
    return replace(graph, nodes=nodes, edges=edges, lines=lines)


def _together(taken: Facts, found: Facts, wrong: bool) -> Facts:
    return replace(found, bytes=taken.bytes, kept=taken.kept, wrong=found.wrong or wrong)
