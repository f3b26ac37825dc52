"""Milliseconds of a training step by part, beside the published step, without reading (see sample_rate.py).

python benchmarks/training_step.py [--stage refine --train-resolution 512 --precision bfloat16 --compile]

Both train on the same composites, in turn, in one process. The published step has the published data flow, NCHW tensors
and torch's default Adam. The composite is timed as ours in both: the published loader makes its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import machine

from common import cli
from common.devices import choose_device, choose_precision, keep_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dataset.augmentation import Composite

PARTS = ('composite', 'forward', 'loss', 'backward', 'optimizer')


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

    from benchmarks.published.network import Published
    from dataset.geometry import AffineRange
    from dataset.loaders import WarpedPairs, collate
    from dataset.sampling import SamplingPlan
    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
    from model import MattingBase, MattingRefine
    from training.distributed import autocast_forward

    keep_memory(device.type)
    dtype = choose_precision(args.precision, device)
    torch.manual_seed(0)
    ours = (MattingBase if args.stage == 'base' else MattingRefine)(args.model_backbone)
    published = (MattingBase if args.stage == 'base' else Published)(args.model_backbone)
    ours.train().to(device, memory_format=torch.channels_last)
    published.train().to(device)
    net = torch.compile(ours, dynamic=True) if args.compile else ours

    def published_model(src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            return tuple(output.float() for output in published(src, bgr))

    steps: dict[str, tuple[Callable[..., Any], nn.Module, torch.optim.Optimizer]] = {
        'ours': (
            autocast_forward(net, device, dtype),
            ours,
            torch.optim.Adam(ours.parameters(), fused=device.type != 'mps'),
        ),
        'published': (published_model, published, torch.optim.Adam(published.parameters())),
    }
    data = WarpedPairs(SyntheticMattes(64), SyntheticBackgrounds(64), AffineRange((0.4, 1)), AffineRange((1, 2)))
    plan = SamplingPlan(64, 64, args.batch_size, args.train_resolution, 4)
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in steps}
    for i in range(args.steps + 2):
        batch = collate([data[sample] for sample in plan.step(i)]).to(device)
        for name, step in steps.items():
            clock = _Clock(device)
            true = batch.compose()
            clock.part('composite')
            run_step(*step, true, args.stage, clock)
            for part, value in clock.seconds.items() if i >= 2 else ():
                times[name][part].append(value)
    return {name: {part: statistics.median(values) for part, values in parts.items()} for name, parts in times.items()}


def run_step(
    model: Callable[..., Any],
    module: nn.Module,
    optimizer: Any,
    true: Composite,
    stage: str,
    clock: _Clock,
) -> None:
    from training.losses import base_loss, refine_loss

    pred = model(true.src, true.bgr)
    clock.part('forward')
    loss = base_loss(*pred[:3], true.pha, true.fgr) if stage == 'base' else refine_loss(*pred[:5], true.pha, true.fgr)
    clock.part('loss')
    loss['total'].backward()
    clock.part('backward')
    optimizer.step()
    module.zero_grad()
    clock.part('optimizer')


class _Clock:
    """A stopwatch for the parts of a step, which waits until the device has finished each."""

    def __init__(self, device: Any):
        self.device = device
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def part(self, name: str) -> None:
        import torch

        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name] = now - self.last
        self.last = now


if __name__ == '__main__':
    sys.exit(cli.run(main))
