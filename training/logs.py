"""What a run leaves for people to look at: curves and pictures, for TensorBoard and as files."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from checkpointing.content import HostCopy
from checkpointing.links import set_aside
from checkpointing.manager import Checkpoints
from common.console import say
from common.files import Disk, write_durable

from . import sheets
from .curves import Curves, draw
from .progress import Display, figure
from .sheets import Sheet
from .validation import Prediction

log = logging.getLogger(__name__)

RETRY_SECONDS = 60
# The picture of the curves takes about a second: it is drawn at most so often, and at the run's end.
DRAW_SECONDS = 60
EVENT_FILES = '*.tfevents.*'


class _TqdmHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        # A closed pipe, or an output file on a full disk, is no reason to end a training.
        with contextlib.suppress(OSError):
            say(self.format(record), to_stdout=True)
            sys.stdout.flush()


def set_up_logging(first: bool = True) -> None:
    """Print plain lines to standard output; ranks other than the first print only warnings."""
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter('%(message)s'))
    for name in ('aiobotocore', 'botocore'):  # they tell where they found endpoint and credentials
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=logging.INFO if first else logging.WARNING, force=True)


class EventFile:
    """A new file of TensorBoard's, to add events to.

    TensorBoard reads the files of a folder by the time in their names, and drops of what it has read the steps that
    come once more. So the name is later than all others in the folder, also where the clock was set back.

    Args:
        folder: of the run's curves.
        mark: the suffix of the run's files.
        start: what older files hold from this step on is not shown; None shows all.
    """

    def __init__(self, folder: Path, mark: str, start: int | None):
        names = (re.search(r'\.tfevents\.(\d+)\.', path.name) for path in folder.glob(EVENT_FILES))
        stamp = max([int(time.time()), *(int(found[1]) + 1 for found in names if found)])
        name = f'events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}{mark}'
        self.records = RecordWriter((folder / name).open('xb'))
        # A thread writes, since the checksum of a picture takes a second in Python.
        self.thread = ThreadPoolExecutor(1)
        self.last: Future[Any] = self.thread.submit(int)
        self.add(0, file_version='brain.Event:2')
        if start is not None:
            self.add(start, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, **content: Any) -> None:
        """Hand an event to the operating system soon; raise what went wrong with an earlier one.

        Args:
            step: of the event.
            content: its parts, or functions that make them, which the thread calls.
        """
        if self.last.done():
            self.last.result()
        event = {'wall_time': time.time(), 'step': step, **content}
        self.last = self.thread.submit(self._write, event, self.last)

    def _write(self, event: dict[str, Any], before: Future[Any]) -> None:
        before.result()  # nothing is written behind a record that failed
        made = {name: part() if callable(part) else part for name, part in event.items()}
        self.records.write(Event(**made).SerializeToString())
        self.records.flush()

    def rest(self) -> None:
        """Wait until the thread has nothing to do, whether it failed or not."""
        wait([self.last])

    def flush(self) -> None:
        """Wait until the operating system has all events."""
        self.last.result()

    def close(self) -> None:
        """Write what is left, if that can be done."""
        self.thread.shutdown()
        with contextlib.suppress(OSError):
            self.records.close()


def mark_of(stage: str, checkpoints: Path, logs: Path) -> str:
    """Return the suffix of the event files of a stage's run, such as '.1a2b3c4d'.

    It tells runs of one name apart by where their checkpoints lie, seen from the parent of the logs' folders.
    """
    place = os.path.realpath(checkpoints)
    with contextlib.suppress(ValueError):  # on another drive
        place = os.path.relpath(place, os.path.realpath(logs))
    return f'.{zlib.crc32(f"{stage} {Path(place).as_posix()}".encode(errors="surrogateescape")):08x}'


def own_folder(folder: Path, mark: str) -> Path:
    """Return where a run's curves go: the folder, or, if that holds those of another run, one beside it."""
    own = folder.with_name(f'{folder.name}-{mark[1:]}')
    marks = {path.suffix for path in folder.glob(EVENT_FILES) if re.fullmatch(r'\.[0-9a-f]{8}', path.suffix)}
    if mark in marks or not (marks or own.is_dir()):
        return folder
    log.info('the curves go to %s, since those of another run of this name are in %s', own, folder)
    return own


def cut_curves(folder: Path, mark: str, step: int) -> None:
    """Cut off a run's event files what a process that was killed has logged from a step on.

    The START of a new file has the same effect on TensorBoard's Python code, but none on its server, which keeps until
    its end what it has read and what does not come again.
    """
    for path in folder.glob(f'{EVENT_FILES}{mark}'):
        with path.open('rb+') as file:
            size, begin = path.stat().st_size, 0
            # A record: the length in 8 bytes and a checksum in 4, the event, a checksum in 4. The last may be cut.
            while begin + 16 + (length := int.from_bytes(file.read(12)[:8], 'little')) <= size:
                try:
                    event = Event.FromString(file.read(length + 4)[:-4])
                except DecodeError:
                    break  # TensorBoard reads no further either
                if event.HasField('summary') and event.step >= step:
                    file.truncate(begin)
                    break
                begin = file.tell()


def _shown_before(folder: Path, start: int) -> Iterator[tuple[int, str, float]]:
    """Yield step, tag and value of the points of TensorBoard's files in a folder before a step."""
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0, 'images': 1}).Reload()
    for tag in events.Tags()['scalars']:
        yield from ((point.step, tag, point.value) for point in events.Scalars(tag) if point.step < start)


class Logger:
    """Curves and pictures of one run, and how far it is; silent on ranks other than the first.

    Args:
        folder: of the curves and pictures; see `own_folder`.
        start, end: the first step and the one to stop before.
        first: whether this rank speaks.
        mark: of the run's event files, as by `mark_of`.
        resumed: whether the run goes on, and curves beyond its start are its own.
        run: id of the run, which its sheets bear.
        epoch_steps: steps of an epoch.
        disk: the file operations that writing curves and sheets uses.

    Attributes:
        display: tells how far the run is.
        sheet: of the validation under way; None on other ranks.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        end: int,
        first: bool = True,
        mark: str = '.00000000',
        resumed: bool = True,
        run: str = '',
        epoch_steps: int = sys.maxsize,
        disk: Disk | None = None,
    ):
        self.folder, self.first, self.mark, self.resumed, self.run = folder, first, mark, resumed, run
        self.display = Display(start, end, epoch_steps, first)
        self.sheet: Sheet | None = None
        self.start, self.end, self.epoch_steps = start, end, epoch_steps
        self.disk = disk or Disk()
        self.curves: Curves | None = None
        self.drawn_at = time.monotonic()
        self.warned: set[str] = set()
        self.events: EventFile | None = None
        self.begun = False
        self.broken_until = 0.0

    def _begin(self) -> EventFile:
        """Make the first file, without what a process that was killed has logged beyond its last checkpoint."""
        if self.begun:
            return EventFile(self.folder, self.mark, None)
        folder = own_folder(self.folder, self.mark)
        folder.mkdir(parents=True, exist_ok=True)
        if self.resumed:
            cut_curves(folder, self.mark, self.start)
        events = EventFile(folder, self.mark, self.start)
        self.folder, self.begun = folder, True
        with self._sparing('the curves as files'):
            self._begin_files()
        return events

    def _begin_files(self) -> None:
        """Read the table of curves, and cut it and the sheets as the curves; set aside those of another run."""
        path = self.folder / 'curves.csv'
        with contextlib.suppress(ValueError):
            self.curves = Curves(path, self.start, self.epoch_steps) if self.resumed else None
        for other in (path, path.with_suffix('.png')):
            if self.curves is None and other.exists():
                set_aside(self.disk, other)
        if self.curves is None:
            self.curves = Curves(path, self.start, self.epoch_steps)
        elif not path.exists():  # an earlier version began the run
            for step, tag, value in sorted(_shown_before(self.folder, self.start)):
                self.curves.add(step, {tag: value})
        for step, sheet in sheets.own_sheets(self.folder, self.run).items():
            if step >= self.start:
                self.disk.unlink(sheet)

    @contextlib.contextmanager
    def _sparing(self, what: str) -> Iterator[None]:
        """Turn any failure to draw or write in the block into one warning for the whole run."""
        try:
            yield
        except Exception as error:
            if what not in self.warned:
                log.warning('%s: %s cannot be made: %s; training goes on', self.folder, what, error)
            self.warned.add(what)

    def _put(self, name: str, data: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        write_durable(self.disk, self.folder / name, lambda file: file.write(data), self.folder / '.unfinished.tmp')

    def _write(self, step: int, summaries: Sequence[Summary | Callable[[], Summary]], flush: bool = False) -> None:
        """Write to TensorBoard's file, made with the first point; a full disk costs points, not the training."""
        if not self.first or time.monotonic() < self.broken_until:
            return
        try:
            if self.events is None:
                self.events = self._begin()
            for content in summaries:
                self.events.add(step, summary=content)
            if flush:
                self.events.flush()
        except OSError as error:
            # Nothing behind a record that was cut is read, so there will be a new file.
            if self.events is not None:
                self.events.close()
            self.events, self.broken_until = None, time.monotonic() + RETRY_SECONDS
            log.warning('%s: %s; the curves miss points until it can be written to again', self.folder, error)

    def flush(self) -> None:
        """Hand all points to the operating system, and renew the table of curves."""
        self._write(0, (), flush=True)
        if self.curves is not None:
            with self._sparing('curves.csv'):
                self._put('curves.csv', self.curves.to_bytes())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each tag."""
        self._write(step, [summary.scalar(tag, value) for tag, value in values.items()])
        if self.curves is not None:
            self.curves.add(step, values)

    def look(self, names: Sequence[str], prediction: Prediction) -> None:
        """Take samples for the sheet out of a batch of the validation under way, on the first rank."""
        if self.sheet is not None:
            with self._sparing('sheets of validation samples'):
                self.sheet.look(names, prediction)

    def validation(self, step: int, metrics: dict[str, float], checkpoints: Checkpoints) -> None:
        """Add a validation to the curves, and renew what people look at.

        Args:
            step: the last step done.
            metrics: all figures; nothing is done where there are none.
            checkpoints: of the run, which know the best validation.
        """
        if not metrics or not self.first:
            return
        self.scalars(step, metrics)
        is_best, before = checkpoints.standing(metrics)
        best = step if is_best or before is None else before.step
        sheet, self.sheet = self.sheet, None
        if sheet is not None and sheet.rows:
            with self._sparing('sheets of validation samples'):
                self._keep_sheet(step, sheet, metrics, best)
        if self.curves is not None and (step + 1 == self.end or time.monotonic() - self.drawn_at >= DRAW_SECONDS):
            with self._sparing('curves.png'):
                self._put('curves.png', draw(self.curves, best))
            self.drawn_at = time.monotonic()

    def _keep_sheet(self, step: int, sheet: Sheet, metrics: Mapping[str, float], best: int) -> None:
        """Write a sheet, also for TensorBoard, and thin out the older ones."""
        figures = ', '.join(figure(name, value) for name, value in metrics.items())
        jpeg, width, height = sheet.draw(f'step {step}: {figures}', self.run)
        self._write(step, [Summary(value=[_picture('valid_samples', jpeg, width, height)])])
        if not self.begun:
            return
        path = self.folder / f'valid-{step}.jpg'
        if path.exists() and not sheets.is_own(path, self.run):
            set_aside(self.disk, path)
        self._put(path.name, jpeg)
        sheets.thin_out(self.disk, sheets.own_sheets(self.folder, self.run), best)

    def pictures(self, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Add batches of pictures (B, 1 or 3, H, W), 0..1, as grids: made small where they are, drawn by a thread."""
        if not self.first:
            return
        if self.events is not None:
            self.events.rest()  # so that never more than these wait to be drawn

        def draw_grids(small: HostCopy) -> Summary:
            drawn = Summary()
            with self._sparing('pictures of training'):
                for tag, batch in small.arrived().items():
                    drawn.value.append(_picture(tag, *sheets.grid(batch)))
            return drawn

        drawings: list[Callable[[], Summary]] = []
        with self._sparing('pictures of training'):
            small = HostCopy({tag: sheets.shrunk(batch) for tag, batch in pictures.items()})
            drawings.append(partial(draw_grids, small))
        self._write(step, drawings)

    def close(self) -> None:
        """Finish the files and the bar."""
        self.display.close()
        if self.events is not None:
            self.flush()
        if self.events is not None:
            self.events.close()


def _picture(tag: str, jpeg: bytes, width: int, height: int) -> Summary.Value:
    picture = Summary.Image(encoded_image_string=jpeg, width=width, height=height, colorspace=3)
    return Summary.Value(tag=tag, image=picture)
