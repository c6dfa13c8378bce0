"""The one-hidden-layer MLP with its backward pass derived by hand: exact at every order, fused in C++ and CUDA.

>>> import torch, torch_manual_bp as tmb
>>> mlp = tmb.MLP(64, 32, 10, activation="gelu")
>>> objective = tmb.Objective(mlp, loss="cross_entropy", weight_decay=1e-4)
>>> objective(torch.randn(8, 64), torch.randint(10, (8,))).backward()
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from . import equations, functional, kernels
from .nn import MLP, Objective

if TYPE_CHECKING:
    from . import curvature, graph, memory, pipeline

try:
    __version__ = version("torch_manual_bp")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+source"

__all__ = [
    "MLP", "Objective", "__version__", "curvature", "equations", "functional", "graph", "kernels", "memory", "pipeline",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The packages that load when they are asked for: what they import takes longer than all the rest."""
    if name in ("curvature", "graph", "memory", "pipeline"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
