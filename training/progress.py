"""How far a training is, told to a person: a line by time, and the line of a validation."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from checkpointing.record import Record

log = logging.getLogger(__name__)

BAR_SECONDS, LINE_SECONDS = 1.0, 30.0
SLOW_SECONDS = 10.0
# How a metric's figure is multiplied, as published tables do, and its unit.
UNITS = {'sad': 'e3 px', 'mse': 'e-3', 'mad': 'e-3', 'fg_mse': 'e-3'}

duration = tqdm.format_interval


class Display:
    """How far a run is: a bar where stderr is a terminal, else a line every 30 seconds; silent on other ranks.

    Args:
        start, end: the first step and the one to stop before.
        epoch_steps: steps of an epoch.
        first: whether this rank speaks.

    Attributes:
        done: steps of the whole run.
    """

    def __init__(self, start: int, end: int, epoch_steps: int, first: bool = True):
        self.done, self.end, self.epoch_steps, self.first = start, end, epoch_steps, first
        self.began, self._told = time.monotonic(), -math.inf
        self._warm: tuple[int, float] | None = None  # steps done, and when: the first step says nothing of the others
        self._over = threading.Event()
        self._bar: tqdm | None = None
        self._terminal = first and sys.stderr.isatty()

    def under_way(self, what: str) -> None:
        """Say after some seconds that something is under way, until the next such thing or step."""
        if not self.first:
            return
        self._over.set()
        self._over = over = threading.Event()
        if self._terminal:
            self._tell(f'step {self.done}/{self.end}, {what} under way')
        threading.Thread(target=_remind, args=(what, over), daemon=True).start()

    def due(self) -> bool:
        """Return whether it is time to tell something: after the first step, then by the clock."""
        return self.first and (self._warm is None or self._late())

    def _late(self) -> bool:
        return time.monotonic() - self._told >= (BAR_SECONDS if self._terminal else LINE_SECONDS)

    def step(self, done: int, loss: float, rate: float, waiting: float) -> None:
        """Tell of the step just done.

        Args:
            done: steps of the whole run.
            loss: of the last step.
            rate: samples per second.
            waiting: share of the time spent waiting for data, 0..1.
        """
        self._over.set()
        self.done, now = done, time.monotonic()
        self._warm = self._warm or (done, now)
        steps, seconds = done - self._warm[0], now - self._warm[1]
        # Validations and saves count: they will come again.
        left = duration(seconds / steps * (self.end - done)) if steps else '?'
        epoch, elapsed = (done - 1) // self.epoch_steps, duration(now - self.began)
        if self._terminal:
            self._tell(f'step {done}/{self.end}, epoch {epoch}, {elapsed}<{left}, loss {loss:.4f}, '
                       f'{rate:.1f} samples/s, waiting {waiting:.0%}')  # fmt: skip
        else:
            self._tell(f'step {done} of {self.end}, epoch {epoch}: loss {loss:.4f}, {rate:.1f} samples/s, waiting for '
                       f'data {waiting:.0%}, {elapsed} elapsed, {left} left')  # fmt: skip

    def validating(self, batches: Any, what: str = 'validation') -> Iterator[Any]:
        """Pass the batches of a validation through, and tell how many are done."""
        self._over.set()
        began = time.monotonic()
        for done, batch in enumerate(batches):
            if self.first and self._late():
                left = duration((time.monotonic() - began) / done * (len(batches) - done)) if done else '?'
                self._tell(f'step {self.done}/{self.end}, {what}: batch {done} of {len(batches)}, {left} left')
            yield batch

    def _tell(self, text: str) -> None:
        self._told = time.monotonic()
        if not self._terminal:
            log.info(text)
            return
        if self._bar is None:
            # The bar stands behind the words: it gives way where the terminal is narrow.
            form = '{desc} |{bar}|'
            self._bar = tqdm(total=self.end, file=sys.stderr, bar_format=form, dynamic_ncols=True, leave=False)
        self._bar.n = self.done
        self._bar.set_description_str(text)

    def close(self) -> None:
        """Clear the bar."""
        self._over.set()
        if self._bar is not None:
            self._bar.close()


def _remind(what: str, over: threading.Event) -> None:
    began, wait = time.monotonic(), SLOW_SECONDS
    while not over.wait(wait):
        log.info('%s under way for %s', what, duration(time.monotonic() - began))
        wait = LINE_SECONDS


def validation_line(
    step: int, epoch: int, metrics: Mapping[str, float], monitor: str, best: bool, before: Record | None
) -> str:
    """Return a validation in words: the monitored metric and how it compares first, then the others.

    Args:
        step, epoch: after which it was.
        metrics: all figures.
        monitor: the name of the one that decides.
        best: whether it is better than all before.
        before: the best checkpoint before, if there is one.
    """
    since = before and f'{figure(monitor, before.metrics[monitor])} since step {before.step}, epoch {before.epoch}'
    so_far = f'before: {since}' if since else 'the first'
    standing = f'the best so far ({so_far})' if best else f'best so far: {since or "none"}'
    others = ', '.join(figure(name, value) for name, value in metrics.items() if name != monitor)
    return f'{figure(monitor, metrics[monitor])} at step {step}, epoch {epoch}, {standing}; {others}'


def figure(name: str, value: float) -> str:
    """Return a metric's name, figure and unit."""
    return f'{name} {value:.5f}{UNITS.get(name.removeprefix("valid_").removeprefix("ema_"), "")}'
