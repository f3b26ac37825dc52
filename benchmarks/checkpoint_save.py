"""What a checkpoint costs against bare torch.save of the same content: hashing, fsync, record, and reading back.

python benchmarks/checkpoint_save.py [--model-backbone resnet50]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model-backbone', default='resnet50', help='of the refine model that is saved')
    parser.add_argument('--repeats', type=int, default=7)
    args = parser.parse_args()

    import torch

    from model import MattingRefine
    from training.checkpoint import Checkpoints, Content

    module = MattingRefine(args.model_backbone)
    moments = {
        name: {'exp_avg': torch.rand_like(p), 'exp_avg_sq': torch.rand_like(p), 'step': torch.tensor(1.0)}
        for name, p in module.named_parameters()
    }
    content = Content(module.state_dict(), {'format': 1, 'optimizer': moments})
    folder = Path(tempfile.mkdtemp(dir='.'))
    step = iter(range(10**6))
    checkpoints = Checkpoints(folder / 'run', 'refine', 'run', {})

    def bare() -> None:
        torch.save(content.weights, folder / 'weights.pth')
        torch.save(content.state, folder / 'state.pth')

    def ours() -> None:
        number = next(step)
        checkpoints.save(f'epoch-0-iter-{number}', number, 0, content, {'valid_loss': 1.0}, 'interval')

    try:
        seconds = machine.interleaved({'torch.save': bare, 'checkpoint': ours}, args.repeats)
        size = sum(path.stat().st_size for path in folder.glob('*.pth'))
    finally:
        shutil.rmtree(folder)
    print(machine.describe())
    print(f'{args.model_backbone}, {size / 1e6:.0f} MB, median of {args.repeats}')
    for name, value in seconds.items():
        print(f'{name:12} {value:6.3f} s')
    print(f'ratio {seconds["checkpoint"] / seconds["torch.save"]:.2f}')


if __name__ == '__main__':
    main()
