"""The computational graph."""

from pathlib import Path
from typing import Annotated

import typer

from .. import equations
from ..nn import MLP
from .app import Activation, Debug, HiddenBias, OutputBias, app, plain_errors


@app.command()
def graph(
    activation: Activation = "relu",
    loss: Annotated[str, typer.Option(help=f"{', '.join(equations.LOSSES)}.")] = "cross_entropy",
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    sizes: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(help="B d h q, for shapes and bytes in numbers.", metavar="B d h q"),
    ] = None,
    backward: Annotated[bool, typer.Option(help="The backward pass, too.")] = True,
    tangent: Annotated[bool, typer.Option("--tangent", help="The tangent pass (forward mode), too.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="An .svg, .html, .mmd (Mermaid), .txt or .json file; as text if not given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw the net's computational graph: forward pass, backward pass with its equations, shapes and bytes."""
    from ..graph import draw

    with plain_errors(debug):
        if sizes is None:
            drawing = draw(
                equations.table(activation, loss, hidden_bias, output_bias), backward=backward, tangent=tangent
            )
        else:
            mlp = MLP(*sizes[1:], activation, hidden_bias, output_bias, device="meta")
            drawing = draw(mlp, sizes[0], loss=loss, backward=backward, tangent=tangent)
        if out is None:
            print(drawing.text, end="")
        else:
            drawing.save(out)
