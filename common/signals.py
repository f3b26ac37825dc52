"""How a process answers SIGINT, SIGTERM and the like: a training at its next step, other work between two items.

Work that can save its state polls a `StopRequest`. Everything else runs in `run_until_stopped`, where the signal
becomes a KeyboardInterrupt, which a pipeline raises between two of its items only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """The number of the signal that came, or 0."""

    number: int = 0

    def __bool__(self) -> bool:
        return self.number != 0


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Catch SIGTERM, SIGINT and SIGUSR1 while the block runs, and restore what was there. Only a main thread can.

    The first one is noted in the request; a second one ends the process at once.
    """
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        if request:
            # Nothing is waited for, not even the checkpoint that is being written: it is whole only with its record.
            os._exit(128 + number)
        request.number = number

    names = ('SIGTERM', 'SIGINT', 'SIGUSR1') if in_main_thread() else ()
    previous = {n: signal.signal(n, note) for name in names if (n := getattr(signal, name, None)) is not None}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def signal_name(number: int) -> str:
    """Return the name of a signal, such as 'SIGTERM' for 15."""
    return signal.Signals(number).name


class Interruption:
    """Raises KeyboardInterrupt for a signal: at once, or, while pipelines work, between two of their items.

    A KeyboardInterrupt in the middle of a step can leave a lock that the main thread shares with the pipeline's
    threads locked for good; the process would then hang instead of ending.
    """

    def __init__(self) -> None:
        self._working = 0  # pipelines of the main thread
        self._pending = False  # a signal came and was not delivered yet

    @property
    def pending(self) -> bool:
        """Whether a signal waits for a pipeline's next item; any thread may ask."""
        return self._pending

    def deliver(self) -> None:
        """Take note of a signal; called by its handler."""
        self._pending = True
        if not self._working:
            self._raise()

    def begin(self) -> None:
        """Note that a pipeline begins."""
        self._working += in_main_thread()

    def check(self) -> None:
        """Raise a pending KeyboardInterrupt: a pipeline is between two items."""
        if self._pending and in_main_thread():
            self._raise()

    def end(self, failed: bool) -> None:
        """Note that a pipeline's threads have ended; `failed`: by an exception, which goes on instead."""
        self._working -= in_main_thread()
        if failed:
            self._pending = False
        elif not self._working:
            self.check()

    def _raise(self) -> None:
        self._pending = False
        raise KeyboardInterrupt


interruption = Interruption()


def in_main_thread() -> bool:
    """Return whether this is the thread that signals reach."""
    return threading.current_thread() is threading.main_thread()


class StopSignals:
    """While the block runs, the first SIGINT or SIGTERM raises KeyboardInterrupt in it and all later ones are ignored.

    In the middle of a pipeline it does so between two items; see `Interruption`. Signals stay ignored after the block,
    since threads that finish their files must not be torn down with the interpreter. Without a signal the block leaves
    the handlers as they were. Other threads than the main one get no signals.

    Attributes:
        number: of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if in_main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)
        return self

    def _stop(self, number: int, _: FrameType | None) -> None:
        if not self.number:
            self.number = number
            interruption.deliver()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self.number else handler or signal.SIG_DFL)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell reports it."""
        return 128 + (self.number or signal.SIGINT)


def run_until_stopped(work: Callable[[], int], message: str) -> int:
    """Run a script's work and return its exit code: 128 + the number of the signal that stopped it, if one did.

    Args:
        work: returns the exit code.
        message: printed where a signal stops it.
    """
    with StopSignals() as signals:
        try:
            return work()
        except BaseException as error:
            # A signal during an import may come out as any error.
            if not (signals.number or isinstance(error, KeyboardInterrupt)):
                raise
            print(message, file=sys.stderr)
            return signals.exit_code
