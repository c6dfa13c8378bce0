"""What torch is doing around a call: tracing, transforming, forward mode, autocast.

All that is private in torch is asked here, and nowhere else.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_functorch = torch._C._functorch


def recording() -> bool:
    """Whether a graph of plain operators is being recorded: torch.export, ONNX, torch.jit.trace, make_fx, linearize."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return True
    return not torch.compiler.is_compiling() and get_proxy_mode() is not None


def transforming() -> bool:
    """Whether a torch.func transform (grad, vjp, jvp, vmap, functionalize) is active."""
    return torch._C._are_functorch_transforms_active()


def forward_levels() -> int:
    """How many levels of forward mode are open."""
    if forward_ad._current_level < 0:
        return 0
    return max(1, eager_transforms.JVP_NESTING)


def nothing_around() -> bool:
    """Whether torch merely runs what it is told, on the CPU: no compiler, trace, transform, mode or autocast is on."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or transforming()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.is_autocast_enabled("cpu")
    )


def is_wrapped(tensor: Tensor) -> bool:
    """Whether the tensor stands for a batch of tensors: under a transform, or by ``is_grads_batched``."""
    return transforming() or _functorch.is_legacy_batchedtensor(tensor)


def autocasting(device_type: str) -> bool:
    """Whether autocast is on for a device; the meta device has none."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which products keep the dtype of their factors."""
    if autocasting(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
