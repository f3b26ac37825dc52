"""A mirror kept up by a thread while training goes on; training never waits for it but at its end."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.files import Disk, scratch_folder

from ..record import Record, broken_records
from .contents import Contents
from .lease import Lease
from .mirror import Mirror
from .store import Store

log = logging.getLogger(__name__)

# How often the folder is looked at, and how long after a failure the store is left alone, at first and at most.
LOOK_SECONDS = 1.0
LONGEST_PAUSE = 60.0
RELEASE_SECONDS = 5.0
SAY_SECONDS = 60.0


def try_store(url: str, name: str) -> list[Record]:
    """Try the store of a run's mirror, and say where a run would go on from what it holds; nothing stays.

    Returns:
        The records in the mirror.

    Raises:
        StoreError: the store is of no use.
    """
    store = Store(url)
    store.rehearse(make=False)
    with scratch_folder('mirror-') as folder:
        contents = Contents(store.folder(name), Path(folder))
        contents.look()
        records, broken = contents.records(), broken_records(contents.folder)
    for path in broken:
        log.warning('%s in the mirror %s: its record cannot be read', path.stem, contents.store.url)
    if records:
        log.info('%s holds checkpoints; those that are newer than the ones on this disk would be gone on from',
                 contents.store.url)  # fmt: skip
    return records


def begin_keeping(
    url: str, folder: Path, logs: Path, grace: float, disk: Disk | None = None, stage: str | None = None
) -> Keeping:
    """Try the store, take the lease of the run's mirror, and look at what is there.

    Args:
        url: parent of the mirrors of runs.
        folder: checkpoint/<model_name>, whose lock is held.
        logs: where the run's curves go.
        grace: seconds that the end of a training waits for the mirror.
        disk: the file operations.
        stage: whose newest checkpoint comes from the mirror, if that is newer; None copies nothing.

    Raises:
        StoreError: the store is of no use, or another training writes there.
        CheckpointError: the folder and the mirror hold different runs, or no checkpoint of the mirror is whole.
    """
    store = Store(url).folder(folder.name)
    store.rehearse()
    lease = Lease(store, folder, disk)
    lease.take()
    keeping = Keeping(Mirror(store, folder, logs, disk=disk, may_write=lease.check), lease, grace)
    try:
        keeping.mirror.contents.look()
        keeping.mirror.tidy()
        if stage is not None:
            keeping.mirror.pull(stage)
            keeping.mirror.set_damaged_aside()
    except BaseException:
        keeping.close()
        raise
    return keeping


class Keeping:
    """Copies each checkpoint to the mirror once it is on the disk, and tries again for as long as a store fails.

    Args:
        mirror: its contents were looked at.
        lease: that was taken.
        grace: seconds that the end of a training waits for the mirror.
    """

    def __init__(self, mirror: Mirror, lease: Lease, grace: float):
        self.mirror, self.lease, self.grace = mirror, lease, grace
        self._thread: threading.Thread | None = None
        self._wake, self._settled, self._over = threading.Event(), threading.Event(), threading.Event()
        self._asked = False
        self._moved_at, self._said_at = time.monotonic(), -SAY_SECONDS
        self._error = ''

    @property
    def lost(self) -> bool:
        """Whether another training has taken this run over."""
        return self.lease.lost is not None

    def start(self, logs: Callable[[], Path] | None = None) -> None:
        """Begin to copy; `logs` gives the folder of the run's curves, which may change when the first is drawn."""
        self._logs = logs
        # Daemons, so that a store that never answers cannot keep the process from ending.
        self._thread = threading.Thread(target=self._work, name='mirror', daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name='mirror-watch', daemon=True).start()

    def behind(self) -> float:
        """Return for how many seconds the mirror has lacked a checkpoint that is on the disk."""
        since = self.mirror.behind_since
        return 0.0 if since is None else time.monotonic() - since

    def end(self, urgent: Callable[[], bool], most: float = math.inf) -> None:
        """Wait until the mirror has all, say whether it has, and give the lease back.

        Args:
            urgent: whether the machine may go at any moment, asked for as long as the wait goes on; until then that is
                as long as something moves.
            most: seconds of the grace that are left where it may.
        """
        grace, since = self.grace, None
        if self._thread is not None:
            began, self._asked = time.monotonic(), True
            self._wake.set()
            while not self._settled.wait(0.05) and self._thread.is_alive():
                if since is None and urgent():
                    since, grace = time.monotonic(), min(self.grace, most)
                    log.info('waiting up to %g s for the mirror', grace)
                moved = max(began, self._moved_at, self.mirror.store.moved_at)
                if time.monotonic() - (moved if since is None else since) >= grace:
                    break
            log.info(self._safety(grace))
        self.close()

    def _safety(self, grace: float) -> str:
        """Return in words what of the run would outlive this machine."""
        here, there = self.mirror.newest()
        holds = f'the mirror {self.mirror.store.url} holds {f"step {there.step}" if there else "no checkpoint"}'
        if here is None:
            return f'NOT safe: no checkpoint is on this disk, and {holds}'
        if there and there.step >= here.step:
            return f'safe: {holds}'
        damage = here.problem(self.mirror.folder) if self._settled.is_set() else None
        limit = '--mirror-grace' if grace == self.grace else "torchrun's"
        why = self._error or damage or f'more than {limit} {grace:g} s are needed'
        return f'NOT safe: {holds}, and step {here.step} is on this disk only ({why})'

    def close(self) -> None:
        """Stop copying, and give the lease back; the second time nothing is done."""
        if self._over.is_set():
            return
        self._over.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(LOOK_SECONDS)
        self._thread = None
        # Not waited for where the store does not answer.
        release = threading.Thread(target=self.lease.release, daemon=True)
        release.start()
        release.join(RELEASE_SECONDS)
        self.mirror.close()

    def _work(self) -> None:
        pause = LOOK_SECONDS
        while not self._over.is_set():
            asked = self._asked
            try:
                self.mirror.logs = self._logs() if self._logs else self.mirror.logs
                self.lease.check()
                moved = self.mirror.push(ending=asked)
                if asked and not moved:
                    self.mirror.push_curves()  # what was drawn after the last checkpoint
            except Exception as error:  # also what a client of a store has never raised before
                if self._over.is_set():
                    return
                if self.lost:
                    self._error = str(error)
                    log.error('%s; this training is no longer mirrored', error)
                    return
                self._failed(error, pause)
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE) if not self._asked else LOOK_SECONDS
                continue
            pause, self._error = LOOK_SECONDS, ''
            if moved:
                self._moved_at = time.monotonic()
                continue
            if asked:
                self._settled.set()
            self._rest(LOOK_SECONDS)

    def _rest(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _failed(self, error: Exception, pause: float) -> None:
        self._error = str(error) or type(error).__name__
        with contextlib.suppress(OSError):
            self.mirror.pending()
        self._say(f'{self._error}; tried again in {pause:.0f} s')

    def _watch(self) -> None:
        """Say of a store that is slow, or never answers, how far it is behind."""
        while not self._over.wait(SAY_SECONDS / 4):
            if self.behind() >= SAY_SECONDS:
                self._say(self._error or f'{self.mirror.store.url} takes that long')

    def _say(self, why: str) -> None:
        if time.monotonic() - self._said_at >= SAY_SECONDS:
            self._said_at = time.monotonic()
            log.warning('the mirror is %.0f s behind: %s; training goes on', self.behind(), why)
