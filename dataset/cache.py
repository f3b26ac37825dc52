"""A bounded cache on a local disk of pictures that are read from a store."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.console import say_once
from common.files import write_atomic

# Each has its share of the room, so that a picture that comes makes one of them be listed and not all.
_FOLDERS = 64
# What it writes, whole or not; it leaves any other file alone.
_OWN = re.compile(r'[0-9a-f]{64}|\.[0-9a-f]{16}\.tmp')
UNUSED_SECONDS = 7 * 86400
FREE_BYTES = 5 << 30


@dataclass(frozen=True)
class PictureCache:
    """Pictures by key, in a folder that any number of processes share.

    What is there stays: an epoch reads every picture once, so that those that come later are worth no more than those
    that are there, and replacing them would lose both. Only what nobody has used for a week makes room.

    Attributes:
        folder: made when it is needed.
        limit: most bytes that it takes; at least 5 GiB of its disk stay free, too.
    """

    folder: Path
    limit: int

    def get(self, key: str) -> bytes | None:
        """Return a picture's bytes, None if they are not there or damaged."""
        path = self._path(key)
        try:
            held = path.read_bytes()
            content, crc = held[:-4], held[-4:]
            if zlib.crc32(content).to_bytes(4) != crc:  # a power cut leaves such files
                path.unlink()
                return None
        except OSError:
            return None
        with suppress(OSError):  # where another user filled it
            os.utime(path)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep a picture's bytes if there is room; a cache that cannot be written to costs time, and no training."""
        path, needed = self._path(key), len(content) + 4
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._make_room(path.parent, needed) and shutil.disk_usage(path.parent).free > FREE_BYTES + needed:
                write_atomic(path, content + zlib.crc32(content).to_bytes(4))
            else:
                say_once(('cache', self.folder), f'note: {self.folder}: the cache is full ({self.limit / 1e9:g} GB, or '
                         'its disk); what it does not hold is fetched from the store each time')  # fmt: skip

    def _make_room(self, folder: Path, needed: int) -> bool:
        with os.scandir(folder) as entries:
            own = [(entry.stat(), entry.path) for entry in entries if _OWN.fullmatch(entry.name)]
        files = sorted((about.st_mtime, about.st_size, path) for about, path in own)
        taken = sum(size for _, size, _ in files)
        for used, size, path in files:
            if taken + needed <= self.limit // _FOLDERS or time.time() - used < UNUSED_SECONDS:
                break
            os.unlink(path)
            taken -= size
        return taken + needed <= self.limit // _FOLDERS

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()
        return self.folder / f'{int(name[:2], 16) % _FOLDERS:02}' / name
