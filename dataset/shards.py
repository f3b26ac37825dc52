"""Tar shards: pictures in a few large files, in WebDataset's layout, and the index by which each is read alone.

The members of a pair are `<key>.fgr.<suffix>` and `<key>.pha.<suffix>`, one after the other; any other picture is
`<key>.<suffix>`. The set stands for the folders that it was made of: `anna/1.fgr.jpg` is read as `fgr/anna/1.jpg`. A
key ends at its first dot, so a dot in a name is written as %2E.
"""

from __future__ import annotations

import itertools
import json
import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from common.files import IMAGE_SUFFIXES, unfinished_name, unlink_quietly, write_atomic

INDEX = 'shards.json'
ROLES = ('fgr', 'pha')
FORMAT = 'tar shards'
VERSION = 1
ANEW = 'make the index anew: make_shards.py --index'
_BLOCK = tarfile.BLOCKSIZE
_ESCAPES = {'%': '%25', '.': '%2E'}


class Member(NamedTuple):
    """A picture in a shard: its name in the set, where its bytes lie, and their CRC-32."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Shard:
    """A tar file of a set, its size in bytes, and its pictures."""

    file: str
    size: int
    members: Sequence[Member]


def member_name(name: str, role: str = '') -> str:
    """Return what a picture is called in a tar; `role` is 'fgr' or 'pha' for one of a pair, else empty."""
    folder, base = posixpath.split(name)
    stem, suffix = posixpath.splitext(base)
    for letter, escape in _ESCAPES.items():
        stem = stem.replace(letter, escape)
    return posixpath.join(folder, stem + (role and f'.{role}') + suffix)


def picture_name(member: str) -> str:
    """Return the name in the set of a tar's member, as in `fgr/anna/1.jpg`."""
    folder, base = posixpath.split(posixpath.normpath(member))
    stem, suffix = posixpath.splitext(base)
    key, _, role = stem.rpartition('.')
    if role not in ROLES or not key:
        key, role = stem, ''
    for letter, escape in reversed(_ESCAPES.items()):
        key = key.replace(escape, letter)
    return posixpath.join(role, folder, key + suffix)


def write_shards(folder: Path, samples: Iterable[dict[str, Path]], limit: int) -> Iterator[Shard]:
    """Write a set of tars and its index; yields each shard once it has its name.

    An interrupted set has no index, and is not read.

    Args:
        folder: to write into; made if needed. An index in it goes first.
        samples: the pictures that stay together, by their names in the tar.
        limit: most bytes of a tar; one sample alone may have more.

    Raises:
        OSError: a picture cannot be read, or a tar cannot be written.
        ValueError: as by `index_shards`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    shards = []
    for number, part in enumerate(_parts(samples, limit)):
        path = folder / f'{number:06}.tar'
        unfinished = unfinished_name(path)
        try:
            with tarfile.open(unfinished, 'w', format=tarfile.GNU_FORMAT) as tar:
                for name, content in part:
                    tar.addfile(_header(name, content), BytesIO(content))
            os.replace(unfinished, path)
        except BaseException:
            unlink_quietly(unfinished)
            raise
        shards.append(index_shard(path))
        yield shards[-1]
    write_index(folder, shards)


def _header(name: str, content: bytes) -> tarfile.TarInfo:
    """Return a member's header, without owner and time: equal pictures make equal tars."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info


def _parts(samples: Iterable[dict[str, Path]], limit: int) -> Iterator[Iterator[tuple[str, bytes]]]:
    """Yield the members of one tar after the other, read when they are asked for."""
    size, number = 0, 0

    def numbered() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
        nonlocal size, number
        for sample in samples:
            members = [(name, picture.read_bytes()) for name, picture in sample.items()]
            headers = sum(len(_header(*member).tobuf(tarfile.GNU_FORMAT)) for member in members)  # a long name has more
            needed = headers + sum(-(-len(content) // _BLOCK) * _BLOCK for _, content in members)
            if size and size + needed > limit - tarfile.RECORDSIZE:
                size, number = 0, number + 1
            size += needed
            yield number, members

    for _, part in itertools.groupby(numbered(), lambda each: each[0]):
        yield (member for _, members in part for member in members)


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Write the index of a set.

    Raises:
        ValueError: two pictures have one name.
    """
    seen: set[str] = set()
    for member in (member for shard in shards for member in shard.members):
        if member.name in seen:
            raise ValueError(f'{folder}: two pictures of the set are called {member.name}')
        seen.add(member.name)
    content = {
        'format': FORMAT,
        'version': VERSION,
        'shards': [{'file': shard.file, 'size': shard.size, 'members': shard.members} for shard in shards],
    }
    write_atomic(folder / INDEX, json.dumps(content).encode('ascii'))


def index_shard(path: Path) -> Shard:
    """Read a whole tar, and return where its pictures lie.

    Raises:
        ValueError: it is no tar, compressed, damaged or cut short.
    """
    try:
        with tarfile.open(path, 'r:', errors='surrogateescape') as tar:
            members = [_member(tar, info) for info in tar if _is_picture(info)]
            # Where a header is damaged, or the file ends early, tarfile just stops.
            with path.open('rb') as file:
                file.seek(tar.offset)
                if file.read(_BLOCK) != bytes(_BLOCK):
                    raise tarfile.ReadError(f'damaged or cut short at byte {tar.offset}')
    except tarfile.TarError as error:
        raise ValueError(f'{path}: not a whole tar without compression: {error}') from None
    return Shard(path.name, path.stat().st_size, members)


def _is_picture(info: tarfile.TarInfo) -> bool:
    name = posixpath.normpath(info.name)
    hidden = any(part.startswith('.') for part in name.split('/'))
    return info.isreg() and not hidden and name.lower().endswith(IMAGE_SUFFIXES)


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if info.issparse():
        raise tarfile.ReadError(f'{info.name} is stored in pieces; pack it without --sparse')
    content = tar.extractfile(info)
    assert content is not None
    return Member(picture_name(info.name), info.offset_data, info.size, zlib.crc32(content.read()))


def read_index(content: bytes) -> list[Shard]:
    """Return the shards of a set by the content of its index.

    Raises:
        ValueError: it is damaged, or of another version; the message does not name it.
    """
    try:
        index = json.loads(content)
        if (index['format'], index['version']) != (FORMAT, VERSION):
            raise ValueError(f'of version {index["version"]}; this program reads version {VERSION}')
        return [Shard(x['file'], x['size'], [Member(*member) for member in x['members']]) for x in index['shards']]
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f'no index of tar shards, or damaged; {ANEW}') from None
