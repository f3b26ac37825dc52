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
from .record import CheckpointError, FormatError, Record, broken_records, position, read_records
from .verify import owner

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
        # Of two names of a step the one that `auto` would choose.
        owned = owner(path, records[::-1]) if path.resolve().parent == folder.resolve() else None
        if owned is None:
            if isinstance(error := broken_records(folder).get(folder / f'{path.stem}.json'), FormatError):
                raise error
            return Resume(_new_id(), weights=path)
        record, kind = owned
        if kind != 'weights':
            what = 'averaged weights' if kind == 'ema' else 'the training state'
            raise CheckpointError(
                f'--model-last-checkpoint {given}: holds {what} of this run. Go on with "auto", or start a new run '
                'from weights with another --model-name'
            )
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


def _newest_whole(folder: Path, records: list[Record]) -> Record | None:
    """Return the newest record that verifies, and set damaged newer ones aside; no other file is touched."""
    damaged: list[tuple[Path, str]] = []
    whole = None
    for record in reversed(records):
        problem = record.problem(folder)
        if problem is None:
            whole = record
            break
        damaged.append((folder / f'{record.name}.json', problem))
    since = (whole.epoch, whole.step) if whole else (-1, -1)
    for path, error in broken_records(folder).items():
        if (position(path.stem) or since) < since:
            continue
        if isinstance(error, FormatError):
            raise CheckpointError(
                f'--model-last-checkpoint auto: {error}. Go on with the version that wrote it, or move it away'
            )
        damaged.append((path, 'its record cannot be read'))
    if damaged and whole is None:
        path, problem = damaged[0]
        raise CheckpointError(
            f'--model-last-checkpoint auto: none of the {len(damaged)} checkpoints in {folder} can be resumed from '
            f'(the newest, {path.stem}: {problem}). Give one of its .pth files as weights to a new run with '
            'another --model-name'
        )
    for path, why in damaged:
        Disk().replace(path, free_name(path.with_suffix('.json.damaged')))
        log.warning('%s cannot be resumed from: %s; its record is set aside', path.with_suffix(''), why)
    return whole


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
    """Raise CheckpointError where a run would change what it must not; what its record does not know is as it is."""
    held = record.identity
    if unknown := [f'{key} {value!r}' for key, value in identity.items() if key not in held]:
        log.info('the record of %s does not know %s: taken as it is now', record.name, ', '.join(unknown))
    changed = [
        f'{key}: {held[key]!r} in the checkpoint, {value!r} now'
        for key, value in identity.items()
        if held.get(key, value) != value
    ]
    if changed:
        raise CheckpointError(
            f'{record.name}.pth belongs to a run with other settings ({"; ".join(changed)}). Use the same settings to '
            'go on, or another --model-name to start a new run from its weights'
        )
