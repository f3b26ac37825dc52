"""The settings of a training, by who needs them; every field has the name and meaning of its flag."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from checkpointing.retention import Policy

T = TypeVar('T')


@dataclass(frozen=True)
class DataSettings:
    """Which samples a run sees, in which sizes and batches."""

    dataset_name: str
    data_config: Path
    synthetic_size: int
    train_resolution: int
    valid_samples: int
    batch_size: int
    accumulate: int
    num_workers: int
    seed: int


@dataclass(frozen=True)
class LoopSettings:
    """What `fit` does at a step, and how often it tells of it."""

    seed: int
    accumulate: int
    clip_grad: float | None
    log_train_loss_interval: int
    log_train_images_interval: int
    monitor: str
    checkpoint_best_name: str | None
    checkpoint_minutes: float | None
    requeue: bool


@dataclass(frozen=True)
class ScheduleSettings:
    """When things are due, and how learning rates go."""

    epoch_end: int
    max_steps: int | None
    log_valid_interval: int
    checkpoint_interval: int
    checkpoint_epoch_interval: int
    lr_schedule: str
    warmup_steps: int


@dataclass(frozen=True)
class RunSettings:
    """Where a run begins, computes and writes."""

    model_name: str
    model_backbone: str
    model_last_checkpoint: str | None
    model_start_weights: Path | None
    accept_changed_data: bool
    epoch_start: int | None
    checkpoint_dir: Path
    log_dir: Path
    ema_decay: float | None
    precision: str
    compile: bool


@dataclass(frozen=True)
class TrainingSettings:
    """All settings of a training.

    Attributes:
        data, loop, schedule, run: by who needs them.
        policy: which checkpoints are kept.
        options: the whole command line in plain values, for the records.
    """

    data: DataSettings
    loop: LoopSettings
    schedule: ScheduleSettings
    run: RunSettings
    policy: Policy
    options: dict[str, Any]

    @staticmethod
    def from_options(options: dict[str, Any]) -> TrainingSettings:
        """Take the values of a command line, such as `vars(args)`."""
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        return TrainingSettings(
            _take(DataSettings, options),
            _take(LoopSettings, options),
            _take(ScheduleSettings, options),
            _take(RunSettings, options),
            Policy.from_options(options),
            plain,
        )


def _take(kind: type[T], options: dict[str, Any]) -> T:
    return kind(**{field.name: options[field.name] for field in fields(kind)})  # type: ignore[arg-type]
