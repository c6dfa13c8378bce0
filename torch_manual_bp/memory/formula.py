"""Bytes as a closed formula in B, d, h, q: what stands at a time, added up by shape."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from .ledger import Planned

_ORDER = ("B", "m", "c", "k", "d", "h", "⌈h/8⌉", "q")


def formula(tensors: Iterable[Planned], names: Mapping[str, str]) -> str:
    """``4 (2 Bh + Bq + dh) + 16``: shapes times the bytes of a number; what has no names of sizes comes last.

    Args:
        tensors: what is added up.
        names: other names of sizes: that of a tile's rows, c, is B where one tile is the whole batch.
    """
    counts: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    rest = 0
    for tensor in tensors:
        sizes = sorted((names.get(n, n) for n in tensor.shape if isinstance(n, str)), key=_ORDER.index)
        if not sizes:
            rest += tensor.bytes
            continue
        factor = 1
        for length in tensor.shape:
            factor *= length if isinstance(length, int) else 1
        counts[tensor.dtype.itemsize]["".join(sizes)] += factor
    terms = [f"{itemsize} ({_sum(of_size)})" for itemsize, of_size in sorted(counts.items(), reverse=True)]
    return " + ".join(terms + [f"{rest:,}"] * (rest > 0)) or "0"


def _sum(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-len(item[0]), item[0]))
    return " + ".join(f"{count} {name}" if count > 1 else name for name, count in ordered)
