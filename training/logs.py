"""What a run tells: TensorBoard for curves and pictures, a progress line for a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid
from tqdm import tqdm

log = logging.getLogger(__name__)


class _TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def set_up_logging(first: bool = True) -> None:
    """Plain lines on standard output; ranks other than the first print only what goes wrong."""
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter('%(message)s'))
    logging.basicConfig(handlers=[handler], level=logging.INFO if first else logging.WARNING, force=True)


class Logger:
    """Curves, pictures and a progress line of one run; silent on ranks other than the first.

    Args:
        folder: of the TensorBoard files.
        start, end: the first step and the one to stop before.
        first: whether this rank speaks.
    """

    def __init__(self, folder: Path, start: int, end: int, first: bool = True):
        self.folder, self.first = folder, first
        self.terminal = first and sys.stderr.isatty()
        self.bar = tqdm(initial=start, total=end, unit='step', disable=not self.terminal, dynamic_ncols=True)
        self.start, self.end = start, end

    @cached_property
    def writer(self) -> SummaryWriter | None:
        """Opened with the first point: a run that has nothing to do leaves no file."""
        # What a run that was killed has logged beyond its last checkpoint is dropped.
        return SummaryWriter(str(self.folder), purge_step=self.start) if self.first else None

    def flush(self) -> None:
        """Hands all points to the operating system."""
        if self.writer:
            self.writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to the curve of each tag."""
        if self.writer:
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, step)

    def pictures(self, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Adds batches of pictures (B, 1 or 3, H, W), 0..1, as grids."""
        if self.writer:
            for tag, batch in pictures.items():
                self.writer.add_image(tag, make_grid(batch.detach().float().cpu().clamp(0, 1), nrow=5), step)

    def progress(self, done: int, loss: float, rate: float, waiting: float) -> None:
        """Moves the progress line; in a log file, prints one.

        Args:
            done: steps of the whole run.
            loss: of the last step.
            rate: samples per second.
            waiting: share of the time spent waiting for data, 0..1.
        """
        if self.terminal:
            self.bar.set_postfix_str(f'loss {loss:.4f}, {rate:.1f} samples/s, waiting {waiting:.0%}', refresh=False)
            self.bar.update(done - self.bar.n)
            self.bar.refresh()
        else:
            log.info(
                'step %d of %d: loss %.4f, %.1f samples/s, waiting for data %.0f %%',
                done, self.end, loss, rate, 100 * waiting,
            )  # fmt: skip

    def close(self) -> None:
        """Finishes the files and the line."""
        self.bar.close()
        if 'writer' in vars(self) and self.writer:
            self.writer.close()
