"""One training in a run's folder at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import time
from pathlib import Path
from typing import TextIO

from common.files import Disk, make_folders

from .record import CheckpointError

log = logging.getLogger(__name__)

NAME = '.lock'


class FolderLock:
    """A lock that the system releases when the process ends, however it ends.

    Args:
        folder: checkpoint/<model_name>; made if it is not there.
        patience: seconds to wait for a process that is about to end, such as the one before a restart.
        disk: the file operations that making the folder uses.
    """

    def __init__(self, folder: Path, patience: float = 10, *, disk: Disk | None = None):
        self.path, self.patience, self.disk = folder / NAME, patience, disk or Disk()
        self.file: TextIO | None = None
        self._made: list[Path] = []

    def take(self) -> None:
        """Take the lock; taking it twice is fine.

        Raises:
            CheckpointError: another process has it, the folder belongs to somebody else, or it is gone since the lock
                was taken.
            OSError: the folder cannot be written to.
        """
        if self.file is not None and not self._is_at_its_path(self.file):
            raise CheckpointError(f'{self.path.parent}: the folder is gone: renamed or unmounted since the start')
        if self.file is not None:
            return
        deadline = time.monotonic() + self.patience
        waited = False
        while (file := self._try()) is None:
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f'{self.path.parent}: another training ({self._holder()}) is writing to this folder. Wait for its '
                    'end; a new training can take another --model-name'
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
        """Release the lock, if it was taken; a folder that was made for it and has stayed empty goes."""
        if self.file is None:
            return
        with contextlib.suppress(OSError):
            if self._made and self._is_at_its_path(self.file) and os.listdir(self.path.parent) == [NAME]:
                # While the lock is held: whoever waits for it finds that the name has gone, and begins anew.
                self.path.unlink()
                for folder in self._made:
                    folder.rmdir()
        self.file.close()
        self.file = None

    def _try(self) -> TextIO | None:
        """Make the folder and lock the file in it; return the file, or None where that has to be tried again."""
        try:
            self._made = make_folders(self.disk, self.path.parent) or self._made
            file = self.path.open('a+')
        except FileNotFoundError:
            if self.path.parent.is_symlink():
                raise CheckpointError(f'{self.path.parent}: is a link to a folder that is not there') from None
            # The folder of a start that was refused has just gone.
            return None
        except PermissionError as error:
            path = Path(error.filename)
            path = next(path for path in (path, *path.parents) if os.path.lexists(path))
            rights = stat.filemode(path.stat().st_mode)
            raise CheckpointError(
                f'{path}: belongs to {_owner(path)}, and you may not write to it ({rights}). Have that changed, or '
                'take another --model-name or --checkpoint-dir'
            ) from None
        if _try_lock(file) and self._is_at_its_path(file):
            return file
        file.close()
        return None

    def _is_at_its_path(self, file: TextIO) -> bool:
        """Return whether an open file is still the one under the name."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        with contextlib.suppress(OSError):
            return self.path.read_text().strip() or 'unknown'
        return 'unknown'


def _owner(path: Path) -> str:
    try:
        return f'user {path.owner()}'
    except (KeyError, NotImplementedError):
        return f'user {path.stat().st_uid}'


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
