"""Whether something else wanted the core that a measurement ran on."""

import time
from pathlib import Path

QUIET = 0.03  # of the time: up to here a figure is trusted

_WAITED = Path("/proc/thread-self/schedstat")  # Linux: ns on a core, ns ready to run but waiting for one, time slices


class Crowd:
    """The share of a stretch of time in which this thread was ready to run and another one had its core.

    >>> crowd = Crowd()
    >>> ...                      # what is measured
    >>> crowd.share() <= QUIET
    """

    def __init__(self) -> None:
        self._since, self._waited = time.monotonic(), _waited()

    def share(self) -> float:
        """Of the time since this was made, in [0, 1]; 0 where the system does not tell."""
        elapsed = time.monotonic() - self._since
        return min(1.0, (_waited() - self._waited) / elapsed) if elapsed > 0 else 0.0


def _waited() -> float:
    try:
        return int(_WAITED.read_text().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0
