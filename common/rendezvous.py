"""Where the processes of torchrun find each other, at its first start and at every later one."""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.distributed as dist

POLL_SECONDS = 0.05


def first_rank() -> bool:
    """Return whether this process alone speaks, and reads and writes checkpoints; so it is where there is no other."""
    return os.environ.get('RANK', '0') == '0'


def join(wait: timedelta = timedelta(minutes=30)) -> tuple[dist.Store, int, int]:
    """Return a store that all processes of this start share, the rank of this one, and how many there are.

    Args:
        wait: for those that come late.

    Raises:
        DistError: the others have not come, or the store cannot be reached.
    """
    import torch.distributed as dist

    store, rank, world = next(dist.rendezvous('env://', timeout=wait))
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        store = dist.PrefixStore(meet(store, rank, world, wait), store)
    return store, rank, world


def meet(store: dist.Store, rank: int, world: int, wait: timedelta) -> str:
    """Return a word that all ranks of this start know, and none of an earlier one.

    After a restart torchrun's store still has the addresses of processes that have died, so each start needs a part of
    its own. TORCHELASTIC_RESTART_COUNT does not name it: machines of one run that were restarted differently differ.

    Raises:
        DistError: the others have not come within the time to wait.
    """
    import torch.distributed as dist

    own, deadline = secrets.token_hex(8), time.monotonic() + wait.total_seconds()

    def read(key: str) -> str:
        return store.get(key).decode() if store.check([key]) else ''

    def pause() -> None:
        if time.monotonic() > deadline:
            raise dist.DistError(f'rank {rank} has waited in vain for the others')
        time.sleep(POLL_SECONDS)

    # Each rank leaves a note; the first answers with that note and the word, until the word is what the note says.
    for other in range(1, world) if rank == 0 else ():
        while (note := read(f'note {other}')) != own:
            store.set(f'answer {other}', note + own)
            pause()
    if rank == 0:
        return own
    store.set(f'note {rank}', own)
    while not (answer := read(f'answer {rank}')).startswith(own):
        pause()
    word = answer.removeprefix(own)
    store.set(f'note {rank}', word)
    return word
