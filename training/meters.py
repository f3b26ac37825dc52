"""What the loop measures: time and rates, and steps without a finite loss."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .devices import Ranks
from .logs import Logger
from .state import TrainingState, is_dynamic

BAD_STEPS_IN_A_ROW = 10


@dataclass
class StepResult:
    """One optimizer step: its mean loss terms, gradient norm, sample names and last batch."""

    losses: dict[str, Tensor]
    norm: Tensor
    names: list[str]
    batch: Any


class Meter:
    """Samples and seconds since the last report, and how many of the seconds were spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins anew, so that validation and saving do not count."""
        self.samples, self.waited, self.since = 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block's time as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def report(self, logger: Logger, state: TrainingState, result: StepResult) -> None:
        """Logs the last step's loss terms, learning rates and rates; waits for the device."""
        step = state.progress.step - 1
        losses = {name: term.item() for name, term in result.losses.items()}
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        rate, waiting = self.samples / elapsed, self.waited / elapsed
        total = losses.pop('total')
        logger.scalars(step, {'loss': total} | {f'loss_terms/{name}': value for name, value in losses.items()})
        groups = state.optimizer.param_groups
        logger.scalars(step, {f'learning_rate/{group["name"]}': group['lr'] for group in groups})
        logger.scalars(
            step,
            {
                'gradient_norm': result.norm.item(),
                'samples_per_second': rate,
                'waiting_for_data': waiting,
                'skipped_steps': state.progress.skipped,
            },
        )
        logger.progress(step + 1, total, rate, waiting)
        self.restart()


class BadSteps:
    """Counts steps without a finite loss or gradient on the device, and undoes their trace in BatchNorm statistics.

    The optimizer leaves such a step out by itself; running means do not. They are put back to the last look's, which
    costs a copy a look instead of one a step.
    """

    def __init__(self, state: TrainingState, ranks: Ranks):
        self.state, self.ranks = state, ranks
        self.total = torch.zeros((), device=ranks.device)
        self.in_a_row = torch.full((), float(state.progress.skipped_in_a_row), device=ranks.device)
        self.good = self._buffers()

    def note(self, result: StepResult) -> None:
        """Counts a step without waiting for it. In float16 an infinite gradient is the loss scaler's business."""
        bad = ~result.losses['total'].isfinite()
        if not is_dynamic(self.state.scaler):
            bad |= ~result.norm.isfinite()
        self.total += bad
        self.in_a_row = (self.in_a_row + 1) * bad

    def look(self, names: list[str]) -> None:
        """Reads the counts over all ranks.

        Raises:
            FloatingPointError: ten bad steps in a row; names the samples of the last.
        """
        total, in_a_row = self.ranks.agree(self.total.item(), self.in_a_row.item())
        self.total.zero_()
        progress = self.state.progress
        progress.skipped += int(total)
        progress.skipped_in_a_row = int(in_a_row)
        if not total:
            self.good = self._buffers()
            return
        for buffer, value in zip(self.state.module.buffers(), self.good):
            buffer.copy_(value)
        if in_a_row >= BAD_STEPS_IN_A_ROW:
            raise FloatingPointError(
                f'{int(in_a_row)} steps in a row without a finite loss or gradient, the last on {", ".join(names)}; '
                'none of them changed the weights. Lower --learning-rate-scale, set --clip-grad, or look at the samples'
            )

    def _buffers(self) -> list[torch.Tensor]:
        return [buffer.detach().clone() for buffer in self.state.module.buffers()]
