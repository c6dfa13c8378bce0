"""Check: the ops of the hidden layer, φ and φ′ in each of their forms, against the definitions in float64."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import kernels
from ..equations import ACTIVATIONS, Activation
from ..kernels.codes import KIND_CODES, MASKED_CODES
from .finding import Finding, compare, same_bits
from .setting import DTYPES, Samples, Setting


def check_hidden_ops(setting: Setting) -> Iterator[Finding]:
    """bias_act_, bias_act_keep_, bias_act_mask_, act and dact_, at a ragged width and at one of whole vectors."""
    B, _, ragged, _ = setting.sizes
    for activation, dtype, h in itertools.product(ACTIVATIONS, DTYPES, (ragged, 64)):
        samples = Samples(f"hidden {activation} {h}", setting.device, dtype)
        z, dh, b = 3 * samples.normal(B, h), 3 * samples.normal(B, h), 3 * samples.normal(h)
        phi = ACTIVATIONS[activation]
        yield from _forward(phi, z, b)
        yield from _backward(phi, z + b, dh)


def _forward(phi: Activation, z: Tensor, b: Tensor) -> Iterator[Finding]:
    """H of each op that makes it, with a bias and without, and what it keeps for the backward pass."""
    dtype, where = z.dtype, f"{phi.name}, {z.shape[1]} columns"
    z64, b64 = z.double().cpu(), b.double().cpu()
    for bias in (b, None):
        sum64 = z64 if bias is None else z64 + b64
        at = sum64.to(dtype).to(z.device)  # z + b as it is kept, rounded to its dtype
        truth, torchs = phi.phi(sum64), phi.phi(at)
        with_bias = "" if bias is not None else " without bias"
        h = z.clone()
        kernels.bias_act_(h, bias, phi.name)
        yield compare(f"bias_act_{with_bias}: {where}", dtype, h, torchs, truth)
        kept, h = z.clone(), torch.empty_like(z)
        kernels.bias_act_keep_(kept, h, bias, phi.name)
        yield compare(f"bias_act_keep_{with_bias}, h: {where}", dtype, h, torchs, truth)
        yield compare(f"bias_act_keep_{with_bias}, z: {where}", dtype, kept, at, sum64)
        if phi.name in MASKED_CODES:
            h = z.clone()
            mask = kernels.bias_act_mask_(h, bias, phi.name)
            yield compare(f"bias_act_mask_{with_bias}, h: {where}", dtype, h, torchs, truth)
            yield same_bits(f"bias_act_mask_{with_bias}, mask: {where}", mask.cpu(), _bits(at.cpu() > 0))
    yield compare(f"act: {where}", dtype, kernels.act(z, phi.name), phi.phi(z), phi.phi(z64))


def _bits(positive: Tensor) -> Tensor:
    """One bit a unit, bit j mod 8 of byte ⌊j/8⌋."""
    B, h = positive.shape
    padded = torch.zeros(B, -(-h // 8) * 8, dtype=torch.uint8)
    padded[:, :h] = positive
    return (padded.view(B, -1, 8) << torch.arange(8, dtype=torch.uint8)).sum(2).to(torch.uint8)


def _backward(phi: Activation, z: Tensor, dh: Tensor) -> Iterator[Finding]:
    """Dz and db of each kind of tensor that φ′ can follow from."""
    dtype, where = z.dtype, f"{phi.name}, {z.shape[1]} columns"
    truth = phi.dphi(z.double().cpu()) * dh.double().cpu()
    leaf = z.clone().requires_grad_()
    (torchs,) = torch.autograd.grad(phi.phi(leaf), leaf, dh)
    saved = {"z": z, "h": phi.phi(z.double()).to(dtype)}
    if phi.name in MASKED_CODES:
        saved["mask"] = kernels.bias_act_mask_(z.clone(), None, phi.name)
    for kind, kept in saved.items():
        if (phi.name, kind) not in KIND_CODES:
            continue
        for bias_grad in (False, True):
            dz = dh.clone()
            db = kernels.dact_(dz, kept, phi.name, kind, bias_grad)
            what = f"dact_ from {kind}{' with db' if bias_grad else ''}"
            yield compare(f"{what}, dz: {where}", dtype, dz, torchs, truth)
            if db is not None:
                size = truth.abs().sum(0).max().item() / len(truth) ** 0.5  # of a sum of so many random terms
                yield compare(f"{what}, db: {where}", dtype, db, torchs.sum(0), truth.sum(0), size)
