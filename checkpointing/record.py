"""The commit record of a checkpoint: what makes files a point to resume from, and what is known about it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from common.files import digest
from common.network import RefinerSettings

FORMAT = 2
# Those that are read: records of format 1 hold no command line, and no sha256 of their own.
FORMATS = (1, FORMAT)
# A checkpoint's: its epoch, and its step unless it is the last one of the epoch.
NAME = re.compile(r'epoch-(\d+)(?:-iter-(\d+))?')


def refiner_identity(settings: RefinerSettings) -> dict[str, Any]:
    """Return the settings of a refiner as an identity holds them; `Record.refiner` reads them."""
    return {name.replace('_', ' '): value for name, value in vars(settings).items()}


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
            content = json.loads(raw)
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f'{path}: not a checkpoint record ({error})') from None
        names = {f.name for f in fields(Record)}
        # Damage changes a few bytes: what shares less than half of its names with a record is somebody else's.
        if not isinstance(content, dict) or 2 * len(names & content.keys()) < len(names):
            raise ForeignFileError(f'{path}: not a checkpoint record')
        sealed = content.pop('sha256', None) is not None or content.get('format') != 1
        # Byte for byte, so that no flipped bit of a step or a metric goes unseen.
        if sealed and _sealed(content) != raw:
            raise CheckpointError(f'{path}: a damaged checkpoint record')
        if content.get('format') not in FORMATS:
            raise FormatError(
                f'{path}: a record of format {content.get("format")}, of another version of the toolkit; '
                f'this one reads formats {" and ".join(map(str, FORMATS))}'
            )
        try:
            record = Record(**{**content, 'files': {k: File(**entry) for k, entry in content['files'].items()}})
        except (TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f'{path}: not a checkpoint record ({error})') from None
        if any(Path(name).name != name for name in [record.name, *(f.name for f in record.files.values())]):
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

    def validated_like(self, other: Record) -> bool:
        """Return whether two were validated on the same samples, as far as both records know theirs."""
        known = [key for key in self.identity if key.startswith('validation') and key in other.identity]
        return all(self.identity[key] == other.identity[key] for key in known)

    def has(self, folder: Path, kind: str) -> bool:
        """Return whether the file of a kind is there with its size. Reads nothing of it."""
        file = self.files.get(kind)
        if file is None:
            return False
        path = folder / file.name
        return path.is_file() and path.stat().st_size == file.size


def _sealed(content: dict[str, Any]) -> bytes:
    return _json({**content, 'sha256': hashlib.sha256(_json(content)).hexdigest()})


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def list_path(folder: Path, sha256: str) -> Path:
    """Return where the list of files lies that an identity holds the sha256 of: compressed, and for messages only."""
    return folder / f'data-{sha256[:16]}.gz'


def read_records(folder: Path) -> list[Record]:
    """Return all records in a folder, by step and then by name; other files are left out."""
    records = []
    for path in folder.glob('*.json'):
        with contextlib.suppress(CheckpointError):
            record = Record.read(path)
            # A record that was copied under another name speaks of other files.
            if record.name == path.stem:
                records.append(record)
    return sorted(records, key=lambda r: (r.step, r.name))


def broken_records(folder: Path) -> dict[Path, CheckpointError]:
    """Return the records, by name and content, that cannot be read, and why; files of others are left out."""
    broken = {}
    for path in sorted(folder.glob('epoch-*.json')):
        try:
            if NAME.fullmatch(path.stem) and path.is_file():
                Record.read(path)
        except ForeignFileError:
            continue
        except CheckpointError as error:
            broken[path] = error
    return broken
