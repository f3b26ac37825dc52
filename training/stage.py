"""What both stage scripts do between their flags and `fit`: data, model, resume, loaders."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpointing.lock import FolderLock
from checkpointing.manager import Checkpoints
from checkpointing.origin import read_original
from checkpointing.record import CheckpointError, Record
from checkpointing.resume import Resume, decide, refuse_overwriting
from checkpointing.retention import Policy
from common.devices import choose_precision, fast_in_bfloat16, keep_memory
from dataset.augmentation import Composite
from dataset.checks import check_files
from dataset.geometry import AffineRange
from dataset.loaders import Source, TrainingBatches, ValidationBatches, WarpedPairs, default_workers
from dataset.paths import read_data_config
from dataset.sampling import SamplingPlan, StepSampler
from dataset.sources import BackgroundFiles, ImageError, MatteFiles
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
from metrics.matting import SCALINGS, conn, fg_mse, grad, mad, mse, sad
from model.weights import load_weights

from . import distributed as devices
from .distributed import Ranks
from .logs import Logger, set_up_logging
from .loop import Run, fit, pending_work, rehearse
from .state import EMA, Progress, TrainingState, make_scaler

log = logging.getLogger(__name__)

BACKGROUND_RANGE = AffineRange(scale=(1, 2))
VALID_MATTE_RANGE = AffineRange(scale=(0.3, 1), flip=0)
VALID_BACKGROUND_RANGE = AffineRange(scale=(1, 1.2), flip=0)


@dataclass(frozen=True)
class Prediction:
    """What a stage makes of a batch.

    Attributes:
        losses: named terms and 'total'.
        pha, fgr: (B, 1, H, W) and (B, 3, H, W), 0..1.
        more: further pictures for TensorBoard, by tag.
        true: what was predicted from, and what should have been.
    """

    losses: dict[str, Tensor]
    pha: Tensor
    fgr: Tensor
    more: dict[str, Tensor]
    true: Composite

    def scores(self, connectivity: bool = False) -> dict[str, Tensor]:
        """The validation metrics over whole pictures, means over the batch; 'conn' only if asked for: it is slow."""
        metrics = (sad, mse, mad, grad, conn) if connectivity else (sad, mse, mad, grad)
        errors = {metric.__name__: metric(self.pha, self.true.pha) for metric in metrics}
        # A crop without a subject must not make the mean over all NaN: nothing is wrong with its foreground.
        subject = self.true.pha.amax((1, 2, 3)) > 0
        errors['fg_mse'] = torch.where(subject, fg_mse(self.fgr, self.true.fgr, self.true.pha), 0)
        means = {name: error.mean() * SCALINGS['bmv2'][name] for name, error in errors.items()}
        return {'loss': self.losses['total'], **means}

    def pictures(self) -> dict[str, Tensor]:
        """The pictures for TensorBoard, under the published tags."""
        return {
            'train_pred_pha': self.pha,
            'train_pred_fgr': self.fgr,
            'train_pred_com': self.fgr * self.pha,
            'train_true_src': self.true.src,
            'train_true_bgr': self.true.bgr,
            **self.more,
        }


@dataclass(frozen=True)
class Stage:
    """What differs between the stages.

    Attributes:
        name: 'base' or 'refine'.
        model: with its first weights.
        learning_rates: by the model's child of that name.
        matte_range: of the training affine of foreground and alpha.
        multiple: of which a crop's sides are multiples.
        predict: runs the model, as a function of src and bgr, on a batch.
        identity: flags of the stage that a run must not change when it goes on.
        allow_missing: parts of the model that a given weight file may lack.
    """

    name: str
    model: nn.Module
    learning_rates: dict[str, float]
    matte_range: AffineRange
    multiple: int
    predict: Callable[[devices.Forward, Any], Prediction]
    identity: dict[str, Any]
    allow_missing: tuple[str, ...] = ()


def train(args: argparse.Namespace, make_stage: Callable[[argparse.Namespace], Stage], command: list[str]) -> int:
    """Trains a stage and returns the exit code; mistakes of the user's end in one message and code 2.

    Args:
        args: the checked command line.
        make_stage: builds the stage; called with torch's generator seeded.
        command: the script and its arguments, to start it again for each GPU.
    """
    count = devices.gpus_to_use(args.device)
    if count > 1:
        return devices.launch(command, count)
    try:
        run = _prepare(args, make_stage)
        done = run.state.progress.step >= run.end and not pending_work(run)
        if done:
            steps = run.state.progress.step
            log.info('nothing to do: %d steps are done; raise --epoch-end or --max-steps to go on', steps)
        else:
            rehearse(run)
        if run.ranks.first and (run.resumed is not None or not done):
            run.checkpoints.open()
    except (ValueError, OSError) as error:
        return _refuse(error, 2)
    except KeyboardInterrupt:
        return 130
    try:
        return 0 if done else fit(run)
    except (CheckpointError, ImageError, FloatingPointError) as error:
        return _refuse(error, 1)
    finally:
        run.checkpoints.close()
        run.logger.close()
        devices.leave_ranks()
        # They are deaf to the signal by which the interpreter would end them.
        for worker in multiprocessing.active_children():
            worker.kill()


def _refuse(error: Exception, code: int) -> int:
    print(f'error: {error}', file=sys.stderr)
    return code


def _prepare(args: argparse.Namespace, make_stage: Callable[[argparse.Namespace], Stage]) -> Run:
    ranks = devices.join_ranks(args.device)
    keep_memory(ranks.device.type)
    set_up_logging(ranks.first)
    train_sources, valid_sources = sources(args)
    torch.manual_seed(args.seed)
    # One after the other, so that weights are downloaded once.
    stage = ranks.in_turn(lambda: make_stage(args))
    plan = make_plan(args, stage.multiple, train_sources, ranks)
    valid = WarpedPairs(*valid_sources, VALID_MATTE_RANGE, VALID_BACKGROUND_RANGE)
    if min(args.valid_samples, max(map(len, valid_sources))) < ranks.world:
        raise ValueError(f'--valid-samples: {ranks.world} ranks need at least {ranks.world} validation samples')
    folder = args.checkpoint_dir / args.model_name
    identity = {
        'backbone': args.model_backbone,
        'data': args.dataset_name,
        'pictures': [plan.mattes, plan.backgrounds],
        'samples of a step': plan.batch_size,
        'resolution': args.train_resolution,
        'seed': args.seed,
        'validation': [args.valid_samples, *map(len, valid_sources)],
        **stage.identity,
    }
    lock = FolderLock(folder)
    if ranks.first and folder.is_dir():
        lock.take()
    resume = ranks.in_turn(
        lambda: decide(args.model_last_checkpoint, folder, stage.name, identity, args.model_start_weights)
    )
    dtype = _precision(args.precision, resume.record, ranks.device)
    state = _state(args, stage, ranks, dtype)
    _begin(args, stage, state, resume, plan, folder)
    end = min(args.epoch_end * plan.steps_per_epoch, args.max_steps or sys.maxsize)
    log.info(
        '%s stage on %s in %s, %d rank%s; %d + %d training pictures, %d steps of an epoch; steps %d to %d',
        stage.name, ranks.device, str(dtype).removeprefix('torch.'), ranks.world, 's' * (ranks.world > 1),
        plan.mattes, plan.backgrounds, plan.steps_per_epoch, state.progress.step, end,
    )  # fmt: skip
    if ranks.agree(state.progress.step, -state.progress.step) != [state.progress.step, -state.progress.step]:
        raise ValueError('--checkpoint-dir: the ranks see different checkpoints; all machines must share that folder')
    workers = -(-min(args.num_workers, default_workers()) // ranks.world)
    pin = ranks.device.type == 'cuda'
    sampler = StepSampler(plan, state.progress.step, end, args.accumulate, ranks.rank, ranks.world)
    training = WarpedPairs(*train_sources, stage.matte_range, BACKGROUND_RANGE)
    side = args.train_resolution // stage.multiple * stage.multiple
    per_rank = max(1, args.batch_size // ranks.world)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    plain['precision'] = str(dtype).removeprefix('torch.')
    return Run(
        state=state,
        net=devices.distribute(state.module, ranks, args.compile),
        batches=TrainingBatches(training, sampler, workers, pin),
        valid_batches=ValidationBatches(
            valid, args.valid_samples, side, per_rank, workers, pin, ranks.rank, ranks.world
        ),
        step=lambda model, batch: stage.predict(model, batch).losses,
        score=lambda model, batch: stage.predict(model, batch).scores(args.monitor.endswith('_conn')),
        pictures=lambda model, batch: stage.predict(model, batch).pictures(),
        options=args,
        steps_per_epoch=plan.steps_per_epoch,
        end=end,
        ranks=ranks,
        dtype=dtype,
        checkpoints=Checkpoints(folder, stage.name, resume.run, identity, Policy.from_options(vars(args)), plain, lock),
        logger=Logger(args.log_dir / args.model_name, state.progress.step, end, ranks.first),
        resumed=resume.record,
    )


def sources(args: argparse.Namespace) -> tuple[tuple[Source, Source], tuple[Source, Source]]:
    """The (mattes, backgrounds) of training and of validation, checked.

    Raises:
        ValueError: all that is wrong with the data, in one message.
    """
    if args.dataset_name == 'synthetic':
        count = args.synthetic_size
        valid = args.valid_samples
        return (
            (SyntheticMattes(count, seed=0), SyntheticBackgrounds(count, seed=0)),
            (SyntheticMattes(valid, seed=1), SyntheticBackgrounds(valid, seed=1)),
        )
    report = check_files(read_data_config(args.data_config, args.dataset_name))
    for note in report.notes:
        log.info(note)
    report.raise_for_findings()
    return (
        (MatteFiles(report.train_pairs), BackgroundFiles(report.train_bgr)),
        (MatteFiles(report.valid_pairs), BackgroundFiles(report.valid_bgr)),
    )


def make_plan(args: argparse.Namespace, multiple: int, sources: tuple[Source, Source], ranks: Ranks) -> SamplingPlan:
    """The samples of every step.

    Raises:
        ValueError: some batches would be too small for BatchNorm, which needs two samples: on every rank where it is
            not synchronised, as it is over GPUs.
    """
    plan = SamplingPlan(
        *map(len, sources), args.batch_size * args.accumulate, args.train_resolution, multiple, args.seed
    )
    synchronised = ranks.device.type == 'cuda' and ranks.world > 1
    least = 2 * args.accumulate * ranks.world
    if not synchronised and plan.smallest_batch < least:
        raise ValueError(
            f'--batch-size {args.batch_size}: with {plan.samples_per_epoch} samples of an epoch, --accumulate '
            f'{args.accumulate} and {ranks.world} ranks, some batches have {plan.smallest_batch} samples, and at least '
            f'{least} are needed; change the batch size or use fewer ranks'
        )
    return plan


def _precision(name: str, goes_on_from: Record | None, device: torch.device) -> torch.dtype:
    """The dtype of the network; 'auto' keeps that of the run that goes on."""
    if name == 'auto' and goes_on_from is not None:
        name = goes_on_from.options.get('precision', 'auto')
        if name == 'auto' and fast_in_bfloat16(device):
            # Records name what was taken; older ones say 'auto', which was this.
            name = 'bfloat16'
    return choose_precision(name, device)


def _state(args: argparse.Namespace, stage: Stage, ranks: Ranks, dtype: torch.dtype) -> TrainingState:
    # Convolutions are 1.1 to 1.2 times as fast in this layout on a CPU.
    module = stage.model.to(ranks.device, memory_format=torch.channels_last)
    groups = [
        {'name': name, 'params': list(getattr(module, name).parameters()), 'lr': rate * args.learning_rate_scale}
        for name, rate in stage.learning_rates.items()
    ]
    for group in groups:
        group['initial_lr'] = group['lr']
    optimizer = torch.optim.Adam(groups, fused=ranks.device.type in ('cuda', 'cpu'))
    ema = EMA(module, args.ema_decay) if args.ema_decay else None
    return TrainingState(module, optimizer, make_scaler(ranks.device, dtype), ema)


def _begin(
    args: argparse.Namespace, stage: Stage, state: TrainingState, resume: Resume, plan: SamplingPlan, folder: Path
) -> None:
    """Puts the state where the run begins, and says in one line how it begins."""
    if resume.record is not None and resume.content is not None:
        state.load_state_dict(resume.content.state, resume.content.weights, resume.content.ema)
        position = state.progress.step // plan.steps_per_epoch
        # Under auto the same line serves the first start and every restart.
        if args.epoch_start not in (None, position) and args.model_last_checkpoint != 'auto':
            raise ValueError(f'--epoch-start {args.epoch_start}: {resume.record.name}.pth goes on in epoch {position}')
        log.info('continuing this run from %s.pth: step %d, epoch %d, 100.0 %% of the parameters',
                 resume.record.name, state.progress.step, position)  # fmt: skip
        return
    first_epoch = args.epoch_start or 0
    refuse_overwriting(folder, resume.run, first_epoch)
    if resume.weights is not None:
        weights = read_original(resume.weights).file
        log.info('new run with weights from %s', load_weights(state.module, weights, stage.allow_missing))
    else:
        log.info('new run with new weights')
        if stage.allow_missing:
            log.warning('the %s stage learns far worse without a base checkpoint: --model-start-weights', stage.name)
    state.progress = Progress(step=first_epoch * plan.steps_per_epoch)
