"""What comes from a run's mirror to its folder: the newest whole checkpoint, what is kept beside it, and curves."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

from common.files import Disk, digest, make_folders, scratch_folder, write_durable
from common.stores import DamagedObject, MissingObject

from ..links import set_aside
from ..record import CheckpointError, File, FormatError, Record, broken_records, is_before, read_records
from ..retention import LEAST_STATES, Policy, removable
from .contents import BESIDE, Contents, part_name, read_index
from .store import Store

log = logging.getLogger(__name__)


class Reader:
    """A mirror from which a run's folder gets what it lacks; nothing is written to the store.

    Args:
        store: of the mirror.
        folder: checkpoint/<model_name>, whose lock is held where something is written there.
        logs: the folder of the run's curves; None leaves them out.
        disk: the file operations.

    Attributes:
        contents: what the mirror holds.
        damaged: records in the mirror whose files are missing there, or not what they say.
        left_out: checkpoints that were not copied since they are damaged, by name.
    """

    def __init__(self, store: Store, folder: Path, logs: Path | None, disk: Disk | None = None):
        self.store, self.folder, self.logs, self.disk = store, folder, logs, disk or Disk()
        self._temporary = scratch_folder('mirror-')
        self.contents = Contents(store, Path(self._temporary.name))
        self.damaged: list[Record] = []
        self.left_out: list[str] = []

    def close(self) -> None:
        """Remove the temporary folder."""
        self._temporary.cleanup()

    def pull(self, stage: str | None = None, all_kept: bool = False) -> Record | None:
        """Copy to the folder the newest whole checkpoint of the mirror, if it is newer, and what is kept beside it.

        Of the others those come along that the run's own flags keep, but not all weights where all are kept.

        Args:
            stage: whose checkpoints; those of both if None.
            all_kept: copy all, newer or not.

        Returns:
            The newest record that was copied; None if there was nothing to copy.

        Raises:
            CheckpointError: the folder and the mirror hold different runs, or no checkpoint of the mirror is whole.
            StoreError, OSError: the store or the disk fails.
        """
        there = [r for r in self.contents.records() if stage in (None, r.stage)]
        here = [r for r in read_records(self.folder) if stage in (None, r.stage)]
        whole = next((r for r in reversed(here) if r.problem(self.folder) is None), None)
        if here and there and not {r.run for r in here} & {r.run for r in there}:
            raise CheckpointError(
                f'{self.store.url} is the mirror of run {there[-1].run}, and {self.folder} holds run {here[-1].run}: '
                'take another --model-name, or move one of them away'
            )
        newest = max([*there[-1:], *([whole] if whole else [])], key=lambda record: record.step, default=None)
        damaged = list(self._broken(newest))
        if not all_kept and whole is not None and (not there or there[-1].step <= whole.step):
            return None
        left: set[str] = set()
        if there and not all_kept:
            policy = Policy.from_options(there[-1].options)
            policy = replace(policy, keep=policy.keep or LEAST_STATES)
            left = {path.name for path in removable(there, policy, self.contents.listing())}
        make_folders(self.disk, self.folder)
        mine = {record.name: record for record in here}
        found = None
        for record in reversed(there):
            if found is not None and f'{record.name}.json' in left:
                continue
            to_resume = found is None and (whole is None or record.step > whole.step)
            if not all_kept and found is None and not to_resume:
                break
            if not to_resume and is_later(own := mine.get(record.name), record) and self._holds(own.files['weights']):
                continue
            if (problem := self._pull_files(record, left, to_resume)) is None:
                if found is not None:
                    self._pull_record(record)
                found = found or record
                continue
            log.warning('%s in the mirror %s is left out: %s', record.name, self.store.url, problem)
            damaged.append(f'{record.name}: {problem}')
            self.damaged.append(record)
            self.left_out.append(record.name)
        if found is None and whole is None and damaged:
            raise CheckpointError(
                f'{self.store.url}: none of the {len(damaged)} checkpoints in the mirror can be resumed from '
                f'({damaged[-1]}); start a new run with another --model-name'
            )
        if found is not None:
            self._pull_beside(found)
            self._pull_curves(bool(here), newer=not here or found.step > here[-1].step)
            self._pull_record(found)  # last: while it is not there, all of this is done again
        return found

    def _broken(self, newest: Record | None) -> Iterator[str]:
        """Yield what is wrong with records that cannot be read.

        Raises:
            CheckpointError: one that is not older than the newest is of another version of the toolkit.
        """
        for path, error in broken_records(self.contents.folder).items():
            if isinstance(error, FormatError) and not (newest and is_before(path.stem, newest)):
                raise CheckpointError(f'{self.store.url}: {str(error).removeprefix(f"{path.parent}{os.sep}")}')
            log.warning('%s in the mirror %s: its record cannot be read', path.stem, self.store.url)
            self.left_out.append(path.stem)
            yield f'{path.stem}: its record cannot be read'

    def _pull_files(self, record: Record, left: set[str], to_resume: bool) -> str | None:
        """Copy a checkpoint's files to the folder; return why not."""
        data: dict[Path, bytes] = {}
        for file in record.files.values():
            path = self.folder / file.name
            if self._holds(file):
                continue
            if to_resume or file is record.files['weights'] or (self.contents.has(file) and file.name not in left):
                try:  # also what a list that is older does not show
                    data[path] = self.contents.read(file)
                except DamagedObject as error:
                    return str(error)
                except MissingObject:  # a list may show what was removed
                    return f'{file.name} is missing'
        for path, content in data.items():
            self._write(path, content, record.run)
        return None

    def _holds(self, file: File) -> bool:
        path = self.folder / file.name
        return path.is_file() and path.stat().st_size == file.size and digest(path) == file.sha256

    def _pull_record(self, record: Record) -> None:
        """Copy a record, by which the files that came before it count."""
        self._write(self.folder / f'{record.name}.json', record_bytes(self.contents.folder, record), record.run)
        log.info('%s comes from the mirror %s', self.folder / record.name, self.store.url)

    def _pull_beside(self, coming: Record) -> None:
        """Copy pins of checkpoints that are in the folder or will be, and lists of pictures."""
        names = {record.name for record in (*read_records(self.folder), coming)}
        for name in filter(BESIDE.fullmatch, self.contents.sizes):
            path = self.folder / name
            if not path.exists() and (path.suffix == '.gz' or path.stem in names):
                with contextlib.suppress(MissingObject):
                    self._write(path, self.store.get(name), 'mirror')

    def _pull_curves(self, ours: bool, newer: bool) -> None:
        """Copy the curves; where they are damaged they are begun anew, since nothing depends on them.

        Args:
            ours: whether files of the same names are those of this run.
            newer: whether those of the mirror go further; else none of the folder's is touched.
        """
        if self.logs is None:
            return
        if not newer and self.logs.is_dir() and any(self.logs.iterdir()):
            return
        try:
            for name, parts in read_index(self.store).items():
                path = self.logs / os.path.basename(name)
                data = [self.store.get(part_name(sha256)) for sha256, _ in parts]
                if [[hashlib.sha256(part).hexdigest(), len(part)] for part in data] != [list(part) for part in parts]:
                    raise DamagedObject(f'{name} is damaged')
                make_folders(self.disk, self.logs)
                self._write(path, b''.join(data), 'mirror', replacing=ours)
        except (DamagedObject, MissingObject) as error:
            log.warning('the curves in the mirror cannot be read (%s): those before this start are lost', error)

    def _write(self, path: Path, data: bytes, owner: str, replacing: bool = False) -> None:
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == data) and not replacing:
            set_aside(self.disk, path)
        write_durable(self.disk, path, lambda file: file.write(data), path.with_name(f'.{path.name}.{owner}.tmp'))


def is_later(record: Record | None, other: Record) -> TypeGuard[Record]:
    """Return whether there is a record that was written after another of its name, which must not replace it."""
    return record is not None and record.written_at > other.written_at


def record_bytes(folder: Path, record: Record) -> bytes:
    """Return the file of a record."""
    return (folder / f'{record.name}.json').read_bytes()
