"""SIGTERM, SIGINT and SIGUSR1 ask for a checkpoint and an end; a second one ends at once."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

log = logging.getLogger(__name__)


@dataclass
class StopRequest:
    """The number of the signal that came, or 0."""

    number: int = 0

    def __bool__(self) -> bool:
        return self.number != 0


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Catches the signals while the block runs, and restores what was there. Only a main thread can."""
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        if request:
            # Nothing is waited for, not even the checkpoint that is being written: it is whole only with its record.
            os._exit(128 + number)
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


def requeue() -> None:
    """Puts the SLURM job that this process belongs to back in the queue; says so if that fails."""
    job = os.environ['SLURM_JOB_ID']
    # A task of a job array goes by array id and number.
    if 'SLURM_ARRAY_JOB_ID' in os.environ:
        job = f'{os.environ["SLURM_ARRAY_JOB_ID"]}_{os.environ["SLURM_ARRAY_TASK_ID"]}'
    try:
        subprocess.run(['scontrol', 'requeue', job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, 'stderr', None) or error
        log.error('--requeue: job %s could not be put back in the queue: %s', job, str(reason).strip())
    else:
        log.info('job %s is back in the queue', job)
