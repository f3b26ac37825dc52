"""Checkpoints of a run: a folder of weight files, the state beside them, and a record that commits each.

    epoch-0-iter-1999.pth         weights, a bare state_dict that any tool loads
    epoch-0-iter-1999.ema.pth     averaged weights, where the run keeps an average
    epoch-0-iter-1999.state.pth   everything else the run needs to go on bit for bit; kept for the newest two
    epoch-0-iter-1999.json        the record, written last: sizes and sha256 of the files, step, epoch, metrics

A weight file without a record that verifies is weights and not a point to resume from. The latest and the best
checkpoint are computed from the records; `last.pth` and `best.pth` are links for people, which nothing reads back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .disk import Disk, digest

log = logging.getLogger(__name__)

FORMAT = 1
KEEP_STATES = 2
FAILURES_IN_A_ROW = 3


class CheckpointError(ValueError):
    """A checkpoint that cannot be resumed from, or a folder that cannot be written to; says what to do."""


@dataclass(frozen=True)
class File:
    """A file of a checkpoint: its name in the folder, its size in bytes, the sha256 of its content in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """The commit record of a checkpoint.

    Attributes:
        run: id of the run.
        stage: 'base' or 'refine'.
        name: of the checkpoint, without suffix.
        step: the last step done, counted from 0 over the whole run.
        epoch: the epoch of that step.
        metrics: from the validation at that step; empty if there was none.
        reason: 'interval', 'epoch', 'end' or a signal's name, such as 'SIGTERM'.
        identity: what a run must not change when it goes on.
        files: 'weights', 'state' and, with an average, 'ema'.
    """

    run: str
    stage: str
    name: str
    step: int
    epoch: int
    metrics: dict[str, float]
    reason: str
    identity: dict[str, Any]
    files: dict[str, File]
    format: int = FORMAT
    written: str = field(default_factory=lambda: time.strftime('%Y-%m-%dT%H:%M:%S%z'))

    @staticmethod
    def read(path: Path) -> Record:
        """Reads a record.

        Raises:
            CheckpointError: it is no record, or one of another format.
        """
        try:
            content = json.loads(path.read_text())
            content['files'] = {kind: File(**entry) for kind, entry in content['files'].items()}
            record = Record(**content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f'{path}: not a checkpoint record ({error})') from None
        if record.format != FORMAT:
            raise CheckpointError(f'{path}: a record of format {record.format}; this version reads {FORMAT}')
        return record

    def problem(self, folder: Path) -> str | None:
        """Why the checkpoint cannot be resumed from, or None. Reads every byte of its files."""
        for file in self.files.values():
            path = folder / file.name
            if not path.is_file():
                return f'{file.name} is missing'
            if path.stat().st_size != file.size:
                return f'{file.name} has {path.stat().st_size} bytes instead of {file.size}'
            if digest(path) != file.sha256:
                return f'{file.name} does not have the sha256 of its record'
        return None


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds: weights, the rest of the training state, averaged weights or None."""

    weights: dict[str, torch.Tensor]
    state: dict[str, Any]
    ema: dict[str, torch.Tensor] | None = None


@dataclass
class Checkpoints:
    """The checkpoints of one run in its folder.

    Args:
        folder: checkpoint/<model_name>.
        stage: 'base' or 'refine'.
        run: id of the run.
        identity: what a run must not change when it goes on; plain types.
        monitor: name of the metric that decides which is best.
        mode: 'min' or 'max'.
        disk: the file operations that writing uses.
    """

    folder: Path
    stage: str
    run: str
    identity: dict[str, Any]
    monitor: str = 'valid_loss'
    mode: str = 'min'
    disk: Disk = field(default_factory=Disk)
    failures: int = 0

    def save(self, name: str, step: int, epoch: int, content: Content, metrics: dict[str, float], reason: str) -> bool:
        """Writes a checkpoint; every older one stays whole whatever happens.

        A whole checkpoint of that name and step is not written again, and only its record is renewed.

        Returns:
            Whether it was written. A failure is counted and logged with what is needed and what is free.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files = self._present(name, step)
            if not files:
                files = self._write_all(name, content)
            record = Record(self.run, self.stage, name, step, epoch, metrics, reason, self.identity, files)
            text = json.dumps(asdict(record), indent=1, allow_nan=True).encode()
            self.disk.write(self.folder / f'{name}.json', lambda file: file.write(text))
        except OSError as error:
            self._failed(name, content, error)
            return False
        self.failures = 0
        log.info('saved %s', self.folder / f'{name}.pth')
        with contextlib.suppress(OSError):
            self._tidy(record)
        return True

    def records(self) -> list[Record]:
        """The records of this run in the folder, oldest first."""
        return [r for r in read_records(self.folder) if r.run == self.run and r.stage == self.stage]

    def _present(self, name: str, step: int) -> dict[str, File]:
        """The files of a whole checkpoint of this run with that name and step, or none."""
        for record in self.records():
            if (record.name, record.step) == (name, step) and record.problem(self.folder) is None:
                return record.files
        return {}

    def _write_all(self, name: str, content: Content) -> dict[str, File]:
        # The state first: a weight file without a record but beside a state is a half-written checkpoint of ours,
        # and may be written again; one without either is somebody's.
        files = {'state': self._write(f'{name}.state.pth', content.state)}
        if content.ema is not None:
            files['ema'] = self._write(f'{name}.ema.pth', content.ema)
        files['weights'] = self._write(f'{name}.pth', content.weights)
        return files

    def _write(self, name: str, content: Any) -> File:
        return File(name, *self.disk.write(self.folder / name, lambda file: torch.save(content, file)))

    def _failed(self, name: str, content: Content, error: OSError) -> None:
        self.failures += 1
        needed = sum(_bytes(part) for part in (content.weights, content.state, content.ema))
        free = shutil.disk_usage(self.folder).free if self.folder.is_dir() else 0
        log.error(
            'could not save %s: %s; about %.0f MB are needed, %.0f MB are free; older checkpoints are untouched, '
            'training goes on', self.folder / name, error, needed / 1e6, free / 1e6,
        )  # fmt: skip

    def _tidy(self, newest: Record) -> None:
        """Refreshes the links for people, and removes this run's training states but the newest ones."""
        records = self.records()
        self.disk.link(self.folder / newest.files['weights'].name, self.folder / 'last.pth')
        best = best_record(records, self.monitor, self.mode)
        if best is not None and best.name == newest.name:
            kind = 'ema' if '_ema_' in self.monitor else 'weights'
            self.disk.link(self.folder / best.files[kind].name, self.folder / 'best.pth')
        # An interval's and an epoch's checkpoint can be of the same step; what counts is how far one can go back.
        with_state = [r for r in records if (self.folder / r.files['state'].name).is_file()]
        kept = sorted({r.step for r in with_state})[-KEEP_STATES:]
        old = [r.files['state'].name for r in with_state if r.step not in kept]
        if old and newest.problem(self.folder) is None:
            for name in old:
                self.disk.unlink(self.folder / name)


def read_records(folder: Path) -> list[Record]:
    """All records in a folder, by step and then by time of writing; files that are none are left out."""
    records = []
    for path in folder.glob('*.json'):
        with contextlib.suppress(CheckpointError):
            records.append(Record.read(path))
    return sorted(records, key=lambda r: (r.step, r.written, r.name))


def broken_records(folder: Path) -> list[Path]:
    """Files that are named as records and cannot be read as such."""
    broken = []
    for path in sorted(folder.glob('epoch-*.json')):
        try:
            Record.read(path)
        except CheckpointError:
            broken.append(path)
    return broken


def best_record(records: Iterable[Record], monitor: str, mode: str) -> Record | None:
    """The record of the best metric: strict improvement only, so ties keep the earlier; NaN and inf never win."""
    best, best_value = None, math.inf
    for record in records:
        value = record.metrics.get(monitor, math.nan) * (1 if mode == 'min' else -1)
        if math.isfinite(value) and value < best_value:
            best, best_value = record, value
    return best


def read_content(folder: Path, record: Record) -> Content:
    """Reads a checkpoint that verified, without running code from it."""

    def load(kind: str) -> Any:
        return torch.load(folder / record.files[kind].name, map_location='cpu', weights_only=True)

    return Content(load('weights'), load('state'), load('ema') if 'ema' in record.files else None)


def _bytes(content: Any) -> int:
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(_bytes, content.values()))
    return 0
