"""Seconds from the start of a resumed training to its first step, early and late in an epoch: nothing is replayed.

python benchmarks/resume.py [--steps 100 100000]
"""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from helpers import machine

from common import cli

# A million samples in steps of 8: an epoch of 125,000 steps.
TRAINING = [
    '--dataset-name', 'synthetic', '--synthetic-size', '1000000', '--batch-size', '8', '--train-resolution', '64',
    '--model-backbone', 'mobilenetv2', '--num-workers', '1', '--valid-samples', '2', '--epoch-end', '1',
    '--precision', 'float32', '--log-train-loss-interval', '1',
]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--steps', type=int, nargs='+', default=[100, 100_000], help='steps done before')
    cli.add_device_argument(parser.add_argument)
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args(argv)

    print(machine.describe(), flush=True)
    seconds: dict[int, list[float]] = {step: [] for step in args.steps}
    with tempfile.TemporaryDirectory(dir='.') as folder:
        work = Path(folder).resolve()
        start(work, 'first', args.device, '--max-steps', '1').communicate()
        for _ in range(args.repeats):
            for step in args.steps:
                name = f'after-{step}'
                place_checkpoint(work / 'checkpoint/first', work / 'checkpoint' / name, step)
                seconds[step].append(time_to_first_step(work, name, args.device, step))
                shutil.rmtree(work / 'checkpoint' / name)
    for step, times in seconds.items():
        print(
            f'{step:7} steps done: the next one is done {statistics.median(times):.2f} s after the start '
            f'(median of {args.repeats}; {min(times):.2f} to {max(times):.2f})'
        )
    print(f'ratio {statistics.median(seconds[args.steps[-1]]) / statistics.median(seconds[args.steps[0]]):.2f}')


def start(work: Path, name: str, device: str, *more: str) -> subprocess.Popen[str]:
    script = str(machine.ROOT / 'train_base.py')
    command = [sys.executable, script, *TRAINING, '--model-name', name, '--device', device, *more]
    return subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, text=True)


def place_checkpoint(source: Path, folder: Path, step: int) -> None:
    """Write a run's checkpoint as if so many steps were done."""
    from checkpointing.content import read_content
    from checkpointing.manager import Checkpoints, Point
    from checkpointing.record import read_records

    record = read_records(source)[-1]
    content = read_content(source, record)
    content = dataclasses.replace(content, state={**content.state, 'progress': {'step': step}})
    checkpoints = Checkpoints(folder, record.stage, record.run, record.identity)
    checkpoints.options = record.options
    checkpoints.save({f'epoch-0-iter-{step - 1}': 'interval'}, Point(step - 1, 0), content)
    assert checkpoints.settle()


def time_to_first_step(work: Path, name: str, device: str, step: int) -> float:
    began = time.perf_counter()
    with start(work, name, device, '--model-last-checkpoint', 'auto', '--max-steps', str(step + 1)) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(f'step {step + 1} of'):
                taken = time.perf_counter() - began
                break
        else:
            raise SystemExit(f'the resumed training did not get to step {step + 1}:\n{"".join(lines)}')
        process.stdout.read()
    return taken


if __name__ == '__main__':
    sys.exit(cli.run(main))
