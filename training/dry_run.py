"""A dry run: what a run does, done once without a trace, and what the whole run will take."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from checkpointing.record import CheckpointError, Listing, Record
from checkpointing.retention import Policy, decide_kept
from common.devices import peak_mib
from common.files import Disk
from common.signals import STOPS, StopSignals, signal_name, tell
from dataset.loaders import TrainingBatches, ValidationBatches, copied_ahead

from .distributed import Ranks
from .loop import Run, _save, _train_step, rehearse
from .meters import BadSteps, Meter
from .schedule import Schedule

log = logging.getLogger(__name__)

# Crops differ from step to step; so many of the next ones tell the largest and the mean.
CROPS = 1000


class UntouchedDisk(Disk):
    """A disk on which a beginning run sets nothing aside."""

    def replace(self, source: Path, target: Path) -> None:
        """Leave both names as they are."""

    def fsync_folder(self, folder: Path) -> None:
        """Do nothing, since nothing has changed."""


class _Planned(Listing):
    """The files of checkpoints to come, all of them there."""

    def look(self) -> None:
        self.names = set()

    def has(self, *_: object) -> bool:
        return True


@dataclass(frozen=True)
class Trial:
    """What a trial found; times in seconds, the longest of all ranks.

    Attributes:
        crop: (height, width) of the largest crop, with which the step was made.
        share: mean area of the crops, as a share of the largest one's.
        loss: of the second step.
        sizes: of a checkpoint's files in bytes, by kind.
        reading, computing: times of the step; pictures are read beside it, by as many processes as the run has.
        validating: time of a whole validation.
        saving: time of a save.
        memory: peak, in bytes.
    """

    crop: tuple[int, int]
    share: float
    loss: float
    sizes: dict[str, int]
    reading: float
    computing: float
    validating: float
    saving: float
    memory: float


def dry_run(run: Run, directory: Path) -> int:
    """Try a step, a validation and a checkpoint, say what the whole run will take, and return the exit code.

    Args:
        run: as it is about to begin; nothing is written but a checkpoint in a temporary folder, which is removed.
        directory: parent of the run's folder, for the space on its disk.

    Raises:
        ValueError, OSError: what would end the run itself before its first step.
        CheckpointError: the checkpoint could not be saved.
    """
    if (start := run.state.progress.step) >= run.schedule.end:
        log.info('dry run: nothing to do, %d steps are done', start)
        return 0
    with StopSignals(numbers=STOPS) as stop:
        try:
            trial = _try(run)
        except KeyboardInterrupt:
            if run.ranks.first:
                tell(f'stopped by {signal_name(stop.number)}; nothing of the dry run stays')
            return stop.exit_code
    if run.ranks.first:
        _tell(run, start, trial, directory)
    return 0


def _try(run: Run) -> Trial:
    """Make the step of the largest crop twice, since the first one also sets up the device; validate and save."""
    ranks, schedule = run.ranks, run.schedule
    batches, validation = cast(TrainingBatches, run.batches), cast(ValidationBatches, run.valid_batches)
    rehearse(run)
    start = run.state.progress.step
    areas = {step: math.prod(batches.plan.crop(step)) for step in range(start, min(schedule.end, start + CROPS))}
    largest = max(areas, key=areas.__getitem__)
    parts, reading = _timed(ranks, lambda: batches.read_step(largest))
    run.state.progress.step = largest
    run.state.module.train()
    bad_steps, meter = BadSteps(run.state), Meter()
    for _ in range(2):
        result, computing = _timed(ranks, lambda: _train_step(run, copied_ahead(parts, ranks.device), bad_steps, meter))
    _, two_batches = _timed(ranks, lambda: rehearse(run))
    validating = two_batches * max(1, len(validation.loader) / 2) * (1 if run.state.ema is None else 2)
    with tempfile.TemporaryDirectory(prefix='dry-run-') as folder:
        checkpoints = replace(run.checkpoints, folder=Path(folder) / 'run', disk=Disk())
        try:
            trial = replace(run, checkpoints=checkpoints)
            saved, saving = _timed(ranks, lambda: _save(trial, {'epoch-0': 'dry run'}, largest, {}, wait=True))
            sizes = {kind: file.size for record in checkpoints.records() for kind, file in record.files.items()}
        finally:
            checkpoints.close()
    if not saved:
        raise CheckpointError('dry run: the checkpoint could not be saved')
    share = sum(areas.values()) / len(areas) / areas[largest]
    times = ranks.agree(reading, computing, validating, saving, (peak_mib(ranks.device) or 0) * 2**20)
    return Trial(batches.plan.crop(largest), share, result.losses['total'].item(), sizes, *times)


def _tell(run: Run, start: int, trial: Trial, directory: Path) -> None:
    """Say what the trial found, and what follows from it for the whole run."""
    schedule, device = run.schedule, run.ranks.device
    workers = cast(TrainingBatches, run.batches).loader.num_workers
    reading = trial.reading / max(1, workers)
    step_time = trial.share * (max(reading, trial.computing) if workers else reading + trial.computing)
    steps = range(start, schedule.end)
    validations = sum(schedule.due(step + 1).validation for step in steps)
    saved = [step for step in steps if schedule.names_due(step)]
    seconds = len(steps) * step_time + validations * trial.validating + len(saved) * trial.saving
    kept = kept_files(run.checkpoints.policy, schedule, saved)
    needed = sum(kept[kind] * size for kind, size in trial.sizes.items())
    free = Disk().free(next(path for path in (directory, *directory.absolute().parents) if path.is_dir()))
    where = f', beside {workers} process{"es" * (workers > 1)} that read pictures' if workers else ''
    if device.type == 'cuda':
        where = f' of {_gigabytes(torch.cuda.get_device_properties(device).total_memory)}'
    room = f'{_gigabytes(free)} are free' + ', which is TOO LITTLE' * (free < needed)
    height, width = trial.crop
    lines = [
        f'a step       {step_time:.3g} s on average; at the largest crop, {width} x {height}, {trial.computing:.3g} s '
        f'to compute and {reading:.3g} s to read; loss {trial.loss:.4g}',
        f'memory       {_gigabytes(trial.memory)}{where}, at that crop',
        f'checkpoints  {len(saved)}, of which the weights of {kept["weights"]} and the training state of '
        f'{kept["state"]} stay: {_gigabytes(needed)}; {room}',
        f'whole run    {len(steps)} steps with validation after {validations} of them: about {_duration(seconds)}',
    ]
    log.info(
        '\n  '.join(['dry run: a step, a validation and a checkpoint are done, and nothing of them stays', *lines])
    )


def kept_files(policy: Policy, schedule: Schedule, steps: list[int]) -> dict[str, int]:
    """Return how many weights, averages and training states are there in the end, by kind: 'weights', 'ema', 'state'.

    Args:
        policy: which checkpoints are kept.
        schedule: of the run.
        steps: after which a checkpoint is saved.
    """
    # At worst the best are none of those that are kept anyway: the first ones.
    sign = 1 if policy.mode == 'min' else -1
    records = [
        Record('', '', f'{step}', step, 0, {policy.monitor: sign * step} if schedule.due(step + 1).validation else {},
               '', {}, {})
        for step in steps
    ]  # fmt: skip
    kept = decide_kept(records, replace(policy, threshold=None), _Planned(Path())).values()
    weights = sum(bool(each.reasons) for each in kept)
    return {'weights': weights, 'ema': weights, 'state': sum(each.state for each in kept)}


def _timed(ranks: Ranks, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what some work returns, and the seconds until the device has done it."""
    wait = torch.cuda.synchronize if ranks.device.type == 'cuda' else (lambda: None)
    wait()
    begin = time.perf_counter()
    result = work()
    wait()
    return result, time.perf_counter() - begin


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min' if minutes else f'{seconds:.0f} s'


def _gigabytes(size: float) -> str:
    return f'{size / 1e9:.2f} GB'
