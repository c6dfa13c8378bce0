"""What is true: the equations of the network, written once, as data."""

from .activations import ACTIVATIONS, Activation, FromOutput, activation_named, activation_of_module
from .losses import LOSSES, Loss, loss_named
from .mlp import Table, table
from .symbols import SYMBOLS
from .terms import Coefficient, Equation, Factor, Function, Polynomial, Symbol, Term

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "SYMBOLS",
    "Activation",
    "Coefficient",
    "Equation",
    "Factor",
    "FromOutput",
    "Function",
    "Loss",
    "Polynomial",
    "Symbol",
    "Table",
    "Term",
    "activation_named",
    "activation_of_module",
    "loss_named",
    "table",
]
