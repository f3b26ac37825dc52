"""Names for people: last.pth, best.pth, and the best by a template. Nothing of the toolkit reads them back."""

from __future__ import annotations

import errno
import filecmp
import itertools
import logging
import os
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from string import Formatter

from common.files import Disk, digest, unlink_quietly, write_durable

from .record import CheckpointError, Record
from .retention import Policy

log = logging.getLogger(__name__)


def refresh(disk: Disk, folder: Path, records: Sequence[Record], newest: Record, policy: Policy) -> None:
    """Point the links of a run at the files that they are named after.

    Args:
        disk: the file operations.
        folder: of the run.
        records: of the run, oldest first.
        newest: the checkpoint just written.
        policy: says what is best, and how the best are named.
    """
    best = policy.best_records(r for r in records if r.has(folder, 'weights'))
    wanted = {'last.pth': newest.files['weights'].name}
    if best:
        wanted['best.pth'] = best_file(best[0], policy.monitor)
    if policy.best_name is not None:
        for record in (r for r in best if _has_all(r, policy.best_name)):
            name = best_link(record, policy.best_name)
            if name in wanted:
                name = f'{name.removesuffix(".pth")}-{record.step}.pth'
            wanted[name] = best_file(record, policy.monitor)
        _drop_former(disk, folder, [r for r in records if r not in best], policy, wanted)
    for name, file in wanted.items():
        path = folder / name
        if os.path.lexists(path):
            if path.exists() and path.samefile(folder / file):
                continue
            if not _is_of(path, folder, records) and not _is_of_one_set_aside(path, folder):
                set_aside(disk, path)
        link_file(disk, folder / file, path, folder / f'.{name}.{newest.run}.tmp')


def _drop_former(disk: Disk, folder: Path, records: Sequence[Record], policy: Policy, wanted: Collection[str]) -> None:
    """Remove the links of checkpoints that are no longer among the best."""
    assert policy.best_name is not None
    for record in records:
        if policy.monitor not in record.metrics or not _has_all(record, policy.best_name):
            continue
        name = best_link(record, policy.best_name)
        for path in (folder / name, folder / f'{name.removesuffix(".pth")}-{record.step}.pth'):
            if path.name not in wanted and path.is_file() and _is_of(path, folder, [record]):
                disk.unlink(path)


def _has_all(record: Record, template: str) -> bool:
    """Return whether a record has every value that a template names; older records may lack a metric."""
    names = {re.split(r'[.[]', name)[0] for _, name, _, _ in Formatter().parse(template) if name}
    return names <= {'epoch', 'step', 'name', *record.metrics}


def best_file(record: Record, monitor: str) -> str:
    """Return the file that a metric is about: the averaged weights for a metric of the average."""
    kind = 'ema' if '_ema_' in monitor and 'ema' in record.files else 'weights'
    return record.files[kind].name


def best_link(record: Record, template: str) -> str:
    """Return the name of the link to one of the best.

    Raises:
        CheckpointError: the template names something that the record does not have.
    """
    try:
        name = template.format(epoch=record.epoch, step=record.step, name=record.name, **record.metrics)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise CheckpointError(f'--checkpoint-best-name {template}: {error} with {record.name}') from None
    if name.startswith('epoch-'):
        raise CheckpointError(f'--checkpoint-best-name {template}: {name} is the name of a checkpoint')
    return f'{name}.pth'


def template_problem(template: str, metrics: Collection[str] = ()) -> str | None:
    """Return what is wrong with a --checkpoint-best-name, or None; metrics are checked if any are given."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        return str(error)
    if not fields or '' in fields:
        return 'needs a field by name, such as {epoch:02d} or {step}, or all would have one name'
    known = {'epoch', 'step', 'name', *metrics}
    if metrics and (unknown := [f for f in fields if f not in known]):
        return f'{{{unknown[0]}}} is not one of {", ".join(sorted(known))}'
    try:
        name = template.format(**{**dict.fromkeys(fields, 0.5), 'epoch': 0, 'step': 0, 'name': 'epoch-0'})
    except (ValueError, IndexError, AttributeError, TypeError, KeyError) as error:
        return str(error)
    if '/' in name or '\\' in name or name.startswith(('.', 'epoch-')):
        return 'must be the name of a file that does not begin with "epoch-" or a dot, without separators'
    return None


def link_file(disk: Disk, source: Path, target: Path, temporary: Path) -> None:
    """Give a file another name, replacing what has it; copy where the file system has no hard links.

    Raises:
        OSError: the disk's own error; what was under the name is untouched.
    """
    unlink_quietly(temporary)
    try:
        disk.link(source, temporary)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        with source.open('rb') as file:
            write_durable(disk, target, lambda copy: shutil.copyfileobj(file, copy, 1 << 20), temporary)
        return
    try:
        disk.replace(temporary, target)
    finally:
        # Renaming over another name of the same file does nothing.
        unlink_quietly(temporary)


def set_aside(disk: Disk, path: Path) -> None:
    """Rename a file of somebody else's that is in the way."""
    aside = free_name(path.with_name(f'{path.name}.aside'))
    disk.replace(path, aside)
    log.warning('%s is in the way and nothing in the records holds the same; it is now %s', path, aside.name)


def free_name(path: Path) -> Path:
    """Return the path, with the first number appended that makes it new if it is taken."""
    numbered = (path.with_name(f'{path.name}{number or ""}') for number in itertools.count())
    return next(candidate for candidate in numbered if not os.path.lexists(candidate))


def _is_of(path: Path, folder: Path, records: Sequence[Record]) -> bool:
    """Return whether a link, or a copy, was made of one of the records' files that is still there."""
    if not path.exists():
        return False
    files = [f for r in records for kind, f in r.files.items() if kind != 'state' and (folder / f.name).is_file()]
    if any(path.samefile(folder / f.name) for f in files):
        return True
    same_size = [f for f in files if f.size == path.stat().st_size]
    return bool(same_size) and digest(path) in {f.sha256 for f in same_size}


def _is_of_one_set_aside(path: Path, folder: Path) -> bool:
    """Return whether weights whose record was set aside hold the same, so that this name of theirs is not needed."""
    stems = {aside.name.split('.')[0] for aside in folder.glob('epoch-*.json.damaged*')}
    files = [folder / f'{stem}{suffix}' for stem in stems for suffix in ('.pth', '.ema.pth')]
    return path.is_file() and any(
        path.samefile(file) or filecmp.cmp(path, file, shallow=False) for file in files if file.is_file()
    )
