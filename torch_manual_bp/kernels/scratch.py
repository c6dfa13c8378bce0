"""What the compiled ops of a net take from the allocator while they run, beside their results."""

from typing import NamedTuple

from torch import Tensor

from ._dispatch import cpu_kernels
from .codes import CODES


class Scratch(NamedTuple):
    """Bytes, 0 where an op goes another way.

    Attributes:
        forward: of `mlp_forward`, of a net so small that one thread does it all.
        gradient: of `objective_gradient_` and the steps, of such a net.
        layer: of a larger net with few outputs: the output layer, prepared.
        sums: of such a net: the sums of each part of the rows.
        blocks: of such a net: each thread's block of rows.
        dact: of `dact_`: the column sums of each part of the rows.
    """

    forward: int = 0
    gradient: int = 0
    layer: int = 0
    sums: int = 0
    blocks: int = 0
    dact: int = 0


def scratch(x: Tensor, hidden: int, outputs: int, activation: str) -> Scratch:
    """That of a batch.

    Args:
        x: (B,d) on the CPU; only its shape and dtype are looked at.
        hidden: h.
        outputs: q.
        activation: name of φ.
    """
    ops = cpu_kernels()
    return Scratch() if ops is None else Scratch(*ops.scratch_bytes(x, hidden, outputs, CODES[activation]).tolist())
