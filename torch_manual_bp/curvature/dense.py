"""The whole matrix, and its cheap exact blocks, in a few large matrix products.

Index legend: j, l hidden units; i, m inputs; k outputs. x̃ = [x; 1] and h̃ = [h; 1] where there is a bias, of widths d′
and h′. M_b = W2ᵀ S_b W2. Each block is a sum over rows of small Kronecker products:

    H11[(j,i),(l,m)] = Σ_b x̃_bi x̃_bm (φ′_bj φ′_bl M_b,jl + δ_jl φ″_bj dH_bj)
    H12[(j,i),(k,l)] = Σ_b x̃_bi φ′_bj (δ_jl G_bk + h̃_bl (S_b W2)_kj)        (no δ for h̃'s 1)
    H22[(k,l),(m,n)] = Σ_b S_b,km h̃_bl h̃_bn

H11 and H22 are symmetric in each of their two pairs of indices, so they come from one product (pairs, B) (B, pairs) of
a quarter of the FLOPs. The GGN lacks φ″ ⊙ dH and δ_jl G.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .pairs import Pairs
from .rows import Rows

_CHUNK = 1 << 22  # elements that are spread out at a time, so that what is between stays small beside the matrix


class Parts(NamedTuple):
    """What rows add up to: first (pairs of h, pairs of d′), mixed (h,d′,q,h′), second (pairs of q, pairs of h′)."""

    first: Tensor
    mixed: Tensor
    second: Tensor


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

    def slots(self) -> list[tuple[slice, slice]]:
        """Pairs of a place among all parameters, and the columns of [W b] that belong there."""
        weights = self.start + self.units * self.inputs
        places = [(slice(self.start, weights), slice(0, self.inputs))]
        if self.bias:
            places.append((slice(weights, self.stop), slice(self.inputs, self.inputs + 1)))
        return places


def parts(rows: Rows, ggn: bool, hidden_bias: bool, output_bias: bool) -> Parts:
    """The three blocks' sums over these rows."""
    return Parts(
        first_layer(rows, ggn, hidden_bias), mixed(rows, ggn, hidden_bias, output_bias), second_layer(rows, output_bias)
    )


def first_layer(rows: Rows, ggn: bool, bias: bool) -> Tensor:
    """H11 as (pairs of h, pairs of d′)."""
    x = extended(rows.x, bias)
    units, inputs = Pairs(rows.h.shape[1], x.device), Pairs(x.shape[1], x.device)
    a, s, p = rows.S.a, rows.S.s, rows.S.p
    w2w2 = units.products(rows.w2)  # W2_kj W2_kl, shape (q, pairs)
    K = w2w2.sum(0).expand(len(x), -1) if s is None else s @ w2w2
    if p is not None:
        K = K - units.products(p @ rows.w2)
    K = units.products(rows.dphi) * (a * K)  # φ′_j φ′_l M_jl
    if not ggn and rows.bend is not None:
        units.add_to_diagonal(K, rows.bend)
    return K.t() @ inputs.products(x)


def mixed(rows: Rows, ggn: bool, hidden_bias: bool, output_bias: bool) -> Tensor:
    """H12, shape (h,d′,q,h′)."""
    x, h, S = extended(rows.x, hidden_bias), extended(rows.h, output_bias), rows.S
    q, units = rows.w2.shape
    sizes = (units, x.shape[1], q, h.shape[1])
    left = outer(rows.dphi, x)  # φ′_bj x̃_bi, shape (B,hd′)
    right = outer(S.a.expand(-1, q) if S.s is None else S.a * S.s, h)  # a s_bk h̃_bl, shape (B,qh′)
    block = (left.t() @ right).view(sizes) * rows.w2.t()[:, None, :, None]
    if S.p is not None:  # − a p_bk (p W2)_bj, and s = p
        block -= (outer(rows.dphi * (S.p @ rows.w2), x).t() @ right).view(sizes)
    if not ggn:
        block.diagonal(dim1=0, dim2=3).add_((left.t() @ rows.g).view(sizes[:3]).permute(1, 2, 0))  # δ_jl G_bk
    return block


def second_layer(rows: Rows, bias: bool) -> Tensor:
    """H22 as (pairs of q, pairs of h′)."""
    h, (a, s, _), p, q = extended(rows.h, bias), rows.S, rows.S.p, rows.w2.shape[0]
    outputs, inputs = Pairs(q, h.device), Pairs(h.shape[1], h.device)
    S = h.new_zeros(len(h), len(outputs.first)) if p is None else -a * outputs.products(p)
    outputs.add_to_diagonal(S, a.expand(-1, q) if s is None else a * s)
    return S.t() @ inputs.products(h)


def assembled(first: Tensor, both: Tensor, second: Tensor, layers: tuple[Layer, Layer], decay: float) -> Tensor:
    """H (n,n) in the parameters' own order, λ included."""
    H = first.new_empty(layers[1].stop, layers[1].stop)
    for layer, block in zip(layers, (first, second), strict=True):
        place_symmetric(H, block, layer)
    for rows, columns in ((row, column) for row in layers[0].slots() for column in layers[1].slots()):
        part = both[:, rows[1], :, columns[1]]
        H[rows[0], columns[0]].view(part.shape).copy_(part)
        H[columns[0], rows[0]].view(part.permute(2, 3, 0, 1).shape).copy_(part.permute(2, 3, 0, 1))
    for layer in layers:
        H.diagonal()[layer.slots()[0][0]] += decay
    return H


def layer_block(block: Tensor, layer: Layer, decay: float) -> Tensor:
    """One layer's square of H, λ included, from its (pairs of units, pairs of inputs)."""
    H = block.new_empty(layer.stop, layer.stop)
    place_symmetric(H, block, layer)
    H.diagonal()[layer.slots()[0][0]] += decay
    return H


def place_symmetric(H: Tensor, block: Tensor, layer: Layer) -> None:
    """Spread a block (pairs of units, pairs of inputs) over the layer's square in H, some units at a time."""
    width = layer.inputs + layer.bias
    units, inputs = Pairs(layer.units, H.device), Pairs(width, H.device).table.flatten()
    step = max(1, _CHUNK // max(1, layer.units * width * width))
    for at in range(0, layer.units, step):
        some = units.table[at : at + step]
        spread = block.index_select(0, some.flatten()).index_select(1, inputs)
        spread = spread.view(*some.shape, width, width).permute(0, 2, 1, 3)  # (units, d′, h, d′)
        for place, columns in layer.slots():
            a = columns.stop - columns.start
            here = slice(place.start + at * a, place.start + (at + len(some)) * a)
            for other, others in layer.slots():
                part = spread[:, columns, :, others]
                H[here, other].view(part.shape).copy_(part)


def unit_blocks(weight: Tensor, inputs: Tensor, bias: bool) -> Tensor:
    """Ãᵀ diag(w_:j) Ã for each column of w (B,units), from one product; shape (units, d′, d′) for Ã = [A 1]."""
    a = extended(inputs, bias)
    pairs = Pairs(a.shape[1], a.device)
    return (weight.t() @ pairs.products(a))[:, pairs.table]


def extended(a: Tensor, bias: bool) -> Tensor:
    """Ã = [A 1] where there is a bias."""
    return torch.cat([a, a.new_ones(len(a), 1)], 1) if bias else a


def outer(a: Tensor, b: Tensor) -> Tensor:
    """A_bj B_bi as (B,ji)."""
    return (a[:, :, None] * b[:, None]).flatten(1)
