"""What belongs to a step, as functions of its number: nothing here has a state that a resume could lose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .loop import Run


class Due(NamedTuple):
    """What is to be done once a number of steps is done."""

    validation: bool
    checkpoint: bool
    epoch: bool


def due(run: Run, done: int) -> Due:
    """Intervals count steps over the whole run; an epoch's and the run's end are validated and saved too."""
    epochs, rest = divmod(done, run.steps_per_epoch)
    end = done == run.end
    epoch = rest == 0 and (epochs % run.options.checkpoint_epoch_interval == 0 or end)
    return Due(
        validation=done % run.options.log_valid_interval == 0 or epoch or end,
        checkpoint=done % run.options.checkpoint_interval == 0 or (end and not epoch),
        epoch=epoch,
    )


def names_due(run: Run, step: int, late: bool = False) -> dict[str, str]:
    """The names under which a step is saved, and why."""
    now, epoch, last = due(run, step + 1), step // run.steps_per_epoch, step + 1 == run.end
    names = {}
    if now.checkpoint or late:
        names[f'epoch-{epoch}-iter-{step}'] = 'end' if last else 'interval' if now.checkpoint else 'minutes'
    if now.epoch:
        names[f'epoch-{epoch}'] = 'epoch'
    return names


def learning_rate_factor(step: int, end: int, schedule: str, warmup: int) -> float:
    """What learning rates are multiplied by at a step: rises linearly over `warmup` steps, then is 1 or falls to 0."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == 'constant':
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, end - warmup)))


def dropout_seed(seed: int, step: int, part: int) -> int:
    """A 64-bit seed of its own for every part of every step (odd multipliers, so that no two meet nearby)."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xC2B2AE3D27D4EB4F + part * 0x165667B19E3779F9) % 2**63
