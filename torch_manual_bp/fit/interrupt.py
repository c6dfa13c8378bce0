"""Ctrl-C as a wish to stop after the step at hand, not as an exception in the middle of it."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """Inside its context the first Ctrl-C only sets ``asked``; the second one is a `KeyboardInterrupt` as usual.

    Outside the main thread, where Python handles no signals, it does nothing.

    Attributes:
        asked: whether there was a Ctrl-C.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.getsignal(signal.SIGINT)
        # a parent that ignores Ctrl-C (nohup, a background job) is obeyed
        ignored = self._before in (signal.SIG_IGN, None)
        self._active = threading.current_thread() is threading.main_thread() and not ignored

    def __enter__(self) -> "Interrupt":
        if self._active:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._before)
