"""Ctrl-C that gets through: libraries that catch everything, as some do while they are imported, would swallow it."""

import signal
from types import FrameType

_asked = False


def listen() -> None:
    """Let SIGINT (unless it is ignored, as in background jobs of a shell) and SIGTERM raise KeyboardInterrupt.

    Both are remembered, for `check`.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has come, whatever became of the exception that it raised."""
    if _asked:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt
