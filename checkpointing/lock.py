"""One training in a run's folder at a time."""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from .record import CheckpointError

log = logging.getLogger(__name__)

NAME = '.lock'


class FolderLock:
    """A lock that the system releases when the process ends, however it ends.

    Args:
        folder: checkpoint/<model_name>.
        patience: seconds to wait for a process that is about to end, such as the one before a restart.
    """

    def __init__(self, folder: Path, patience: float = 10):
        self.path, self.patience = folder / NAME, patience
        self.file: TextIO | None = None

    def take(self) -> None:
        """Take the lock; taking it twice is fine.

        Raises:
            CheckpointError: another process has it.
            OSError: the folder cannot be written to.
        """
        if self.file is not None:
            return
        file = self.path.open('a+')
        deadline = time.monotonic() + self.patience
        waited = False
        while not _try_lock(file):
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip() or 'unknown'
                file.close()
                raise CheckpointError(
                    f'{self.path.parent}: another training ({owner}) is writing to this folder. Wait for its end; '
                    'a new training can take another --model-name'
                )
            if not waited and self.patience:
                log.info('%s is in use by another process; waiting up to %.0f s', self.path.parent, self.patience)
            waited = True
            time.sleep(0.1)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        self.file = file

    def release(self) -> None:
        """Release the lock, if it was taken."""
        if self.file is not None:
            self.file.close()
            self.file = None


def _try_lock(file: TextIO) -> bool:
    """Lock the whole file for this process; forked workers do not inherit the lock."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        import errno

        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        # Some network file systems have no locks; training without one is better than none.
        log.warning('%s: no lock on this file system (%s); do not start two trainings there', file.name, error.strerror)
    return True
