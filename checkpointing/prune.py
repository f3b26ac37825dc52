"""What the policies of runs do not keep is removed, and said: in a run's folder, and in its mirror."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from common.console import megabytes
from common.files import Disk

from .cli import policy_words
from .inventory import Other, RecordedRun, freed, links, others, runs
from .leavings import superfluous_asides
from .links import refresh, still_named
from .lock import FolderLock
from .mirror.contents import Contents, file_of
from .mirror.lease import Lease
from .record import Listing
from .retention import removable, remove


def prune_folder(folder: Path, changes: Mapping[str, Any], dry_run: bool) -> None:
    """Remove what the policy of each run in a folder does not keep, and print it.

    Args:
        folder: checkpoint/<model_name>.
        changes: fields of the policies that replace the runs' own; None leaves them.
        dry_run: only print it.

    Raises:
        CheckpointError: a training is writing to the folder.
        ValueError: after all else is done, that nothing of a run was removed, and why: its newest checkpoint is
            damaged, or no record has the metric.
    """
    lock = FolderLock(folder, patience=0)
    refused = []
    if not dry_run:
        lock.take()
    try:
        for run in runs(folder):
            if problem := _problem(run, changes) or run.records[-1].problem(folder):
                refused.append(_refusal(run, problem))
                continue
            paths = _may_go(run, changes, dry_run)
            for path in paths:
                _say(dry_run, path.name, path.stat().st_size)
            total = freed(paths)
            if not dry_run:
                remove(Disk(), folder, paths)
            print(f'  {len(paths)} files, {megabytes(total)}{_hint(paths, changes)}')
    finally:
        lock.release()
    _finish(others(folder, links(folder, read=False), read=False), refused)


def prune_mirror(contents: Contents, changes: Mapping[str, Any], dry_run: bool) -> None:
    """Do the same in a mirror, records first: one that is there always is a whole checkpoint.

    What no record names goes, too: sent for a checkpoint that never counted, or left where this was cut.

    Args:
        contents: of the mirror.
        changes, dry_run: as of `prune_folder`.

    Raises:
        StoreError: the store fails, or a training is writing to the mirror.
        ValueError: as `prune_folder`.
    """
    problems: dict[str, str | None] = {}  # by the newest checkpoint of a run
    gone: set[str] = set()
    refused = []
    with contextlib.ExitStack() as held:
        lease = Lease(contents.store, contents.folder, command='checkpoints.py prune')
        if not dry_run:
            lease.take()
            held.callback(lease.release)
            contents.look()
        curves = contents.curves()
        while new := [r for r in runs(contents.folder, contents.store.url) if r.records[-1].name not in problems]:
            for run in new:
                problems[run.records[-1].name] = _problem(run, changes) or contents.problem(run.records[-1])
            contents.look()  # what was pinned while these were read
        for run in runs(contents.folder, contents.store.url):
            if problem := problems[run.records[-1].name]:
                refused.append(_refusal(run, problem))
            else:
                gone |= {path.name for path in _may_go(run, changes)}
        objects = contents.superfluous(gone, [], curves)
        if refused:  # what no record names may be a refused run's
            objects = [name for name in objects if file_of(name) in gone]
        total = sum(contents.sizes[name] for name in objects)
        left = others(contents.folder, map(file_of, objects), read=False)
        for name in objects:
            _say(dry_run, file_of(name) if file_of(name) in gone else name, contents.sizes[name])
            if not dry_run:
                lease.check()
                contents.delete(name)
    print(f'  {len(objects)} files, {megabytes(total)}{_hint(objects, changes)}')
    _finish(left, refused)


def _problem(run: RecordedRun, changes: Mapping[str, Any]) -> str | None:
    known = sorted({name for record in run.records for name in record.metrics})
    monitor = changes['monitor']
    if monitor is not None and monitor not in known:
        names = ', '.join(name.removeprefix('valid_') for name in known)
        return f'--monitor {monitor.removeprefix("valid_")}: not one of {names or "none"}'
    return None


def _refusal(run: RecordedRun, problem: str) -> str:
    why = problem if problem.startswith('--') else f'its newest checkpoint is damaged ({problem})'
    return f'{run}: {why}; nothing of this run is removed'


def _may_go(run: RecordedRun, changes: Mapping[str, Any], dry_run: bool = True) -> list[Path]:
    """Print the policy of a run and return the files that may go; but in a dry run, links for people are renewed."""
    policy, files = run.policy(**changes), Listing(run.folder)
    failed = {} if dry_run else refresh(Disk(), files, run.records, run.records[-1], policy)
    for name, error in failed.items():
        print(f'  {name} is not renewed: {error}')
    files.look()
    held = still_named(failed, files, run.records)
    print(f'{run}: {policy_words(policy)}')
    return removable(run.records, policy, files, held) + superfluous_asides(run.records, files)


def _say(dry_run: bool, name: str, size: int) -> None:
    print(f'  {"would remove" if dry_run else "removes"} {name}, {megabytes(size)}')


def _hint(gone: Collection[object], changes: Mapping[str, Any]) -> str:
    told = gone or any(changes[name] is not None for name in ('keep', 'best', 'every', 'states'))
    return '' if told else '; --keep N, --best K and --keep-states N say what to keep'


def _finish(left: list[Other], refused: list[str]) -> None:
    for other in left:
        print(f'left alone: {other.path.name}, {megabytes(other.size)}: {other.what}')
    if refused:
        raise ValueError('\n  '.join(refused))
