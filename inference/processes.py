"""Processes that share the work, as torchrun starts them: the part of each, and one exit code for all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from common.rendezvous import join

LONGEST_WAIT = timedelta(days=7)  # for the process with the slowest pictures


@dataclass(frozen=True)
class Shard:
    """This process's part of the work: every `world`-th item, from item `rank` on."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def process_shard(environ: Mapping[str, str] = os.environ) -> Shard:
    """Read what torchrun tells its processes; without it, this process does all the work."""
    defaults = {'RANK': 0, 'WORLD_SIZE': 1, 'LOCAL_RANK': 0, 'LOCAL_WORLD_SIZE': 1}
    return Shard(*(int(environ.get(name, default)) for name, default in defaults.items()))


def common_exit_code(code: int, shard: Shard, environ: Mapping[str, str] = os.environ) -> int:
    """Wait until all of torchrun's processes are done, and return the largest of their exit codes.

    torchrun ends all processes as soon as one leaves with a code other than 0: a process with one unreadable picture
    would cost the others all that they have not done yet.
    """
    if shard.world == 1 or 'MASTER_ADDR' not in environ:
        return code
    import torch
    import torch.distributed as dist

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # Python's handlers would not run during the wait, and no file is open
    try:
        store, rank, world = join(LONGEST_WAIT)
        dist.init_process_group('gloo', store=store, rank=rank, world_size=world, timeout=LONGEST_WAIT)
        worst = torch.tensor(code)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to whoever leaves second
        dist.destroy_process_group()
    except (RuntimeError, ValueError) as error:  # one of them is gone; torchrun ends the rest
        print(f'process {shard.rank}: the other processes cannot be reached: {error}', file=sys.stderr, flush=True)
        return max(code, 1)
    return int(worst)
