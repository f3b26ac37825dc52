"""The few file operations that saving uses, in one small object, so that a test can make any of them fail."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast


class Disk:
    """Durable writes: a file is there whole under its name, or not at all."""

    def write(self, path: Path, save: Callable[[BinaryIO], Any]) -> tuple[int, str]:
        """Writes through a temporary file in the same folder: write, flush, fsync, replace, fsync of the folder.

        Returns:
            Size in bytes and sha256, taken while writing.

        Raises:
            OSError: the disk's own error; the temporary file is gone then, and what was under the name is untouched.
        """
        temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
        try:
            with self.open(temporary) as file:
                hashing = _HashingFile(file)
                try:
                    save(cast(BinaryIO, hashing))
                except RuntimeError as error:
                    # torch.save turns a full disk into an internal error of its archive writer.
                    raise hashing.error or OSError(str(error)) from None
                file.flush()
                self.fsync(file.fileno())
            self.replace(temporary, path)
        except BaseException:
            unlink_quietly(temporary)
            raise
        self.fsync_folder(path.parent)
        return hashing.size, hashing.sha256.hexdigest()

    def link(self, target: Path, path: Path) -> None:
        """Makes `path` a second name of `target`, or a copy where the file system has no hard links."""
        temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
        unlink_quietly(temporary)
        try:
            os.link(target, temporary)
        except OSError:
            self.write(path, lambda file: file.write(target.read_bytes()))
            return
        try:
            self.replace(temporary, path)
        except OSError:
            unlink_quietly(temporary)
            raise

    def open(self, path: Path) -> BinaryIO:
        """Opens a new file for writing."""
        return path.open('wb')

    def fsync(self, descriptor: int) -> None:
        """Waits until a file's content is on the disk."""
        os.fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Renames over what is there, at once."""
        os.replace(source, target)

    def fsync_folder(self, folder: Path) -> None:
        """Waits until a folder's names are on the disk; Windows has no such thing and needs none."""
        if os.name == 'nt':
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Removes a file."""
        path.unlink()


class _HashingFile:
    """A file to write to that keeps count, digest, and the disk's own error, which torch.save hides."""

    def __init__(self, file: BinaryIO):
        self.file, self.size, self.sha256 = file, 0, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def flush(self) -> None:
        self.file.flush()


def digest(path: Path) -> str:
    """The sha256 of a file in hex."""
    sha256 = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def unlink_quietly(path: Path) -> None:
    """Removes a file if it is there."""
    with contextlib.suppress(OSError):
        path.unlink()
