"""Which kernels a tensor gets: loads the compiled extension, if there is one, and says so if there is none."""

import os
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import fallback

_NAMESPACE = "torch_manual_bp"
_OPS = (
    "bias_act_",
    "bias_act_keep_",
    "bias_act_mask_",
    "act",
    "dact_",
    "dact_bias_grad_",
    "scaled",
    "cross_entropy_",
    "class_statistics_",
    "class_loss",
    "cross_entropy_classes_",
    "mse_",
    "bce_with_logits_",
    "find_bad_label",
    "fits_one_call",
    "scratch_bytes",
    "mlp_forward",
    "objective_gradient_",
    "objective_sgd_",
    "objective_adam_",
    "bind_sgd",
    "bind_adam",
    "step_bound_",
    "unbind",
    "sgd_",
    "sgd_products_",
    "adam_",
)
_NOTE = Path(__file__).parent.parent / "_no_extension.txt"  # written by setup.py where it could not compile


def _load() -> tuple[SimpleNamespace | None, str]:
    """The compiled ops, bound once; or None, and why."""
    if os.environ.get("TMB_DISABLE_EXTENSION", "0") not in ("", "0"):
        return None, "TMB_DISABLE_EXTENSION is set"
    try:
        import_module("torch_manual_bp._C")  # its static initialisers register the ops; it holds nothing for Python
    except ModuleNotFoundError:
        why = (
            _NOTE.read_text().strip() if _NOTE.exists() else "not built in this source tree, or for want of a compiler"
        )
        return None, f"no compiled extension: {why}"
    except ImportError as error:  # built for another libtorch, say
        return None, f"the compiled extension does not load: {error}"
    ops = getattr(torch.ops, _NAMESPACE)
    try:
        compiled = SimpleNamespace(**{name: getattr(ops, name).default for name in _OPS})
    except AttributeError as error:
        return None, f"the compiled extension is out of date, build it again: {error}"
    from . import fake  # noqa: F401  (registers the fake kernels, for which the ops must be there)

    return compiled, ""


def _for_device(dispatch_key: str) -> SimpleNamespace | None:
    """The compiled ops of a device, with the fallback's where one has no kernel there; None if it has none at all."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if _compiled is None or not has_kernel(f"{_NAMESPACE}::{_OPS[0]}", dispatch_key):
        return None
    keys = (dispatch_key, "CompositeExplicitAutograd")  # the latter for ops without tensors
    compiled = {
        name: op
        for name, op in vars(_compiled).items()
        if any(has_kernel(f"{_NAMESPACE}::{name}", key) for key in keys)
    }
    return SimpleNamespace(**{name: compiled.get(name) or getattr(fallback, name, None) for name in _OPS})


_compiled, _reason = _load()
_cpu, _cuda = _for_device("CPU"), _for_device("CUDA")
_warned = {"meta"}  # device types that have been told; nothing is computed on meta


def backend() -> str:
    """What computes: "cpu+cuda", "cpu", or "python (reason)" where the plain-torch fallback does."""
    return "+".join(["cpu"] * (_cpu is not None) + ["cuda"] * (_cuda is not None)) or f"python ({_reason})"


def kernels_for(tensor: Tensor) -> Any:
    """The ops for this tensor's device; warns once for a device type that has none compiled."""
    if _cpu is not None and tensor.is_cpu:  # (tensor.device.type takes six times as long)
        return _cpu
    if _cuda is not None and tensor.is_cuda:
        return _cuda
    device_type = tensor.device.type
    if device_type not in _warned:
        _warned.add(device_type)
        why = _reason or f"the compiled extension has no kernels for {device_type}"
        warnings.warn(f"torch_manual_bp computes in plain torch on {device_type}, slower: {why}", stacklevel=3)
    return fallback


def compiled_kernels(tensor: Tensor) -> Any:
    """The ops compiled for this tensor's device, among them those that have no fallback; or None."""
    return _cpu if tensor.is_cpu else _cuda if tensor.is_cuda else None


def cpu_kernels() -> Any:
    """The ops compiled for the CPU, among them those that exist nowhere else; or None."""
    return _cpu
