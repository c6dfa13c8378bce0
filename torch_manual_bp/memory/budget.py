"""Numbers of bytes as people write them."""

import re

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def bytes_of(budget: int | float | str) -> int:
    """A number of bytes, or ``"8GB"`` (10⁹), ``"512 MiB"`` (2²⁰), ``"1e9"``.

    Raises:
        TypeError: neither a number nor text.
        ValueError: no such size.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float | str):
        raise TypeError(f"budget must be a number of bytes or text such as '8GB', got {budget!r}")
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\+?\d+)?)\s*([kMGT]?i?)B?\s*", str(budget))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"budget must be a number of bytes such as 8GB or 512MiB, got {budget!r}")
    return int(float(match[1]) * _UNITS[match[2]])
