"""Check: tensors of more than 2³¹ elements, where an index of 32 bits would overflow.

One call on the whole is to be the calls on its pieces: the same bits in every row, the same sums.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .finding import Finding, agree, holds, same_bits, skipped
from .setting import Setting

COLUMNS, PIECES, IGNORED = 4096, 8, -100


class Results(NamedTuple):
    """What an op returns: tensors of a row for each row, and sums over the rows."""

    rows: tuple[Tensor, ...] = ()
    sums: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Large:
    """An op on tensors of many rows.

    Attributes:
        name: of the op.
        matrices: how many (rows, COLUMNS) it is given; the first are overwritten, or all.
        call: the op on these, and on a label and a number of a parameter's kind for each row.
        returned: how many matrices it returns beside.
        dtype: of the matrices.
    """

    name: str
    matrices: int
    call: Callable[[list[Tensor], Tensor], Results]
    returned: int = 0
    dtype: torch.dtype = torch.bfloat16


def _bias(z: Tensor) -> Tensor:
    return torch.linspace(-1, 1, z.shape[1], device=z.device, dtype=z.dtype)


def _bias_act(m: list[Tensor], y: Tensor) -> Results:
    kernels.bias_act_(m[0], _bias(m[0]), "gelu")
    return Results()


def _bias_act_keep(m: list[Tensor], y: Tensor) -> Results:
    kernels.bias_act_keep_(m[0], m[1], _bias(m[0]), "gelu")
    return Results()


def _bias_act_mask(m: list[Tensor], y: Tensor) -> Results:
    return Results((kernels.bias_act_mask_(m[0], _bias(m[0]), "relu"),))


def _dact(m: list[Tensor], y: Tensor) -> Results:
    db = kernels.dact_(m[0], m[1], "gelu", "z", True)
    return Results(sums=() if db is None else (db,))


def _cross_entropy(m: list[Tensor], y: Tensor) -> Results:
    L, _ = kernels.cross_entropy_(m[0], _bias(m[0]), y, None, None, 0.1, IGNORED, "sum")
    return Results(sums=(L,))


def _classes(m: list[Tensor], y: Tensor) -> Results:
    statistics = kernels.new_statistics(len(y), m[0])
    kernels.class_statistics_(m[0], _bias(m[0]), y, None, 0, statistics)
    L, N = kernels.class_loss(statistics, y, None, COLUMNS, 0.1, IGNORED)
    kernels.cross_entropy_classes_(
        m[0], _bias(m[0]), y, None, None, 0, COLUMNS, 0.1, IGNORED, statistics
    )  # fmt: skip
    return Results((statistics,), (L, N))


def _scaled(m: list[Tensor], y: Tensor) -> Results:
    return Results((kernels.scaled(m[0], torch.tensor(1 / 3, device=m[0].device)),))


def _mse(m: list[Tensor], y: Tensor) -> Results:
    return Results(sums=(kernels.mse_(m[0], _bias(m[0]), m[1], None, "sum")[0],))


def _bce(m: list[Tensor], y: Tensor) -> Results:
    return Results(sums=(kernels.bce_with_logits_(m[0], _bias(m[0]), m[1], None, "sum")[0],))


def _sgd(m: list[Tensor], y: Tensor) -> Results:
    hyper = torch.tensor([[0.1, 0.1, 0.0, 0.9]], dtype=torch.float64)
    kernels.sgd_([m[0]], [m[1]], [m[2]], hyper, torch.inf, False)
    return Results()


def _adam(m: list[Tensor], y: Tensor) -> Results:
    hyper = torch.tensor([[0.1, 0.1, 0.01, 0.9, 0.999, 1e-8]], dtype=torch.float64)
    m[3].abs_()  # v ≥ 0
    kernels.adam_([m[0]], [m[1]], [m[2]], [m[3]], [torch.tensor(3.0)], hyper, torch.inf, True)
    return Results()


LARGE = (
    Large("bias_act_", 1, _bias_act),
    Large("bias_act_keep_", 2, _bias_act_keep),
    Large("bias_act_mask_", 1, _bias_act_mask),
    Large("act", 1, lambda m, y: Results((kernels.act(m[0], "gelu"),)), returned=1),
    Large("dact_ with db", 2, _dact),
    Large("cross_entropy_", 1, _cross_entropy),
    Large("class_statistics_, class_loss, cross_entropy_classes_", 1, _classes),
    Large("scaled", 1, _scaled, returned=1),
    Large("mse_", 2, _mse),
    Large("bce_with_logits_", 2, _bce),
    Large("sgd_ with momentum", 3, _sgd, dtype=torch.float32),
    Large("adam_", 4, _adam, dtype=torch.float32),
)


def check_large_tensors(setting: Setting) -> Iterator[Finding]:
    """Each op of one pass over memory, where there is memory for it."""
    rows = -(-setting.large_elements // COLUMNS)
    for large in LARGE:
        what = f"{large.name} of {rows * COLUMNS} elements"
        matrix = rows * COLUMNS * large.dtype.itemsize
        # twice, for the pieces; and room to compare a piece
        needed = (2 * large.matrices + large.returned) * matrix + matrix // 2
        if (free := _free_bytes(setting)) < needed:
            yield skipped(what, f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
        else:
            yield from _whole_and_pieces(large, rows, setting, what)
    yield from _many_labels(setting)


def _free_bytes(setting: Setting) -> int:
    """Of a CUDA device; a CPU's memory is not asked for."""
    if not setting.on_cuda:
        return 2**63
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(setting.device)[0]


def _whole_and_pieces(large: Large, rows: int, setting: Setting, what: str) -> Iterator[Finding]:
    generator = torch.Generator(setting.device).manual_seed(0)
    whole = [
        torch.randn(rows, COLUMNS, dtype=large.dtype, device=setting.device, generator=generator)
        for _ in range(large.matrices)
    ]
    y = torch.randint(COLUMNS, (rows,), device=setting.device, generator=generator)
    pieces = [matrix.clone() for matrix in whole]
    at_once = large.call(whole, y)
    sums: list[tuple[Tensor, ...]] = []
    step = -(-rows // PIECES)
    for first in range(0, rows, step):
        part = slice(first, min(first + step, rows))
        piece = [matrix[part] for matrix in pieces]
        results = large.call(piece, y[part])
        sums.append(results.sums)
        for i, matrix in enumerate(piece):
            yield same_bits(f"{what}: matrix {i} from row {first}", whole[i][part], matrix)
        for i, result in enumerate(results.rows):
            yield same_bits(f"{what}: result {i} from row {first}", at_once.rows[i][part], result)
    for i, sum_ in enumerate(at_once.sums):
        added = torch.stack([of_piece[i].double() for of_piece in sums]).sum(0)
        tolerance = 4 * torch.finfo(sum_.dtype).eps if sum_.dtype != torch.float64 else 1e-12
        yield agree(f"{what}: sum {i}", sum_, added, tolerance)


def _many_labels(setting: Setting) -> Iterator[Finding]:
    """The last of very many labels is the bad one."""
    n = setting.large_elements
    if _free_bytes(setting) < 8 * n:
        yield skipped(f"find_bad_label of {n} labels", f"needs {8 * n / 2**30:.0f} GiB")
        return
    y = torch.zeros(n, dtype=torch.int64, device=setting.device)
    y[n - 1] = 10
    found = kernels.find_bad_label(y, 10, IGNORED)
    yield holds(f"find_bad_label of {n} labels", found == n - 1, f"row {found}, expected {n - 1}")
