"""Whether files are whole: checkpoints by their records, made weights by their provenance, others by what they have."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import digest
from common.network import no_such_file

from .record import NAME, CheckpointError, File, ForeignFileError, FormatError, Record, read_records
from .retention import LEAST_STATES

NO_WEIGHTS = ('.json', '.pin', '.damaged', '.tmp')


@dataclass(frozen=True)
class Verdict:
    """The result of verifying a file: whether it is damaged, and in words how that is known."""

    damaged: bool
    text: str


class Verifier:
    """Compares files with what is known of them; reads each once, under however many names it has."""

    def __init__(self) -> None:
        self.records: dict[Path, list[Record]] = {}
        self.digests: dict[tuple[int, int | str], str] = {}

    def check(self, path: Path) -> Verdict:
        """Verify a file: by its record, its provenance or its archive's checksums, else by reading it.

        Raises:
            FileNotFoundError: no such file, and no record speaks of one.
        """
        path = path.resolve()
        try:
            owned = self.owner(path)
            if owned is not None:
                return self._own(path, owned[0].files[owned[1]])
            return self._foreign(path)
        except FileNotFoundError:
            raise FileNotFoundError(f'{path}: {no_such_file(path)}') from None
        except OSError as error:
            return Verdict(True, f'cannot be read: {error.strerror or error}')

    def owner(self, path: Path) -> tuple[Record, str] | None:
        """Return record and kind of a checkpoint's file, as the function `owner` does; `path` is no link."""
        if path.parent not in self.records:
            self.records[path.parent] = read_records(path.parent)
        return owner(path, self.records[path.parent])

    def digest(self, path: Path) -> str:
        """Return the sha256 of a file in hex."""
        key = inode(path)
        if key not in self.digests:
            self.digests[key] = digest(path)
        return self.digests[key]

    def _own(self, path: Path, file: File) -> Verdict:
        if not path.is_file():
            return self._missing(path)
        if (size := path.stat().st_size) != file.size:
            return Verdict(True, f'{size} bytes instead of {file.size}')
        if self.digest(path) != file.sha256:
            return Verdict(True, 'does not have the sha256 of its record')
        return Verdict(False, 'whole, by the sha256 of its record')

    def _missing(self, path: Path) -> Verdict:
        """Judge a file that is not there: a training may have removed it a moment ago."""
        records = read_records(path.parent)
        owned = owner(path, records, read=False)
        newest = sorted({record.step for record in records})[-LEAST_STATES:]
        if owned is None or (owned[1] == 'state' and owned[0].step not in newest):
            return Verdict(False, 'removed meanwhile')
        return Verdict(True, 'missing')

    def _foreign(self, path: Path) -> Verdict:
        if path.suffix == '.json' and NAME.fullmatch(path.stem):
            return _by_being_a_record(path)
        if path.suffix in NO_WEIGHTS or path.name == '.lock':
            return Verdict(False, 'not a weight file, not verified')
        provenance = read_provenance(path)
        if provenance is not None:
            if (path.stat().st_size, self.digest(path)) != (provenance['size'], provenance['sha256']):
                return Verdict(True, 'does not have the size and sha256 of its provenance')
            return Verdict(False, 'whole, by the sha256 of its provenance')
        with path.open('rb') as file:
            is_zip = file.read(2) == b'PK'
        return (_by_checksums(path) if is_zip else None) or self._by_reading(path)

    def _by_reading(self, path: Path) -> Verdict:
        from model.weights import read_weights

        try:
            read_weights(path)
        except ValueError as error:
            reason = str(error).removeprefix(f'{path}: ')
            if 'not a weight file' in reason:
                return Verdict(True, reason)
            return Verdict(False, f'not read: {reason}; no checksum in this kind of file')
        return Verdict(False, 'readable; no checksum in this kind of file')


def _by_being_a_record(path: Path) -> Verdict:
    try:
        Record.read(path)
    except CheckpointError as error:
        damaged = not isinstance(error, (ForeignFileError, FormatError))
        return Verdict(damaged, str(error).removeprefix(f'{path}: '))
    return Verdict(False, 'a whole record')


def _by_checksums(path: Path) -> Verdict | None:
    """Return the verdict of a zip archive's own checksums; None if it was written without."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.serialization.set_crc32_options(False) leaves zeros in their place.
            if not any(entry.CRC for entry in archive.infolist()):
                return None
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises a dozen types on damaged files
        return Verdict(True, f'a damaged archive ({error or type(error).__name__})')
    if damaged:
        return Verdict(True, f'{damaged} in it does not have its checksum')
    return Verdict(False, "whole, by the archive's checksums")


def owner(path: Path, records: Sequence[Record], read: bool = True) -> tuple[Record, str] | None:
    """Return record and kind of a checkpoint's file, found by name, by link, or as a copy of it.

    Args:
        path: need not exist.
        records: of its folder.
        read: whether files of the right size are read, to know copies.
    """
    files = [(record, kind) for record in records for kind in record.files]
    for record, kind in files:
        if record.files[kind].name == path.name:
            return record, kind
    if not path.is_file():
        return None
    found, folder = path.stat(), str(path.parent)
    for record, kind in files if found.st_nlink > 1 or path.is_symlink() else ():
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.stat(os.path.join(folder, record.files[kind].name))):
                return record, kind
    size = found.st_size
    same_size = [(record, kind) for record, kind in files if read and record.files[kind].size == size]
    sha256 = digest(path) if same_size else ''
    return next(((record, kind) for record, kind in same_size if record.files[kind].sha256 == sha256), None)


def provenance_path(path: Path) -> Path:
    """Return the path of the file that says what a weight file was made of."""
    return path.with_suffix('.provenance.json')


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Read what a weight file was made of; None if there is no such word, or it is about another file."""
    try:
        content = json.loads(provenance_path(path).read_bytes())
        content['size'], content['sha256']
        return content if content['file'] == path.name else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def inode(path: Path) -> tuple[int, int | str]:
    """Return what all names of one file have in common, and copies of it have not."""
    stat = os.stat(path)
    # File systems without hard links may number files as they like.
    return stat.st_dev, stat.st_ino if stat.st_nlink > 1 else os.path.realpath(path)
