"""Helpers of the fault proofs: disks that fail, kill or remember, and a small run of which every byte is known.

No disk here waits for the real one: a process that is killed leaves its files to the operating system, and what a
power cut takes is modelled (power.py).
"""

import errno
import functools
import os
import signal
import time
from dataclasses import dataclass
from types import SimpleNamespace

import torch

import checkpointing.record
from checkpointing.content import Content, read_content
from checkpointing.manager import Checkpoints, Point
from checkpointing.resume import decide
from checkpointing.retention import Policy
from common.files import Disk

OPERATIONS = tuple(name for name in vars(Disk) if not name.startswith('_'))
IDENTITY = {'backbone': 'mobilenetv2', 'samples of a step': 8}
POLICY = Policy(keep=2, best=2, best_name='best-{epoch:02d}-{valid_loss:.2f}')
FOREIGN = b'somebody trained this elsewhere'


class WatchedDisk(Disk):
    """Passes every operation through `around`."""

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        return functools.partial(self.around, name, value) if name in OPERATIONS else value

    def around(self, name, operation, *arguments):
        return operation(*arguments)

    def fsync(self, file):
        file.flush()

    def fsync_folder(self, folder):
        pass

    def open(self, path):
        return path.open('rb')


class CountingDisk(WatchedDisk):
    """Notes which operations were asked for, and calls `strike` at the n-th, the first being number 1.

    Args:
        at: n; None never strikes.
        persistent: it strikes at every later one too.
        partly: half of what a `write` was given is written before.
    """

    def __init__(self, at=None, persistent=False, partly=False):
        self.at, self.persistent, self.partly = at, persistent, partly
        self.done = []

    def around(self, name, operation, *arguments):
        self.done.append(name)
        number = len(self.done)
        if self.at is not None and (number == self.at or (self.persistent and number > self.at)):
            if self.partly and name == 'write':
                file, data = arguments
                file.write(bytes(data)[: len(data) // 2])
                file.flush()
            self.strike()
        return operation(*arguments)

    def strike(self):
        raise NotImplementedError


class FailingDisk(CountingDisk):
    """Raises an error at the n-th operation."""

    def __init__(self, at=None, code=errno.ENOSPC, persistent=False, partly=False):
        super().__init__(at, persistent, partly)
        self.code = code

    def strike(self):
        raise OSError(self.code, os.strerror(self.code))


class KillingDisk(CountingDisk):
    """Kills its own process before the n-th operation."""

    def strike(self):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Save:
    """What training asks for after a step."""

    step: int
    names: dict
    metrics: dict

    @property
    def point(self):
        return Point(self.step, self.step // 6, self.metrics)


def _save(step, loss=None, *, epoch=False, reason='interval'):
    names = {f'epoch-{step // 6}-iter-{step}': reason}
    if epoch:
        names[f'epoch-{step // 6}'] = 'epoch'
    return Save(step, names, {} if loss is None else {'valid_loss': loss})


# The first, two names of one step, a signal's and the validation that makes up for it, and then one that prunes: step 3
# is no longer among the best, step 7 no longer among the newest, and two names of one step are the best.
SAVES = (
    _save(1, 0.5),
    _save(3, 0.4),
    _save(5, 0.3, epoch=True),
    _save(7, reason='SIGTERM'),
    _save(7, 0.45),
    _save(9),
    _save(11, 0.2, epoch=True),
    _save(13, 0.6),
)
FIRST, RENEWING, PRUNING = 0, 4, 6


def stop_clock(monkeypatch):
    """Records are written at one moment, so that their bytes are known."""
    monkeypatch.setattr(
        checkpointing.record,
        'time',
        SimpleNamespace(strftime=lambda form: '2026-01-01T00:00:00+0000', time_ns=time.time_ns),
    )


def content(step, size=64):
    """What a run holds after a step: a function of the step, so that it can be recognised."""
    draws = torch.Generator().manual_seed(step)
    weights = {'w': torch.rand(size, generator=draws), 'n': torch.tensor(step)}
    state = {'progress': {'step': step + 1}, 'optimizer': {'w': {'exp_avg': torch.rand(size, generator=draws)}}}
    return Content(weights, state, {'w': torch.rand(size, generator=draws), 'n': torch.tensor(step)})


def equal(a, b):
    """Whether two contents, or parts of them, are the same to the bit."""
    if isinstance(a, Content):
        return equal(vars(a), vars(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def checkpoints(folder, disk=None, run='run', policy=POLICY):
    return Checkpoints(folder, 'base', run, IDENTITY, policy, disk=disk or WatchedDisk())


def play(made, saves, size=64):
    """Saves what a training would; yields for each save whether it is safe on the disk."""
    for save in saves:
        made.save(save.names, save.point, content(save.step, size))
        yield save, made.settle()


def play_well(made, saves, size=64):
    """The same on a disk that works."""
    for save, safe in play(made, saves, size):
        assert safe, save
    return made


def auto(folder):
    return decide('auto', folder, 'base', IDENTITY)


def holds(folder, record, size=64):
    """Whether a checkpoint verifies and holds what was saved after its step."""
    return record.problem(folder) is None and equal(read_content(folder, record), content(record.step, size))


def snapshot(folder):
    """The bytes of every file by name; a directory's are None."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def of_checkpoints(files):
    """Those of them that belong to checkpoints, without links for people and what was set aside."""
    return {name: data for name, data in files.items() if name.startswith('epoch-') and '.aside' not in name}


def copy_folder(source, target):
    """A copy in which names that share a file share one again."""
    target.mkdir()
    first = {}
    for path in sorted(source.iterdir()):
        copy = target / path.name
        if (inode := path.stat().st_ino) in first:
            os.link(first[inode], copy)
        else:
            copy.write_bytes(path.read_bytes())
            first[inode] = copy
    return target
