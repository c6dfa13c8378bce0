"""The backward pass as an exercise: a Python file with a function for each equation, to be filled in and checked."""

from .activations import Activation
from .mlp import table
from .symbols import SYMBOLS
from .terms import Equation


def exercise(
    activation: str | Activation = "relu",
    loss: str = "cross_entropy",
    hidden_bias: bool = True,
    output_bias: bool = True,
    forward: bool = False,
) -> str:
    """A Python file with one empty function for each equation of the backward pass, for `check` to read.

    Each function has the names of what it needs as arguments, and its meaning, shape and label in a comment.

    Args:
        activation: a name of `ACTIVATIONS`.
        loss: "cross_entropy", "mse" or "bce_with_logits".
        hidden_bias: whether there is a b1.
        output_bias: whether there is a b2.
        forward: whether the forward equations are to be filled in as well; if not, they stand in the file's head.

    Raises:
        ValueError: unknown activation or loss.
    """
    equations = table(activation, loss, hidden_bias, output_bias)
    asked = [e for e in equations if forward or e.direction == "backward"]
    told = [f"    {e.text}" for e in equations if e not in asked]
    head = _HEAD.format(
        activation=equations.activation,
        loss=equations.loss,
        biases=f"{hidden_bias}, {output_bias}",
        shapes=", ".join(f"{symbol.name} ({_sizes(symbol.shape)})" for symbol in equations.givens),
        given="\n".join(["", "Given is the forward pass:", "", *told, ""]) if told else "",
    )
    return "\n\n".join([head, *map(_function, asked)])


_HEAD = '''\
"""{activation} and {loss} by hand: fill in each function, then

    python -m torch_manual_bp check THIS_FILE

One hidden layer, φ = {activation}, l = {loss}, a mean over the batch. Examples are rows:
{shapes}.
dX is ∂J/∂X, weight_decay is λ, batch is B. Any other symbol may be asked for as well, as an argument of its name.
{given}"""

import torch

ACTIVATION, LOSS = "{activation}", "{loss}"
HIDDEN_BIAS, OUTPUT_BIAS = {biases}
'''


def _function(equation: Equation) -> str:
    symbol = equation.lhs
    meaning = symbol.meaning or symbol.name
    label = f", {'' if equation.label.startswith('ex') else 'D2L '}{equation.label}" if equation.label else ""
    comment = f"# {meaning}, ({_sizes(symbol.shape)}){label}"
    return f"{comment}\ndef {symbol.name}({', '.join(_arguments(equation))}):\n    ...\n"


def _arguments(equation: Equation) -> list[str]:
    """What the right-hand side needs, in an order that does not give it away."""
    sizes = {size for term in equation.terms for size in term.coefficient.over}
    return [
        *(name for name in SYMBOLS if name in equation.tensors),
        *(["weight_decay"] if "weight_decay" in equation.inputs else []),
        *(["batch"] if "B" in sizes else []),
    ]


def _sizes(shape: tuple[str, ...]) -> str:
    return ", ".join(shape) + ("," if len(shape) == 1 else "")
