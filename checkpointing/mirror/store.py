"""A folder of a store that fsspec knows: a few operations on whole objects, and each failure in one line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.console import shown
from common.stores import MissingObject, StoreError, open_store, telling

# Where folders must be made, and a file that is being written can be seen half.
WITH_FOLDERS = ('file', 'local', 'sftp', 'ssh', 'smb', 'ftp', 'hdfs', 'webhdfs', 'memory')
REFUSED = (409, 412)  # what HTTP answers to a conditional write whose condition does not hold
STALLED_SECONDS = 60.0  # a client by itself waits for ever for a store that takes no more of an object


class Store:
    """The objects of one folder of a store, by name; several threads may use it.

    Args:
        url: of the folder, such as 's3://bucket/checkpoint/base' or 'file:///nas/checkpoint/base'.

    Attributes:
        url: the same, to be shown to people: without a password.
        conditional: whether the store compares and swaps, so that of two writers one is refused.
        moved_at: when more of an object was last taken than ever before, in seconds of time.monotonic(); on S3 only.

    Raises:
        StoreError: an unknown kind of store, or one that needs a package which is not installed.
    """

    def __init__(self, url: str):
        self.url, self._url = shown(url), url
        self.moved_at, self._taken = 0.0, dict[str, int]()
        with telling(url):
            self._fs, self._root = _connect(url)
        self._root = self._root.rstrip('/')
        kinds = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._has_folders = any(kind in WITH_FOLDERS for kind in kinds)
        self.conditional = hasattr(self._fs, 'call_s3')

    def folder(self, name: str) -> Store:
        """Return a folder in this one."""
        child = object.__new__(Store)
        vars(child).update(vars(self))
        child.url, child._root = f'{self.url.rstrip("/")}/{name}', f'{self._root}/{name}'
        return child

    def is_folder(self, path: Path) -> bool:
        """Return whether this is a folder of this computer."""
        return self._has_folders and os.path.realpath(self._root) == os.path.realpath(path)

    def sizes(self) -> dict[str, int]:
        """Return the objects of the folder, and their sizes in bytes; none where the folder is not there."""
        return {name: entry['size'] for name, entry in self._list().items() if entry['type'] == 'file'}

    def folders(self) -> list[str]:
        """Return the names of the folders in this one."""
        return sorted(name for name, entry in self._list().items() if entry['type'] == 'directory')

    def _list(self) -> dict[str, dict[str, Any]]:
        with self._telling():
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=True)
            except FileNotFoundError:
                return {}
            except NotADirectoryError:
                raise StoreError(f'{self.url}: not a folder') from None
        return {entry['name'].rstrip('/').rpartition('/')[2]: entry for entry in found if entry['name'] != self._root}

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes, as the store says of it alone; None if it is not there."""
        with contextlib.suppress(MissingObject), self._telling():
            self._fs.invalidate_cache()
            return self._fs.info(self._path(name))['size']
        return None

    def get(self, name: str) -> bytes:
        """Return the content of an object."""
        with self._telling():
            return self._fs.cat_file(self._path(name))

    def get_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of small objects, asked for at once where the store allows; absent ones are left out."""
        paths = {self._path(name): name for name in names}
        with self._telling():
            found = self._fs.cat(list(paths), on_error='return') if paths else {}
            for error in found.values():
                if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                    raise error
        return {paths[path]: data for path, data in found.items() if isinstance(data, bytes)}

    def put(self, name: str, data: bytes) -> None:
        """Write an object so that it is there whole or not at all, and verify what the store holds.

        Raises:
            StoreError: the store fails, or holds something else.
        """
        size, sha256 = len(data), hashlib.sha256(data)
        target = f'.{secrets.token_hex(8)}.tmp' if self._has_folders else name
        try:
            with self._telling():
                if self.conditional:  # S3, which refuses what does not have its checksum
                    self._send(name, data, base64.b64encode(sha256.digest()).decode())
                else:
                    self._fs.pipe_file(self._path(target), data)
            if not self.holds(target, size, sha256.hexdigest()):
                raise StoreError(f'{self.url}: holds something else than {name} was written with')
            if target != name:
                with self._telling():
                    self._fs.mv(self._path(target), self._path(name))
        except BaseException:
            if target != name:
                with contextlib.suppress(StoreError):
                    self.delete(target)
            raise

    def _send(self, name: str, data: bytes, checksum: str) -> None:
        """Send an object to S3 in one request, of which nothing stays unless it is whole; note what is taken."""
        from fsspec.asyn import sync

        body = io.BytesIO(data)

        async def sending() -> None:
            request = asyncio.ensure_future(
                self._fs._call_s3('put_object', **self._key(name), Body=body, ChecksumSHA256=checksum)
            )
            last, since = 0, time.monotonic()
            while not (await asyncio.wait([request], timeout=0.2))[0]:
                now, taken = time.monotonic(), body.tell()
                if taken > self._taken.get(name, 0):  # not what is only sent again
                    self._taken[name], self.moved_at = taken, now
                if taken != last:
                    last, since = taken, now
                elif now - since >= STALLED_SECONDS:
                    request.cancel()
                    raise ConnectionError(f'took no more of {name} for {STALLED_SECONDS:g} s')
            await request

        sync(self._fs.loop, sending)
        self._taken.pop(name, None)

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Return whether an object has this content: by the checksum that the store gives, else by reading it."""
        try:
            with self._telling():
                if self.conditional:
                    head = self._fs.call_s3('head_object', **self._key(name), ChecksumMode='ENABLED')
                    if head['ContentLength'] != size:
                        return False
                    if 'ChecksumSHA256' in head:  # other makers' stores may not have it
                        return base64.b64decode(head['ChecksumSHA256']).hex() == sha256
            data = self.get(name)
        except MissingObject:
            return False
        return len(data) == size and hashlib.sha256(data).hexdigest() == sha256

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(MissingObject), self._telling():
            self._fs.rm_file(self._path(name))

    def versioned(self, name: str) -> tuple[bytes, str] | None:
        """Return the content of an object and what tells this version from others; None if it is not there."""
        try:
            with self._telling():
                if not self.conditional:
                    data = self._fs.cat_file(self._path(name))
                    return data, hashlib.sha256(data).hexdigest()
                tag = self._fs.call_s3('head_object', **self._key(name))['ETag']
                return self._fs.cat_file(self._path(name)), tag
        except MissingObject:
            return None

    def swap(self, name: str, data: bytes, version: str | None) -> str | None:
        """Write an object if it has a version, or is not there yet (None); return the new one, None if refused.

        Where the store has no conditional writes, two who do this at the same moment may both succeed.
        """
        if not self.conditional:
            found = self.versioned(name)
            if (found and found[1]) != version:
                return None
            self.put(name, data)
            return hashlib.sha256(data).hexdigest()
        condition = {'IfNoneMatch': '*'} if version is None else {'IfMatch': version}
        with self._telling():
            try:
                return self._fs.call_s3('put_object', **self._key(name), Body=data, **condition)['ETag']
            except Exception as error:
                answer = getattr(error.__cause__, 'response', {}).get('ResponseMetadata', {})
                status = answer.get('HTTPStatusCode')
                if status in REFUSED or (status == 404 and version is not None):
                    return None
                raise

    def rehearse(self, make: bool = True) -> None:
        """Write, read, list and delete a small object, so that a useless store shows before training.

        Args:
            make: make the folder in the one above it; else it must be there.

        Raises:
            StoreError: one of these fails.
        """
        name = f'.rehearsal-{secrets.token_hex(8)}.tmp'
        if self._has_folders:
            with self._telling():
                there = self._root.rpartition('/')[0] if make else self._root
                if not self._fs.isdir(there or '/'):
                    raise StoreError(f'{self.url}: {there} is not there; make that folder, or mount the disk')
                self._fs.makedirs(self._root, exist_ok=True)
        try:
            self.put(name, b'rehearsal')
            if name not in self.sizes():
                raise StoreError(f'{self.url}: does not list what was just written')
        finally:
            self.delete(name)

    def _path(self, name: str) -> str:
        return f'{self._root}/{name}'

    def _key(self, name: str) -> dict[str, str]:
        bucket, _, key = self._path(name).partition('/')
        return {'Bucket': bucket, 'Key': key}

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """As `telling`; a client that is denied is made anew, since that reads credentials which may be new by then."""
        try:
            with telling(self.url, self._url):
                yield
        except StoreError as error:
            if isinstance(error.__context__, PermissionError):
                with contextlib.suppress(Exception):
                    self._fs, _ = _connect(self._url)
            raise


def _connect(url: str) -> tuple[Any, str]:
    client, root = open_store(url, skip_instance_cache=True)
    client.dircache.use_listings_cache = False  # a keyword of this name is not known to every client
    return client, root
