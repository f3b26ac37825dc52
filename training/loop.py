"""`fit`, the only training loop: both stages, one process or many, from any step on."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from checkpointing.content import Content
from checkpointing.links import template_problem
from checkpointing.manager import FAILURES_IN_A_ROW, Point
from checkpointing.record import CheckpointError
from common.signals import StopRequest, signal_name
from common.stores import StoreError
from dataset.loaders import copied_ahead
from dataset.readers import ImageError

from . import distributed
from .distributed import autocast_forward, requeue
from .ending import summary
from .failures import explain, write_traceback
from .meters import BadSteps, Meter, StepResult
from .progress import validation_line
from .run import Run
from .schedule import dropout_seed
from .sheets import Sheet
from .state import is_dynamic
from .validation import Look, Prediction, validate

log = logging.getLogger(__name__)

# On a GPU the host looks at losses, signals and bad steps only so often, because each look waits for the device.
LOOK_INTERVAL = 10
# torchrun kills its ranks 30 seconds after a signal; the launcher of a plain `python train_*.py` waits for them.
TORCHRUN_SECONDS = 20.0


class TrainingStopped(Exception):
    """An error ended a training once it had begun; says what happened, what to change and what is saved."""


def fit(run: Run, signal: StopRequest) -> int:
    """Train until the run's end or a signal; return the exit code: 0, or 128 + the signal's number.

    Args:
        run: what is trained.
        signal: tells of a signal that came.

    Raises:
        ValueError, OSError: before the first step: the data, the metric or the folder will not do.
        TrainingStopped: an error after that. The last whole step is saved.
    """
    try:
        if run.state.progress.step >= run.schedule.end and not pending_work(run):
            steps = run.state.progress.step
            more = '; raise --epoch-end or --max-steps to go on' if run.settings.part_of is None else ''
            log.info('nothing to do: %d steps are done%s', steps, more)
            if run.ranks.first and run.resumed is not None:
                _open(run)
            _end_together(run, signal)
            return 0
        run.logger.display.under_way('rehearsal of the validation')
        rehearse(run)
        if run.ranks.first:
            _open(run)
        signal.awaited = True
        bad_steps, meter, begin = BadSteps(run.state), Meter(run.ranks.device), run.state.progress.step
        try:
            code = _train(run, bad_steps, meter, signal)
        except Exception as error:
            signal.speaks = False  # a launcher signals the others when one rank ends
            raise TrainingStopped(_rescue(run, bad_steps, meter, begin, error)) from None
        if not code:
            if run.ranks.first:
                log.info(summary(run.checkpoints, run.logger, begin))
            _end_together(run, signal)
        return code
    finally:
        signal.speaks = False
        with contextlib.ExitStack() as closing:
            closing.callback(run.logger.close)
            closing.callback(run.checkpoints.close)
            _end_mirror(run, lambda: bool(signal))


def _open(run: Run) -> None:
    """Put the run's folder in order, and begin to copy it to its mirror."""
    run.checkpoints.open()
    if run.mirror is not None:
        run.mirror.start(lambda: run.logger.folder)


def _end_mirror(run: Run, urgent: Callable[[], bool]) -> None:
    """Let the mirror get what is on the disk, and say whether it has; the second time nothing is done."""
    if run.mirror is not None:
        most = TORCHRUN_SECONDS if 'TORCHELASTIC_RUN_ID' in os.environ else math.inf
        with contextlib.ExitStack() as ending:
            ending.callback(run.mirror.end, urgent, most)
            run.checkpoints.settle()
            run.logger.flush()


def _end_together(run: Run, signal: StopRequest) -> None:
    """Wait for the mirror on all ranks: a torchrun whose ranks have ended leaves, with what it keeps for the others."""
    signal.awaited, signal.speaks = True, False  # no step is left to save
    _end_mirror(run, lambda: bool(signal))
    with contextlib.suppress(RuntimeError):  # all is saved: a rank that has gone is not missed
        run.ranks.wait_for_first()


def _train(run: Run, bad_steps: BadSteps, meter: Meter, signal: StopRequest) -> int:
    progress, settings, schedule = run.state.progress, run.settings, run.schedule
    look_interval = 1 if run.ranks.device.type == 'cpu' else LOOK_INTERVAL
    batches = copied_ahead(run.batches, run.ranks.device)
    run.state.module.train()
    if pending_work(run) and not _make_up(run, signal):
        return _stop(run, progress.step - 1, signal.number)
    run.logger.display.under_way('first step')
    while progress.step < schedule.end:
        step = progress.step
        result = meter.unreported = _train_step(run, batches, bad_steps, meter)
        meter.show(run.logger.display, progress.step, result)

        log_now = progress.step % settings.log_train_loss_interval == 0
        draw_now = progress.step % settings.log_train_images_interval == 0
        due = any(schedule.due(progress.step))
        if not (progress.step % look_interval == 0 or log_now or draw_now or due):
            continue
        if run.ranks.orphaned and not signal:
            log.warning('what launched the ranks has ended')
            signal.ask()
        stop, late, *counts = run.ranks.agree(signal.number, _late(run), *bad_steps.counts())
        bad_steps.look(counts, result.names)
        if log_now:
            meter.report(run.logger, run.state, result)
            if run.mirror is not None:
                run.logger.scalars(step, {'mirror_behind_seconds': run.mirror.behind()})
        if draw_now and run.ranks.first:
            run.logger.pictures(step, _predict(run, result.batch).pictures())
        if stop:
            return _stop(run, step, int(stop))
        if late or due:
            if not _finish_step(run, step, signal, bool(late)):
                return _stop(run, step, signal.number)
            meter.restart()
    return 0


def pending_work(run: Run) -> bool:
    """Return whether the last run ended before a validation or a checkpoint that was due after its last step."""
    if run.resumed is None:
        return False
    # Only the first rank's disk has to hold the records.
    unnamed = run.ranks.first and not all(map(run.checkpoints.record, run.schedule.names_due(run.resumed.step)))
    return bool(run.ranks.agree(_unvalidated(run) or unnamed)[0])


def _unvalidated(run: Run) -> bool:
    """Return whether a signal prevented a validation that was due."""
    assert run.resumed is not None
    return run.schedule.due(run.resumed.step + 1).validation and not run.resumed.metrics


def rehearse(run: Run) -> None:
    """Validate two batches, so that mistakes show in seconds and not at the first validation.

    Raises:
        ValueError: --monitor or --checkpoint-best-name names no metric.
    """
    names = _validate_module(run, run.state.module, itertools.islice(run.valid_batches, 2), StopRequest())
    assert names is not None
    known = [f'valid_{name}' for name in names]
    if run.state.ema is not None:
        known += [f'valid_ema_{name}' for name in names]
    if run.settings.monitor not in known:
        raise ValueError(f'--monitor {run.settings.monitor}: not one of {", ".join(known)}')
    template = run.settings.checkpoint_best_name
    if template is not None and (problem := template_problem(template, known)):
        raise ValueError(f'--checkpoint-best-name {template}: {problem}')


def _train_step(run: Run, batches: Iterator[Any], bad_steps: BadSteps, meter: Meter) -> StepResult:
    """Run forward and backward over the accumulated parts, then the optimizer; never waits for the device."""
    state, ranks, step = run.state, run.ranks, run.state.progress.step
    factor = run.schedule.learning_rate_factor(step)
    for group in state.optimizer.param_groups:
        group['lr'] = group['initial_lr'] * factor
    model = autocast_forward(run.net, ranks.device, run.dtype)
    losses: dict[str, Tensor] = {}
    names: list[str] = []
    for part in range(run.settings.accumulate):
        with meter.waiting():
            batch = next(batches)
        names += batch.names
        # Dropout is the one draw left to torch's global generator: seeded here, it has no state to save either.
        torch.manual_seed(dropout_seed(run.settings.seed, step, part * ranks.world + ranks.rank))
        # Gradients are averaged over ranks once, with the last part; shares make the mean one over samples.
        last = part + 1 == run.settings.accumulate
        with nullcontext() if last or ranks.world == 1 else run.net.no_sync():  # type: ignore[operator]
            terms = run.step(model, batch).losses
            total = terms['total']
            # A loss of inf can have finite gradients; times NaN they are not, and the step is left out.
            total = total * (1 + 0 * total.detach())
            state.scaler.scale(total * (batch.share * ranks.world)).backward()
        for name, term in terms.items():
            losses[name] = losses.get(name, 0) + term.detach() * (batch.share * ranks.world)
    state.scaler.unscale_(state.optimizer)
    parameters = list(state.module.parameters())
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if run.settings.clip_grad:
        clip_grads_with_norm_(parameters, run.settings.clip_grad, norm)
    with state.changing():
        bad_steps.note(losses['total'], norm)
        state.scaler.step(state.optimizer)
        state.scaler.update(None if is_dynamic(state.scaler) else 1.0)
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.update(state.module)
    meter.count(len(names) * ranks.world)
    return StepResult(losses, norm, names, batch)


def _late(run: Run) -> bool:
    """Return whether the last checkpoint is older than --checkpoint-minutes."""
    minutes = run.settings.checkpoint_minutes
    return run.ranks.first and minutes is not None and time.monotonic() - run.checkpoints.saved_at >= 60 * minutes


def _finish_step(run: Run, step: int, signal: StopRequest, late: bool = False) -> bool:
    """Validate and save what is due after a step; return False if a signal prevented it."""
    last = step + 1 == run.schedule.end
    metrics = _validate(run, step, signal) if run.schedule.due(step + 1).validation else {}
    if metrics is None:
        return False
    run.logger.validation(step, metrics, run.checkpoints)
    names = run.schedule.names_due(step, late)
    if not names and _is_best(run, metrics):
        names = {run.schedule.interval_name(step): 'best'}
    if names and not _save(run, names, step, metrics, wait=last) and last:
        raise CheckpointError('the last checkpoint of the run could not be saved')
    return True


def _make_up(run: Run, signal: StopRequest) -> bool:
    """Do what the last run left pending; return False if a signal prevented it."""
    assert run.resumed is not None
    step, metrics = run.resumed.step, run.resumed.metrics
    unvalidated = _unvalidated(run)
    if unvalidated:
        validated = _validate(run, step, signal)
        if validated is None:
            return False
        metrics = validated
    names = run.schedule.names_due(step) or {run.resumed.name: run.resumed.reason}
    if not _save(run, names, step, metrics, wait=True) and step + 1 == run.schedule.end:
        raise CheckpointError('the last checkpoint of the run could not be saved')
    if unvalidated:
        # Logged only now: had the run been killed before, it would validate and log once more.
        run.logger.validation(step, metrics, run.checkpoints)
        run.logger.flush()
    return True


def _stop(run: Run, step: int, number: int) -> int:
    """Save after a signal, without the validation that may be due: the resumed run makes up for it."""
    reason = signal_name(number)
    saved = _save(run, {run.schedule.interval_name(step): reason}, step, {}, wait=True)
    log.info('stopped by %s after step %d; %s', reason, step, run.settings.way_on if saved else 'NOT saved')
    run.ranks.in_turn(lambda: _end_mirror(run, lambda: True))
    if saved and run.settings.requeue and reason == 'SIGUSR1' and run.ranks.first:
        requeue()
    run.ranks.agree(number)  # once one rank has ended, launchers end the others
    return 128 + number


def _rescue(run: Run, bad_steps: BadSteps, meter: Meter, begin: int, error: Exception) -> str:
    """Save the last whole step after an error, on the first rank; return what is to be said of both.

    `begin` is the step that this process began with.
    """
    peer = distributed.is_of_peer(error)
    if peer and not run.ranks.first:
        return ''
    text = f'{distributed.PEER} ({explain(error)})' if peer else explain(error)
    if not isinstance(error, (CheckpointError, ImageError, StoreError, FloatingPointError)):
        text += write_traceback(run.logger.folder, error)
    if not run.ranks.first or isinstance(error, CheckpointError):
        return text  # what cannot be saved was tried three times, or just now
    # What the step's frames hold may be all of a GPU's memory.
    traceback.clear_frames(error.__traceback__)
    step = run.state.progress.step - 1
    if step < begin:
        return f'{text}; no step was done' + (f'; {run.settings.way_on}' if run.resumed else '')
    try:
        problem = _save_last(run, bad_steps, meter, step)
    except Exception as second:
        problem = explain(second)
    if problem:
        return f'{text}; step {step} is NOT saved: {problem}; {run.settings.way_on} from the newest checkpoint'
    return f'{text}; step {step} is saved: {run.settings.way_on}'


def _save_last(run: Run, bad_steps: BadSteps, meter: Meter, step: int) -> str | None:
    """Save the last whole step by this rank alone; return why not."""
    if not run.state.whole:
        return 'the error came while the weights were changed'
    run.state.optimizer.zero_grad(set_to_none=True)
    if run.ranks.device.type == 'cuda':
        torch.cuda.empty_cache()
    bad_steps.forget()
    bad_steps.undo()
    with contextlib.suppress(FloatingPointError):
        bad_steps.look(bad_steps.counts(), [])
    if bad_steps.hopeless:
        return 'its loss scale has fallen to nothing'
    if not get_total_norm(run.state.module.parameters()).isfinite():
        return 'its weights are not finite'
    if meter.unreported is not None and (step + 1) % run.settings.log_train_loss_interval == 0:
        meter.report(run.logger, run.state, meter.unreported)
    _hand_over(run, {run.schedule.interval_name(step): 'error'}, step, {})
    return None if run.checkpoints.settle() else 'the disk would not take it'


def _validate(run: Run, step: int, signal: StopRequest) -> dict[str, float] | None:
    """Score the weights, and their average if there is one; return None if a signal prevented it."""
    run.ranks.share_buffers(run.state.module)
    metrics = {}
    modules = {'valid_': run.state.module}
    if run.state.ema is not None:
        modules['valid_ema_'] = run.state.ema.module
    monitor, logger = run.settings.monitor, run.logger
    logger.sheet = Sheet(len(run.valid_batches)) if logger.first else None
    for prefix, module in modules.items():
        average = prefix == 'valid_ema_'
        batches = logger.display.validating(run.valid_batches, 'validation' + ' of the average' * average)
        # The sheet shows the weights that the monitored metric is of.
        look = logger.look if average == monitor.startswith('valid_ema_') else None
        scores = _validate_module(run, module, batches, signal, look)
        if scores is None:
            return None
        metrics.update({prefix + name: score for name, score in scores.items()})
    if run.ranks.first:
        epoch, standing = run.schedule.epoch(step), run.checkpoints.standing(metrics)
        log.info(validation_line(step, epoch, metrics, monitor, *standing))
    return metrics


def _is_best(run: Run, metrics: dict[str, float]) -> bool:
    """Return whether a validation without a checkpoint was one of the best, so that it deserves one."""
    best = bool(metrics) and run.ranks.first and run.checkpoints.would_be_kept(metrics)
    return bool(run.ranks.agree(best)[0])


def _save(run: Run, names: dict[str, str], step: int, metrics: dict[str, float], wait: bool) -> bool:
    """Save on the first rank and return on all whether it worked: this save if waited for, else the last one."""
    if run.ranks.first:
        _hand_over(run, names, step, metrics)
        if wait:
            run.checkpoints.settle()
    failures, taken_over = run.ranks.agree(run.checkpoints.failures, run.mirror is not None and run.mirror.lost)
    if taken_over:
        raise CheckpointError('another training has taken this run over')
    if failures >= FAILURES_IN_A_ROW:
        raise CheckpointError(f'{failures:.0f} checkpoints in a row could not be saved to {run.checkpoints.folder}')
    return not failures


def _hand_over(run: Run, names: dict[str, str], step: int, metrics: dict[str, float]) -> None:
    """Give all that the run remembers to its checkpoints."""
    # Once a step is saved, what it logged is not logged again.
    run.logger.flush()
    content = Content(run.state.weights(), run.state.state_dict(), run.state.ema_weights())
    run.checkpoints.save(names, Point(step, run.schedule.epoch(step), metrics), content)


def _validate_module(
    run: Run, module: nn.Module, batches: Iterable[Any], signal: StopRequest, look: Look | None = None
) -> dict[str, float] | None:
    return validate(module, batches, run.step, run.ranks, run.dtype, run.settings.monitor, signal.__bool__, look)


def _predict(run: Run, batch: Any) -> Prediction:
    """Predict a batch without gradients and without touching BatchNorm statistics."""
    run.state.module.eval()
    with torch.no_grad():
        result = run.step(autocast_forward(run.state.module, run.ranks.device, run.dtype), batch)
    run.state.module.train()
    return result
