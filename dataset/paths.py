"""Where the pictures lie: lists of folders, and the data configuration.

Nothing here opens a picture; `dataset.checks` finds what is wrong with the files themselves.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.console import some
from common.files import IMAGE_SUFFIXES, not_a_folder

from .cache import PictureCache
from .pairing import name_of, natural_order
from .stores import Folder, Picture, StoredFolder, StoredPicture, open_folder

CACHE, CACHE_GIGABYTES = '~/.cache/bgmatting', 50
BACKSLASH = 'in double quotes a backslash begins an escape: use forward slashes (C:/data) or single quotes'


@dataclass(frozen=True)
class DataPaths:
    """The six folders that a training run on files reads.

    Attributes:
        valid_share: where validation has no pairs of its own, the share of those of training that it takes, above 0
            and below 1; its folders are then those of training. See `drawn_part`.
        valid_bgr_share: the same for backgrounds.
    """

    train_fgr: Folder
    train_pha: Folder
    valid_fgr: Folder
    valid_pha: Folder
    train_bgr: Folder
    valid_bgr: Folder
    valid_share: float | None = None
    valid_bgr_share: float | None = None


def find_images(folder: Folder, by_text: bool = False) -> list[Path]:
    """List the pictures below a folder, as paths relative to it, in the order of the numbers in their names: 2, 10.

    Files count whose suffix is one of `IMAGE_SUFFIXES`, in upper or lower case. Hidden files and folders are left out,
    among them the `._name` files that macOS writes beside each picture on foreign disks. Linked folders are followed,
    except into a folder that contains the link.

    Args:
        folder: to be searched.
        by_text: sort by text: 10, 2. The samples of a run and the draws of a test set follow from this order.

    Raises:
        FileNotFoundError: there is no such folder.
        StoreError: a store, or a set of tar shards, cannot be read.
    """
    found: list[str] = []
    if isinstance(folder, StoredFolder):
        found += folder.pictures
    else:
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder}: {not_a_folder(folder)}')
        _collect(str(folder), '', (os.path.realpath(folder),), found)
    order = None if by_text else lambda name: (natural_order(os.path.splitext(name)[0]), name)
    return [Path(name) for name in sorted(found, key=order)]


def drawn_part(names: Iterable[Path], share: float | None, split: str) -> list[Path]:
    """Return the pictures of a folder that 'train' or 'valid' takes where validation gets a share of the folder.

    Which of the two takes a picture follows from its path below the folder alone, without suffix: pictures that are
    added move no other, and a foreground goes where its alpha goes.

    Args:
        names: relative to the folder.
        share: of validation, above 0 and below 1; None leaves the names as they are.
        split: 'train' or 'valid'.
    """
    return [name for name in names if share is None or (_place(name) < share) == (split == 'valid')]


def list_sizes(folder: Folder, paths: Sequence[Picture]) -> bytes:
    """Return sizes in bytes and names relative to `folder` of files below it, in the order given.

    Two lists are equal only if the same files are drawn under the same index. Pictures that somebody replaced have
    other sizes, and 240,000 sizes are read in a second or two, where their content would take hours.

    Raises:
        OSError: a file is missing.
    """
    prefix, chunk = len(os.path.join(Path(folder).absolute(), '')) if isinstance(folder, Path) else 0, 1000

    def line(path: Picture) -> str:
        if isinstance(path, StoredPicture):
            return f'{path.size} {path.name}\0'
        name = str(path)
        return f'{os.stat(name).st_size} {name[prefix:].replace(os.sep, "/")}\0'

    def read(start: int) -> bytes:
        return ''.join(map(line, paths[start : start + chunk])).encode(errors='surrogateescape')

    # Threads, since a file system on a network answers one question after the other slowly.
    with ThreadPoolExecutor(16) as pool:
        return b''.join(pool.map(read, range(0, len(paths), chunk)))


def describe_changes(before: bytes, now: bytes) -> str:
    """Return in words what differs between two lists of `list_sizes`."""
    old, new = ({name: size for size, name in map(_size_and_name, text.split(b'\0')[:-1])} for text in (before, now))
    changes = {
        'added': [name for name in new if name not in old],
        'gone': [name for name in old if name not in new],
        'of another size': [name for name in new if old.get(name, new[name]) != new[name]],
    }
    found = [f'{len(names)} {what} ({some(names)})' for what, names in changes.items() if names]
    return ', '.join(found) or 'the same in another order'


def read_data_config(config: Path, dataset_name: str) -> DataPaths:
    """Read the folders of a data set, and those of the backgrounds, from a TOML file.

    Relative paths start at the TOML file's folder; `~` is the home folder; see `open_folder`. The folders need not
    exist. A number in place of validation's folders is `DataPaths.valid_share` or `DataPaths.valid_bgr_share`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, has no such data set, lacks a key, has a share out of range, or a path in it has an
            escape such as \\t.
    """
    config = Path(config)
    if not config.is_file():
        raise FileNotFoundError(
            f'--data-config {config}: no such file; copy data_path.example.toml to that name and enter your folders'
        )
    if config.suffix == '.py':
        raise ValueError(f'--data-config: {config} is Python; docs/from-bmv2.md has the lines that make TOML of it.')
    text = ''
    try:
        text = config.read_text(encoding='utf-8')
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        at = re.search(r'at line (\d+)', str(error))
        hint = f'; {BACKSLASH}' if at and '\\' in text.splitlines()[int(at[1]) - 1] else ''
        raise ValueError(f'--data-config: {config} cannot be read as TOML: {error}{hint}') from error
    names = [name for name, table in tables.items() if isinstance(table, dict) and name != 'backgrounds']
    if dataset_name not in names:
        raise ValueError(
            f'--dataset-name {dataset_name}: {config} has no such data set. '
            f'There are: {", ".join([*names, "synthetic (drawn, needs no files)"])}.'
        )

    shares = {name: _share(tables, name, config) for name in (dataset_name, 'backgrounds')}
    of_pairs, of_backgrounds = ('train' if shares[name] else 'valid' for name in (dataset_name, 'backgrounds'))
    folders: dict[str, Folder] = {}
    cache = _cache(tables, config)
    wrong: list[str] = []
    for attribute, keys in {
        'train_fgr': (dataset_name, 'train', 'fgr'),
        'train_pha': (dataset_name, 'train', 'pha'),
        'valid_fgr': (dataset_name, of_pairs, 'fgr'),
        'valid_pha': (dataset_name, of_pairs, 'pha'),
        'train_bgr': ('backgrounds', 'train'),
        'valid_bgr': ('backgrounds', of_backgrounds),
    }.items():
        value: object = tables
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and min(value, default=' ') < ' ':  # such as the tab in "C:\\train"
            raise ValueError(f'--data-config: {config}: [{".".join(keys[:-1])}] {keys[-1]} = {value!r}: {BACKSLASH}')
        if isinstance(value, str) and value.strip():
            folders[attribute] = open_folder(value, config.absolute().parent, cache)
        else:
            wrong.append(f'[{".".join(keys[:-1])}] {keys[-1]}')
    if wrong:
        raise ValueError(
            f'--data-config: {config} lacks {", ".join(dict.fromkeys(wrong))}: give each the path of a folder, in '
            f'quotes. "valid = 0.1" under [{dataset_name}] or [backgrounds] lets validation take a tenth of the '
            'training pictures.'
        )
    return DataPaths(**folders, valid_share=shares[dataset_name], valid_bgr_share=shares['backgrounds'])


def _collect(folder: str, prefix: str, ancestors: tuple[str, ...], found: list[str]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith('.'):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(ancestors[-1], entry.name)
                if real not in ancestors:
                    _collect(entry.path, f'{prefix}{entry.name}/', (*ancestors, real), found)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                found.append(prefix + entry.name)


def _share(tables: dict[str, Any], name: str, config: Path) -> float | None:
    """Return the number that stands for the validation folders of a table, if one does."""
    table = tables.get(name)
    value = table.get('valid') if isinstance(table, dict) else None
    if not isinstance(value, (int, float)):
        return None
    if not 0 < value < 1:
        raise ValueError(f'--data-config: {config}: [{name}] valid = {value}: a share must be above 0 and below 1')
    return float(value)


def _cache(tables: dict[str, Any], config: Path) -> PictureCache:
    """Return the cache of what is fetched from stores, by `cache` and `cache_gigabytes` at the top of the file."""
    inner = [table for table in tables.values() if isinstance(table, dict)]
    inner += [table for outer in inner for table in outer.values() if isinstance(table, dict)]
    if any({'cache', 'cache_gigabytes'} & table.keys() for table in inner):
        raise ValueError(f'--data-config: {config}: cache and cache_gigabytes stand at the top, above all tables')
    folder, gigabytes = tables.get('cache', CACHE), tables.get('cache_gigabytes', CACHE_GIGABYTES)
    if not isinstance(folder, str) or not folder.strip():
        raise ValueError(f'--data-config: {config}: cache = {folder!r}: must be the path of a folder, in quotes')
    if not isinstance(gigabytes, (int, float)) or not gigabytes >= 1:
        raise ValueError(f'--data-config: {config}: cache_gigabytes = {gigabytes!r}: must be a number from 1 on')
    return PictureCache(config.absolute().parent / Path(folder).expanduser(), int(gigabytes * 1e9))


def _place(name: Path) -> float:
    """Return a number from 0 to below 1 that a name draws."""
    return int.from_bytes(hashlib.sha256(name_of(name).encode(errors='surrogateescape')).digest()[:6]) / 2**48


def _size_and_name(line: bytes) -> tuple[str, str]:
    size, _, name = line.decode(errors='surrogateescape').partition(' ')
    return size, name
