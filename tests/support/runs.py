"""Runs of the real training scripts: their command lines, a server that starts them at once, what they leave behind."""

import atexit
import csv
import filecmp
import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_base

HERE = Path(__file__).parents[1]
ROOT = HERE.parent
SMALL = {
    '--dataset-name': 'synthetic', '--model-backbone': 'mobilenetv2', '--synthetic-size': 12, '--batch-size': 4,
    '--train-resolution': 64, '--num-workers': 0, '--valid-samples': 2, '--epoch-end': 2, '--device': 'cpu',
    '--log-train-loss-interval': 1, '--checkpoint-interval': 2, '--recipe': 'published',
}  # fmt: skip
# Two epochs of three steps, with everything that a state can hold. Saved are steps 1 (the best, since losses fall and
# the highest is asked for), 2 (an epoch's end), 3 (the interval) and 5 (the run's end); step 2 is removed again.
FULL = {
    'ema_decay': 0.9, 'clip_grad': 1, 'lr_schedule': 'cosine', 'warmup_steps': 2, 'batch_size': 2, 'accumulate': 2,
    'log_valid_interval': 2, 'checkpoint_interval': 4, 'checkpoint_keep': 2, 'checkpoint_keep_states': 2,
    'monitor_mode': 'max', 'num_workers': 1,
}  # fmt: skip
FULL_STEPS = 6
LONG = 180  # seconds after which a run counts as hung, on a machine however busy


def flags(name, **changed):
    """The command line of a small run; None leaves a flag out, True gives it without a value."""
    chosen = {**SMALL, '--model-name': name}
    chosen.update({'--' + key.replace('_', '-'): value for key, value in changed.items()})
    line = [[key] if value is True else [key, str(value)] for key, value in chosen.items() if value is not None]
    return [word for words in line for word in words]


def train_in(folder, words):
    """Runs train_base.py in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert train_base.main(words) == 0
    finally:
        os.chdir(before)
    return folder


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def load(path):
    return torch.load(path, weights_only=True)


def record(folder, name):
    return json.loads((Path(folder) / f'{name}.json').read_text())


def assert_same(a, b, where=''):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f'{where}/{key}')
    else:
        assert a == b, where


def curve(name, tag, log=Path('log')):
    """The (step, value) points of a curve as TensorBoard shows them."""
    events = EventAccumulator(str(log / name), size_guidance={'scalars': 0}).Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def assert_same_run(whole, other, extra=frozenset(), gone=frozenset()):
    """A run's folder holds, bit for bit, what that of the uninterrupted run holds.

    Args:
        whole, other: checkpoint/<model_name> of the two.
        extra: names of checkpoints that only the other one has reason to hold.
        gone: names of checkpoints that the other one may have removed.
    """
    assert not temporaries(other)
    kept, found = set(names(whole)), {name for name in names(other) if not name.endswith('.tmp')}
    assert {name.split('.')[0] for name in kept - found} <= gone
    assert {name.split('.')[0] for name in found - kept if '.aside' not in name} <= extra
    for name in sorted(kept & found):
        if name.endswith('.pth') and not filecmp.cmp(whole / name, other / name, shallow=False):
            assert_same(load(whole / name), load(other / name), name)
        elif name.endswith('.json'):
            a, b = (record(folder, Path(name).stem) for folder in (whole, other))
            for key in ('step', 'epoch', 'metrics', 'identity'):
                assert a[key] == b[key], (name, key)


def temporaries(folder):
    """Temporary files of a run."""
    return [name for name in names(folder) if name.endswith('.tmp')]


TIMED = ('samples_per_second', 'waiting_for_data', 'mirror_behind_seconds')
TAGS = ('loss', 'valid_loss', 'valid_ema_loss', 'learning_rate/decoder', 'gradient_norm')


def table(folder):
    """The rows of curves.csv, without what depends on the clock."""
    rows = list(csv.DictReader((folder / 'curves.csv').open()))
    return [{tag: cell for tag, cell in row.items() if tag not in TIMED} for row in rows]


def assert_same_curves(whole, other, end, tags=TAGS):
    """TensorBoard and curves.csv show one curve: each step once, with the uninterrupted run's value.

    Args:
        whole, other: log/<model_name> of the two.
        end: steps of the run, each of them logged.
        tags: the curves that are compared.
    """
    for tag in tags:
        expected, points = (curve(path.name, tag, path.parent) for path in (whole, other))
        assert points == expected, tag
    assert [step for step, _ in curve(other.name, 'loss', other.parent)] == list(range(end))
    assert table(other) == table(whole)
    sheets = {path.name for path in whole.glob('valid-*.jpg')}
    assert {path.name for path in other.glob('valid-*.jpg')} == sheets != set()


class Attempt:
    """A run in a child of the server."""

    def __init__(self, server, pid, output):
        self.server, self.pid, self.output, self.code = server, pid, output, None
        self.began = time.monotonic()

    def send(self, number):
        """Sends it a signal, unless it has ended."""
        if self.code is None:
            os.kill(self.pid, number)

    def poll(self, seconds=0.0):
        """Its exit code, negative for a signal that killed it; None if it runs on."""
        if self.code is None:
            self.code = self.server.ask({'wait': self.pid, 'seconds': seconds})['code']
        return self.code

    def wait(self, seconds=LONG):
        """Its exit code; fails where it takes longer."""
        if self.poll(seconds) is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.poll(10)
            raise AssertionError(f'still running after {seconds} s:\n{self.text()[-2000:]}')
        return self.code

    def text(self):
        """What it printed."""
        return Path(self.output).read_text() if Path(self.output).exists() else ''


class Server:
    """Starts runs in a process that has imported all they need (see fork_server.py)."""

    def __init__(self):
        paths = [str(ROOT), str(HERE), *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(paths)}
        self.process = subprocess.Popen(
            [sys.executable, HERE / 'support/fork_server.py'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)
        self.process.stdout.readline()
        self.count = 0

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, folder, words, *sabotage, environment=None, script='train_base'):
        """Starts a script in a folder.

        Args:
            folder: the current one of the run.
            words: its command line.
            sabotage: lists of a function of sabotage.py and its arguments, called before.
            environment: variables that are added.
            script: its module.
        """
        self.count += 1
        output = str(Path(folder) / f'output-{self.count}.txt')
        request = {'start': [script, *words], 'folder': str(folder), 'output': output, 'sabotage': sabotage}
        return Attempt(self, self.ask({**request, 'environment': environment or {}})['pid'], output)

    def run(self, folder, words, *sabotage, seconds=LONG, **more):
        """Runs a script to its end; returns its exit code and what it printed."""
        attempt = self.start(folder, words, *sabotage, **more)
        return attempt.wait(seconds), attempt.text()

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()


@functools.cache
def server():
    """The one server of this test process."""
    return Server()


@functools.cache
def whole(*sabotage, **changed):
    """A folder with an uninterrupted run of FULL: checkpoint/whole and log/whole. Made once for each argument."""
    folder = tempfile.TemporaryDirectory(prefix='whole-')
    atexit.register(folder.cleanup)
    code, text = server().run(folder.name, flags('whole', **{**FULL, **changed}), *sabotage)
    assert code == 0, text
    return Path(folder.name)


def phase(marks):
    """What a run was at when it ended, from the file of sabotage.mark_phases."""
    words = marks.read_text().split() if marks.exists() else []
    if words.count('+saving') > words.count('-saving'):
        return 'saving'
    return next((word for word in reversed(words) if not word.endswith('saving')), 'start-up')


def wait_for(condition, attempt, seconds=LONG):
    """Waits until a condition holds; False if the run ended before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if attempt.poll() is not None:
            return False
        assert time.monotonic() < deadline, attempt.text()
        time.sleep(0.003)
    return True


def start_ranks(folder, world, words, *sabotage, environment=None):
    """Starts a run of several ranks, each a child of the server.

    Args:
        folder: the current one; or those of machines, one for each rank.
        world: how many.
        words: their command line.
        sabotage: as for the server.
        environment: variables that are added.
    """
    machines = isinstance(folder, list)
    folders = folder if machines else [folder] * world
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    shared = {'MASTER_ADDR': 'localhost', 'MASTER_PORT': f'{port}', 'WORLD_SIZE': f'{world}', **(environment or {})}
    places = [{**shared, 'RANK': f'{r}', 'LOCAL_RANK': '0' if machines else f'{r}'} for r in range(world)]
    return [
        server().start(folder, words, ('tiny',), *sabotage, environment=place) for folder, place in zip(folders, places)
    ]


def end_ranks(ranks, seconds=LONG):
    """The exit codes of all ranks."""
    deadline = time.monotonic() + seconds
    return [rank.wait(max(0.1, deadline - time.monotonic())) for rank in ranks]


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def samples_by_step(folder):
    """The sorted names of the samples of all ranks for each step, of the last time that a rank saw it."""
    seen = {}
    for path in folder.glob('rank-*.jsonl'):
        for step, samples in map(json.loads, path.read_text().splitlines()):
            seen.setdefault(step, {})[path] = samples
    return {step: sorted(joined(parts.values())) for step, parts in sorted(seen.items())}
