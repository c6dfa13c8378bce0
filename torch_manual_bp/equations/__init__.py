"""What is true: the equations of the network, written once, as data."""

from .activations import ACTIVATIONS, Activation, FromOutput, activation_named, activation_of_module
from .check import check
from .exercise import exercise
from .losses import LOSSES, Loss, loss_named
from .mlp import Table, table
from .report import Finding, Report
from .second_order import second_order
from .symbols import SECOND_ORDER, SYMBOLS
from .terms import Coefficient, Equation, Factor, Function, Polynomial, Symbol, Term

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "SECOND_ORDER",
    "SYMBOLS",
    "Activation",
    "Coefficient",
    "Equation",
    "Factor",
    "Finding",
    "FromOutput",
    "Function",
    "Loss",
    "Polynomial",
    "Report",
    "Symbol",
    "Table",
    "Term",
    "activation_named",
    "activation_of_module",
    "check",
    "exercise",
    "loss_named",
    "second_order",
    "table",
]
