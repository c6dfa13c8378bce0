"""The whole matrix, and its cheap exact blocks, in a few large matrix products.

Index legend: j, l hidden units; i, m inputs; k outputs; M_b = W2ᵀ S_b W2; x̃ = [x; 1] and h̃ = [h; 1] where there is a
bias. Each block is a sum over rows of small Kronecker products:

    H11[(j,i),(l,m)] = Σ_b c_b,jl x̃_bi x̃_bm,  c_b,jl = φ′_bj φ′_bl M_b,jl + δ_jl φ″_bj dH_bj
    H12[(j,i),(k,l)] = Σ_b x̃_bi φ′_bj (δ_jl G_bk + h̃_bl (S_b W2)_kj)        (no δ for h̃'s 1)
    H22[(k,l),(m,n)] = Σ_b S_b,km h̃_bl h̃_bn

A layer's own square is symmetric in its two units: products are made for j ≤ l only, some units at a time, and what
comes out is put in both its places at once. The GGN lacks φ″ ⊙ dH and δ_jl G.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .pairs import Pairs
from .passes import Write
from .rows import Rows

_CHUNK = 1 << 22  # elements of what is made at a time: small enough for a cache, large enough for a matrix product


class Layer(NamedTuple):
    """A layer's place: from ``start`` on, ``units`` × ``inputs`` weights, then its biases if it has any."""

    start: int
    units: int
    inputs: int
    bias: bool

    @property
    def stop(self) -> int:
        """Where the next one starts."""
        return self.start + self.units * (self.inputs + self.bias)

    def slots(self, units: slice) -> list[tuple[slice, slice]]:
        """For the weights of some units, and their biases: the place among all parameters, the columns of [W b]."""
        d, biases = self.inputs, self.start + self.units * self.inputs
        places = [(slice(self.start + units.start * d, self.start + units.stop * d), slice(0, d))]
        if self.bias:
            places.append((slice(biases + units.start, biases + units.stop), slice(d, d + 1)))
        return places

    @property
    def decayed(self) -> slice:
        """The weights' places: what λ acts on."""
        return self.slots(slice(0, self.units))[0][0]


def most_rows(n: int, layers: tuple[Layer, ...]) -> int:
    """Of how many rows at a time x̃ x̃ᵀ, x̃ h̃ᵀ, h̃ h̃ᵀ take half of what the matrix (n,n) does, or a few MB."""
    widest = max(layer.inputs + layer.bias for layer in layers)
    return max(1, max(_CHUNK, n * n // 2) // widest**2)


def add_hessian(H: Tensor, rows: Rows, ggn: bool, layers: tuple[Layer, Layer], write: Write) -> None:
    """Write these rows' part of the matrix (n,n), without the penalty."""
    add_first_layer(H, rows, ggn, layers[0], write)
    add_second_layer(H, rows, layers[1], write)
    add_mixed(H, rows, ggn, layers, write)


def add_first_layer(H: Tensor, rows: Rows, ggn: bool, layer: Layer, write: Write) -> None:
    """H11 into the layer's square of H."""
    (a, s, _), p = rows.S, rows.S.p
    pw = None if p is None else p @ rows.w2

    def weights_of(pairs: Pairs) -> Tensor:
        w2w2 = pairs.products(rows.w2)  # W2_kj W2_kl, shape (q, pairs)
        M = w2w2.sum(0) if s is None else s @ w2w2
        if pw is not None:
            M = M - pairs.products(pw)
        c = pairs.products(rows.dphi) * (a * M)  # gdzdz = φ′_j φ′_l M_jl
        if not ggn and rows.bend is not None:
            pairs.add_to_diagonal(c, rows.bend)  # dzdz = gdzdz + δ_jl φ″ dH
        return c

    _add_square(H, layer, weights_of, rows.x, write)


def add_second_layer(H: Tensor, rows: Rows, layer: Layer, write: Write) -> None:
    """H22 into the layer's square of H."""
    (a, s, _), p = rows.S, rows.S.p
    diagonal = a.expand(-1, layer.units) if s is None else a * s

    def weights_of(pairs: Pairs) -> Tensor:
        c = a.new_zeros(len(a), len(pairs)) if p is None else -a * pairs.products(p)
        return pairs.add_to_diagonal(c, diagonal)  # dodo = a (δ_kn s_k − p_k p_n)

    _add_square(H, layer, weights_of, rows.h, write)


def add_mixed(H: Tensor, rows: Rows, ggn: bool, layers: tuple[Layer, Layer], write: Write) -> None:
    """H12 and its transpose."""
    first, second = layers
    S, (q, h) = rows.S, rows.w2.shape
    x, hidden = extended(rows.x, first.bias), extended(rows.h, second.bias)
    xh = outer(x, hidden)  # x̃_bi h̃_bl
    weight = (S.a if S.s is None else S.a * S.s)[:, None]
    mu = None if S.p is None else S.p @ rows.w2
    step = max(1, _CHUNK // (q * max(len(x), xh.shape[1])))
    for units in (slice(at, min(at + step, h)) for at in range(0, h, step)):
        dphi, n = rows.dphi[:, units, None], units.stop - units.start
        w2 = rows.w2[:, units].t()
        Sw = weight * (w2 if mu is None else w2 - mu[:, units, None])  # dhdo = (S_b W2)_kj, as (B,j,k)
        block = (dphi * Sw).flatten(1).t() @ xh  # dw1dw2 = Σ_b φ′_j dhdo_jk x̃_i h̃_l + δ_jl Σ_b φ′_j G_k x̃_i
        block = block.view(n, q, x.shape[1], -1)  # (j,k,i,l)
        if not ggn:
            meeting = ((dphi * rows.g[:, None]).flatten(1).t() @ x).view(n, q, -1)  # the latter, as (j,k,i)
            block.diagonal(units.start, 0, 3).add_(meeting.permute(1, 2, 0))
        for row, i in first.slots(units):
            for column, l in second.slots(slice(0, q)):  # noqa: E741
                part = block[:, :, i, l]
                write(H[row, column].view(n, -1, q, part.shape[3]), part.permute(0, 2, 1, 3))
                write(H[column, row].view(q, -1, n, part.shape[2]), part.permute(1, 3, 0, 2))


def _add_square(H: Tensor, layer: Layer, weights_of: Callable[[Pairs], Tensor], inputs: Tensor, write: Write) -> None:
    """Σ_b c_b,jl ã_bi ã_bm into the layer's square, ``inputs`` a (B,d) and c from ``weights_of`` some pairs."""
    units, d = layer.units, layer.inputs
    every = Pairs(units, inputs.device)
    aa = outer(inputs, inputs)
    ones = extended(inputs, layer.bias)
    to_bias = inputs.new_empty(len(every), d + 1)
    for some in every.chunks(max(1, _CHUNK // max(len(inputs), d * d))):
        c = weights_of(some)
        block = c.t() @ aa  # dw1dw1 = Σ_b dzdz_jl x_i x_m, dw2dw2 = Σ_b dodo_kn h_j h_l
        block = block.view(-1, d, d)  # (pairs,i,m)
        if layer.bias:
            to_bias[some.numbers] = c.t() @ ones  # dw1db1 = Σ_b dzdz_jl x_i, dw2db2 = Σ_b dodo_kn h_j; (pairs,m)
        for j, part in zip(range(some.start, some.stop), block.split(some.lengths), strict=True):  # (l,i,m), l ≥ j
            own = layer.slots(slice(j, j + 1))[0][0]
            row, column = slice(own.start, layer.start + units * d), slice(own.stop, layer.start + units * d)
            write(H[own, row].view(d, -1, d), part.transpose(0, 1))
            write(H[column, own].view(-1, d, d), part[1:])
    if layer.bias:
        (weights, _), (biases, _) = layer.slots(slice(0, units))
        spread = to_bias[every.table]  # (j,l,m)
        write(H[biases, weights].view(units, units, d), spread[:, :, :d])
        write(H[weights, biases].view(units, d, units), spread[:, :, :d].transpose(1, 2))
        write(H[biases, biases], spread[:, :, d])


def unit_blocks(weight: Tensor, inputs: Tensor, bias: bool) -> Tensor:
    """Ãᵀ diag(w_:j) Ã for each column of w (B,units), from one product; shape (units, d′, d′) for Ã = [A 1]."""
    a = extended(inputs, bias)
    pairs = Pairs(a.shape[1], a.device)
    total = a.new_zeros(weight.shape[1], len(pairs))
    step = max(1, _CHUNK // len(pairs))  # rows at a time
    for some in (slice(at, at + step) for at in range(0, len(a), step)):
        total.addmm_(weight[some].t(), pairs.products(a[some]))
    return total[:, pairs.table]  # U1 = X̃ᵀ diag(d2z_:j) X̃, U2 = H̃ᵀ diag(d2o_:k) H̃


def extended(a: Tensor, bias: bool) -> Tensor:
    """Ã = [A 1] where there is a bias."""
    return torch.cat([a, a.new_ones(len(a), 1)], 1) if bias else a


def outer(a: Tensor, b: Tensor) -> Tensor:
    """A_bj B_bi as (B,ji)."""
    return (a[:, :, None] * b[:, None]).flatten(1)
