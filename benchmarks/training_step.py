"""Milliseconds of a training step by part, beside the published step, without reading (see sample_rate.py).

python benchmarks/training_step.py [--stage refine --train-resolution 512 --precision bfloat16 --compile]

Both train on the same composites, in turn, in one process. The published step has the published data flow, NCHW tensors
and torch's default Adam; in float16 both scale the loss. The composite is timed as ours in both: the published loader
makes its own. On a GPU parts lie between events, so that nothing waits between them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers import machine

from common import cli
from common.devices import choose_device, choose_precision, keep_memory

PARTS = ('composite', 'forward', 'loss', 'backward', 'optimizer')
WARM_UP = 2


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--stage', choices=('base', 'refine'), default='base')
    parser.add_argument('--model-backbone', default='mobilenetv2')
    parser.add_argument('--train-resolution', type=int, default=256)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--precision', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--compile', action='store_true', help='ours')
    cli.add_device_argument(parser.add_argument)
    parser.add_argument('--steps', type=int, default=8)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there')
    args = parser.parse_args(argv)

    print(machine.describe())
    device = choose_device(args.device)
    seconds = time_steps(args, device)
    print(f'{args.stage}, {args.model_backbone}, resolution {args.train_resolution}, {args.precision} on {device}')
    whole = {name: sum(parts.values()) for name, parts in seconds.items()}
    for part in PARTS:
        ms = (1000 * seconds[name][part] / args.batch_size for name in seconds)
        shares = (seconds[name][part] / whole[name] for name in seconds)
        print(f'{part:10}', *(f'{value:9.1f} ms a sample, {share:4.0%}' for value, share in zip(ms, shares)))
    for name, value in whole.items():
        print(f'{name}: {args.batch_size / value:.1f} samples/s without reading')
    ratio = whole['published'] / whole['ours']
    print(f'published / ours {ratio:.2f}')
    machine.write_json(args.json, {'seconds_of_a_step': seconds, 'published_over_ours': ratio})


def time_steps(args: argparse.Namespace, device: Any) -> dict[str, dict[str, float]]:
    """Return the median seconds of each part of a step, of ours and of the published."""
    import torch
    from helpers.training_steps import Clock, our_way, published_way

    from dataset.geometry import AffineRange
    from dataset.loaders import WarpedPairs, collate
    from dataset.sampling import SamplingPlan
    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

    keep_memory()
    dtype = choose_precision(args.precision, device)
    torch.manual_seed(0)
    ways = {
        'ours': our_way(args.stage, args.model_backbone, device, dtype, args.compile),
        'published': published_way(args.stage, args.model_backbone, device, dtype),
    }
    data = WarpedPairs(SyntheticMattes(64), SyntheticBackgrounds(64), AffineRange((0.4, 1)), AffineRange((1, 2)))
    plan = SamplingPlan(64, 64, args.batch_size, args.train_resolution, 4)
    steps = range(WARM_UP + args.steps)
    batches = [collate([data[sample] for sample in plan.step(i)]).to(device) for i in steps]
    clocks: dict[str, list[Clock]] = {name: [] for name in ways}
    for batch in batches:
        for name, way in ways.items():
            clocks[name].append(Clock(device))
            way.step(batch, clocks[name][-1])
    seconds = {name: [clock.seconds() for clock in done[WARM_UP:]] for name, done in clocks.items()}
    return {
        name: {part: statistics.median(step[part] for step in steps) for part in PARTS}
        for name, steps in seconds.items()
    }


if __name__ == '__main__':
    sys.exit(cli.run(main))
