"""Files that are whole or not there; any package may import it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write under a hidden name and rename, so that no half file ever has the final name.

    Raises:
        OSError: it cannot be written. The message names it.
    """
    unfinished = path.with_name(f'.{secrets.token_hex(8)}.tmp')  # the name's length plus anything may be too long
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise OSError(f'{path}: cannot be written: {error.strerror or error}') from error
