"""The settings of a training, by who needs them; every field has the name and meaning of its flag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from checkpointing.retention import Policy
from common.cli import flag
from common.console import shown
from common.stores import named

# What it means for the curves if a run goes on with another value; None where the learning rates say it.
MEANINGS = {
    'recipe': 'the loss weighs other things',
    'learning_rate_scale': 'multiplies all learning rates',
    'lr_schedule': None,
    'warmup_steps': None,
    'epoch_end': None,
    'max_steps': None,
    'clip_grad': 'the largest steps have another length',
    'ema_decay': 'the average forgets at another rate; none ends it',
    'crop_multiple': 'crops have other sizes',
    'precision': 'losses may shift by rounding',
    'freeze_batch_norm': 'BatchNorm normalises by other statistics',
    'batch_size': 'BatchNorm sees batches of another size',
    'accumulate': 'a step has the same samples in other parts',
    'monitor': 'best.pth is chosen by it, among the checkpoints that have it',
    'monitor_threshold': 'nothing worse is called best',
    'monitor_mode': 'best.pth is chosen the other way round',
}

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
    num_workers: int | None
    seed: int
    crop_multiple: int | None = None  # pixels; None leaves it to the run that goes on, or to the resolution


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
    part_of: str | None = None

    @property
    def way_on(self) -> str:
        """In words, what goes on with the run once it has stopped."""
        return 'go on with --model-last-checkpoint auto' if self.part_of is None else f'{self.part_of} goes on'


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

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> ScheduleSettings:
        """Take the values of a command line."""
        return _take(ScheduleSettings, options)


@dataclass(frozen=True)
class RunSettings:
    """Where a run begins, computes and writes."""

    model_name: str
    model_backbone: str
    model_last_checkpoint: str | Path | None
    model_start_weights: Path | None
    accept_changed_data: bool
    epoch_start: int | None
    checkpoint_dir: Path
    log_dir: Path
    learning_rate_scale: float
    ema_decay: float | None
    precision: str
    compile: bool
    dry_run: bool
    checkpoint_mirror: str | None  # a URL, perhaps with a password
    mirror_grace: float  # seconds


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
        plain = {name: named(value) if isinstance(value, Path) else value for name, value in options.items()}
        if plain['checkpoint_mirror'] is not None:
            plain['checkpoint_mirror'] = shown(plain['checkpoint_mirror'])
        return TrainingSettings(
            _take(DataSettings, options),
            _take(LoopSettings, options),
            ScheduleSettings.from_options(options),
            _take(RunSettings, options),
            Policy.from_options(options),
            plain,
        )


def changes_since(
    before: Mapping[str, Any], now: Mapping[str, Any], factor: Callable[[Mapping[str, Any]], float]
) -> str:
    """Return in words which flags changed that matter for a run's curves, and what each means; '' if none did.

    Args:
        before: options in the record of a checkpoint; those of earlier versions lack some.
        now: all options.
        factor: gives the learning rate factor of the next step, with options.
    """
    # The first versions recorded a precision of 'auto', which says nothing.
    changed = [name for name in MEANINGS if before.get(name, now[name]) not in (now[name], 'auto')]
    if 'cosine' not in (before.get('lr_schedule'), now['lr_schedule']):
        # Where rates do not fall towards it, the end bends nothing.
        changed = [name for name in changed if name not in ('epoch_end', 'max_steps')]
    said = []
    for name in changed:
        old, new = ('none' if value is None else value for value in (before[name], now[name]))
        said.append(f'{flag(name)} {old} -> {new}' + (f' ({MEANINGS[name]})' if MEANINGS[name] else ''))
    if any(MEANINGS[name] is None for name in changed):
        said.append(f'factor of the learning rates {factor({**now, **before}):.3g} -> {factor(now):.3g}')
    return ', '.join(said)


def _take(kind: type[T], options: Mapping[str, Any]) -> T:
    return kind(**{field.name: options[field.name] for field in fields(kind)})  # type: ignore[arg-type]
