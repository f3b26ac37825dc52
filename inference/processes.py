"""How a run ends: at a signal, without a traceback or a half file, and together with torchrun's other processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Share

LONGEST_WAIT = timedelta(days=7)  # for the process with the slowest pictures


class Interruption:
    """Raises KeyboardInterrupt for a signal: at once, or, while pipelines work, between two of their items.

    Struck in the middle of a step, the main thread can leave a lock that it shares with the pipeline's threads locked
    for good, and the process would hang instead of ending.
    """

    def __init__(self) -> None:
        self._working = 0  # pipelines of the main thread
        self._waiting = False  # a signal came that nobody has answered

    def strike(self) -> None:
        """A signal came; called by its handler."""
        self._waiting = True
        if not self._working:
            self._answer()

    def begin(self) -> None:
        """A pipeline begins."""
        self._working += _in_main_thread()

    def check(self) -> None:
        """A pipeline is between two items."""
        if self._waiting and _in_main_thread():
            self._answer()

    def end(self, failed: bool) -> None:
        """A pipeline's threads have ended; `failed`: with an error, which goes on instead of the interruption."""
        self._working -= _in_main_thread()
        if failed:
            self._waiting = False
        elif not self._working:
            self.check()

    def _answer(self) -> None:
        self._waiting = False
        raise KeyboardInterrupt


interruption = Interruption()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class StopSignals:
    """While the block runs, the first SIGINT or SIGTERM raises KeyboardInterrupt in it and all later ones are ignored.

    In the middle of a pipeline it does so between two items; see `Interruption`.

    Ignored they are after the block as well: threads that finish their files must not be torn down with the
    interpreter. Without a signal the block leaves the handlers as they were. Other threads than the main one get none.

    Attributes:
        number: of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if _in_main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)
        return self

    def _stop(self, number: int, _: FrameType | None) -> None:
        if not self.number:
            self.number = number
            interruption.strike()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self.number else handler or signal.SIG_DFL)  # type: ignore[arg-type]


def until_stopped(work: Callable[[], int], words: str) -> int:
    """Runs a script; returns its exit code: 128 + the number of the signal that stopped it, if one did.

    Args:
        work: gives the exit code.
        words: to print where a signal stops it.
    """
    with StopSignals() as signals:
        try:
            return work()
        except BaseException as error:
            # A signal during an import may come out as any error.
            if not (signals.number or isinstance(error, KeyboardInterrupt)):
                raise
            print(words, file=sys.stderr)
            return 128 + (signals.number or signal.SIGINT)


def common_exit_code(code: int, share: Share, environ: Mapping[str, str] = os.environ) -> int:
    """Wait until all of torchrun's processes are done; returns the largest of their exit codes.

    torchrun ends all processes as soon as one leaves with a code other than 0: a process with one unreadable picture
    would cost the others all that they have not done yet.
    """
    if share.world == 1 or 'MASTER_ADDR' not in environ:
        return code
    import torch
    import torch.distributed as dist

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # Python's handlers would not run during the wait, and no file is open
    try:
        dist.init_process_group('gloo', timeout=LONGEST_WAIT)
        worst = torch.tensor(code)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to whoever leaves second
        dist.destroy_process_group()
    except (RuntimeError, ValueError) as error:  # one of them is gone; torchrun ends the rest
        print(f'process {share.rank}: the other processes cannot be reached: {error}', file=sys.stderr, flush=True)
        return max(code, 1)
    return int(worst)
