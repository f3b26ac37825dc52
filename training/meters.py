"""What the loop measures: time and rates, and steps without a finite loss."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .logs import Logger
from .progress import Display
from .state import TrainingState, is_dynamic

BAD_STEPS_IN_A_ROW = 10
# Of the loss in float16: halved at every overflow, it gets here only if all gradients overflow.
LEAST_SCALE = 2.0**-14


@dataclass
class StepResult:
    """One optimizer step: its mean loss terms, gradient norm, sample names and last batch."""

    losses: dict[str, Tensor]
    norm: Tensor
    names: list[str]
    batch: Any


@dataclass
class Window:
    """Samples and seconds since a moment, and the seconds of them that data were waited for."""

    samples: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def rates(self) -> tuple[float, float]:
        """Return samples per second and the share of the time that data were waited for, 0..1."""
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        return self.samples / elapsed, min(1.0, self.waited / elapsed)


class Meter:
    """What is measured since the last report to the curves, and since the display was last renewed.

    Args:
        device: that trains.

    Attributes:
        unreported: the last step, until it is reported.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.unreported: StepResult | None = None
        self.stream = torch.cuda.current_stream(device) if device is not None and device.type == 'cuda' else None
        self.restart()

    def restart(self) -> None:
        """Start counting anew, so that validation and saving do not count."""
        self.reported, self.shown = Window(), Window()
        self.pauses: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block's time as waiting for data: that of the device, if the host runs ahead of it.

        A GPU waits from the end of what it was given before the block until the first thing that it is given after it.
        """
        if self.stream is None:
            start = time.perf_counter()
            yield
            self._count_waiting(time.perf_counter() - start)
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(self.stream)
        yield
        end.record(self.stream)
        self.pauses.append((begin, end))
        self._count_pauses()

    def _count_pauses(self) -> None:
        """Count what the GPU has reached; what it has not waits for the next time."""
        while self.pauses and self.pauses[0][1].query():
            begin, end = self.pauses.popleft()
            self._count_waiting(begin.elapsed_time(end) / 1000)

    def _count_waiting(self, seconds: float) -> None:
        for window in (self.reported, self.shown):
            window.waited += seconds

    def count(self, samples: int) -> None:
        """Count the samples of a step."""
        self.reported.samples += samples
        self.shown.samples += samples

    def show(self, display: Display, done: int, result: StepResult) -> None:
        """Tell a person of the last step, of `done`, when it is time to; waits for the device then."""
        display.done = done
        if display.due():
            loss = result.losses['total'].item()
            self._count_pauses()
            display.step(done, loss, *self.shown.rates())
            self.shown = Window()

    def report(self, logger: Logger, state: TrainingState, result: StepResult) -> None:
        """Log the last step's loss terms, learning rates and rates; waits for the device."""
        step, self.unreported = state.progress.step - 1, None
        losses = {name: term.item() for name, term in result.losses.items()}
        self._count_pauses()
        rate, waiting = self.reported.rates()
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
        self.reported = Window()


class BadSteps:
    """Counts steps without a finite loss or gradient, and undoes their trace in BatchNorm statistics.

    The optimizer leaves such a step out by itself; running means do not. Only `counts` waits for the device.
    """

    def __init__(self, state: TrainingState):
        self.state = state
        device = next(state.module.parameters()).device
        self.total = torch.zeros((), device=device)
        self.in_a_row = torch.full((), float(state.progress.skipped_in_a_row), device=device)
        self.worst = torch.zeros_like(self.in_a_row)
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in state.module.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer.detach().view(-1))
        self.buffers = list(by_type.values())
        self.good = [torch.cat(group) for group in self.buffers]
        self.before: tuple[int, dict[str, Any]] | None = None

    def note(self, loss: Tensor, norm: Tensor) -> None:
        """Count a step before the optimizer makes it. In float16 the loss scaler handles infinite gradients."""
        self.before = None
        self.before = self.state.progress.step, dict(vars(self))
        bad = ~loss.detach().isfinite()
        if not is_dynamic(self.state.scaler):
            bad |= ~norm.isfinite()
        self.total = self.total + bad
        self.in_a_row = (self.in_a_row + 1) * bad
        self.worst = torch.maximum(self.worst, self.in_a_row)
        self.good = [torch.where(bad, good, torch.cat(group)) for good, group in zip(self.good, self.buffers)]
        self.undo()

    def forget(self) -> None:
        """Take back the note of a step that was not made after all, if the last one is."""
        if self.before is not None and self.before[0] == self.state.progress.step:
            vars(self).update(self.before[1])

    @property
    def hopeless(self) -> bool:
        """Whether the loss scale fell to nothing, from which it would not recover in time. Waits for the device."""
        return is_dynamic(self.state.scaler) and self.state.scaler.get_scale() < LEAST_SCALE

    def undo(self) -> None:
        """Put the buffers back to what they were after the last good step that was noted."""
        for good, group in zip(self.good, self.buffers):
            torch.split_with_sizes_copy(good, [len(buffer) for buffer in group], out=group)

    def counts(self) -> tuple[float, float, float]:
        """Return bad steps since the last look, in a row just now, and at most in a row. Waits for the device."""
        total, in_a_row, worst = torch.stack([self.total, self.in_a_row, self.worst]).tolist()
        return total, in_a_row, worst

    def look(self, counts: Sequence[float], names: list[str]) -> None:
        """Take in what `counts` returned, agreed over all ranks.

        Raises:
            FloatingPointError: ten bad steps in a row, or a loss scale that fell to nothing; names the last samples.
        """
        total, in_a_row, worst = counts
        self.total.zero_()
        self.worst.zero_()
        progress = self.state.progress
        progress.skipped += int(total)
        progress.skipped_in_a_row = int(in_a_row)
        if worst >= BAD_STEPS_IN_A_ROW or self.hopeless:
            raise FloatingPointError(
                f'{int(worst) or "too many"} steps in a row without a finite loss or gradient, the last on '
                f'{", ".join(names)}; none of them changed the weights. Lower --learning-rate-scale, set --clip-grad, '
                'or look at the samples'
            )
