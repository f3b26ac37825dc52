"""SIGTERM, SIGINT and SIGUSR1 ask for a checkpoint and an end; a second one ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """The number of the signal that came, or 0."""

    number: int = 0


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Catches the signals while the block runs, and restores what was there. Only a main thread can."""
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        if request.number:
            raise SystemExit(128 + number)
        request.number = number

    names = ('SIGTERM', 'SIGINT', 'SIGUSR1') if threading.current_thread() is threading.main_thread() else ()
    previous = {n: signal.signal(n, note) for name in names if (n := getattr(signal, name, None)) is not None}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def signal_name(number: int) -> str:
    """Such as SIGTERM for 15."""
    return signal.Signals(number).name
