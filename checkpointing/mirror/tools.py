"""Mirrors for those who look after checkpoints: what is there, whether it is whole, and files of it for a while."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.console import shown, some
from common.files import scratch_folder
from common.stores import DamagedObject, MissingObject, StoreError, path_of, url_of

from ..inventory import RecordedRun, runs, the_run
from ..links import usual_links
from ..lock import FolderLock
from ..record import CheckpointError, File, read_records
from ..verify import Verdict
from .contents import CURVES, Contents
from .lease import Lease
from .mirror import Mirror
from .store import Store

log = logging.getLogger(__name__)


@contextlib.contextmanager
def looking_at(urls: list[str], below: bool = True) -> Iterator[list[Contents]]:
    """Yield what the mirrors of runs at some URLs, and `below` in the folders there, hold; their folders go afterwards.

    Raises:
        StoreError: a store fails, or holds no mirror there.
    """
    with scratch_folder('mirror-') as parent:
        found: list[Contents] = []
        for url in urls:
            store, before = Store(url), len(found)
            for each in (store, *map(store.folder, store.folders() if below else ())):
                folder = Path(parent) / str(len(found))
                folder.mkdir(exist_ok=True)
                contents = Contents(each, folder)
                contents.look()
                if any(name.endswith('.json') for name in contents.sizes):
                    found.append(contents)
            if len(found) == before:
                names = [] if below else store.folders()
                hint = f'; name the one that is meant of the folders in it ({some(names)})' if names else ''
                raise StoreError(f'{store.url}: holds no mirror of a run{hint}')
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


def check_file(url: str) -> Verdict:
    """Verify a file of a mirror by its URL.

    Raises:
        StoreError: the store fails, or no record names the file.
    """
    parent, _, name = url.rpartition('/')
    with looking_at([parent], below=False) as (contents,):
        return check(contents, contents.folder / _named(contents, name, whole=False).name)


@contextlib.contextmanager
def mirror_at(url: str) -> Iterator[Contents]:
    """Yield what the mirror of a run holds, by its URL or that of the folder in which it is the only one.

    Raises:
        StoreError: the store fails, or holds none there, or several.
    """
    with looking_at([url]) as found:
        if len(found) > 1:
            names = some([contents.store.url for contents in found])
            raise StoreError(f'{shown(url)}: which run? There are {len(found)} mirrors ({names}); give one of them')
        yield found[0]


@contextlib.contextmanager
def one_run(place: Path | str | None, parent: Path) -> Iterator[tuple[RecordedRun, Contents | None]]:
    """Yield the only run of a folder, as `the_run` finds it, or of a mirror by its URL, and what the mirror holds.

    Raises:
        StoreError: the store fails, or holds no mirror there, or several.
        ValueError: there is none in the folder or mirror, or more than one.
    """
    if not isinstance(place, str):
        yield the_run(place, parent), None
        return
    with mirror_at(place) as contents:
        yield the_run(contents.folder, parent, contents.store.url), contents


def fetch(path: Path) -> None:
    """Fetch what a path stands for, once: a file of a checkpoint in a mirror, verified; the run's records beside it.

    Raises:
        StoreError: the store fails, or holds no such file, or a damaged one.
    """
    if (url := url_of(path)) is not None and not path.exists():
        with looking_at([url.rpartition('/')[0]], below=False) as (contents,):
            fetch_from(contents, path.name, path)


def fetch_from(contents: Contents, name: str, path: Path | None = None) -> Path:
    """Fetch a file of a mirror by its name, as `fetch` does; return where it is."""
    path, data = path or path_of(f'{contents.store.url}/{name}'), contents.read(_named(contents, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    for record in contents.folder.glob('*.json'):
        shutil.copy(record, path.parent)
    path.write_bytes(data)
    return path


def pin_mirrored(url: str, remove: bool) -> str:
    """Pin the checkpoint of a file in a mirror, or take the pin away; return its name."""
    parent, _, name = url.rpartition('/')
    with looking_at([parent], below=False) as (contents,):
        name = _named(contents, name).name.partition('.')[0]
        pin = f'{name}.pin'
        if remove:
            contents.store.delete(pin)
        else:
            contents.store.put(pin, b'')
        return name


def _named(contents: Contents, name: str, whole: bool = True) -> File:
    """Return a file as its record names it, also by a link such as best.pth; a `whole` one is there with its size."""
    files = contents.listing()
    for run in runs(contents.folder)[-1:]:
        best = run.policy().best_records(record for record in run.records if files.has(record, 'weights'))
        name = usual_links(best, run.records[-1], run.policy()).get(name, name)
    named = {file.name: file for record in files.records() for file in record.files.values()}
    if name not in named or (whole and not contents.has(named[name])):
        there = some(sorted(name for name, file in named.items() if contents.has(file)))
        raise StoreError(f'{contents.store.url}: holds no {name}; there are {there or "no checkpoints"}')
    return named[name]


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
    found = runs(folder)
    if up and not found:
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
            lease = Lease(store, folder, command='checkpoints.py sync')
            lease.take()
            stack.callback(lease.release)
            mirror.may_write = lease.check
            mirror.run = found[-1].run, found[-1].stage
            for other in found[:-1]:
                log.warning('%s is not copied: a mirror is of one run, here of that which wrote last', other)
        mirror.contents.look()
        if not up:
            mirror.pull(all_kept=True)
        if up and (others := {record.run for record in mirror.contents.records()} - {found[-1].run}):
            raise CheckpointError(f'{store.url}: is the mirror of another run, {some(sorted(others))}')
        here, there = mirror.newest()
        if up and here and there and there.step > here.step and CURVES in mirror.contents.sizes:
            mirror.logs = None  # those of the mirror go further
        while up and mirror.push():
            pass
        if up:
            mirror.push_curves()
        names = {record.name for record in mirror.own(read_records(folder if up else mirror.contents.folder))}
        if not names.union(mirror.left_out):
            raise CheckpointError(f'{store.url}: holds no checkpoint')
        return len(names.union(mirror.left_out)), sorted(set(mirror.left_out))
