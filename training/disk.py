"""The few file operations that saving uses, in one small object, so that a test can fail, kill or forget each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

BLOCK = 1 << 20


class Disk:
    """The operations themselves. Whatever changes a run's folder goes through them."""

    def create(self, path: Path) -> BinaryIO:
        """Opens a new file for writing."""
        return path.open('wb')

    def write(self, file: BinaryIO, data: Any) -> int:
        """Hands bytes to the operating system, which need not bring them to the disk."""
        return file.write(data)

    def fsync(self, file: BinaryIO) -> None:
        """Waits until a file's content is on the disk."""
        file.flush()
        os.fsync(file.fileno())

    def open(self, path: Path) -> BinaryIO:
        """Opens a file for reading what the disk holds, not what the system remembers, where it can be told so."""
        file = path.open('rb')
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file

    def replace(self, source: Path, target: Path) -> None:
        """Renames over what is there, at once."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Gives a file a second name."""
        os.link(source, target)

    def fsync_folder(self, folder: Path) -> None:
        """Waits until a folder's names are on the disk; Windows has no such thing and needs none."""
        if os.name == 'nt':
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Removes a name."""
        path.unlink()

    def free(self, folder: Path) -> int:
        """Bytes that the folder's disk has left."""
        return shutil.disk_usage(folder).free


def write_new(disk: Disk, path: Path, save: Callable[[BinaryIO], Any]) -> None:
    """Writes a file without waiting for the disk.

    Raises:
        OSError: the disk's own error, which torch.save hides; nothing of the file is left then.
    """
    try:
        with disk.create(path) as file:
            keeping = _KeepsError(disk, file)
            try:
                save(cast(BinaryIO, keeping))
            except RuntimeError as error:
                # torch.save turns a full disk into "unexpected pos" of its archive writer.
                raise keeping.error or OSError(str(error)) from None
    except BaseException:
        unlink_quietly(path)
        raise


def write_through(disk: Disk, path: Path, save: Callable[[BinaryIO], Any], temporary: Path | None = None) -> None:
    """Writes a file so that it is there whole under its name, or not at all, and stays there.

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


def sync(disk: Disk, path: Path) -> None:
    """Waits until a written file's content is on the disk."""
    with path.open('rb+') as file:
        disk.fsync(file)


def read_back(disk: Disk, path: Path) -> tuple[int, str]:
    """Reads a file of torch.save from the disk, and returns its size in bytes and its sha256.

    The archive's own checksums were taken from the tensors in memory, so that agreeing with them proves the content.

    Raises:
        OSError: it cannot be read, or does not hold what was written.
    """
    with disk.open(path) as file:
        size, sha256 = _digest(file)
    try:
        damaged = bad_entry(path)
    except zipfile.BadZipFile as error:
        damaged = str(error)
    if damaged:
        raise OSError(f'{path}: the disk gives back something else than was written ({damaged})')
    return size, sha256


def bad_entry(path: Path) -> str | None:
    """The first entry of a zip archive, such as a .pth file, whose content does not have its checksum, or None.

    Raises:
        zipfile.BadZipFile: it is no zip archive, or a damaged one.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def digest(path: Path) -> str:
    """The sha256 of a file in hex."""
    with path.open('rb') as file:
        return _digest(file)[1]


def _digest(file: BinaryIO) -> tuple[int, str]:
    sha256, size = hashlib.sha256(), 0
    while block := file.read(BLOCK):
        sha256.update(block)
        size += len(block)
    return size, sha256.hexdigest()


def unlink_quietly(path: Path) -> None:
    """Removes a file if it is there."""
    with contextlib.suppress(OSError):
        path.unlink()


class _KeepsError:
    """A file to write to that keeps the disk's own error."""

    def __init__(self, disk: Disk, file: BinaryIO):
        self.disk, self.file = disk, file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.disk.write(self.file, data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
