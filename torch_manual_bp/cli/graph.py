"""The computational graph, drawn."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import equations
from ..graph import draw
from ..nn import MLP, Objective
from .app import Activation, Debug, HiddenBias, OutputBias, app, plain_errors


@app.command(name="graph")
def show_graph(
    activation: Activation = "relu",
    loss: Annotated[str, typer.Option(help=f"{', '.join(equations.LOSSES)}.")] = "cross_entropy",
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    batch: Annotated[
        int | None, typer.Option("--batch", "-B", help="Rows B of a batch; without sizes: letters.")
    ] = None,
    inputs: Annotated[int | None, typer.Option("--inputs", "-d", help="Width d of the inputs.")] = None,
    hidden: Annotated[int | None, typer.Option("--hidden", "-h", help="Width h of the hidden layer.")] = None,
    outputs: Annotated[int | None, typer.Option("--outputs", "-q", help="Width q of the outputs.")] = None,
    weight_decay: Annotated[float, typer.Option(help="λ of J = L + λ/2 (‖W1‖² + ‖W2‖²), with sizes.")] = 1e-4,
    backward: Annotated[bool, typer.Option("--backward/--no-backward", help="Draw the backward pass over it.")] = True,
    tangent: Annotated[bool, typer.Option("--tangent", help="Draw the tangent pass too.")] = False,
    out: Annotated[Path | None, typer.Option(help="A .svg, .html, .mmd, .txt or .json file; else text.")] = None,
    debug: Debug = False,
) -> None:
    """Draw the computational graph: forward, backward and tangent pass, shapes, bytes, what is kept."""
    with plain_errors(debug):
        sizes = (batch, inputs, hidden, outputs)
        if batch is not None and inputs is not None and hidden is not None and outputs is not None:
            mlp = MLP(inputs, hidden, outputs, activation, hidden_bias, output_bias, device="meta")
            drawing = draw(Objective(mlp, loss, weight_decay), batch, backward=backward, tangent=tangent)
        elif any(size is not None for size in sizes):
            raise ValueError(f"graph: batch, inputs, hidden, outputs must be given together or not at all, got {sizes}")
        else:
            table = equations.table(activation, loss, hidden_bias, output_bias)
            drawing = draw(table, backward=backward, tangent=tangent)
        if out is None:
            print(drawing.text, end="")
        else:
            drawing.save(out)
            Console().print(f"wrote {out}", highlight=False)
