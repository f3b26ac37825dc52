"""What the ranks of a run must agree on: data and flags, one checkpoint."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpointing.record import CheckpointError
from checkpointing.resume import Resume, newest_step
from common import cli

if TYPE_CHECKING:
    from .distributed import Ranks

log = logging.getLogger(__name__)

# Flags that machines may be given differently. Any other one would have them take other samples, other steps or weights
# that drift apart, or wait for each other without end.
OF_A_MACHINE = {
    'accept_changed_data', 'checkpoint_dir', 'data_config', 'device', 'log_dir', 'mirror_grace',
    'model_pretrain_initialization', 'model_start_weights', 'num_workers', 'part_of',
}  # fmt: skip


def refuse_different(identity: Mapping[str, Any], options: Mapping[str, Any], ranks: Ranks) -> None:
    """Raise ValueError where ranks were given different data or flags."""
    flags = {cli.flag(name): value for name, value in options.items() if name not in OF_A_MACHINE}
    (_, expected), *others = ranks.gather((socket.gethostname(), {**identity, **flags}))
    for rank, (host, other) in enumerate(others, 1):
        if wrong := [key for key, value in other.items() if expected.get(key) != value]:
            raise ValueError(
                f'rank {rank} on {host} has not the same as rank 0: {", ".join(wrong)}; give all machines the same '
                'flags and the same files'
            )


def refuse_newer(folder: Path, stage: str, ranks: Ranks, resume: Resume, mirror: str | None) -> None:
    """Raise CheckpointError where a disk holds a newer checkpoint of the run, which the first rank cannot know of."""
    step = -1 if resume.record is None else resume.record.step
    run = resume.run if resume.record else None
    found = ranks.gather((newest_step(folder, stage, run, step), socket.gethostname()))
    newest, host = max(found)
    if newest <= step:
        return
    text = f'{folder} on {host} holds step {newest}, and the first rank knows of ' + (
        f'step {step} only' if resume.record else 'no checkpoint'
    )
    if resume.record is None or mirror is None:
        raise CheckpointError(
            f'{text}: let all machines share --checkpoint-dir, or copy the checkpoints there to a --checkpoint-mirror '
            '(checkpoints.py sync)'
        )
    log.warning('%s, which the mirror has: the run goes on from that', text)
