"""Mirrors for those who look after checkpoints: what is there, whether it is whole, and files of it for a while."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.console import some
from common.stores import MissingObject, StoreError

from ..lock import FolderLock
from ..record import CheckpointError, File, read_records
from ..verify import Verdict
from .contents import CURVES, Contents, DamagedObject
from .lease import Lease
from .mirror import Mirror
from .store import Store


@contextlib.contextmanager
def looking_at(urls: list[str]) -> Iterator[list[Contents]]:
    """Yield what the mirrors of runs at some URLs, and in the folders there, hold; their folders go after the block.

    Raises:
        StoreError: a store fails, or holds no mirror there.
    """
    with tempfile.TemporaryDirectory(prefix='mirror-') as parent:
        found: list[Contents] = []
        for url in urls:
            store, before = Store(url), len(found)
            for each in (store, *map(store.folder, store.folders())):
                folder = Path(parent) / str(len(found))
                folder.mkdir(exist_ok=True)
                contents = Contents(each, folder)
                contents.look()
                if any(name.endswith('.json') for name in contents.sizes):
                    found.append(contents)
            if len(found) == before:
                raise StoreError(f'{store.url}: holds no mirror of a run')
        yield found


def check(contents: Contents, path: Path) -> Verdict:
    """Verify a file of a mirror, by its name in the folder that stands for it; reads every byte."""
    named = {file.name: file for record in contents.records() for file in record.files.values()}
    if path.name not in named:
        return Verdict(path.suffix == '.json', 'a damaged record' if path.suffix == '.json' else 'no record names it')
    try:
        contents.read(named[path.name])
    except MissingObject:
        return Verdict(True, 'missing')
    except DamagedObject:
        return Verdict(True, 'does not have the sha256 of its record')
    return Verdict(False, 'whole, by the sha256 of its record')


@contextlib.contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a file of a checkpoint in a mirror, such as 's3://bucket/base/epoch-3.pth', beside its record.

    Raises:
        StoreError: the store fails, or holds no such file, or a damaged one.
    """
    with _named(url) as (contents, file):
        path = contents.folder / file.name
        path.write_bytes(contents.read(file))
        yield path


def pin_mirrored(url: str, remove: bool) -> str:
    """Pin the checkpoint of a file in a mirror, or take the pin away; return its name."""
    with _named(url) as (contents, file):
        name = file.name.partition('.')[0]
        pin = f'{name}.pin'
        if remove:
            contents.store.delete(pin)
        else:
            contents.store.put(pin, b'')
        return name


@contextlib.contextmanager
def _named(url: str) -> Iterator[tuple[Contents, File]]:
    """Yield what the mirror of a file holds, and the file as its record names it."""
    parent, _, name = url.rpartition('/')
    with looking_at([parent]) as (contents, *_):
        named = {file.name: file for record in contents.records() for file in record.files.values()}
        if name not in named or not contents.has(named[name]):
            there = some(sorted(name for name, file in named.items() if contents.has(file)))
            raise StoreError(f'{contents.store.url}: holds no {name}; there are {there or "no checkpoints"}')
        yield contents, named[name]


def copy_run(folder: Path, url: str, logs: Path | None, up: bool) -> tuple[int, list[str]]:
    """Copy what is missing of a run's folder to its mirror, or back.

    Args:
        folder: checkpoint/<model_name>.
        url: of the mirror itself.
        logs: the folder of its curves; None leaves them out.
        up: to the mirror.

    Returns:
        How many checkpoints the source has, and those that were left out since they are damaged, by name.

    Raises:
        CheckpointError: a training is at work on one of the two, they hold different runs, or there is nothing.
        OSError: the disk fails.
    """
    runs = {record.run for record in read_records(folder)}
    if up and not runs:
        raise CheckpointError(f'{folder}: holds no checkpoint with a record')
    store = Store(url)
    with contextlib.ExitStack() as stack:
        if up:
            store.rehearse()
        lock = FolderLock(folder, patience=0)
        lock.take()
        stack.callback(lock.release)
        mirror = Mirror(store, folder, logs)
        stack.callback(mirror.close)
        if up:
            lease = Lease(store, folder)
            lease.take()
            stack.callback(lease.release)
            mirror.may_write = lease.check
        mirror.contents.look()
        if not up and mirror.pull(all_kept=True) is None and not mirror.left_out:
            raise CheckpointError(f'{store.url}: holds no checkpoint')
        if up and (others := {record.run for record in mirror.contents.records()} - runs):
            raise CheckpointError(f'{store.url}: is the mirror of another run, {some(sorted(others))}')
        if up and _newest(mirror.contents.folder) > _newest(folder) and CURVES in mirror.contents.sizes:
            mirror.logs = None  # those of the mirror go further
        while up and mirror.push():
            pass
        if up:
            mirror.push_curves()
        names = {record.name for record in read_records(folder if up else mirror.contents.folder)}
        return len(names.union(mirror.left_out)), sorted(set(mirror.left_out))


def _newest(folder: Path) -> int:
    return max((record.step for record in read_records(folder)), default=-1)
