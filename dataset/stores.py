"""Pictures that are no files of a local folder: in tar shards, and in a store behind a URL.

A `StoredFolder` stands for the `Path` of a folder, and a `StoredPicture` for that of a file in it: `dataset.paths`
lists either, `dataset.readers` reads either. A picture carries all that reading it takes, so that a worker opens what
it needs by itself, whether it was forked or started anew.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from common.console import shown
from common.files import IMAGE_SUFFIXES, is_url
from common.stores import MissingObject, open_store, telling

from .cache import PictureCache
from .shards import ANEW, INDEX, read_index

# Seconds before a read that failed is tried again: a store that is away for a minute ends no training.
PAUSES = (1, 2, 4, 8, 16, 32)
# Of what a store says of a file: which of its versions that is.
_VERSIONS = ('ETag', 'etag', 'md5Hash', 'content_md5', 'mtime', 'LastModified', 'last_modified', 'updated')


@dataclass(frozen=True)
class StoredPicture:
    """A picture in a store or in a shard.

    Attributes:
        folder: that lists it, as messages call it.
        name: below the folder.
        file: path or URL of what holds it.
        size: of the picture in bytes.
        offset: of the picture in a shard; None: the file is the picture.
        version: of the file's content: in a shard the picture's CRC-32, else what the store says.
        cache: for what is fetched.
    """

    folder: str
    name: str
    file: str
    size: int
    offset: int | None
    version: int | str
    cache: PictureCache | None

    def __str__(self) -> str:
        return f'{self.folder}/{self.name}'

    @property
    def suffix(self) -> str:
        """The name's suffix with its dot."""
        return PurePosixPath(self.name).suffix

    def read_bytes(self) -> bytes:
        """Return the picture's file.

        Raises:
            FileNotFoundError: the store does not have it any more.
            ValueError: it is not what was listed.
            StoreError: the store cannot be read: no fault of one picture, which another could stand in for.
        """
        if not is_url(self.file):
            return self._checked(self._from_disk())
        key = f'{self.file} {self.offset} {self.size} {self.version}'
        if self.cache is not None and (held := self.cache.get(key)) is not None:
            return held
        content = self._checked(self._fetched())
        if self.cache is not None:
            self.cache.put(key, content)
        return content

    def _from_disk(self) -> bytes:
        # Opened anew each time: nothing is shared with other processes, and thousands of shards need no open files.
        with open(self.file, 'rb') as file:
            file.seek(self.offset or 0)
            return file.read(self.size)

    def _fetched(self) -> bytes:
        span = {} if self.offset is None else {'start': self.offset, 'end': self.offset + self.size}
        try:
            with telling(str(self), self.file):
                for pause in (*PAUSES, None):
                    try:
                        store, path = open_store(self.file)
                        return store.cat_file(path, **span)
                    except Exception as error:  # each store has types of its own
                        if pause is None or isinstance(error, (FileNotFoundError, PermissionError, ImportError)):
                            raise
                        time.sleep(pause)
        except MissingObject:
            raise FileNotFoundError(f'{self}: the store does not have it any more') from None
        raise AssertionError

    def _checked(self, content: bytes) -> bytes:
        if self.offset is None and len(content) != self.size:
            raise ValueError(f'it has {len(content)} bytes, and had {self.size} when the store was listed')
        if self.offset is not None and zlib.crc32(content) != self.version:
            raise ValueError(f'{shown(self.file)} does not hold it where its index says: copy it again, or {ANEW}')
        return content


@dataclass(frozen=True)
class StoredFolder:
    """A folder in a store, or a set of tar shards; also one below these.

    Attributes:
        place: its path or URL.
        cache: for what is fetched.
    """

    place: str
    cache: PictureCache | None = None

    def __str__(self) -> str:
        return shown(self.place)

    def __truediv__(self, name: object) -> StoredPicture:
        return self.pictures[str(name)]

    def absolute(self) -> StoredFolder:
        """Return the folder itself."""
        return self

    def resolve(self) -> Folder:
        """Return where it lies on a local disk, else the folder itself."""
        local = local_path(self.place)
        return self if local is None else local.resolve()

    parents = ()

    def is_dir(self) -> bool:
        """Return True: whether it is there shows when it is listed."""
        return True

    @property
    def is_remote(self) -> bool:
        """Whether each picture is asked of a store."""
        return is_url(self.place)

    @cached_property
    def pictures(self) -> dict[str, StoredPicture]:
        """The pictures by their names below the folder, in no order.

        Raises:
            StoreError: the store or the index cannot be read, or shards are not those of their index.
        """
        with telling(self.place):
            store, path = open_store(self.place)
            if store.exists(f'{path}/{INDEX}'):
                return self._in_shards(self.place)
            if found := self._in_files(store, path):
                return found
            for above in _above(self.place):
                with suppress(OSError):  # what lies above may be forbidden
                    if store.exists(f'{store._strip_protocol(above)}/{INDEX}'):
                        return self._in_shards(above)
            holders = [place for place in (self.place, *_above(self.place)) if _tars(store, place)]
            if holders:
                raise ValueError(f'{shown(holders[0])} holds tars and no {INDEX}: make_shards.py --index writes it')
            return {}

    def _in_files(self, store: Any, path: str) -> dict[str, StoredPicture]:
        listed = store.find(path, detail=True).items()
        start = len(path.rstrip('/')) + 1
        found: dict[str, StoredPicture] = {}
        for file, about in listed:
            raw = file[start:]
            if not file.lower().endswith(IMAGE_SUFFIXES) or any(part.startswith('.') for part in raw.split('/')):
                continue
            if not raw:
                raise ValueError('a picture, not a folder')
            # A store's keys are not paths: it can hold a//1.jpg.
            name, file = str(PurePosixPath(raw.lstrip('/'))), f'{self.place}/{raw}'
            if name in found:
                raise ValueError(f'two pictures in it are called {name}, one with // in its key')
            found[name] = StoredPicture(str(self), name, file, about['size'], None, _version(about), self.cache)
        return found

    def _in_shards(self, root: str) -> dict[str, StoredPicture]:
        """Return the pictures of a set in `root` that lie below this folder."""
        store, path = open_store(root)
        below = self.place[len(root) :].strip('/')
        start = len(below) + 1 if below else 0
        try:
            shards = read_index(store.cat_file(f'{path}/{INDEX}'))
        except ValueError as error:
            raise ValueError(f'{shown(root)}/{INDEX}: {error}') from None
        sizes = {PurePosixPath(about['name']).name: about['size'] for about in store.ls(path, detail=True)}
        for shard in shards:
            if shard.file not in sizes:
                raise ValueError(f'{shard.file} is missing, which {INDEX} names: copy it there, or {ANEW}')
            if sizes[shard.file] != shard.size:
                raise ValueError(f'{shard.file} has {sizes[shard.file]} bytes, and {shard.size} by {INDEX}: '
                                 f'copy it again, or {ANEW}')  # fmt: skip
        return {
            (name := member.name[start:]): StoredPicture(
                str(self), name, f'{root}/{shard.file}', member.size, member.offset, member.crc, self.cache
            )
            for shard in shards
            for member in shard.members
            if not below or member.name.startswith(f'{below}/')
        }


Folder = Path | StoredFolder
Picture = Path | StoredPicture


def name_below(picture: Picture, folder: Folder) -> Path:
    """Return the path of a picture below the folder that it was found in."""
    if isinstance(picture, StoredPicture):
        return Path(picture.name)
    return picture.relative_to(str(folder.absolute()))


def open_folder(text: str, base: Path = Path(), cache: PictureCache | None = None) -> Folder:
    """Return the folder that a user names: of pictures, a set of tar shards or a part of one, or a store's by its URL.

    Nothing is listed, and no store is asked.

    Args:
        text: a path, `~` being the home folder, or a URL.
        base: where relative paths begin.
        cache: for what is fetched from a store.
    """
    if is_url(text):
        return StoredFolder(text.rstrip('/'), cache)
    path = base / Path(text).expanduser()
    there = next((folder for folder in (path, *path.parents) if folder.is_dir()), None)
    if there is not None and ((there / INDEX).is_file() or _only_tars(there)):
        return StoredFolder(str(path.absolute()))
    return path


def local_path(place: str) -> Path | None:
    """Return the path on a local disk of what a path or URL names, None if it is in a store."""
    scheme, _, path = place.rpartition('://')
    return Path(path) if scheme in ('', 'file', 'local') else None


def _only_tars(folder: Path) -> bool:
    """Return whether a folder holds tars and nothing else, as a set does that has no index."""
    with suppress(OSError):
        names = [path.name for path in folder.iterdir() if not path.name.startswith('.')]
        return bool(names) and all(name.endswith('.tar') for name in names)
    return False


def _tars(store: Any, place: str) -> bool:
    with suppress(OSError):
        return any(str(file).endswith('.tar') for file in store.ls(store._strip_protocol(place), detail=False))
    return False


def _above(place: str) -> Iterator[str]:
    """Yield the folders above a path or URL, the nearest first, down to its host or bucket."""
    scheme, between, path = place.rpartition('://')
    while '/' in path.strip('/'):
        path = path.rpartition('/')[0]
        yield scheme + between + path


def _version(about: dict[str, Any]) -> str:
    return next((str(about[key]) for key in _VERSIONS if about.get(key)), '')
