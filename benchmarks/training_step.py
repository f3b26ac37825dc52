"""Milliseconds of a training step by part; what reading its samples costs, sample_rate.py tells.

python benchmarks/training_step.py [--stage refine --train-resolution 512 --precision bfloat16]
"""

from __future__ import annotations

import argparse
import time

import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--stage', choices=('base', 'refine'), default='base')
    parser.add_argument('--model-backbone', default='mobilenetv2')
    parser.add_argument('--train-resolution', type=int, default=256)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--precision', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--steps', type=int, default=8)
    args = parser.parse_args()

    print(machine.describe())
    time_step(args)


def time_step(args: argparse.Namespace) -> None:
    """Composite, forward, loss, backward and optimizer, in milliseconds a sample."""
    import torch

    from dataset.geometry import AffineRange
    from dataset.keys import Plan
    from dataset.loaders import Compositions, collate
    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
    from memory import keep_memory
    from model import MattingBase, MattingRefine
    from training import devices
    from training.losses import base_loss, refine_loss

    device = devices.join_ranks(args.device).device
    keep_memory(device.type)
    torch.manual_seed(0)
    module = (MattingBase if args.stage == 'base' else MattingRefine)(args.model_backbone)
    module = module.train().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(module.parameters(), fused=device.type != 'mps')
    model = devices.in_precision(module, device, devices.choose_precision(args.precision, device))
    data = Compositions(SyntheticMattes(64), SyntheticBackgrounds(64), AffineRange((0.4, 1)), AffineRange((1, 2)))
    plan = Plan(64, 64, args.batch_size, args.train_resolution, 4)
    seconds = dict.fromkeys(('composite', 'forward', 'loss', 'backward', 'optimizer'), 0.0)

    for step in range(args.steps + 2):
        if step == 2:
            seconds = dict.fromkeys(seconds, 0.0)
        batch = collate([data[key] for key in plan.step(step)]).to(device)
        clock = _Clock(device, seconds)
        true = batch.compose(args.train_resolution)
        clock.part('composite')
        pred = model(true.src, true.bgr)
        clock.part('forward')
        if args.stage == 'base':
            loss = base_loss(*pred[:3], true.pha, true.fgr)['total']
        else:
            loss = refine_loss(*pred[:5], true.pha, true.fgr)['total']
        clock.part('loss')
        loss.backward()
        clock.part('backward')
        optimizer.step()
        optimizer.zero_grad()
        clock.part('optimizer')
    samples = args.steps * args.batch_size
    print(f'{args.stage}, {args.model_backbone}, resolution {args.train_resolution}, {args.precision} on {device}')
    for part, value in seconds.items():
        print(f'{part:24} {1000 * value / samples:7.1f} ms a sample, {value / sum(seconds.values()):4.0%}')
    print(f'{samples / sum(seconds.values()):.1f} samples/s without reading')


class _Clock:
    """Adds the time since the last part, once the device has finished it."""

    def __init__(self, device: object, seconds: dict[str, float]):
        self.device, self.seconds = device, seconds
        self.last = time.perf_counter()

    def part(self, name: str) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now


if __name__ == '__main__':
    main()
