"""Memory that the process keeps: for scripts that compute on a CPU, before they begin."""

from __future__ import annotations

import contextlib
import ctypes


def keep_memory(device: str) -> None:
    """On 'cpu', lets glibc keep freed memory instead of handing it back, for the whole process.

    Networks free and take the same few gigabytes for every step or picture; by default they go back to the system in
    between, which clears them page by page: up to half of the time on a CPU. All threads that start afterwards take
    from one pool, or each would keep its own: call it before there are any. Does nothing where the C library is
    another one.
    """
    if device != 'cpu':
        return
    mmap_max, trim_threshold, top_pad, arena_max = -4, -1, -2, -8
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL('libc.so.6')
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**26)
        libc.mallopt(arena_max, 1)
