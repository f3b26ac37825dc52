"""What belongs to a step, as functions of its number: nothing here has a state that a resume could lose."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import NamedTuple

from .settings import ScheduleSettings


class Due(NamedTuple):
    """What is to be done once a number of steps is done."""

    validation: bool
    checkpoint: bool
    epoch: bool


@dataclass(frozen=True)
class Schedule:
    """When a run validates, saves and ends, and its learning rates.

    Args:
        settings: the flags.
        steps_per_epoch: optimizer steps of an epoch.
    """

    settings: ScheduleSettings
    steps_per_epoch: int

    @property
    def end(self) -> int:
        """The step to stop before."""
        return min(self.settings.epoch_end * self.steps_per_epoch, self.settings.max_steps or sys.maxsize)

    def epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to."""
        return step // self.steps_per_epoch

    def due(self, done: int) -> Due:
        """Return what is due after so many steps.

        Intervals count steps over the whole run; the end of an epoch and of the run are validated and saved, too.
        """
        settings, (epochs, rest), end = self.settings, divmod(done, self.steps_per_epoch), done == self.end
        epoch = rest == 0 and (epochs % settings.checkpoint_epoch_interval == 0 or end)
        return Due(
            validation=done % settings.log_valid_interval == 0 or epoch or end,
            checkpoint=done % settings.checkpoint_interval == 0 or (end and not epoch),
            epoch=epoch,
        )

    def interval_name(self, step: int) -> str:
        """Return the name of a checkpoint that is not an epoch's."""
        return f'epoch-{self.epoch(step)}-iter-{step}'

    def names_due(self, step: int, late: bool = False) -> dict[str, str]:
        """Return the names under which a step is saved, and why; `late`: --checkpoint-minutes have passed."""
        now, last = self.due(step + 1), step + 1 == self.end
        names = {}
        if now.checkpoint or late:
            names[self.interval_name(step)] = 'end' if last else 'interval' if now.checkpoint else 'minutes'
        if now.epoch:
            names[f'epoch-{self.epoch(step)}'] = 'epoch'
        return names

    def learning_rate_factor(self, step: int) -> float:
        """Return what learning rates are multiplied by at a step."""
        return learning_rate_factor(step, self.end, self.settings.lr_schedule, self.settings.warmup_steps)


def learning_rate_factor(step: int, end: int, schedule: str, warmup: int) -> float:
    """Return a factor that rises linearly over `warmup` steps, then is 1 ('constant') or falls to 0 ('cosine')."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == 'constant':
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, end - warmup)))


def dropout_seed(seed: int, step: int, part: int) -> int:
    """Return a 64-bit seed for every part of every step (odd multipliers, so that no two meet nearby)."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xC2B2AE3D27D4EB4F + part * 0x165667B19E3779F9) % 2**63
