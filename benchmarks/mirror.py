"""What a mirror costs a training, and how far it is behind: sections of one training, with it at work and at rest.

python benchmarks/mirror.py [--s3 | --mirror s3://bucket/benchmark] [--pairs 10] [--checkpoint-interval 10]

The mirror is a folder of this disk, or with --s3 a server on this machine (moto), a process of its own. A section goes
from one checkpoint to the next; two neighbours make a pair, now in one order and then in the other. Before each the
mirror gets what it lacks, which is not timed: both save the same, and whatever else the machine does hits both. How
much that is tell the sections at rest, each over the one before. CPU seconds are those of all threads of this process,
and of a section at work until the mirror has all. Intervals are those of the median, at 95 %.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.machine import describe
from helpers.s3 import bucket

from common import cli
from common.console import table
from common.installation import missing_problems


@dataclass(frozen=True)
class Section:
    """Steps from one checkpoint to the next.

    Attributes:
        at_work: whether the mirror was.
        wall, cpu: seconds of a step.
        ages: by how many seconds the mirror was behind, at each step.
    """

    at_work: bool
    wall: float
    cpu: float
    ages: tuple[float, ...]


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--mirror', metavar='URL', help='parent of the mirrors; what is made there stays')
    parser.add_argument('--s3', action='store_true', help='mirror to a server of S3 on this machine')
    parser.add_argument('--model-backbone', default='mobilenetv2', help='of the base model')
    parser.add_argument('--train-resolution', type=int, default=256, help='side of samples in pixels')
    parser.add_argument('--checkpoint-interval', type=int, default=10, help='steps of a section')
    parser.add_argument('--pairs', type=int, default=10)
    args = parser.parse_args(argv)
    if args.s3 and (problems := missing_problems('moto', 's3fs')):
        parser.error(problems[0])
    print(describe())
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.ExitStack() as stack:
        Path('store').mkdir()
        if args.s3:
            stack.enter_context(bucket())
        sections = train(args, 's3://bucket' if args.s3 else args.mirror or 'store')
    print(f'load average {before:.1f} before and {os.getloadavg()[0]:.1f} after, on {os.cpu_count()} cores')
    rest, work = ([section for section in sections if section.at_work is at_work] for at_work in (False, True))
    rows = []
    for name in ('wall', 'cpu'):
        resting, working = ([getattr(section, name) for section in found] for found in (rest, work))
        ratios, noise = [b / a for a, b in zip(resting, working)], [b / a for a, b in itertools.pairwise(resting)]
        medians = [f'{statistics.median(seconds):.3f}' for seconds in (resting, working)]
        more = [args.checkpoint_interval * (b - a) for a, b in zip(resting, working)]
        rows.append([name, *medians, interval(ratios), interval(noise), interval(more)])
    head = ['seconds a step', 'at rest', 'at work', 'at work / at rest', 'at rest / at rest', 'more for a checkpoint']
    print(table([head, *rows]))
    ages = [age for section in work for age in section.ages]
    print(f'the mirror is behind by {statistics.mean(ages):.1f} s on average, {max(ages):.1f} s at most')


def interval(figures: Sequence[float]) -> str:
    """Return the median in words, and its interval at 95 %, or all where there are too few."""
    found, count = sorted(figures), len(figures)
    below = [sum(math.comb(count, i) for i in range(k + 1)) / 2**count for k in range(count)]
    low = max(0, sum(share <= 0.025 for share in below) - 1)
    return f'{statistics.median(found):.3f} ({found[low]:.3f} to {found[count - 1 - low]:.3f})'


def train(args: argparse.Namespace, url: str) -> list[Section]:
    """Train in the current folder, and return the sections: at rest, at work, at work, at rest, and so on."""
    import train_base
    import training.loop
    from checkpointing.mirror.mirror import Mirror

    turns = Turns(args.checkpoint_interval, training.loop._train_step, Mirror.push)
    training.loop._train_step, Mirror.push = turns.step, lambda mirror, ending=True: turns.push(mirror, ending)
    flags = {
        'dataset-name': 'synthetic', 'synthetic-size': 1000, 'model-backbone': args.model_backbone,
        'train-resolution': args.train_resolution, 'max-steps': args.checkpoint_interval * (2 * args.pairs + 2),
        'valid-samples': 2, 'log-valid-interval': 10**6, 'checkpoint-interval': args.checkpoint_interval,
        'model-name': 'benchmark', 'checkpoint-keep': 2, 'checkpoint-mirror': url, 'num-workers': 1,
    }  # fmt: skip
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = train_base.main([word for flag, value in flags.items() for word in (f'--{flag}', str(value))])
    if code:
        sys.exit(said.getvalue())
    return turns.sections[: 2 * args.pairs]


class Turns:
    """Lets a training's mirror rest in every other section, and times the sections.

    Args:
        interval: steps of one.
        step, push: of the training and of the mirror.
    """

    def __init__(self, interval: int, step: Callable[..., Any], push: Callable[..., bool]):
        self.interval, self.real_step, self.real_push = interval, step, push
        self.at_work, self.has_all = True, threading.Event()
        self.sections: list[Section] = []
        self.ages: list[float] = []
        self.began: tuple[float, float] | None = None

    def push(self, mirror: Any, ending: bool) -> bool:
        """Push the next object, unless the mirror rests; note when there is none left."""
        if self.at_work and self.real_push(mirror, ending):
            return True
        if self.at_work:
            self.has_all.set()
        return False

    def step(self, run: Any, *rest: Any) -> Any:
        """Train for a step, the last of which before a checkpoint begins a section."""
        if (run.state.progress.step + 1) % self.interval == 0:
            self.turn(run)
        self.ages.append(run.mirror.behind())
        return self.real_step(run, *rest)

    def turn(self, run: Any) -> None:
        """End a section, let the mirror get what it lacks, and begin the next."""
        wall, cpu, at_work = time.perf_counter(), time.process_time(), self.at_work
        run.checkpoints.settle()
        self.has_all.clear()
        self.at_work = True
        run.mirror._wake.set()
        self.has_all.wait()
        if self.began is not None:
            cpu = time.process_time() if at_work else cpu
            each = [(end - begin) / self.interval for begin, end in zip(self.began, (wall, cpu))]
            self.sections.append(Section(at_work, *each, tuple(self.ages)))
        self.at_work = len(self.sections) % 4 in (1, 2)
        self.ages.clear()
        self.began = time.perf_counter(), time.process_time()


if __name__ == '__main__':
    sys.exit(cli.run(main))
