"""What `--model-last-checkpoint` means: go on with this run, give weights to a new one, or start afresh."""

from __future__ import annotations

import logging
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import Disk

from .content import Content, read_content
from .links import free_name
from .record import CheckpointError, Record, broken_records, read_records

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resume:
    """The way in which a run begins.

    Attributes:
        run: its id, an old one or a new one.
        record, content: the checkpoint it goes on from, or None.
        weights: a file whose weights a new run takes, or None.
    """

    run: str
    record: Record | None = None
    content: Content | None = None
    weights: Path | None = None


def decide(given: str | None, folder: Path, stage: str, identity: dict[str, Any], start: Path | None = None) -> Resume:
    """Decide how a run in `folder` begins.

    Args:
        given: the flag: a path, 'auto', or None.
        folder: checkpoint/<model_name>.
        stage: 'base' or 'refine'.
        identity: of the run that is about to begin.
        start: weights of a run that begins under 'auto'.

    Raises:
        CheckpointError: a checkpoint of this run that is damaged, has no training state, is older than the newest,
            or was written by a run with another identity; no checkpoint loads under 'auto' although there are some.
        FileNotFoundError: no such file.
    """
    if given is None:
        return Resume(_new_id())
    records = [r for r in read_records(folder) if r.stage == stage]
    if given == 'auto':
        record = _newest_whole(folder, records)
        if record is None:
            return Resume(_unborn_id(folder) or _new_id(), weights=start)
    else:
        path = Path(given)
        if not path.is_file():
            raise FileNotFoundError(f'--model-last-checkpoint {given}: no such file')
        record = _record_of(path, folder, records)
        if record is None and _is_average_of(path, folder, records):
            raise CheckpointError(
                f'--model-last-checkpoint {given}: holds averaged weights of this run. Go on with "auto", or start a '
                'new run from them with another --model-name'
            )
        if record is None:
            return Resume(_new_id(), weights=path)
        later = [r.name for r in records if r.run == record.run and r.step > record.step]
        if later:
            raise CheckpointError(
                f'--model-last-checkpoint {given}: this run has got further, to {later[-1]}.pth. Go on from there with '
                '"auto", or start a new run from these weights with another --model-name'
            )
        if problem := record.problem(folder):
            raise CheckpointError(
                f'--model-last-checkpoint {given}: {problem}. Use "auto" to go on from the newest whole checkpoint'
            )
    _check_identity(record, identity)
    return Resume(record.run, record, read_content(folder, record))


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _unborn_id(folder: Path) -> str | None:
    """Return the id of a run that was killed during its first save, so that its files count as its own."""
    ids = (re.fullmatch(r'\.epoch-.*\.([0-9a-f]{12})\.tmp', path.name) for path in sorted(folder.glob('.epoch-*.tmp')))
    return next((found[1] for found in ids if found), None)


def _record_of(path: Path, folder: Path, records: list[Record]) -> Record | None:
    """Return the record of a weight file of the run's own folder, or of a link to one, such as last.pth."""
    if path.resolve().parent != folder.resolve():
        return None
    of_name = [r for r in records if path.name == r.files['weights'].name]
    linked = [r for r in records if r.has(folder, 'weights') and path.samefile(folder / r.files['weights'].name)]
    return next(iter([*of_name, *reversed(linked)]), None)


def _is_average_of(path: Path, folder: Path, records: list[Record]) -> bool:
    averages = (folder / r.files['ema'].name for r in records if 'ema' in r.files)
    return any(average.is_file() and path.samefile(average) for average in averages)


def _newest_whole(folder: Path, records: list[Record]) -> Record | None:
    """Return the newest record that verifies, and set damaged newer ones aside; no other file is touched."""
    broken = broken_records(folder)
    damaged: list[tuple[Path, str]] = [(path, 'its record cannot be read') for path in broken]
    for record in reversed(records):
        problem = record.problem(folder)
        if problem is None:
            for path, why in damaged:
                Disk().replace(path, free_name(path.with_suffix('.json.damaged')))
                log.warning('%s cannot be resumed from: %s; its record is set aside', path.with_suffix(''), why)
            return record
        damaged.append((folder / f'{record.name}.json', problem))
    if damaged:
        newest, problem = damaged[len(broken) if records else 0]
        raise CheckpointError(
            f'--model-last-checkpoint auto: none of the {len(damaged)} checkpoints in {folder} can be resumed from '
            f'(the newest, {newest.stem}: {problem}). Give one of its .pth files as weights to a new run with '
            'another --model-name'
        )
    return None


def refuse_overwriting(folder: Path, run: str, first_epoch: int) -> None:
    """Raise CheckpointError if a run that begins at an epoch would overwrite weights of another."""
    owners = {record.files['weights'].name: record for record in read_records(folder)}
    for path in sorted(folder.glob('epoch-*.pth')):
        match = re.fullmatch(r'epoch-(\d+)(-iter-\d+)?\.pth', path.name)
        owner = owners.get(path.name)
        if match is None or int(match[1]) < first_epoch or (owner is not None and owner.run == run):
            continue
        half_written = path.with_suffix('.state.pth').exists() and not path.with_suffix('.json').exists()
        if not half_written:
            stage = f' of the {owner.stage} stage' if owner else ''
            raise CheckpointError(
                f'{folder} already holds {path.name} of another run{stage}, which this one would write over. Choose '
                'another --model-name, or go on with that run by its own script and --model-last-checkpoint auto'
            )


def _check_identity(record: Record, identity: dict[str, Any]) -> None:
    changed = [
        f'{key}: {record.identity.get(key)!r} in the checkpoint, {value!r} now'
        for key, value in identity.items()
        if record.identity.get(key) != value
    ]
    if changed:
        raise CheckpointError(
            f'{record.name}.pth belongs to a run with other settings ({"; ".join(changed)}). Use the same settings to '
            'go on, or another --model-name to start a new run from its weights'
        )
