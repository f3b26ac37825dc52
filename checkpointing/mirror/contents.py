"""What a mirror holds of a run, as a folder that looks like the run's own: records whole, files by their size alone.

Whatever lists a run's folder, says what is kept and what may go, thus does the same for a mirror.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.files import BLOCK
from common.stores import DamagedObject, MissingObject, name_folder

from ..record import NAME, File, Listing, Record, read_records
from ..retention import LEAST_STATES
from .store import Store

# Of a checkpoint's file, and of a part of a file of curves: a name, the beginning of the content's sha256, a kind.
OBJECT = re.compile(r'([^.]+)\.([0-9a-f]{16})\.(pth|state\.pth|ema\.pth|part)')
LEFT_OVER = re.compile(r'\.(?:rehearsal-)?[0-9a-f]{16}\.tmp')
# Beside checkpoints: pins, records that were set aside, and lists of the pictures trained on.
BESIDE = re.compile(r'epoch-[^.]+\.(?:pin|json\.damaged\d*)|data-[0-9a-f]{16}\.gz')
CURVES = 'curves.index'
PART_BYTES = 4 * BLOCK

# Of each file of curves, the sha256 and the size of its parts.
Index = dict[str, list[tuple[str, int]]]


def object_name(file: File) -> str:
    """Return the name in the store of a checkpoint's file, such as 'epoch-0.0123456789abcdef.state.pth'."""
    stem, _, kind = file.name.partition('.')
    return f'{stem}.{file.sha256[:16]}.{kind}'


def file_of(name: str) -> str:
    """Return the name in the run's folder of what an object holds: 'epoch-0.state.pth' for the same; others' own."""
    found = OBJECT.fullmatch(name)
    return f'{found[1]}.{found[3]}' if found else name


def is_mirror(folder: Path) -> bool:
    """Return whether a folder of this computer is a mirror, by the names in it, and no run's folder."""
    names = [path.name for path in folder.glob('*.*')]
    return CURVES in names or (
        any(map(OBJECT.fullmatch, names)) and not any(NAME.fullmatch(name.removesuffix('.pth')) for name in names)
    )


class Contents:
    """What a mirror holds, and a folder that stands for it.

    Args:
        store: of the mirror.
        folder: empty; records are put there, and files of the right size without content for what they name.

    Attributes:
        sizes: of the objects, by their name.
    """

    def __init__(self, store: Store, folder: Path):
        self.store, self.folder = store, folder
        name_folder(folder, store.url)
        self.sizes: dict[str, int] = {}
        self._by_content: dict[tuple[str, int], str] = {}
        self._dressed: set[str] = set()

    def look(self) -> None:
        """List the store anew, and read the records that are new there.

        Raises:
            StoreError: the store fails.
        """
        found = self.store.sizes()  # what is known stays where this fails
        self.sizes, self._by_content = {}, {}
        for name, size in found.items():
            self._add(name, size)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        there = set(os.listdir(self.folder))
        records = {name for name in self.sizes if name.endswith('.json')}
        for name in (n for n in there if n.endswith('.json') and n not in records):
            (self.folder / name).unlink()
        for name, data in self.store.get_all(sorted(records - there)).items():
            (self.folder / name).write_bytes(data)
        for file in (file for files in self.due_files().values() for file in files):
            # A list may be older than the records: without its weights one would be taken for what may go.
            if not self.has(file) and self.store.size(object_name(file)) == file.size:
                self._add(object_name(file), file.size)
        self._dress()

    def _add(self, name: str, size: int) -> None:
        self.sizes[name] = size
        if found := OBJECT.fullmatch(name):
            self._by_content[found[2], size] = name

    def note(self, name: str, data: bytes) -> None:
        """Take an object that was just written."""
        self._add(name, len(data))
        if name.endswith('.json'):
            (self.folder / name).write_bytes(data)
            self._dress()

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.store.delete(name)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Take note that an object was removed."""
        self.sizes.pop(name, None)
        self._by_content = {content: other for content, other in self._by_content.items() if other != name}
        if name.endswith('.json'):
            (self.folder / name).unlink(missing_ok=True)

    def _dress(self) -> None:
        """Let the folder look like the run's."""
        records = self.records()
        wanted = {f.name: f.size for r in records for f in r.files.values() if self.has(f)}
        wanted |= {name: size for name, size in self.sizes.items() if BESIDE.fullmatch(name)}
        # Beside files a record that cannot be read is a damaged one, and nobody else's.
        objects = ((found, size) for name, size in self.sizes.items() if (found := OBJECT.fullmatch(name)))
        names = {record.name for record in records}
        # Checkpoints of one step share objects, which have the name of the first.
        contents = {(f.sha256[:16], f.size) for r in records for f in r.files.values()}
        wanted |= {
            file_of(found[0]): size for found, size in objects
            if found[1] not in {*names, 'curves'} and (found[2], size) not in contents
        }  # fmt: skip
        for name in self._dressed - wanted.keys():
            (self.folder / name).unlink(missing_ok=True)
        for name, size in wanted.items():
            with (self.folder / name).open('ab') as file:
                file.truncate(size)
        self._dressed = set(wanted)

    def records(self) -> list[Record]:
        """Return the records, by step and then by name."""
        return read_records(self.folder)

    def due_files(self) -> dict[str, list[File]]:
        """Return for each checkpoint the files that should be there; older ones may have lost their training state."""
        records = self.records()
        newest = sorted({record.step for record in records})[-LEAST_STATES:]
        return {r.name: [f for kind, f in r.files.items() if kind != 'state' or r.step in newest] for r in records}

    def record_bytes(self) -> dict[str, bytes]:
        """Return the content of each record, also of those that cannot be read, by the checkpoint's name."""
        return {path.stem: path.read_bytes() for path in self.folder.glob('*.json')}

    def listing(self) -> Listing:
        """Return what the folder would list that this is the mirror of."""
        return Listing(self.folder)

    def object_of(self, file: File) -> str:
        """Return the name of the object that holds a file: its own, or another's of the same content."""
        name = object_name(file)
        return name if name in self.sizes else self._by_content.get((file.sha256[:16], file.size), name)

    def has(self, file: File) -> bool:
        """Return whether a checkpoint's file is there with its size."""
        return self.sizes.get(self.object_of(file)) == file.size

    def read(self, file: File) -> bytes:
        """Read a checkpoint's file.

        Raises:
            StoreError: the store fails, or holds something else than the record says.
        """
        for _ in range(2):  # the first time it may have been damaged on its way
            with contextlib.suppress(DamagedObject):
                data = self.store.get(self.object_of(file))
                if len(data) == file.size and hashlib.sha256(data).hexdigest() == file.sha256:
                    return data
        raise DamagedObject(f'{file.name} does not have the size and sha256 of its record')

    def problem(self, record: Record) -> str | None:
        """Return why a checkpoint is not whole in the store, as `Record.problem` of a folder; None if it is.

        Raises:
            StoreError: the store fails.
        """
        files = ((file, self.object_of(file)) for file in record.files.values())
        broken = (file.name for file, name in files if not self.store.holds(name, file.size, file.sha256))
        return next((f'{name} is missing, or does not have the sha256 of its record' for name in broken), None)

    def curves(self) -> Index | None:
        """Return of which parts the files of curves are made; None where nobody knows, since that is damaged.

        Raises:
            StoreError: the store fails.
        """
        with contextlib.suppress(DamagedObject):
            return read_index(self.store)
        return None

    def superfluous(self, gone: Iterable[str], coming: Iterable[Record], curves: Index | None) -> list[str]:
        """Return the objects that nothing names, or that may go, records first.

        Args:
            gone: names in the run's folder of what may go.
            coming: records that will be there soon.
            curves: of which parts their files are made; None where nobody knows.

        Raises:
            StoreError: the store fails.
        """
        gone = set(gone)
        staying = [record for record in self.records() if f'{record.name}.json' not in gone]
        files = [f for record in staying for f in record.files.values() if f.name not in gone]
        named = {self.object_of(file) for file in (*files, *(f for r in coming for f in r.files.values()))}
        named |= {part_name(sha256) for parts in (curves or {}).values() for sha256, _ in parts}
        stems = {name: found[1] for name in self.sizes if name not in named and (found := OBJECT.fullmatch(name))}
        # A record that was not read, or set aside, may name what bears its name, and a list may be older than it.
        unread = set(stems.values()) - {record.name for record in self.records()} - {'curves'}
        unknown = {stem for stem in unread if self._has_record(stem)} | ({'curves'} if curves is None else set())
        files_gone = [name for name, stem in stems.items() if stem not in unknown]
        return [*sorted(name for name in gone if name.endswith('.json')), *files_gone]

    def _has_record(self, stem: str) -> bool:
        names = (f'{stem}.json', f'{stem}.json.damaged')
        return any(name in self.sizes or self.store.size(name) is not None for name in names)


def part_name(sha256: str) -> str:
    """Return the name in the store of a part of a file of curves."""
    return f'curves.{sha256[:16]}.part'


def parts_of(path: Path) -> Iterator[bytes]:
    """Yield the parts of a file of curves; one that grows, as TensorBoard's do, keeps all but its last."""
    with path.open('rb') as file:
        while data := file.read(PART_BYTES):
            yield data


def index_bytes(files: Index) -> bytes:
    """Return the object that says of which parts the files of curves are made: sha256 and size of each."""
    text = json.dumps(files, indent=1, sort_keys=True)
    return f'{hashlib.sha256(text.encode()).hexdigest()}\n{text}'.encode()


def read_index(store: Store) -> Index:
    """Return of which parts the files of curves are made; none where there are none.

    Raises:
        StoreError: the store fails, or the object is damaged.
    """
    try:
        sha256, _, text = store.get(CURVES).partition(b'\n')
    except MissingObject:  # never by a list, which may be older
        return {}
    if hashlib.sha256(text).hexdigest() != sha256.decode('ascii', 'replace'):
        raise DamagedObject(f'{store.url}: {CURVES} is damaged')
    return json.loads(text)
