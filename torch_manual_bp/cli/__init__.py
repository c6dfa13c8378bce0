"""The command line. Exit status: 0, 1 (training failed), 2 (bad input), 130 (Ctrl-C)."""

from . import graph, memory, training  # noqa: F401  (each adds its commands)
from .app import app

__all__ = ["app"]
