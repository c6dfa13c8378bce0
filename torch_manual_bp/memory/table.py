"""A plan's tensors as lines of text."""

from collections.abc import Collection, Iterable, Mapping

from .ledger import Planned

_MOST = 24  # rows
_LEAST = 64  # bytes
_HEAD = ("tensor", "kind", "shape", "dtype", "bytes", "from – to", "at the peak")


def table(tensors: Iterable[Planned], at_peak: Collection[Planned], names: Mapping[str, str]) -> list[str]:
    """The largest of them in the order of their births, each once if it comes again; and how many are left out.

    Args:
        tensors: all of them.
        at_peak: those that are marked.
        names: other names of sizes, as of `formula`.
    """
    first: dict[tuple[str, str], Planned] = {}
    for tensor in tensors:
        first.setdefault((tensor.name, tensor.kind), tensor)
    largest = sorted((tensor.bytes for tensor in first.values()), reverse=True)[:_MOST]
    shown = [tensor for tensor in first.values() if tensor.bytes >= max(largest[-1], _LEAST)]
    marked = set(map(id, at_peak))
    rows = [(*_cells(tensor, names), "●" * (id(tensor) in marked)) for tensor in shown]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    lines = [_line(row, widths) for row in (_HEAD, ["─" * width for width in widths], *rows)]
    left_out = len(first) - len(shown)
    return lines + [f"and {'a smaller one' if left_out == 1 else f'{left_out} smaller ones'}"] * (left_out > 0)


def _cells(tensor: Planned, names: Mapping[str, str]) -> tuple[str, ...]:
    shape = " × ".join(names.get(size, size) if isinstance(size, str) else f"{size:,}" for size in tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return tensor.name, tensor.kind, shape, dtype, f"{tensor.bytes:,}", f"{tensor.born or ''} – {tensor.died or ''}"


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    pairs = zip(_HEAD, cells, widths, strict=True)
    return "  ".join(f"{cell:>{w}}" if head == "bytes" else f"{cell:{w}}" for head, cell, w in pairs).rstrip()
