"""Checkpoints of a run: a folder of weight files, the state beside them, and a record that commits each.

    epoch-0-iter-1999.pth         weights, a bare state_dict that any tool loads
    epoch-0-iter-1999.ema.pth     averaged weights, where the run keeps an average
    epoch-0-iter-1999.state.pth   everything else the run needs to go on bit for bit; kept for the newest two
    epoch-0-iter-1999.json        the record, written last: sizes and sha256 of the files, step, epoch, metrics

A weight file without a record that verifies is weights and not a point to resume from. The latest and the best
checkpoint are computed from the records; `last.pth`, `best.pth` and other links are for people: nothing reads them.

Training waits until the operating system has the bytes, which costs what torch.save costs; with a GPU it does not wait.
Bringing them to the disk, reading them back, committing and removing what is superfluous is done by a thread while
training goes on.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from common.console import some
from common.files import Disk, make_folders, read_back, sync, unlink_quietly, write_durable, write_new

from . import links
from .content import Content, HostCopy, file_name, tensor_bytes
from .leavings import remove_unfinished, superfluous_asides
from .links import link_file
from .lock import FolderLock
from .record import CheckpointError, File, Listing, Record, list_path
from .rehearsal import FULL
from .retention import Policy, removable, remove

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3
# Beside the tensors a checkpoint holds names, archive headers and a record: far less than this.
OVERHEAD_BYTES = 4 << 20


@dataclass(frozen=True)
class Point:
    """The position of a run when it saves: last step done, its epoch, metrics if it was validated."""

    step: int
    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Checkpoints:
    """The checkpoints of one run in its folder.

    Args:
        folder: checkpoint/<model_name>.
        stage: 'base' or 'refine'.
        run: id of the run.
        identity: what a run must not change when it goes on; plain types.
        policy: which checkpoints are kept.
        options: the command line, for the records; plain types.
        lock: keeps other trainings out of the folder.
        lists: the lists of files whose sha256 the identity holds under the same keys; kept beside the records.
        disk: the file operations that writing uses.

    Attributes:
        failures: saves in a row that failed.
        saved_at: when the last save began, or this object was made, in seconds of time.monotonic().
    """

    folder: Path
    stage: str
    run: str
    identity: dict[str, Any]
    policy: Policy = field(default_factory=Policy)
    options: dict[str, Any] = field(default_factory=dict)
    lock: FolderLock | None = None
    lists: Mapping[str, bytes] = field(default_factory=dict)
    disk: Disk = field(default_factory=Disk)
    failures: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, 'checkpoint')
        self._committing: Future[None] | None = None
        self._inode: os.stat_result | None = None
        self._files: Listing | None = None
        self._stale_links: set[str] = set()

    def open(self) -> None:
        """Make and lock the folder, and remove what a killed process of this run has left.

        Raises:
            CheckpointError: another training has the folder.
            OSError: it cannot be made or written to.
        """
        if self.lock is not None:
            self.lock.take()
        self._find_folder()
        remove_unfinished(self.disk, self._listing(), self.run)
        if records := self.records():
            # What a kill has kept the last save from doing.
            self._tidy(records[-1], asides=True)
        self._keep_lists()

    def close(self) -> None:
        """Wait for the save under way and release the folder."""
        self.settle()
        if self.lock is not None:
            self.lock.release()

    def save(self, names: dict[str, str], point: Point, content: Content) -> None:
        """Save a checkpoint under one or several names; every older one stays whole whatever happens.

        Returns when the content may change again. Whether it was saved is known after `settle`, which the next
        `save` begins with. A checkpoint of this step that is there already is not written again: its record is
        renewed, and further names are links to it.

        Args:
            names: of the checkpoint, without suffix, and for each why it is written.
            point: where the run is.
            content: what is saved.
        """
        self.settle()
        self.saved_at = time.monotonic()
        first, size = next(iter(names)), tensor_bytes(content)
        try:
            self._find_folder()
            source = self._present(names, point.step)
            copy = content.on_its_way() if source is None else None
            written = self._write(first, content, size) if source is None and copy is None else {}
        except OSError as error:
            self._failed(first, size, error)
            return
        self._committing = self._thread.submit(self._commit, names, point, written, source, size, copy)

    def settle(self) -> bool:
        """Wait for the save under way, if any, and return whether the last one is safe on the disk."""
        if self._committing is not None:
            committing, self._committing = self._committing, None
            committing.result()
        return self.failures == 0

    def records(self) -> list[Record]:
        """Return the records of this run in the folder, oldest first."""
        return self._own(self._listing())

    def _own(self, files: Listing) -> list[Record]:
        return [r for r in files.records() if r.run == self.run and r.stage == self.stage]

    def would_be_kept(self, metrics: dict[str, float]) -> bool:
        """Return whether a checkpoint with these metrics would be among the best."""
        try:
            return any(record.step < 0 for record in self._best(metrics))
        except OSError:
            return True  # the save that follows finds the same, and counts it

    def standing(self, metrics: dict[str, float]) -> tuple[bool, Record | None]:
        """Return whether these metrics are better than those of all checkpoints, and the best of these."""
        try:
            ranked = self._best(metrics, 2)
        except OSError:
            return False, None
        return any(r.step < 0 for r in ranked[:1]), next((r for r in ranked if r.step >= 0), None)

    def _best(self, metrics: dict[str, float], count: int | None = None) -> list[Record]:
        """Return the best of the checkpoints that are there and of one with these metrics, which has step -1."""
        self.settle()
        files = self._listing()
        records = [r for r in self._own(files) if files.has(r, 'weights')]
        candidate = Record(self.run, self.stage, '', -1, 0, metrics, '', self.identity, {}, self.options)
        return self.policy.best_records([*records, candidate], count)

    def record(self, name: str) -> Record | None:
        """Return this run's record of that name."""
        try:
            record = Record.read(self.folder / f'{name}.json')
        except CheckpointError:
            return None
        return record if (record.run, record.stage, record.name) == (self.run, self.stage, name) else None

    def _present(self, names: Iterable[str], step: int) -> Record | None:
        """Return a whole checkpoint of this run after that step, if there is one."""
        records = [r for r in self.records() if r.step == step]
        order = list(names)
        records.sort(key=lambda r: order.index(r.name) if r.name in order else len(order))
        return next((record for record in records if record.problem(self.folder) is None), None)

    def _listing(self) -> Listing:
        """Return what is in the folder now."""
        if self._files is None:
            self._files = Listing(self.folder)
        else:
            self._files.look()
        return self._files

    def _find_folder(self) -> None:
        """Make the folder the first time; raise OSError if it is not the same one later."""
        if self._inode is None:
            make_folders(self.disk, self.folder)
            self._inode = os.stat(self.folder)
        elif not (self.folder.is_dir() and os.path.samestat(self._inode, os.stat(self.folder))):
            raise OSError('the folder is gone: renamed or unmounted')

    def _temporary(self, name: str) -> Path:
        return self.folder / f'.{name}.{self.run}.tmp'

    def _write(self, name: str, content: Content, size: int) -> dict[str, int]:
        """Write the temporary files; return the CRC-32 of each kind."""
        if self.disk.free(self.folder) < size + OVERHEAD_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written: dict[str, int] = {}
        try:
            for kind, part in content.parts().items():
                path = self._temporary(file_name(name, kind))
                written[kind] = write_new(self.disk, path, lambda file, part=part: torch.save(part, file))  # type: ignore[misc]
        except BaseException:
            for kind in written:
                unlink_quietly(self._temporary(file_name(name, kind)))
            raise
        return written

    def _commit(
        self, names: dict[str, str], point: Point, written: dict[str, int], source: Record | None, size: int,
        copy: HostCopy | None,
    ) -> None:  # fmt: skip
        """Commit a checkpoint under all of its names; what comes from a GPU is written first."""
        name = first = next(iter(names))
        placed: list[Path] = []
        identity, options = self.identity, self.options
        try:
            self._find_folder()
            if copy is not None:
                written = self._write(first, Content(**copy.arrived()), size)
            if source is None:
                files = self._verify(first, written)
            else:
                first, files = source.name, source.files
                names = {source.name: source.reason, **names}
                if point.metrics in ({}, source.metrics):
                    # What was measured before stays with what it was measured on.
                    point, identity = replace(point, metrics=source.metrics), source.identity
                    options = {**options, 'recipe': source.recipe} if 'recipe' in options else options
            for name, reason in names.items():
                there = None if name == first else self._whole(name, point.step)
                own = {kind: replace(file, name=file_name(name, kind)) for kind, file in files.items()}
                record = Record(
                    self.run, self.stage, name, point.step, point.epoch, point.metrics, reason, identity,
                    there.files if there else own, options,
                )  # fmt: skip
                self._announce(record)
                if name == first and source is None:
                    self._move_into_place(record, placed)
                elif name != first and there is None:
                    self._link(record, files, placed)
                self._commit_record(record)
                placed.clear()
                log.info('saved %s', self.folder / f'{name}.pth')
        except OSError as error:
            self._undo(name, written, placed)
            self._failed(name, size, error)
            return
        self.failures = 0
        self._tidy(record)

    def _verify(self, name: str, written: dict[str, int]) -> dict[str, File]:
        """Sync the temporary files and read them back from the disk."""
        paths = {kind: self._temporary(file_name(name, kind)) for kind in written}
        for path in paths.values():
            sync(self.disk, path)
        read = {kind: read_back(self.disk, paths[kind], crc) for kind, crc in written.items()}
        return {kind: File(file_name(name, kind), size, sha256) for kind, (size, sha256) in read.items()}

    def _announce(self, record: Record) -> None:
        """Write the record under a hidden name: what bears its files' names is known to be the run's after a kill."""
        path = self._temporary(f'{record.name}.json')
        write_new(self.disk, path, lambda file: file.write(record.to_bytes()))
        sync(self.disk, path)

    def _move_into_place(self, record: Record, placed: list[Path]) -> None:
        """Give the temporary files their names."""
        self._clear_way(record.name, record.step)
        for kind, file in record.files.items():
            self.disk.replace(self._temporary(file.name), self.folder / file.name)
            placed.append(self.folder / file.name)
            if kind == 'state':
                # So that no power cut leaves the weights without what marks them as half-written.
                self.disk.fsync_folder(self.folder)
        self.disk.fsync_folder(self.folder)

    def _undo(self, name: str, written: Iterable[str], placed: Sequence[Path]) -> None:
        """Give back the space of a save that failed, unless it got as far as its record."""
        for file in (*(file_name(name, kind) for kind in written), f'{name}.json'):
            unlink_quietly(self._temporary(file))
        if self.record(name) is None:
            for path in reversed(placed):
                unlink_quietly(path)

    def _whole(self, name: str, step: int) -> Record | None:
        """Return the run's record of that name and step, if its files are whole."""
        record = self.record(name)
        if record is None or record.step != step or record.problem(self.folder) is not None:
            return None
        return record

    def _link(self, record: Record, files: dict[str, File], placed: list[Path]) -> None:
        """Give a checkpoint's files a second name, or copies them where the file system has no hard links."""
        self._clear_way(record.name, record.step)
        for kind, file in record.files.items():
            path = self.folder / file.name
            link_file(self.disk, self.folder / files[kind].name, path, self._temporary(file.name))
            placed.append(path)
        self.disk.fsync_folder(self.folder)

    def _commit_record(self, record: Record) -> None:
        path = self.folder / f'{record.name}.json'
        self.disk.replace(self._temporary(path.name), path)
        if self._files is not None:
            self._files.note(record)
        self.disk.fsync_folder(self.folder)

    def _clear_way(self, name: str, step: int) -> None:
        """Set aside what has a checkpoint's name and is not this run's of that step: nothing is overwritten.

        An epoch's name is of another step where the run went on with more pictures; a pin moves with what it keeps.
        """
        present = self.record(name)
        if present is not None and present.step == step:
            return
        # The state last: until then it marks what is half-written.
        kinds = [file_name(name, kind) for kind in ('weights', 'ema', 'state')]
        for file in (*kinds[:2], f'{name}.json', kinds[2], *([] if present is None else [f'{name}.pin'])):
            if os.path.lexists(self.folder / file):
                links.set_aside(self.disk, self.folder / file)
                self.disk.fsync_folder(self.folder)

    def _failed(self, name: str, size: int, error: OSError) -> None:
        self.failures += 1
        room = ''
        if error.errno in FULL:
            free = 0
            with contextlib.suppress(OSError):
                free = self.disk.free(self.folder)
            room = f'; about {(size + OVERHEAD_BYTES) / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free'
        log.error('could not save %s: %s%s; older checkpoints are untouched, training goes on',
                  self.folder / name, error, room)  # fmt: skip

    def _keep_lists(self) -> None:
        """Write the lists of files that are not there yet, so that a later run can say what has changed."""
        for key, text in self.lists.items():
            path = list_path(self.folder, self.identity[key])
            packed = b'' if path.exists() else gzip.compress(text, mtime=0)
            try:
                if packed:
                    self._write_durable(path, packed)
            except OSError as error:
                log.warning('%s could not be written: %s; it would say which files have changed', path, error)

    def _write_durable(self, path: Path, data: bytes) -> None:
        write_durable(self.disk, path, lambda file: file.write(data), self._temporary(path.name))

    def _tidy(self, newest: Record, asides: bool = False) -> None:
        """Refresh the links for people, and remove what the policy does not keep; `newest` was read back.

        Args:
            newest: the last checkpoint.
            asides: whether what was set aside is looked through, too; reads files.
        """
        folder = self.folder
        try:
            files = self._listing()
            records = self._own(files)
            failed = links.refresh(self.disk, files, records, newest, self.policy)
            said, self._stale_links = self._stale_links, set()
            for name, error in failed.items():
                what = name if name in ('last.pth', 'best.pth') else f'--checkpoint-best-name {self.policy.best_name}'
                if what not in said | self._stale_links:
                    log.warning('%s: links for people are not renewed (%s): %s', folder, what, error)
                self._stale_links.add(what)
            paths = removable(records, self.policy, files, links.still_named(failed, files, records))
            paths += superfluous_asides(records, files) if asides else []
            remove(self.disk, folder, paths)
        except OSError as error:
            log.warning('%s: could not remove what is not kept: %s', folder, error)
            return
        if gone := [path.stem for path in paths if path.suffix == '.json']:
            log.info('removed %s, as --checkpoint-keep says', some(gone, most=5))
