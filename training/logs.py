"""What a run tells: TensorBoard for curves and pictures, a progress line for a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid
from tqdm import tqdm

log = logging.getLogger(__name__)

RETRY_SECONDS = 60


class _TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        # A closed pipe, or an output file on a full disk, is no reason to end a training.
        with contextlib.suppress(OSError):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


def set_up_logging(first: bool = True) -> None:
    """Print plain lines to standard output; ranks other than the first print only warnings."""
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
        self.bar: tqdm | None = None
        self.start, self.end = start, end
        self.writer: SummaryWriter | None = None
        self.purge_step: int | None = start
        self.broken_until = 0.0

    def _write(self, write: Callable[[SummaryWriter], object]) -> None:
        """Write to TensorBoard's file, made with the first point; a full disk costs points, not the training."""
        if not self.first or time.monotonic() < self.broken_until:
            return
        try:
            if self.writer is None:
                # What a run that was killed has logged beyond its last checkpoint is dropped, once.
                self.writer = SummaryWriter(str(self.folder), purge_step=self.purge_step)
                self.purge_step = None
            write(self.writer)
        except OSError as error:
            # A writer that has failed fails for ever.
            self.writer, self.broken_until = None, time.monotonic() + RETRY_SECONDS
            log.warning('%s: %s; the curves miss points until there is space again', self.folder, error)

    def flush(self) -> None:
        """Hand all points to the operating system."""
        self._write(lambda writer: writer.flush())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each tag."""
        for tag, value in values.items():
            self._write(lambda writer, tag=tag, value=value: writer.add_scalar(tag, value, step))  # type: ignore[misc]

    def pictures(self, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Add batches of pictures (B, 1 or 3, H, W), 0..1, as grids."""
        for tag, batch in pictures.items():
            grid = make_grid(batch.detach().float().cpu().clamp(0, 1), nrow=5)
            self._write(lambda writer, tag=tag, grid=grid: writer.add_image(tag, grid, step))  # type: ignore[misc]

    def progress(self, done: int, loss: float, rate: float, waiting: float) -> None:
        """Move the progress bar; in a log file, print a line.

        Args:
            done: steps of the whole run.
            loss: of the last step.
            rate: samples per second.
            waiting: share of the time spent waiting for data, 0..1.
        """
        if self.terminal:
            if self.bar is None:
                self.bar = tqdm(initial=self.start, total=self.end, unit='step', dynamic_ncols=True)
            self.bar.set_postfix_str(f'loss {loss:.4f}, {rate:.1f} samples/s, waiting {waiting:.0%}', refresh=False)
            self.bar.update(done - self.bar.n)
            self.bar.refresh()
        else:
            log.info(
                'step %d of %d: loss %.4f, %.1f samples/s, waiting for data %.0f %%',
                done, self.end, loss, rate, 100 * waiting,
            )  # fmt: skip

    def close(self) -> None:
        """Finish the files and the bar."""
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            self._write(lambda writer: writer.close())
