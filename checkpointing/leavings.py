"""What killed processes have left of a run in its folder, as far as it is known to be the run's own."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from common.files import Disk, digest, unlink_quietly

from .record import CheckpointError, Listing, Record


def remove_unfinished(disk: Disk, files: Listing, run: str) -> None:
    """Remove temporary files, and what they named before its record counted.

    Of this run, and of runs that no record speaks of: they never got as far as a checkpoint.
    """
    folder = files.folder
    others = {record.run for record in files.records()} - {run}
    for path in sorted(folder.glob('.epoch-*.tmp'), key=lambda path: '.json.' not in path.name):
        owner = path.name.split('.')[-2]
        if owner in others or not (owner == run or re.fullmatch('[0-9a-f]{12}', owner)):
            continue
        if '.json.' in path.name:
            with contextlib.suppress(CheckpointError, OSError):
                _remove_announced(disk, folder, Record.read(path))
        unlink_quietly(path)
    for path in folder.glob(f'.*.{run}.tmp'):
        unlink_quietly(path)


def _remove_announced(disk: Disk, folder: Path, record: Record) -> None:
    """Remove the files that a record names which never counted."""
    if os.path.lexists(folder / f'{record.name}.json'):
        return
    # The state last: until then it marks what is half-written.
    for file in (record.files[kind] for kind in ('weights', 'ema', 'state') if kind in record.files):
        if (folder / file.name).is_file() and digest(folder / file.name) == file.sha256:
            disk.unlink(folder / file.name)
            disk.fsync_folder(folder)


def superfluous_asides(records: Sequence[Record], files: Listing) -> list[Path]:
    """Return the files that were set aside and are nevertheless this run's own: a checkpoint holds the same.

    They are what a save that was cut has left, written once more when the run went on. Others stay for ever, and so do
    those that were pinned.
    """
    found = []
    kept = {name.partition('.pin.aside')[0] for name in files.names if '.pin.aside' in name}
    for path in sorted(files.folder / name for name in files.names if re.search(r'\.pth\.aside\d*$', name)):
        if path.is_symlink() or not path.is_file() or path.name.partition('.')[0] in kept:
            continue
        size = path.stat().st_size
        recorded = {
            file.sha256
            for record in records
            for kind, file in record.files.items()
            if file.size == size and (kind == 'state' or files.has(record, kind))
        }
        with contextlib.suppress(OSError):
            if recorded and digest(path) in recorded:
                found.append(path)
    return found
