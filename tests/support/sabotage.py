"""What goes wrong in a run on purpose: called in the process of a run before it begins (see fork_server.py)."""

import errno
import functools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import common.signals
import model
import training.distributed
import training.logs
import training.loop
from checkpointing.manager import Checkpoints
from checkpointing.mirror import keeping
from common.files import Disk
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
from training import stage
from training.state import TrainingState

# Made in the run's current folder when something goes wrong, for the time.
EVENT = Path('event')


class Tiny(nn.Module):
    """A coarse network in small, with BatchNorm, Dropout and the three parts that have learning rates."""

    def __init__(self, _: str = 'mobilenetv2'):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.aspp = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.decoder = nn.Conv2d(8, 37, 3, padding=1)

    def forward(self, src, bgr):
        out = self.decoder(self.aspp(self.backbone(torch.cat([src, bgr], 1)))).sigmoid()
        return out[:, :1], out[:, 1:4], out[:, 4:5], out[:, 5:]


def draw(index, side):
    """A small picture of its own for each index: a disc in a colour on another."""
    y, x = np.mgrid[:side, :side] / side
    disc = (x - 0.3 - index % 5 / 10) ** 2 + (y - 0.5) ** 2 < 0.04 + index % 3 / 50
    colour = np.random.default_rng(index).integers(0, 256, (2, 3))
    return np.where(disc[..., None], *colour).astype(np.uint8), (disc * 255).astype(np.uint8)


def tiny(put=setattr):
    """The script trains the small network on pictures that are quickly drawn, without a picture of its curves.

    `put` sets attributes.
    """
    put(training.logs, 'draw', lambda *_: b'')
    put(model, 'MattingBase', Tiny)
    put(SyntheticMattes, 'read', lambda self, index, min_size=None: np.dstack(draw(index, 64)))
    put(SyntheticBackgrounds, 'read', lambda self, index, min_size=None: draw(index + 1000, 64)[0])


def around(owner, name, before=None, after=None):
    """Calls functions before and after one of the library's; they get its arguments."""
    real = getattr(owner, name)

    def wrapped(*arguments, **more):
        if before is not None:
            before(*arguments)
        result = real(*arguments, **more)
        if after is not None:
            after(*arguments)
        return result

    setattr(owner, name, wrapped)


def mark_phases(path):
    """Notes in a file what the run is at, so that the last line stays when it is killed.

    'training' once signals make it save, 'end' when they no longer do; nothing before.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real, fitting = training.loop._train, []

    def mark(word):
        os.write(file, f'{word}\n'.encode())

    def train(*arguments):
        fitting.append(True)
        mark('training')
        try:
            return real(*arguments)
        finally:
            mark('end')

    def saved(self, *_):
        if self._committing is None:
            mark('-saving')

    training.loop._train = train
    around(
        training.loop, 'validate',
        before=lambda *_: fitting and mark('validation'), after=lambda *_: fitting and mark('training'),
    )  # fmt: skip
    around(Checkpoints, 'save', before=lambda *_: mark('+saving'), after=saved)
    around(Checkpoints, '_commit', after=lambda *_: mark('-saving'))


def short_lease(seconds=1.0):
    """A lease of a mirror that nobody renews may be taken after a second."""
    keeping.Lease = functools.partial(keeping.Lease, seconds=seconds)


def clock(ahead):
    """The computer's clock is so many seconds ahead of the others'."""
    real, real_ns = time.time, time.time_ns
    time.time, time.time_ns = lambda: real() + ahead, lambda: real_ns() + ahead * 10**9


def signal_at(step, number, rank=0):
    """The process sends itself a signal once so many steps are done."""

    def after(run, *_):
        if run.state.progress.step == step and run.ranks.rank == rank:
            if number == signal.SIGKILL:
                run.checkpoints.settle()
            EVENT.touch()
            os.kill(os.getpid(), number)

    around(training.loop, '_train_step', after=after)


def signal_in(owner, name, count, number, rank=0):
    """The process sends itself a signal at the beginning of the n-th call of a function of 'module:Class'."""
    if int(os.environ.get('RANK', 0)) == rank:
        _at_call(owner, name, count, lambda: os.kill(os.getpid(), number))


def raise_in(owner, name, count, rank=0):
    """The n-th call of a function raises what nobody expects."""

    def fail():
        raise RuntimeError('unexpected')

    if int(os.environ.get('RANK', 0)) == rank:
        _at_call(owner, name, count, fail)


def _at_call(owner, name, count, action):
    left = [count]

    def before(*_):
        left[0] -= 1
        if left[0] == 0:
            EVENT.touch()
            action()

    module, _, attribute = owner.partition(':')
    holder = sys.modules[module]
    around(getattr(holder, attribute) if attribute else holder, name, before=before)


def repeats_end(seconds):
    """A second signal ends the process unless it comes so soon after the first."""
    common.signals.REPEAT_SECONDS = seconds


def slow_fsync(seconds):
    """The disk takes its time in saves."""
    main = threading.main_thread()
    Disk.fsync = lambda *_: time.sleep(seconds if threading.current_thread() is not main else 0)


def hang_at(step, path, rank=0):
    """A rank waits for ever once so many steps are done; a file says so."""

    def after(run, *_):
        if run.state.progress.step == step and run.ranks.rank == rank:
            run.checkpoints.settle()
            Path(path).touch()
            time.sleep(600)

    around(training.loop, '_train_step', after=after)


def wait_for_signal_at(step, path):
    """The run waits for a signal once so many steps are done; a file says so."""
    came = []

    def after(run, *_):
        if run.state.progress.step == step:
            Path(path).touch()
            while not came:
                time.sleep(0.05)

    around(common.signals.StopRequest, 'answer', after=lambda *_: came.append(True))
    around(training.loop, '_train_step', after=after)


def note_ends(folder):
    """A rank that leaves the others leaves a file; so does the first when the mirror, which takes a second, has all."""
    around(training.distributed, 'leave_ranks', before=lambda: Path(folder, f'left-{os.environ["RANK"]}').touch())

    def ended(*_):
        if not (path := Path(folder, 'mirrored')).exists():
            time.sleep(1)
            path.touch()

    around(keeping.Keeping, 'end', after=ended)


def impatient(seconds):
    """A run waits less long for the folder's lock."""
    stage.FolderLock.__init__.__defaults__ = (seconds,)


def note_names(folder):
    """Writes a line with the step and the names of its samples on this rank."""
    path = Path(folder) / f'rank-{os.environ.get("RANK", 0)}.jsonl'
    real = training.loop._train_step

    def train_step(run, *arguments):
        step, result = run.state.progress.step, real(run, *arguments)
        with path.open('a') as file:
            file.write(json.dumps([step, result.names]) + '\n')
        return result

    training.loop._train_step = train_step


def full_disk(times, rank=0):
    """On one rank so many saves fail for want of space."""
    left = [times if int(os.environ.get('RANK', 0)) == rank else 0]

    def create(_, path):
        if left[0] and path.name.startswith('.epoch-'):
            left[0] -= 1
            EVENT.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    around(Disk, 'create', before=create)


def minutes_pass(minutes):
    """Each step takes so many minutes by the clock."""
    real, steps = time.monotonic, []
    time.monotonic = lambda: real() + 60 * minutes * len(steps)
    around(training.loop, '_train_step', after=lambda *_: steps.append(1))


def forget_moments():
    """A resumed run begins with a new optimizer."""
    TrainingState._load_optimizer = lambda *_: None


def forget_purge():
    """A resumed run leaves the points of TensorBoard that are of steps after its checkpoint."""
    real = training.logs.EventFile
    training.logs.EventFile = lambda folder, mark, start: real(folder, mark, None)
    training.logs.cut_curves = lambda *_: None


def kill_worker_at(step):
    """A process that reads pictures is killed once so many steps are done."""

    def after(run, *_):
        if run.state.progress.step == step:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)

    around(training.loop, '_train_step', after=after)
