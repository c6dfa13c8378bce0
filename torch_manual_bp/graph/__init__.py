"""Show me: the computational graph of a net, drawn from its equations."""

from .data import from_json
from .drawing import Drawing, draw
from .model import Edge, Facts, Graph, Line, Node

__all__ = ["Drawing", "Edge", "Facts", "Graph", "Line", "Node", "draw", "from_json"]
