"""The mirror of a run's folder: what the folder has and the mirror lacks is copied there, checkpoint by checkpoint.

Nothing here knows of training: the two folders alone are looked at, so whatever was cut is done by doing it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from common.console import megabytes
from common.files import Disk
from common.stores import StoreError

from ..links import free_name
from ..record import UNSURE_NS, CheckpointError, Listing, Record, read_records
from ..retention import Policy, removable
from .contents import BESIDE, CURVES, LEFT_OVER, Index, index_bytes, part_name, parts_of
from .pull import Reader, is_later, record_bytes
from .store import Store

log = logging.getLogger(__name__)


class Mirror(Reader):
    """The mirror of a run's folder.

    Args:
        store, folder, logs, disk: as of `Reader`.
        policy: which checkpoints of the newest run are kept in the mirror; None keeps all.
        may_write: raises StoreError where another may write to the store by now; asked before each write and deletion.

    Attributes:
        run: id and stage of the run that is mirrored; nothing of others in its folder is copied. None copies all.
        behind_since: since when the folder has had the oldest checkpoint that the mirror lacks, in seconds of
            time.monotonic(); None where it lacks none.
    """

    def __init__(
        self, store: Store, folder: Path, logs: Path | None, policy: Policy | None = None, disk: Disk | None = None,
        may_write: Callable[[], object] = lambda: None,
    ):  # fmt: skip
        super().__init__(store, folder, logs, disk)
        self.policy, self.may_write = policy, may_write
        self.run: tuple[str, str] | None = None
        self.behind_since: float | None = None
        self._begun: tuple[Record, bytes, dict[str, BinaryIO]] | None = None  # with its bytes and its files
        self._opened = contextlib.ExitStack()
        self._seen: dict[bytes, float] = {}  # since when each record has been pending
        self._verified: set[str] = set()  # objects that the store held when it was asked
        self._removed: set[bytes] = set()  # records that the policy does not keep; the folder may have them still
        self._pins: set[str] = set()
        self._index: Index | None = None
        self._retained = False
        self._quiet_since = 0  # the folder's time when nothing was left to do

    def close(self) -> None:
        """Remove the temporary folder, and close files."""
        self._opened.close()
        super().close()

    def pending(self) -> list[Record]:
        """Return the checkpoints of the folder that the mirror lacks: the newest record, or any file that it names."""
        files, mirrored = Listing(self.folder), self.contents.record_bytes()
        there, due = {record.name: record for record in self.contents.records()}, self.contents.due_files()
        found, seen, now = [], dict[bytes, float](), time.monotonic()
        for record in self.own(files.records()):
            data = record_bytes(self.folder, record)  # records with NaN equal none, not even themselves
            if is_later(there.get(record.name), record) or data in self._removed or not files.has(record, 'weights'):
                continue
            lacking = (file for file in due.get(record.name, ()) if not self.contents.has(file))
            if data != mirrored.get(record.name) or any(file.name in files.names for file in lacking):
                found.append(record)
                seen[data] = self._seen.get(data, now)
        self._seen, self.behind_since = seen, min(seen.values(), default=None)
        return found

    def push(self, ending: bool = True) -> bool:
        """Copy the next object that the mirror lacks, those of the newest checkpoint first, its record last.

        Args:
            ending: no newer one will come. Else a checkpoint that was begun comes to its end before a newer one, since
                a slow store would never have a whole one; and where the folder's time is the same it is not read.

        Returns:
            Whether there was one; False where the mirror has all.

        Raises:
            StoreError, OSError: the store or the disk fails; doing it again goes on.
        """
        changed = self.folder.stat().st_mtime_ns
        if changed == self._quiet_since and not ending:
            return False
        try:
            pending = self.pending()
            if ending or self._begun is None:
                self._begin(pending[-1] if pending else None)
            if self._begun is not None:
                return self._push_next(*self._begun)
            if self._push_pins() or self._retain():
                return True
        except FileNotFoundError:  # removed meanwhile
            self._begin(None)
            if not self.contents.folder.is_dir():  # by somebody who clears temporary files, or at the end
                self.may_write()
                self.contents.look()
            return True
        except StoreError:
            self._begin(None)  # once the store is back, the newest comes first
            raise
        # So long ago that no later change has the same time.
        self._quiet_since = changed if time.time_ns() - changed > UNSURE_NS else 0
        return False

    def _begin(self, record: Record | None) -> None:
        """Open the files of the checkpoint that comes next, which stay readable should the folder's be removed."""
        self._opened.close()
        self._begun = None
        if record is not None:
            paths = ((file, self.folder / file.name) for file in record.files.values())
            # An older one's state is not kept.
            files: dict[str, BinaryIO] = {
                file.name: self._opened.enter_context(path.open('rb')) for file, path in paths if path.is_file()
            }
            self._begun = record, record_bytes(self.folder, record), files

    def _push_next(self, record: Record, written: bytes, files: dict[str, BinaryIO]) -> bool:
        for file in (file for file in record.files.values() if file.name in files):
            name = self.contents.object_of(file)
            if name in self._verified:
                continue
            if not (self.contents.has(file) and self.store.holds(name, file.size, file.sha256)):
                files[file.name].seek(0)
                data = files[file.name].read()
                if hashlib.sha256(data).hexdigest() != file.sha256:
                    path = self.folder / file.name
                    log.warning('%s: does not have the sha256 of its record; it is not mirrored', path)
                    self._removed.add(written)
                    self.left_out.append(record.name)
                    self._begin(None)
                    return True
                self._put(name, data)
            self._verified.add(name)
            return True
        if record.files['weights'].name not in files:
            raise FileNotFoundError(record.name)
        self._push_beside(record)
        self.push_curves()
        if self._missing(record):
            return True
        self._put(f'{record.name}.json', written)
        self._begin(None)
        size = sum(file.size for file in record.files.values())
        log.info('%s is in the mirror %s (%s)', record.name, self.store.url, megabytes(size))
        self._retained = False
        return self._retain()

    def _missing(self, record: Record) -> bool:
        """Return whether files that were verified have gone since, as another writer may have done; forget these."""
        objects = {self.contents.object_of(file): file.size for file in record.files.values()}
        gone = [name for name, size in objects.items() if name in self._verified and self.store.size(name) != size]
        for name in gone:
            self._verified.discard(name)
            self.contents.forget(name)
        return bool(gone)

    def _put(self, name: str, data: bytes) -> None:
        self.may_write()
        self.store.put(name, data)
        self.contents.note(name, data)

    def _delete(self, name: str) -> None:
        self.may_write()
        self.contents.delete(name)
        self._verified.discard(name)

    def set_damaged_aside(self) -> None:
        """Let damaged checkpoints count no more, as in a folder; none of their files is touched."""
        for record in self.damaged:
            aside = free_name(self.contents.folder / f'{record.name}.json.damaged')
            self._put(aside.name, record_bytes(self.contents.folder, record))
            self._delete(f'{record.name}.json')
            log.warning('%s in the mirror %s: its record is set aside', record.name, self.store.url)
        self.damaged.clear()

    def _push_beside(self, record: Record) -> None:
        """Copy the lists of pictures that a record speaks of, and its pin."""
        for path in sorted(self.folder.iterdir()):
            ours = path.stem == record.name if path.suffix == '.pin' else path.suffix == '.gz'
            if ours and path.is_file() and BESIDE.fullmatch(path.name) and path.name not in self.contents.sizes:
                self._put(path.name, path.read_bytes())

    def _push_pins(self) -> bool:
        """Let pins follow those that were set or taken away in the folder; return whether there was one."""
        pins = {path.name for path in self.folder.glob('epoch-*.pin')}
        names = {f'{record.name}.pin' for record in self.contents.records()}
        for name in sorted(pins & names - self.contents.sizes.keys()):
            self._put(name, b'')
        # Not what is gone with its whole checkpoint, as in a folder that is no longer mounted.
        removed = {name for name in self._pins - pins if (self.folder / name).with_suffix('.json').is_file()}
        for name in removed:
            self._delete(name)
        before, self._pins = self._pins, (self._pins | pins) - removed
        return self._pins != before

    def adopt(self, run: str, stage: str, policy: Policy) -> None:
        """Be a run's mirror, in which its policy holds; raise CheckpointError if it is another run's."""
        others = [r for r in self.contents.records() if (r.run, r.stage) != (run, stage)]
        if others:
            raise CheckpointError(
                f'{self.store.url} is the mirror of run {others[-1].run} of the {others[-1].stage} stage: '
                '--model-last-checkpoint auto of its own script goes on with that; a new run needs another --model-name'
            )
        self.run, self.policy = (run, stage), policy

    def own(self, records: Iterable[Record]) -> list[Record]:
        """Return the records of the run of which this is the mirror."""
        return [record for record in records if self.run in (None, (record.run, record.stage))]

    def newest(self) -> tuple[Record | None, Record | None]:
        """Return the newest checkpoint of the run that is in its folder, and that in the mirror."""
        here, there = self.own(read_records(self.folder)), self.contents.records()
        return (here[-1] if here else None), (there[-1] if there else None)

    def push_curves(self) -> None:
        """Copy the curves as they are now: all that they show up to the newest checkpoint, and perhaps more."""
        if self.logs is None or not self.logs.is_dir():
            return
        index: Index = {}
        for path in sorted(path for path in self.logs.iterdir() if path.is_file() and path.name[0] != '.'):
            index[path.name] = []
            for data in parts_of(path):
                sha256 = hashlib.sha256(data).hexdigest()
                if self.contents.sizes.get(part_name(sha256)) != len(data):
                    self._put(part_name(sha256), data)
                index[path.name].append((sha256, len(data)))
        if index != self._index:
            self._put(CURVES, index_bytes(index))
            self._index = index

    def _retain(self) -> bool:
        """Remove what the policy does not keep of the newest run, and what nothing names; return False if that is done.

        Only after a checkpoint has come, or where that may have been cut.
        """
        if self._retained:
            return False
        self.contents.look()  # others may pin what is there
        if not (records := self.contents.records()):
            return False
        own = [r for r in records if (r.run, r.stage) == (records[-1].run, records[-1].stage)]
        gone = [path.name for path in removable(own, self.policy, self.contents.listing())] if self.policy else []
        if self._index is None:
            self._index = self.contents.curves()
        for name in self.contents.superfluous(gone, self.pending(), self._index):
            self._removed |= {record_bytes(self.contents.folder, r) for r in own if name == f'{r.name}.json'}
            self._delete(name)
        self._retained = True
        return True

    def tidy(self) -> None:
        """Remove what a writer that was killed has left half-written, where no other one is at work."""
        for name in [name for name in self.contents.sizes if LEFT_OVER.fullmatch(name)]:
            self._delete(name)
