"""What a run is made of, once it has begun."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from checkpointing.manager import Checkpoints
from checkpointing.mirror.keeping import Keeping
from checkpointing.record import Record
from dataset.loaders import ValidationBatches

from .distributed import Ranks
from .logs import Logger
from .schedule import Schedule
from .settings import LoopSettings
from .state import TrainingState
from .validation import Step


@dataclass
class Run:
    """All that `fit` needs.

    Attributes:
        state: what is trained and saved.
        net: state.module, or its wrapper over several ranks.
        batches: yields settings.accumulate batches a step, from state.progress.step on; each has `len`, `.share` (of
            the step's samples over all ranks), `.names` and `.to(device)`.
        valid_batches: the same batches each time they are iterated; as many as `len` says.
        step: makes a prediction, with its losses, for a batch.
        settings: what is done at a step.
        schedule: what is due when, and learning rates.
        ranks, dtype, checkpoints, logger: where, how exactly, what is kept and what is told.
        resumed: the checkpoint that the run goes on from, if any.
        mirror: where checkpoints are copied to, on the first rank; None keeps them on the disk alone.
    """

    state: TrainingState
    net: nn.Module
    batches: Iterable[Any]
    valid_batches: ValidationBatches | list[Any]
    step: Step
    settings: LoopSettings
    schedule: Schedule
    ranks: Ranks
    dtype: torch.dtype
    checkpoints: Checkpoints
    logger: Logger
    resumed: Record | None = None
    mirror: Keeping | None = None
