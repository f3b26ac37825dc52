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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from .files import remove_scratch
from .rendezvous import first_rank

# One wish to stop often arrives several times: `timeout`, systemd and SLURM signal a process and then all of its group.
REPEAT_SECONDS = 5.0
# What ends a process; where the system has them.
ENDS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name))
# What a training saves for; job schedulers announce the end of their time by SIGUSR1.
STOPS = (*ENDS, signal.SIGUSR1) if hasattr(signal, 'SIGUSR1') else ENDS


def in_main_thread() -> bool:
    """Return whether this is the thread that signals reach."""
    return threading.current_thread() is threading.main_thread()


def signal_name(number: int) -> str:
    """Return the name of a signal, such as 'SIGTERM' for 15."""
    return signal.Signals(number).name


def end_at_once(number: int) -> None:
    """End the process without waiting for anything, with the exit code that a shell reports for a signal."""
    remove_scratch()
    os._exit(128 + number)


def tell(text: str) -> None:
    """Print a line to standard error from a handler, where what the main thread is printing must not be disturbed."""
    with contextlib.suppress(OSError):
        os.write(2, f'{text}\n'.encode())


class StopSignals:
    """Catches SIGINT, SIGTERM and SIGHUP, or other signals, while the block runs.

    The first one is answered; repeats in the next `REPEAT_SECONDS` count as the same one, and a later one ends the
    process at once. If one came, all are ignored after the block, since what finishes its files then must not be torn
    down with the interpreter; else what was there comes back. A SIGHUP that is ignored, as by nohup, stays ignored.
    Other threads than the main one get no signals.

    Args:
        answer: what the first signal does, given its number. If left out it raises KeyboardInterrupt: at once, or in
            the middle of a pipeline between two of its items; see `Interruption`.
        insist: what a later one does.
        numbers: of the signals to catch.

    Attributes:
        number: of the first signal, or 0.
    """

    def __init__(
        self,
        answer: Callable[[int], object] | None = None,
        insist: Callable[[int], object] = end_at_once,
        numbers: Sequence[int] = ENDS,
    ):
        self.number = 0
        self._answer = answer or (lambda _: interruption.deliver())
        self._insist = insist
        self._numbers = numbers
        self._since = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        self.catch()
        return self

    def catch(self) -> None:
        """Catch the signals, also where other code has taken them since."""
        for number in self._numbers if in_main_thread() else ():
            if signal_name(number) != 'SIGHUP' or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous.setdefault(number, signal.signal(number, self._handle))

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._since = number, now
            self._answer(number)
        elif now - self._since >= REPEAT_SECONDS:
            self._insist(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self.number else handler or signal.SIG_DFL)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell reports it."""
        return 128 + (self.number or signal.SIGINT)


@dataclass
class StopRequest:
    """How a training answers the first signal: at the end of a step, or at once while there is nothing to save.

    Attributes:
        number: of the signal that came, or 0.
        awaited: whether steps are done, after each of which the training looks at `number`.
        speaks: whether this process tells what it does.
        hint: added to what is told before the first step.
    """

    number: int = 0
    awaited: bool = False
    speaks: bool = True
    hint: str = ''

    def __bool__(self) -> bool:
        return self.number != 0

    def ask(self) -> None:
        """Ask the training to stop, as SIGTERM does."""
        self.number = signal.SIGTERM

    def answer(self, number: int) -> None:
        """Take note of a signal; called by its handler."""
        self.number, name = number, signal_name(number)
        if self.speaks and self.awaited:
            tell(f'{name}: saving once this step is done; a second signal after {REPEAT_SECONDS:.0f} s ends at once')
        elif self.speaks:
            tell(f'stopped by {name} before the first step{self.hint}')
        if not self.awaited:
            # No exception could do it: imports and libraries turn it into another one, or swallow it.
            end_at_once(number)


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Answer signals by the request while the block runs; SIGUSR1, too, by which job schedulers announce the end."""
    request = StopRequest(speaks=first_rank())
    with StopSignals(request.answer, numbers=STOPS):
        yield request


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Keep signals waiting while the block runs: processes that are started in it never get them.

    Such a process could not answer well before it runs code of ours; it would end with a traceback.
    """
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def kept(name: str) -> Iterator[None]:
    """Put a signal's handler back to what it was before the block, whatever the block made of it."""
    number = getattr(signal, name, None) if in_main_thread() else None
    before = None if number is None else signal.getsignal(number)
    try:
        yield
    finally:
        if number is not None:
            signal.signal(number, before or signal.SIG_DFL)


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
            with contextlib.suppress(OSError):  # the terminal may be the one that was closed
                print(message, file=sys.stderr, flush=True)
            return signals.exit_code
