"""What the stage scripts are made of: optimizer, the beginning of the run, and what goes on around them."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpointing.lock import FolderLock
from checkpointing.manager import Checkpoints
from checkpointing.mirror.keeping import begin_keeping, try_store
from checkpointing.origin import read_original
from checkpointing.record import Record, refiner_identity
from checkpointing.rehearsal import rehearse
from checkpointing.resume import Resume, decide, refuse_overwriting
from common.cli import report_error, unstarted_code
from common.console import shown
from common.devices import compute_deterministically, keep_memory
from common.files import Disk
from common.network import RefinerSettings
from common.signals import StopRequest
from common.stores import drop_fetched
from dataset.paths import list_sizes
from model.weights import LoadReport, load_weights

from . import distributed
from .agreement import refuse_different, refuse_newer
from .batch_norm import freeze_batch_norm
from .data import Data
from .distributed import Forward, Ranks
from .dry_run import UntouchedDisk
from .ending import tell_what_next
from .failures import explain, known_cause
from .logs import Logger, mark_of, set_up_logging
from .loop import TrainingStopped
from .recipes import FROZEN, Recipe, settle
from .run import Run
from .schedule import Schedule
from .settings import ScheduleSettings, TrainingSettings, changes_since
from .state import EMA, Progress, TrainingState, make_scaler, precision_of
from .validation import Prediction

log = logging.getLogger(__name__)


def run_script(
    args: argparse.Namespace,
    train: Callable[[argparse.Namespace, Ranks, StopRequest], int],
    signal: StopRequest,
    command: Sequence[str],
) -> int:
    """Run a stage script on all visible GPUs and return the exit code.

    What a user can mend ends in one message: with code 2 before the first step, else with 1.

    Args:
        args: the checked command line.
        train: trains the stage; called with torch's generator seeded.
        signal: tells of a signal that came.
        command: the script and its arguments, to start it once more for each GPU.
    """
    count = distributed.gpus_to_use(args.device)
    if count > 1:
        return distributed.launch(command, count)
    keep_memory()  # before there are threads
    if args.deterministic:
        compute_deterministically()
    ranks = Ranks(torch.device('cpu'))
    try:
        ranks = distributed.join_ranks(args.device)
        set_up_logging(ranks.first)
        torch.manual_seed(args.seed)
        code = train(args, ranks, signal)
        if ranks.first:
            tell_what_next(args, [shown(word) for word in command], code)
        return code
    except TrainingStopped as error:
        if text := str(error):
            print(f'error: {text}', file=sys.stderr)
        return 1
    except Exception as error:
        of_peer = distributed.is_of_peer(error)
        told = ranks.told_by_first(unstarted_code(error), seconds=0 if of_peer else 10)
        if told or (of_peer and not ranks.first):
            return told or 2  # the other rank has said what was wrong
        if (cause := f'{distributed.PEER} ({explain(error)})' if of_peer else known_cause(error)) is None:
            return report_error(error, 2)
        print(f'error: {cause}', file=sys.stderr)
        return 2
    finally:
        distributed.leave_ranks()
        # Loader workers ignore SIGTERM, so the interpreter's clean-up would wait for them for ever.
        for worker in multiprocessing.active_children():
            worker.kill()


def make_optimizer(network: nn.Module, rates: Mapping[str, float]) -> torch.optim.Optimizer:
    """Make the optimizer, Adam, of a network on its device; `rates` are those of its children that are trained."""
    groups: list[dict[str, Any]] = [
        {'name': name, 'params': list(getattr(network, name).parameters()), 'lr': rate, 'initial_lr': rate}
        for name, rate in rates.items()
    ]
    device = groups[0]['params'][0].device.type
    return torch.optim.Adam(groups, fused=device in ('cuda', 'cpu'))


def begin(
    stage: str,
    settings: TrainingSettings,
    ranks: Ranks,
    data: Data,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[Recipe, Forward, Any], Prediction],
    refiner: RefinerSettings | None = None,
    pretrain: Callable[[], LoadReport] | None = None,
) -> Run:
    """Begin a run, or put it where it was when it stopped; says in one line which.

    A dry run decides the same, and neither locks the run's folder nor writes to it.

    Args:
        stage: 'base' or 'refine'.
        settings: the flags.
        ranks: that train.
        data: what is trained on.
        network: on its device.
        optimizer: of the network; the recipe and flags scale its learning rates.
        step: makes a prediction, with the losses of a recipe, for a batch.
        refiner: settings of the refine stage.
        pretrain: gives the network the pretrained weights of a run that neither goes on nor takes weights.

    Raises:
        CheckpointError: the checkpoint is not one to go on from, or the folder is in use, or no use.
        FileNotFoundError: no such file.
        ValueError: the weights do not fit the network, or lack BatchNorm statistics that are to stay.
    """
    folder, logs = (parent / settings.run.model_name for parent in (settings.run.checkpoint_dir, settings.run.log_dir))
    dry = settings.run.dry_run
    disk = UntouchedDisk() if dry else Disk()
    identity = {'backbone': settings.run.model_backbone, **data.identity, **refiner_identity(refiner)}
    lists = {kind: list_sizes(*files) for kind, files in data.files.items()} if ranks.first_of_machine else {}
    identity |= {kind: hashlib.sha256(text).hexdigest() for kind, text in lists.items()}
    refuse_different(identity, settings.options, ranks)
    lock = FolderLock(folder, disk=disk)
    with contextlib.ExitStack() as refused:
        refused.callback(lock.release)
        if ranks.first and not dry:
            # Before anything is decided: of two first starts at once, the second sees what the first has made.
            lock.take()
            rehearse(disk, folder)
        last, url, mirror = settings.run.model_last_checkpoint, settings.run.checkpoint_mirror, None
        mirrored: list[Record] = []
        if ranks.first and url is not None and dry:
            mirrored = try_store(url, folder.name)
        elif ranks.first and url is not None:
            pulled = stage if last in ('auto', 'must') else None
            mirror = begin_keeping(url, folder, logs, settings.run.mirror_grace, disk, pulled)
            refused.callback(mirror.close)
            mirrored = mirror.mirror.contents.records()
        # The first rank decides, and the others get from it what it has read: their disks need not hold anything.
        start, accept = settings.run.model_start_weights, settings.run.accept_changed_data
        resume = ranks.from_first(lambda: decide(last, folder, stage, identity, start, lists, accept, disk, mirrored))
        if last in ('auto', 'must') and not (dry and url):  # a dry run takes nothing from the mirror
            refuse_newer(folder, stage, ranks, resume, url)
        before: dict[str, Any] = {}
        if resume.record is not None:  # versions without the flag did as published
            older = {'crop_multiple': data.plan.unit, 'freeze_batch_norm': 'none'}
            before = {**older, **resume.record.options, 'recipe': resume.record.recipe}
        recipe, settings = settle(settings, stage, before)
        if mirror is not None:
            mirror.mirror.adopt(resume.run, stage, settings.policy)
        for group in optimizer.param_groups:
            group['initial_lr'] = group['lr'] = group['lr'] * settings.run.learning_rate_scale
        frozen = settings.options['freeze_batch_norm']
        if resume.record is None:
            weights, brought = ranks.from_first(lambda: _first_weights(settings, network, resume, folder, pretrain))
            network.load_state_dict(weights)
            frozen = frozen or brought
        drop_fetched()
        freeze_batch_norm(network, frozen)
        dtype = precision_of(settings.run.precision, before, ranks.device)
        ema = EMA(network, settings.run.ema_decay) if settings.run.ema_decay else None
        state = TrainingState(network, optimizer, make_scaler(ranks.device, dtype), ema)
        schedule = Schedule(settings.schedule, data.plan.steps_per_epoch)
        _put_in_place(settings, state, resume, schedule)
        position = state.progress.step
        log.info(
            '%s stage by the recipe %s%s on %s in %s, %d rank%s; '
            '%d + %d training pictures, %d steps of an epoch; steps %d to %d',
            stage, settings.options['recipe'], FROZEN[frozen],
            ranks.device, str(dtype).removeprefix('torch.'), ranks.world, 's' * (ranks.world > 1),
            data.plan.mattes, data.plan.backgrounds, schedule.steps_per_epoch, position, schedule.end,
        )  # fmt: skip
        mark = mark_of(stage, folder, settings.run.log_dir)
        if before and settings.data.crop_multiple is None:
            data = replace(data, plan=replace(data.plan, multiple=before['crop_multiple']))
        options = {**settings.options, 'precision': str(dtype).removeprefix('torch.')}
        options |= {'crop_multiple': data.plan.multiple, 'freeze_batch_norm': frozen}
        if resume.record is not None:

            def factor(options: Mapping[str, Any]) -> float:
                return replace(schedule, settings=ScheduleSettings.from_options(options)).learning_rate_factor(position)

            if changes := changes_since(before, options, factor):
                log.info('changed since %s, from step %d on: %s', resume.record.name, position, changes)
        run = Run(
            state=state,
            net=distributed.distribute(network, ranks, settings.run.compile),
            batches=data.training_batches(ranks, position, schedule.end),
            valid_batches=data.validation_batches(ranks),
            step=partial(step, recipe),
            settings=settings.loop,
            schedule=schedule,
            ranks=ranks,
            dtype=dtype,
            checkpoints=Checkpoints(folder, stage, resume.run, identity, settings.policy, options, lock, lists, disk),
            logger=Logger(
                logs, position, schedule.end, ranks.first and not dry, mark,
                resume.record is not None, resume.run, schedule.steps_per_epoch, disk,
            ),
            resumed=resume.record,
            mirror=mirror,
        )  # fmt: skip
        refused.pop_all()
        return run


def _first_weights(
    settings: TrainingSettings, network: nn.Module, resume: Resume, folder: Path,
    pretrain: Callable[[], LoadReport] | None,
) -> tuple[dict[str, torch.Tensor], str]:  # fmt: skip
    """Give a new run its weights, and say in one line which.

    Returns:
        The weights, on the CPU, and whose BatchNorm statistics they brought, one of FROZEN.
    """
    brought = 'none'
    refuse_overwriting(folder, resume.run, settings.run.epoch_start or 0)
    if resume.weights is not None:
        weights = read_original(resume.weights).file
        # Each stage begins with the weights of either: one has no refiner to give, the other none to fill.
        report = load_weights(network, weights, ['refiner.'], ['refiner.'])
        brought = 'coarse' if report.missing else 'all'
        log.info('new run with weights from %s', report)
    elif pretrain is not None:
        log.info('new run with pretrained weights from %s', pretrain())
    else:
        log.info('new run with new weights')
    asked = settings.options['freeze_batch_norm'] or 'none'
    if [*FROZEN].index(asked) > [*FROZEN].index(brought):
        held = 'those of the coarse network alone' if brought == 'coarse' else 'none'
        raise ValueError(f'--freeze-batch-norm {asked}: of BatchNorm statistics the first weights bring {held}')
    return {name: tensor.cpu() for name, tensor in network.state_dict().items()}, brought


def _put_in_place(settings: TrainingSettings, state: TrainingState, resume: Resume, schedule: Schedule) -> None:
    """Put the state where the run begins; say in one line where a run goes on."""
    asked = settings.run.epoch_start
    if resume.record is None or (content := resume.content) is None:
        state.progress = Progress(step=(asked or 0) * schedule.steps_per_epoch)
        return
    state.load_state_dict(content.state, content.weights, None if settings.run.ema_decay == 0 else content.ema)
    epoch = schedule.epoch(state.progress.step)
    # Under auto the same line serves the first start and every restart.
    if asked not in (None, epoch) and settings.run.model_last_checkpoint not in ('auto', 'must'):
        raise ValueError(f'--epoch-start {asked}: {resume.record.name}.pth goes on in epoch {epoch}')
    log.info('continuing this run from %s.pth: step %d, epoch %d, 100.0 %% of the parameters',
             resume.record.name, state.progress.step, epoch)  # fmt: skip
