"""The commit record of a checkpoint: what makes files a point to resume from, and what is known about it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import stat
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from common.files import digest
from common.network import RefinerSettings

FORMAT = 2
# Those that are read: records of format 1 hold no command line, and no sha256 of their own.
FORMATS = (1, FORMAT)
# A checkpoint's: its epoch, and its step unless it is the last one of the epoch.
NAME = re.compile(r'epoch-(\d+)(?:-iter-(\d+))?')
# How a record's file begins, goes on from one value to the next, which is in none of them, and ends.
OPEN, NEXT, CLOSE = '{\n "', ',\n "', '\n}'
# A file that changed less than this before it was read may change again without another time: clocks of file systems
# tick every 2 s in the worst case.
UNSURE_NS = 3 * 10**9


def refiner_identity(settings: RefinerSettings | None) -> dict[str, Any]:
    """Return the settings of a refiner, if there is one, as an identity holds them; `Record.refiner` reads them."""
    return {} if settings is None else {name.replace('_', ' '): value for name, value in vars(settings).items()}


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from, or a folder that cannot be written to; says what to do."""


class ForeignFileError(CheckpointError):
    """A file that is no record and never was one."""


class FormatError(CheckpointError):
    """A whole record of a format that this version does not read."""


@dataclass(frozen=True)
class File:
    """A file of a checkpoint: its name in the folder, its size in bytes, the sha256 of its content in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """The commit record of a checkpoint.

    Attributes:
        run: id of the run.
        stage: 'base' or 'refine'.
        name: of the checkpoint, without suffix.
        step: the last step done, counted from 0 over the whole run.
        epoch: the epoch of that step.
        metrics: from the validation at that step; empty if there was none.
        reason: 'interval', 'epoch', 'minutes', 'best', 'end' or a signal's name, such as 'SIGTERM'.
        identity: what a run must not change when it goes on.
        files: 'weights', 'state' and, with an average, 'ema'.
        options: the command line, in plain types.
        format: of the record.
        written: when, in local time.
    """

    run: str
    stage: str
    name: str
    step: int
    epoch: int
    metrics: dict[str, float]
    reason: str
    identity: dict[str, Any]
    files: dict[str, File]
    options: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    written: str = field(default_factory=lambda: time.strftime('%Y-%m-%dT%H:%M:%S%z'))

    @staticmethod
    def read(path: Path) -> Record:
        """Read a record.

        Raises:
            ForeignFileError: it is no record.
            FormatError: it is one of another format.
            CheckpointError: it is a damaged one, or cannot be read.
        """
        try:
            raw = path.read_bytes()
            content = _parse(raw.decode())
        except IsADirectoryError:
            raise ForeignFileError(f'{path}: a folder') from None
        except (OSError, ValueError, RecursionError) as error:
            known = isinstance(error, OSError) or any(path.with_suffix(s).exists() for s in ('.pth', '.state.pth'))
            kind = CheckpointError if known else ForeignFileError
            raise kind(f'{path}: not a checkpoint record ({error})') from None
        names = {f.name for f in fields(Record)}
        # Damage changes a few bytes: what shares less than half of its names with a record is somebody else's.
        if not isinstance(content, dict) or 2 * len(names & content.keys()) < len(names):
            raise ForeignFileError(f'{path}: not a checkpoint record')
        sealed, form = content.pop('sha256', None) is not None, content.get('format')
        foreign = isinstance(form, int) and form not in FORMATS
        # Byte for byte, so that no flipped bit of a step or a metric goes unseen; nor one of the format.
        ours = raw.replace(f'"format": {form}'.encode(), f'"format": {FORMAT}'.encode()) if foreign else raw
        if (foreign and _is_sealed(ours)) or (not foreign and (sealed or form != 1) and not _is_sealed(raw)):
            raise CheckpointError(f'{path}: a damaged checkpoint record')
        if foreign:
            raise FormatError(
                f'{path}: a record of format {content.get("format")}, of another version of the toolkit; '
                f'this one reads formats {" and ".join(map(str, FORMATS))}'
            )
        try:
            record = Record(**{**content, 'files': {k: File(**entry) for k, entry in content['files'].items()}})
        except (TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f'{path}: not a checkpoint record ({error})') from None
        if any(os.path.basename(name) != name for name in [record.name, *(f.name for f in record.files.values())]):
            raise CheckpointError(f'{path}: a record that names files outside of its folder')
        return record

    @property
    def refiner(self) -> RefinerSettings | None:
        """The settings that the refiner was trained with; None for the base stage."""
        names = [f.name for f in fields(RefinerSettings)]
        held = {name: self.identity[key] for name in names if (key := name.replace('_', ' ')) in self.identity}
        return RefinerSettings(**held) if held else None

    def to_bytes(self) -> bytes:
        """Return the record's file: JSON that ends with the sha256 of the rest."""
        return _sealed(asdict(self))

    def problem(self, folder: Path) -> str | None:
        """Return why the checkpoint is not whole, or None. Reads every byte of its files."""
        for file in self.files.values():
            path = folder / file.name
            if not path.is_file():
                return f'{file.name} is missing'
            if path.stat().st_size != file.size:
                return f'{file.name} has {path.stat().st_size} bytes instead of {file.size}'
            try:
                if digest(path) != file.sha256:
                    return f'{file.name} does not have the sha256 of its record'
            except OSError as error:
                return f'{file.name} cannot be read ({error.strerror})'
        return None

    @property
    def written_at(self) -> float:
        """When it was written, in seconds since 1970: local times of machines, or seasons, do not compare as text."""
        return datetime.fromisoformat(self.written).timestamp()

    @property
    def recipe(self) -> str:
        """What the loss weighs; versions without recipes trained the published way."""
        return self.options.get('recipe', 'published')

    @property
    def drawings(self) -> int:
        """The number of the drawings it was trained on; versions that did not number them drew the first."""
        return self.identity.get('drawings', 1)

    def validated_like(self, other: Record, metric: str) -> bool:
        """Return whether values of a metric compare: of the same samples, as far as known, and losses of one recipe."""
        if self.drawings != other.drawings:
            return False
        if metric.endswith('_loss') and self.recipe != other.recipe:
            return False
        if self.identity == other.identity:
            return True  # so it is for nearly all of thousands
        known = [key for key in self.identity if key.startswith('validation') and key in other.identity]
        return all(self.identity[key] == other.identity[key] for key in known)

    def has(self, folder: Path, kind: str) -> bool:
        """Return whether the file of a kind is there with its size. Reads nothing of it."""
        file = self.files.get(kind)
        if file is None:
            return False
        try:
            found = os.stat(os.path.join(folder, file.name))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == file.size


def _sealed(content: dict[str, Any]) -> bytes:
    return _json({**content, 'sha256': hashlib.sha256(_json(content)).hexdigest()})


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def is_before(name: str, record: Record) -> bool:
    """Return whether a checkpoint is older than a record, as far as its name tells."""
    found = NAME.fullmatch(name)
    assert found is not None
    return int(found[2]) < record.step if found[2] else int(found[1]) < record.epoch


def list_path(folder: Path, sha256: str) -> Path:
    """Return where the list of files lies that an identity holds the sha256 of: compressed, and for messages only."""
    return folder / f'data-{sha256[:16]}.gz'


def _is_sealed(raw: bytes) -> bool:
    """Return whether a record's file ends with the sha256 of the rest."""
    text = raw.rpartition(NEXT.encode())[0]
    seal = f'{NEXT}sha256": "{hashlib.sha256(text + CLOSE.encode()).hexdigest()}"{CLOSE}'
    return raw == text + seal.encode()


def _parse(text: str) -> Any:
    """Parse what `_json` wrote, or any JSON; the long values that records have in common are parsed, and held, once."""
    if not text.startswith(OPEN):
        return json.loads(text)
    pairs = text.removeprefix(OPEN).removesuffix(CLOSE).split(NEXT)
    common = [pair for pair in pairs if pair.startswith(('identity"', 'options"'))]
    content = json.loads(OPEN + NEXT.join(pair for pair in pairs if pair not in common) + CLOSE)
    for pair in common:
        content |= _parse_once(OPEN + pair + CLOSE)
    return content


@functools.lru_cache(maxsize=64)
def _parse_once(text: str) -> dict[str, Any]:
    return json.loads(text)


def read_records(folder: Path) -> list[Record]:
    """Return all records in a folder, by step and then by name; other files are left out."""
    return Listing(folder).records()


def broken_records(folder: Path) -> dict[Path, CheckpointError]:
    """Return the records, by name and content, that cannot be read, and why; files of others are left out."""
    return Listing(folder).broken_records()


class Listing:
    """The files of a folder at one moment, to ask about thousands of records.

    What was read of a file is kept as long as its name is there: sizes of whole files, and records, which nobody but
    the run that holds the folder's lock writes.

    Attributes:
        folder: that is listed.
        names: that are in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._whole: set[str] = set()
        self._records: dict[str, Record] = {}
        self._sorted: list[Record] | None = None
        self.look()

    def look(self) -> None:
        """List the names anew."""
        self.names: set[str] = set()
        # A file may be read although its folder cannot be listed.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            self.names = set(os.listdir(self.folder))
        self._whole &= self.names
        for name in self._records.keys() - self.names:
            del self._records[name]
            self._sorted = None

    def note(self, record: Record) -> None:
        """Take a record that was just written, instead of the one before it."""
        self._records[f'{record.name}.json'] = record
        self._sorted = None

    def records(self) -> list[Record]:
        """Return all records, by step and then by name; other files are left out."""
        self._read()
        if self._sorted is None:
            # A record that was copied under another name speaks of other files.
            records = (record for name, record in self._records.items() if name == f'{record.name}.json')
            self._sorted = sorted(records, key=lambda r: (r.step, r.name))
        return list(self._sorted)

    def broken_records(self) -> dict[Path, CheckpointError]:
        """Return the records, by name and content, that cannot be read, and why; files of others are left out."""
        return {
            self.folder / name: error
            for name, error in sorted(self._read().items())
            if NAME.fullmatch(name.removesuffix('.json')) and not isinstance(error, ForeignFileError)
        }

    def _read(self) -> dict[str, CheckpointError]:
        """Read the records that are new; return why others cannot be read."""
        broken = {}
        for name in self.names - self._records.keys():
            if name.endswith('.json'):
                try:
                    self._records[name] = _read_known(os.path.join(self.folder, name))
                    self._sorted = None
                except CheckpointError as error:
                    broken[name] = error
        return broken

    def has(self, record: Record, kind: str) -> bool:
        """Return whether the file of a kind is there with its size. Reads nothing of it."""
        file = record.files.get(kind)
        if file is None or file.name not in self.names:
            return False
        if file.name not in self._whole and record.has(self.folder, kind):
            self._whole.add(file.name)
        return file.name in self._whole


def _read_known(path: str) -> Record:
    """Read a record, or take what was read of it before if its inode, size and time are the same.

    Raises:
        CheckpointError: as `Record.read`.
    """
    with contextlib.suppress(OSError):
        found = os.stat(path)
        if time.time_ns() - found.st_mtime_ns > UNSURE_NS:
            return _read_once(path, found.st_ino, found.st_size, found.st_mtime_ns)
    return Record.read(Path(path))


@functools.lru_cache(maxsize=1 << 15)
def _read_once(path: str, *_: int) -> Record:
    return Record.read(Path(path))
