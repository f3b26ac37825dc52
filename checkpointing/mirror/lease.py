"""One training of a run at a time, over all machines: who may write to a mirror."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from common.files import Disk, write_durable
from common.stores import StoreError, UnavailableStore

from .store import Store

log = logging.getLogger(__name__)

NAME = '.lease'
# A holder that has not renewed its lease for so many seconds is taken for dead. Measured by the clock of whoever waits,
# from the moment that it saw the lease, so that the clocks of two machines need not agree.
SECONDS = 60.0


class Lease:
    """A small object in the mirror that its holder renews; who finds it renewed is refused, who does not takes it.

    A file beside the checkpoints says that the last holder was a process on this folder of this machine, which the
    folder's own lock has outlived: then nobody is waited for. In a copy of the folder it says nothing.

    Args:
        store: of the mirror.
        folder: of the run, whose lock is held.
        disk: the file operations.
        seconds: after which a lease that was not renewed may be taken.
        command: what the holder is, for who finds the lease.

    Attributes:
        lost: by whom it was taken while this process did not renew it; None while it is held.
    """

    def __init__(
        self, store: Store, folder: Path, disk: Disk | None = None, seconds: float = SECONDS,
        command: str = 'a training',
    ):  # fmt: skip
        self.store, self.path, self.disk, self.seconds = store, folder / NAME, disk or Disk(), seconds
        self.lost: str | None = None
        self._token, self._count = secrets.token_hex(8), 0
        self._about = {'command': command, 'host': socket.gethostname(), 'process': os.getpid()}
        self._version: str | None = None
        self._renewed_at = 0.0
        self._over, self._renewing = threading.Event(), threading.Lock()

    def take(self) -> None:
        """Take the lease, and renew it from now on.

        Raises:
            UnavailableStore: another training holds it and is alive, or the store fails.
            OSError: the file beside the checkpoints cannot be written.
        """
        own = self.path.read_text() if self.path.is_file() else ''
        place = f'{socket.gethostname()} {self.path.parent.stat().st_ino}'
        if not self.store.conditional:
            log.info('%s: this kind of store cannot refuse the second of two writers; do not start two trainings of '
                     'one run in the same minute', self.store.url)  # fmt: skip
        seen: str | None = None
        since = time.monotonic()
        while True:
            found = self.store.versioned(NAME)
            holder = _read(found[0]) if found else {}
            # Our own token: the write arrived, its answer did not, and the client's second try was refused.
            token = holder.get('token')
            free = not token or token == self._token or own == f'{token} {place}'
            if seen is not None and found and found[1] != seen and not free:
                raise UnavailableStore(
                    f'{self.store.url}: {_name(holder)} is writing to this mirror. Wait for its end; a new training '
                    'can take another --model-name'
                )
            if free or (seen is not None and time.monotonic() - since >= self.seconds):
                write_durable(self.disk, self.path, lambda file: file.write(f'{self._token} {place}'.encode()))
                if self._write(found[1] if found else None):
                    break
                seen, since = '', time.monotonic()  # another was faster
            elif seen is None:
                log.warning('%s: %s may still be writing there; waiting up to %.0f s for a sign of life',
                            self.store.url, _name(holder), self.seconds)  # fmt: skip
                seen, since = found[1] if found else '', time.monotonic()
            time.sleep(min(1.0, self.seconds / 20))
        threading.Thread(target=self._keep, name='lease', daemon=True).start()

    def check(self) -> None:
        """Raise StoreError unless this process may write: it holds the lease, and nobody can have taken it yet."""
        with self._renewing:
            if time.monotonic() - self._renewed_at > self.seconds / 2:
                self._renew()
        if self.lost is not None:
            raise StoreError(
                f'{self.store.url}: {self.lost} has taken this run over, since this one was not heard of '
                f'for {self.seconds:.0f} s'
            )
        if self._over.is_set():
            raise StoreError(f'{self.store.url}: this training has given its lease back')

    def release(self) -> None:
        """Give the lease back, so that the next training need not wait."""
        self._over.set()
        with self._renewing, contextlib.suppress(StoreError, OSError):
            if self.lost is None and self._version:
                self.store.swap(NAME, json.dumps(self._about).encode(), self._version)
                self.disk.unlink(self.path)

    def _keep(self) -> None:
        while not self._over.wait(self.seconds / 4) and self.lost is None:
            with contextlib.suppress(StoreError), self._renewing:  # the mirror's own failures say enough
                self._renew()

    def _renew(self) -> None:
        began = time.monotonic()
        if self._write(self._version):
            return
        found = self.store.versioned(NAME)
        holder = _read(found[0]) if found else {}
        if found and holder.get('token') == self._token:
            # Our own write arrived, and its answer did not.
            self._version, self._renewed_at = found[1], began
        elif found is not None or not self._write(None):
            self.lost = _name(holder)

    def _write(self, version: str | None) -> bool:
        began, self._count = time.monotonic(), self._count + 1
        about = {**self._about, 'token': self._token, 'renewals': self._count}
        if (new := self.store.swap(NAME, json.dumps(about).encode(), version)) is None:
            return False
        self._version, self._renewed_at = new, began
        return True


def _name(holder: dict[str, str]) -> str:
    command, host = holder.get('command', 'a training'), holder.get('host', 'another machine')
    return f'{command} on {host} (process {holder.get("process", "unknown")})'


def _read(data: bytes) -> dict[str, str]:
    """Return what a lease says; nothing where it was given back, or is not whole."""
    with contextlib.suppress(ValueError):
        if isinstance(content := json.loads(data), dict):
            return content
    return {}
