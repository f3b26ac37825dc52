"""What `--model-last-checkpoint` means: go on with this run, give weights to a new one, or start afresh."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import logging
import re
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.files import Disk
from dataset.paths import describe_changes

from .content import Content, read_content
from .links import free_name
from .mirror.tools import fetch
from .record import NAME, CheckpointError, FormatError, Listing, Record, is_before, list_path, read_records
from .verify import owner

log = logging.getLogger(__name__)

# What of an identity says which data it is, beside the lists of files.
OF_DATA = ('data', 'pictures', 'validation')


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


def decide(
    given: str | Path | None,
    folder: Path,
    stage: str,
    identity: Mapping[str, Any],
    start: Path | None = None,
    lists: Mapping[str, bytes] = MappingProxyType({}),
    accept_changed_data: bool = False,
    disk: Disk | None = None,
    mirrored: Sequence[Record] = (),
) -> Resume:
    """Decide how a run in `folder` begins.

    Args:
        given: the flag: a path, 'auto', 'must', or None.
        folder: checkpoint/<model_name>.
        stage: 'base' or 'refine'.
        identity: of the run that is about to begin.
        start: weights of a run that begins under 'auto'.
        lists: the lists of files whose sha256 the identity holds under the same keys.
        accept_changed_data: go on although the data changed.
        disk: the file operations that setting damaged records aside uses.
        mirrored: the records in the mirror of the folder.

    Raises:
        CheckpointError: a checkpoint of this run that is damaged, has no training state, is older than the newest,
            or was written by a run with another identity; no checkpoint loads under 'auto' although there are some;
            there is none under 'must'.
        FileNotFoundError: no such file.
        StoreError: the path stands for a file of a mirror that cannot be fetched whole.
    """
    if given is None:
        return Resume(_new_id())
    files = Listing(folder)
    records = [r for r in files.records() if r.stage == stage]
    if given in ('auto', 'must'):
        record = _newest_whole(given, folder, records, files.broken_records(), disk or Disk())
        if record is None:
            nothing = f'{folder} holds nothing that the {stage} stage could go on from{_similar_runs(folder)}'
            if given == 'must':
                raise CheckpointError(f'--model-last-checkpoint must: {nothing}; "auto" would begin a run')
            log.info('NEW RUN: %s', nothing)
            return Resume(_unborn_id(folder) or _new_id(), weights=start)
    else:
        path = Path(given)
        fetch(path)
        if not path.is_file():
            raise FileNotFoundError(f'--model-last-checkpoint {given}: no such file')
        # Of two names of a step the one that `auto` would choose.
        owned = owner(path, records[::-1]) if path.resolve().parent == folder.resolve() else None
        if owned is None:
            if isinstance(error := files.broken_records().get(folder / f'{path.stem}.json'), FormatError):
                raise error
            return Resume(_new_id(), weights=path)
        record, kind = owned
        if kind != 'weights':
            what = 'averaged weights' if kind == 'ema' else 'the training state'
            raise CheckpointError(
                f'--model-last-checkpoint {given}: holds {what} of this run. Go on with "auto", or start a new run '
                'from weights with another --model-name'
            )
        newest = max((r for r in (*records, *mirrored) if r.run == record.run), key=lambda r: r.step)
        if newest.step > record.step:
            where = '' if newest in records else ' in its mirror'
            raise CheckpointError(
                f'--model-last-checkpoint {given}: this run has got further, to {newest.name}.pth{where}. Go on from '
                'there with "auto", or start a new run from these weights with another --model-name'
            )
        if problem := record.problem(folder):
            raise CheckpointError(
                f'--model-last-checkpoint {given}: {problem}. Use "auto" to go on from the newest whole checkpoint'
            )
    _check_identity(folder, record, identity, lists, accept_changed_data)
    return Resume(record.run, record, read_content(folder, record))


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _unborn_id(folder: Path) -> str | None:
    """Return the id of a run that was killed during its first save, so that its files count as its own."""
    ids = (re.fullmatch(r'\.epoch-.*\.([0-9a-f]{12})\.tmp', path.name) for path in sorted(folder.glob('.epoch-*.tmp')))
    return next((found[1] for found in ids if found), None)


def _similar_runs(folder: Path) -> str:
    """Return in words which runs beside the folder have a name that this one may have been typed for."""
    runs = [path.parent.name for path in folder.parent.glob('*/epoch-*.json')]
    names = difflib.get_close_matches(folder.name, set(runs) - {folder.name})
    return f' (runs of similar names: {", ".join(names)})' if names else ''


def _newest_whole(
    given: str, folder: Path, records: list[Record], broken: dict[Path, CheckpointError], disk: Disk
) -> Record | None:
    """Return the newest record that verifies, and set damaged newer ones aside; no other file is touched."""
    damaged: list[tuple[Path, str]] = []
    whole = None
    for record in reversed(records):
        problem = record.problem(folder)
        if problem is None:
            whole = record
            break
        damaged.append((folder / f'{record.name}.json', problem))
    for path, error in broken.items():
        if whole is not None and is_before(path.stem, whole):
            continue
        if isinstance(error, FormatError):
            raise CheckpointError(
                f'--model-last-checkpoint {given}: {error}. Go on with the version that wrote it, or move it away'
            )
        damaged.append((path, 'its record cannot be read'))
    if damaged and whole is None:
        path, problem = damaged[0]
        raise CheckpointError(
            f'--model-last-checkpoint {given}: none of the {len(damaged)} checkpoints in {folder} can be resumed from '
            f'(the newest, {path.stem}: {problem}). Give one of its .pth files as weights to a new run with '
            'another --model-name'
        )
    for path, why in damaged:
        disk.replace(path, free_name(path.with_suffix('.json.damaged')))
        disk.fsync_folder(folder)
        log.warning('%s cannot be resumed from: %s; its record is set aside', path.with_suffix(''), why)
    return whole


def newest_step(folder: Path, stage: str, run: str | None, least: int) -> int:
    """Return the step of the newest checkpoint of a run (None: any) that verifies, if above `least`; else `least`."""
    found = (r for r in reversed(read_records(folder)) if r.stage == stage and run in (None, r.run))
    newer = (r for r in found if r.step > least)
    return next((record.step for record in newer if record.problem(folder) is None), least)


def refuse_overwriting(folder: Path, run: str, first_epoch: int) -> None:
    """Raise CheckpointError if a run that begins at an epoch would overwrite weights of another."""
    owners = {record.files['weights'].name: record for record in read_records(folder)}
    for path in sorted(folder.glob('epoch-*.pth')):
        match = NAME.fullmatch(path.stem)
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


def _check_identity(
    folder: Path, record: Record, identity: Mapping[str, Any], lists: Mapping[str, bytes], accept: bool
) -> None:
    """Raise CheckpointError where a run would change what it must not; what its record does not know is as it is."""
    held = {'drawings': record.drawings, **record.identity}
    if unknown := [key for key in identity if key not in held]:
        log.info('the record of %s does not know %s: taken as now', record.name, ', '.join(unknown))
    changed = {}
    for key, value in identity.items():
        if held.get(key, value) != value:
            changed[key] = f'{key}: {held[key]!r} in the checkpoint, {value!r} now'
            if key in lists:
                before = _kept_list(folder, held[key])
                changed[key] = (
                    f'{key}: {"not the same files" if before is None else describe_changes(before, lists[key])}'
                )
    drawings = changed.pop('drawings', None)
    text, of_data = '; '.join(changed.values()), changed.keys() <= {*OF_DATA, *lists}
    if changed and not (accept and of_data):
        raise CheckpointError(
            f'{record.name}.pth belongs to a run with other settings ({text}). Use the same settings to go on, or '
            'another --model-name to start a new run from its weights'
            + ('; --accept-changed-data goes on with what is there now' if of_data else '')
        )
    if changed:
        log.info('data changed since %s, as accepted: %s', record.name, text)
    if drawings:
        log.info(
            'the toolkit draws other pictures than when %s was saved (%s): the run goes on with these, and validation '
            'since then does not compete with that before',
            record.name, drawings,
        )  # fmt: skip


def _kept_list(folder: Path, sha256: str) -> bytes | None:
    """Return the list of files that a record names by its sha256; None if it is gone or damaged."""
    try:
        text = gzip.decompress(list_path(folder, sha256).read_bytes())
    except (OSError, EOFError, zlib.error):
        return None
    return text if hashlib.sha256(text).hexdigest() == sha256 else None
