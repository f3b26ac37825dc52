"""Files that are whole or not there: the operations that saving uses, and the ways of writing made of them.

`Disk` holds the operations in one small object, so that a test can fail, kill or forget each.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

log = logging.getLogger(__name__)

BLOCK = 1 << 20
# What file systems without an operation say; EIO is an error of the disk and no such word.
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

# Of files that are read, in lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.tif', '.tiff', '.heic', '.heif', '.avif', '.exr')
IMAGES = f'{", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES[:-1])} or {IMAGE_SUFFIXES[-1][1:]}'
LOSSLESS_SUFFIXES = ('.png', '.tif', '.tiff', '.exr')
EXR_MAGIC = b'v/1\x01'  # how a file of OpenEXR begins
VIDEO_SUFFIXES = ('.mp4', '.mov', '.mkv', '.webm', '.avi', '.m4v', '.mpg', '.mpeg', '.mts', '.wmv')

# By the process that made them.
_scratch: weakref.WeakKeyDictionary[tempfile.TemporaryDirectory[str], int] = weakref.WeakKeyDictionary()


def scratch_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder that goes with the process, also where that ends at once."""
    made = tempfile.TemporaryDirectory(prefix=prefix, dir=os.path.realpath(tempfile.gettempdir()),
                                       ignore_cleanup_errors=True)  # fmt: skip
    _scratch[made] = os.getpid()
    return made


def remove_scratch() -> None:
    """Remove the temporary folders of this process, before it ends without cleaning up."""
    for made in [made for made, process in _scratch.items() if process == os.getpid()]:
        shutil.rmtree(made.name, ignore_errors=True)


def path_or_content(path: Path) -> str | bytes:
    """Return a path for libraries that take only valid text, or the file's content where its name is none."""
    return str(path) if is_text(str(path)) else path.read_bytes()


def is_text(name: str) -> bool:
    """Return whether a file's name is valid text, and not bytes that Python has only kept."""
    return not any('\ud800' <= letter <= '\udfff' for letter in name)


def is_url(text: object) -> bool:
    """Return whether a word names what lies behind a URL, and not a path."""
    return '://' in str(text)


def collapsed_url(path: object) -> str | None:
    """Return the URL that a path was made of, which loses a slash by that; None for the path of a file."""
    found = isinstance(path, Path) and re.match(r'[\w+.-]{2,}:/', str(path))
    return str(path).replace(':/', '://', 1) if found else None


def kind_of(path: Path) -> str:
    """Return what a path seems to be: 'folder', or by its name 'picture', 'video' or 'file'."""
    if os.path.isdir(path):  # pathlib raises an error where a name is too long
        return 'folder'
    suffix = path.suffix.lower()
    return 'picture' if suffix in IMAGE_SUFFIXES else 'video' if suffix in VIDEO_SUFFIXES else 'file'


def not_a_folder(path: Path) -> str:
    """Return what is there instead of a folder of pictures."""
    if not path.exists():
        return 'no such folder'
    if kind_of(path) == 'video':
        make = f'mkdir {path.stem}; ffmpeg -i {path} {path.stem}/%06d.png'
        return f'a video, not a folder of pictures; make one of it: {make}'
    return f'a {kind_of(path)}, not a folder'


class Disk:
    """The operations. Whatever changes a run's folder goes through them, but for cleaning up after a failed save."""

    _told = False

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing."""
        return path.open('wb')

    def write(self, file: BinaryIO, data: Any) -> int:
        """Hand bytes to the operating system, which need not bring them to the disk."""
        return file.write(data)

    def fsync(self, file: BinaryIO) -> None:
        """Wait until a file's content is on the disk."""
        file.flush()
        self._fsync(file.fileno(), file.name)

    def open(self, path: Path) -> BinaryIO:
        """Open a file to read what the disk holds, not what the system remembers, where that can be asked for."""
        file = path.open('rb')
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file

    def replace(self, source: Path, target: Path) -> None:
        """Rename, atomically replacing what is there."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def fsync_folder(self, folder: Path) -> None:
        """Wait until a folder's names are on the disk; Windows has no such thing and needs none."""
        if os.name == 'nt':
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self._fsync(descriptor, folder)
        finally:
            os.close(descriptor)

    def _fsync(self, descriptor: int, path: str | Path) -> None:
        """Wait for the disk, or say once that it cannot be waited for."""
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            if not self._told:
                log.warning('%s: this file system cannot be told to write to the disk (%s): a power cut may cost the '
                            'newest files', path, error.strerror)  # fmt: skip
            self._told = True

    def make_folder(self, folder: Path) -> None:
        """Make a folder in one that is there."""
        folder.mkdir()

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def free(self, folder: Path) -> int:
        """Return the bytes that the folder's disk has left; sys.maxsize where it does not say."""
        try:
            usage = shutil.disk_usage(folder)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return sys.maxsize
        return usage.free if usage.total else sys.maxsize


def make_folders(disk: Disk, folder: Path) -> list[Path]:
    """Make a folder and its parents so that they survive a power cut; return those that were not there, it at first.

    Raises:
        OSError: the disk's own error.
    """
    made: list[Path] = []
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    for path in reversed(missing):
        # Another process may make it at the same time.
        with contextlib.suppress(FileExistsError):
            disk.make_folder(path)
            made.insert(0, path)
        disk.fsync_folder(path.parent)
    return made


def write_new(disk: Disk, path: Path, save: Callable[[BinaryIO], Any]) -> int:
    """Write a file without waiting for the disk.

    Returns:
        The CRC-32 of what was written.

    Raises:
        OSError: the disk's own error, which torch.save hides; nothing of the file is left then.
    """
    try:
        with disk.create(path) as file:
            noting = _Noting(disk, file)
            try:
                save(cast(BinaryIO, noting))
            except RuntimeError as error:
                # torch.save turns a full disk into "unexpected pos" of its archive writer.
                raise noting.error or error from None
        return noting.crc
    except BaseException:
        unlink_quietly(path)
        raise


def write_durable(disk: Disk, path: Path, save: Callable[[BinaryIO], Any], temporary: Path | None = None) -> None:
    """Write a file so that it is there whole under its name, or not at all, and survives a power cut.

    The temporary file lies in the same folder: across file systems a rename is a copy that can be cut.

    Raises:
        OSError: the disk's own error; what was under the name is untouched.
    """
    temporary = temporary or path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        write_new(disk, temporary, save)
        sync(disk, temporary)
        disk.replace(temporary, path)
    except BaseException:
        unlink_quietly(temporary)
        raise
    disk.fsync_folder(path.parent)


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write under a hidden name and rename, so that a process that dies leaves the old file or the new one.

    Nothing waits for the disk: after a power cut the file may be empty. Use `write_durable` for what must survive one.
    Folders are made as needed.

    Raises:
        OSError: it cannot be written. The message names the file.
    """
    unfinished = unfinished_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError as error:
        unlink_quietly(unfinished)
        raise OSError(f'{path}: cannot be written: {error.strerror or error}') from error


def unfinished_name(path: Path) -> Path:
    """Return a hidden name in a file's folder to write it under, until it is whole and renamed.

    It does not contain the file's own name, to which nothing may be added where it is as long as names can be.
    """
    return path.with_name(f'.{secrets.token_hex(8)}.tmp')


def replace_whole(source: Path, target: Path) -> None:
    """Rename a file over a file, or a folder over a folder, within one file system.

    Systems replace files in one step, but not folders: the former folder is set aside, comes back if the new one cannot
    get its name, and is removed otherwise.

    Raises:
        OSError: the disk's own error; the target is as it was, unless only removing the former folder failed.
    """
    if not target.is_dir():
        os.replace(source, target)
        return
    former = target.with_name(f'.{target.name}.{os.getpid()}.former')
    target.rename(former)
    try:
        source.rename(target)
    except BaseException:
        former.rename(target)
        raise
    shutil.rmtree(former)


def sync(disk: Disk, path: Path) -> None:
    """Wait until a written file's content is on the disk."""
    with path.open('rb+') as file:
        disk.fsync(file)


def read_back(disk: Disk, path: Path, crc: int) -> tuple[int, str]:
    """Read a file from the disk, and return its size in bytes and its sha256.

    Args:
        disk: the operations.
        path: of the file.
        crc: what `write_new` returned for it.

    Raises:
        OSError: it cannot be read, or does not hold what was written.
    """
    sha256, size, found = hashlib.sha256(), 0, 0
    with disk.open(path) as file:
        while block := file.read(BLOCK):
            sha256.update(block)
            found = zlib.crc32(block, found)
            size += len(block)
    if found != crc:
        raise OSError(f'{path}: the disk gives back something else than was written')
    return size, sha256.hexdigest()


def digest(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(BLOCK):
            sha256.update(block)
    return sha256.hexdigest()


def unlink_quietly(path: Path) -> None:
    """Remove a temporary file, or what a failed save has placed, if it is there; an error leaves it where it is.

    No operation of `Disk`, since nothing depends on it: what is left costs space until the run's next start.
    """
    with contextlib.suppress(OSError):
        path.unlink()


class _Noting:
    """A file to write to that notes the checksum of what it gets, and the disk's own error.

    A CRC-32 costs half of a sha256 and finds what a disk does by mistake; training waits for it.
    """

    def __init__(self, disk: Disk, file: BinaryIO):
        self.disk, self.file, self.crc = disk, file, 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            count = self.disk.write(self.file, data)
        except OSError as error:
            self.error = error
            raise
        self.crc = zlib.crc32(data, self.crc)
        return count

    def flush(self) -> None:
        self.file.flush()
