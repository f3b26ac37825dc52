"""What a checkpoint costs against bare torch.save of the same content.

python benchmarks/checkpoint_save.py [--model-backbone resnet50]

Prints how long training waits, and how long a thread then takes to sync the checkpoint to the disk, read it back,
commit it by its record and remove older training states. Only the row with fsync waits for the disk, as a checkpoint
does.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers import machine

from common import cli
from common.devices import choose_device


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--model-backbone', default='resnet50', help='of the refine model that is saved')
    cli.add_device_argument(parser.add_argument)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--folder', type=Path, default=Path(), help='on the disk to measure')
    args = parser.parse_args(argv)

    import torch

    from checkpointing.content import Content, tensor_bytes
    from checkpointing.manager import Checkpoints, Point
    from model import MattingRefine

    module = MattingRefine(args.model_backbone).to(choose_device(args.device))
    moments = {
        name: {'exp_avg': torch.rand_like(p), 'exp_avg_sq': torch.rand_like(p), 'step': torch.tensor(1.0)}
        for name, p in module.named_parameters()
    }
    content = Content(module.state_dict(), {'format': 1, 'optimizer': moments})
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    (folder / 'bare').mkdir()
    step = iter(range(10**6))
    checkpoints = Checkpoints(folder / 'run', 'refine', 'run', {})

    def bare(sync: bool = False) -> None:
        # New files each time: writing over old ones costs more.
        number = next(step)
        for part, name in ((content.weights, 'weights'), (content.state, 'state')):
            with (folder / 'bare' / f'{name}-{number}.pth').open('wb') as file:
                torch.save(part, file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())

    def remove_bare() -> None:
        for path in (folder / 'bare').iterdir():
            path.unlink()

    def ours() -> None:
        number = next(step)
        checkpoints.save({f'epoch-0-iter-{number}': 'interval'}, Point(number, 0, {'valid_loss': 1.0}), content)

    works = {
        'torch.save': bare,
        'torch.save and fsync': lambda: bare(sync=True),
        '': remove_bare,
        'a checkpoint: training waits': ours,
        'a checkpoint: then, in the background': checkpoints.settle,
    }
    try:
        seconds = machine.interleaved(works, args.repeats)
    finally:
        shutil.rmtree(folder)
    del seconds['']
    print(machine.describe())
    size = tensor_bytes(content)
    print(f'{args.model_backbone}, {size / 1e6:.0f} MB in two files, median of {args.repeats}')
    for name, value in seconds.items():
        print(f'{name:38} {value:6.3f} s   {value / seconds["torch.save"]:5.2f} x torch.save')
    whole = sum(value for name, value in seconds.items() if name.startswith('a checkpoint'))
    print(f'{"a checkpoint: start to commit":38} {whole:6.3f} s   {whole / seconds["torch.save"]:5.2f} x torch.save')


if __name__ == '__main__':
    sys.exit(cli.run(main))
