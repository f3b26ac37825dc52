"""What a mirror costs a training, and how far it is behind: the base stage with and without one, by turns.

python benchmarks/mirror.py [--mirror s3://bucket/benchmark] [--checkpoint-interval 10]

Without `--mirror` it is a folder of this disk. A rate is the median over the logged steps; saving is not in it.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers.machine import ROOT, describe

from common import cli


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--mirror', metavar='URL', help='parent of the mirrors; what is made there stays')
    parser.add_argument('--model-backbone', default='mobilenetv2', help='of the base model')
    parser.add_argument('--train-resolution', type=int, default=256, help='side of samples in pixels')
    parser.add_argument('--checkpoint-interval', type=int, default=10, help='steps between checkpoints')
    parser.add_argument('--steps', type=int, default=40, help='of each training')
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args(argv)
    print(describe())
    rates: dict[str, list[float]] = {'without': [], 'with': []}
    behind: list[float] = []
    for number in range(args.repeats):
        for kind, found in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / 'store').mkdir()
                words = ['--checkpoint-mirror', args.mirror or 'store'] if kind == 'with' else []
                rows = train(Path(folder), f'run-{number}', args, words)
                found += [float(row['samples_per_second']) for row in rows[1:] if row['samples_per_second']]
                behind += [float(row['mirror_behind_seconds']) for row in rows if row.get('mirror_behind_seconds')]
    for kind, found in rates.items():
        print(f'{kind:8} a mirror: {statistics.median(found):7.2f} samples/s')
    print(f'ratio: {statistics.median(rates["with"]) / statistics.median(rates["without"]):.3f}')
    print(f'the mirror is behind by {statistics.mean(behind):.1f} s on average, {max(behind):.1f} s at most')


def train(folder: Path, name: str, args: argparse.Namespace, words: Sequence[str]) -> list[dict[str, str]]:
    """Train in a folder, and return the rows of curves.csv."""
    flags = {
        'dataset-name': 'synthetic', 'synthetic-size': 1000, 'model-backbone': args.model_backbone,
        'train-resolution': args.train_resolution, 'max-steps': args.steps, 'valid-samples': 2,
        'checkpoint-interval': args.checkpoint_interval, 'log-train-loss-interval': 2, 'model-name': name,
        'checkpoint-keep': 2,
    }  # fmt: skip
    line = [word for flag, value in flags.items() for word in (f'--{flag}', str(value))]
    command = [sys.executable, str(ROOT / 'train_base.py'), *line, *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with (folder / 'log' / name / 'curves.csv').open() as file:
        return list(csv.DictReader(file))


if __name__ == '__main__':
    sys.exit(cli.run(main))
