"""Where and at what sizes the checks compute."""

from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Sizes = tuple[int, int, int, int]


@dataclass(frozen=True)
class Setting:
    """A device and the sizes of what is computed on it.

    Attributes:
        device: where to compute.
        sizes: B, d, h, q; odd ones by default, so that ragged ends are met.
        large_elements: of the largest tensors; more than 2³¹, where a 32-bit index would overflow, or small enough to
            try the check itself.
        compile_backend: of ``torch.compile``.
    """

    device: torch.device
    sizes: Sizes = (257, 33, 67, 10)
    large_elements: int = 2**31 + 2**20
    compile_backend: str = "inductor"

    @property
    def on_cuda(self) -> bool:
        """Whether there are streams, graphs and asserts to check."""
        return self.device.type == "cuda"


class Samples:
    """Random tensors, drawn in float64 on the CPU: the same numbers on every device, rounded to a dtype."""

    def __init__(self, text: str, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(_seed(text))

    def normal(self, *shape: int) -> Tensor:
        """Normally distributed."""
        return self._place(torch.randn(*shape, generator=self._generator, dtype=torch.float64))

    def uniform(self, *shape: int) -> Tensor:
        """Between 0 and 1."""
        return self._place(torch.rand(*shape, generator=self._generator, dtype=torch.float64))

    def labels(self, rows: int, classes: int) -> Tensor:
        """Classes, int64."""
        return torch.randint(classes, (rows,), generator=self._generator).to(self.device)

    def _place(self, t: Tensor) -> Tensor:
        return t.to(self.device, self.dtype)


def _seed(text: str) -> int:
    """A seed that is the same in every process (``hash`` of a string is not)."""
    return int.from_bytes(text.encode(), "little") % (2**63)
