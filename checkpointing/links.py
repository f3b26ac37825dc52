"""Names for people: last.pth, best.pth, and the best by a template. Nothing of the toolkit reads them back."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import functools
import itertools
import logging
import os
import re
import shutil
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from string import Formatter

from common.files import Disk, digest, unlink_quietly, write_durable

from .record import CheckpointError, Listing, Record
from .retention import Policy

log = logging.getLogger(__name__)


def refresh(
    disk: Disk, files: Listing, records: Sequence[Record], newest: Record, policy: Policy
) -> dict[str, OSError | ValueError]:
    """Point the links of a run at the files that they are named after; each by itself, whatever the others do.

    Args:
        disk: the file operations.
        files: of the run's folder.
        records: of the run, oldest first.
        newest: the checkpoint just written.
        policy: says what is best, and how the best are named.

    Returns:
        The links that stay as they were, and why; a template that gives no name stands for its links.
    """
    failed: dict[str, OSError | ValueError] = {}
    best = policy.best_records(r for r in records if files.has(r, 'weights'))
    wanted = usual_links(best, newest, policy)
    template = policy.best_name or ''
    for record in best if template else ():
        with _noting(failed, template):
            if _has_all(record, template):
                name = best_link(record, template)
                # On some disks names that differ in case are one.
                if name.casefold() in map(str.casefold, wanted):
                    name = f'{name.removesuffix(".pth")}-{record.step}.pth'
                wanted[name] = best_file(record, policy.monitor)
    for name, file in wanted.items():
        with _noting(failed, name):
            _renew(disk, files, records, name, file, newest.run)
    _drop_former(disk, files, records, policy, wanted, failed)
    return failed


def usual_links(best: Sequence[Record], newest: Record, policy: Policy) -> dict[str, str]:
    """Return the files that last.pth and, where there is a best checkpoint, best.pth stand for."""
    return {
        'last.pth': newest.files['weights'].name,
        **({'best.pth': best_file(best[0], policy.monitor)} if best else {}),
    }


@contextlib.contextmanager
def _noting(failed: dict[str, OSError | ValueError], name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        failed[name] = error


def _renew(disk: Disk, files: Listing, records: Sequence[Record], name: str, file: str, run: str) -> None:
    path, source = files.folder / name, files.folder / file
    if os.path.lexists(path):
        if path.exists() and path.samefile(source) and name in files.names:
            return
        if not _is_listed(name, files):
            raise CheckpointError(f'{path}: on this disk another file has that name')
        if not owner_of(path, files.folder, records) and not _is_of_one_set_aside(path, files.folder):
            set_aside(disk, path)
    link_file(disk, source, path, files.folder / f'.link.{run}.tmp')


def _is_listed(name: str, files: Listing) -> bool:
    """Return whether a name is one of the folder's own, and not another's in other letters."""
    return unicodedata.normalize('NFC', name) in {unicodedata.normalize('NFC', other) for other in files.names}


def _drop_former(
    disk: Disk,
    files: Listing,
    records: Sequence[Record],
    policy: Policy,
    wanted: Collection[str],
    failed: dict[str, OSError | ValueError],
) -> None:
    """Remove links by the template, and by former ones of this run, that are no longer wanted; so may be best.pth."""
    given = {policy.best_name, *(r.options.get('checkpoint_best_name') for r in records)}
    templates = [template for template in given if template]
    if 'best.pth' in files.names and 'best.pth' not in wanted:
        with _noting(failed, 'best.pth'):
            if owner_of(files.folder / 'best.pth', files.folder, records):
                disk.unlink(files.folder / 'best.pth')
    # Only what the folder itself lists: on some disks `Epoch-0.pth` leads to the weights of `epoch-0.pth`.
    others = {n for n in files.names if n.endswith('.pth') and n not in wanted and not n.startswith(('.', 'epoch-'))}
    for record in records if others else ():
        for template in (t for t in templates if _has_all(record, t)):
            with contextlib.suppress(ValueError):
                stem = _filled_in(record, template)
                for name in others & {f'{stem}.pth', f'{stem}-{record.step}.pth'}:
                    with _noting(failed, name):
                        if owner_of(files.folder / name, files.folder, [record]):
                            disk.unlink(files.folder / name)


def _has_all(record: Record, template: str) -> bool:
    """Return whether a record has every value that a template names; older records may lack a metric."""
    return template_fields(template) <= {'epoch', 'step', 'name', *record.metrics}


@functools.cache
def template_fields(template: str) -> frozenset[str]:
    """Return the values that a template names, such as 'epoch' or 'valid_loss'."""
    return frozenset(re.split(r'[.[]', name)[0] for _, name, _, _ in Formatter().parse(template) if name)


def _filled_in(record: Record, template: str) -> str:
    """Return a template with a record's values; ValueError if it lacks one, or if they make no name of a file."""
    try:
        name = template.format(epoch=record.epoch, step=record.step, name=record.name, **record.metrics)
    except (KeyError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(error) from None
    if name.startswith('.') or re.search(r'[/\\\0]', name):
        raise ValueError(f'{name!r} is not the name of a file')
    return name


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
        name = _filled_in(record, template)
    except ValueError as error:
        raise CheckpointError(f'--checkpoint-best-name {template}: {error} with {record.name}') from None
    if name.casefold().startswith('epoch-'):
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
    if '/' in name or '\\' in name or name.casefold().startswith(('.', 'epoch-')):
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
    log.warning('%s is in the way; it is now %s', path, aside.name)


def free_name(path: Path) -> Path:
    """Return the path, with the first number appended that makes it new if it is taken."""
    numbered = (path.with_name(f'{path.name}{number or ""}') for number in itertools.count())
    return next(candidate for candidate in numbered if not os.path.lexists(candidate))


def owner_of(path: Path, folder: Path, records: Sequence[Record]) -> Record | None:
    """Return the newest record that a link, or a copy, was made of one of whose files, if that is still there."""
    if not path.is_file():
        return None
    found = path.stat()
    by_sha256: dict[str, Record] = {}
    for record, file in ((r, f) for r in reversed(records) for kind, f in r.files.items() if kind != 'state'):
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.stat(folder / file.name)):
                return record
            if file.size == found.st_size:
                by_sha256.setdefault(file.sha256, record)
    return by_sha256.get(digest(path)) if by_sha256 else None


def still_named(failed: Collection[str], files: Listing, records: Sequence[Record]) -> set[str]:
    """Return the checkpoints that links name which `refresh` could not renew or remove.

    They stay, since without them such a link would be taken for somebody's file.
    """
    links = (files.folder / name for name in files.names & set(failed))
    return {record.name for link in links if (record := owner_of(link, files.folder, records))}


def _is_of_one_set_aside(path: Path, folder: Path) -> bool:
    """Return whether weights whose record was set aside hold the same, so that this name of theirs is not needed."""
    stems = {aside.name.split('.')[0] for aside in folder.glob('epoch-*.json.damaged*')}
    files = [folder / f'{stem}{suffix}' for stem in stems for suffix in ('.pth', '.ema.pth')]
    return path.is_file() and any(
        path.samefile(file) or filecmp.cmp(path, file, shallow=False) for file in files if file.is_file()
    )
