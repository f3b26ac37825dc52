"""Whether checkpoints can be saved in a folder, tried before training begins."""

from __future__ import annotations

import errno
from pathlib import Path

from common.files import Disk, read_back, sync, unlink_quietly, write_new

from .links import link_file
from .record import CheckpointError

FULL = (errno.ENOSPC, errno.EDQUOT)


def rehearse(disk: Disk, folder: Path) -> None:
    """Write, sync, read back, link, rename and remove a small file, so that a useless folder shows in the first second.

    Raises:
        CheckpointError: one of these fails.
    """
    first, second, third = (folder / f'.rehearsal-{number}.tmp' for number in (1, 2, 3))
    try:
        crc = write_new(disk, first, lambda file: file.write(b'rehearsal'))
        sync(disk, first)
        read_back(disk, first, crc)
        link_file(disk, first, second, third)
        disk.unlink(first)
        disk.fsync_folder(folder)
    except OSError as error:
        if error.errno in FULL:
            # Room may come: a save says how much is missing, and removes what is not kept.
            return
        problem = f'{folder}: no checkpoint can be saved here ({error}); change that, or --checkpoint-dir'
        raise CheckpointError(problem) from error
    finally:
        for path in (first, second, third):
            unlink_quietly(path)
