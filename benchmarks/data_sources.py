"""Samples a second of one core from a folder, from tar shards and from S3, with the disk and the cache cold and warm.

python benchmarks/data_sources.py [--samples 64] [--resolution 512]

A sample is a 1080p JPEG pair and a 2400x1600 background, decoded and warped as in sample_rate.py. S3 is a server on
this machine (moto), a process of its own: its figures are those of requests and copies, without a network's way. "a
core" counts the CPU time of the reading process alone. A cold disk is one that the system was asked to forget (Linux).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import machine
from helpers.s3 import bucket
from sample_rate import STAGES

from common import cli
from common.console import table
from common.installation import missing_problems

if TYPE_CHECKING:
    from dataset.loaders import WarpedPairs


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--samples', type=int, default=64, metavar='N', help='different ones, read once each')
    parser.add_argument('--repeats', type=int, default=5, metavar='N', help='passes, of which the median counts')
    parser.add_argument('--resolution', type=int, default=512, metavar='N', help='training resolution')
    parser.add_argument('--json', type=Path, metavar='FILE')
    args = parser.parse_args(argv)
    if problems := missing_problems('moto', 's3fs'):
        parser.error(problems[0])

    import cv2
    import torch

    # As in a worker of the loader.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    print(machine.describe())
    with tempfile.TemporaryDirectory() as name, bucket() as store:
        root = Path(name)
        write(root, args.samples)
        store.put(f'{root}/folder/', 'bucket/folder/', recursive=True)
        store.put(f'{root}/shards/', 'bucket/shards/', recursive=True)
        forget_cache = lambda: shutil.rmtree(root / 'cache', ignore_errors=True)  # noqa: E731
        ways: dict[str, tuple[str, Callable[[], object]]] = {
            'folder': (f'{root}/folder', lambda: None),
            'shards': (f'{root}/shards', lambda: None),
            'folder, cold disk': (f'{root}/folder', lambda: forget(root / 'folder')),
            'shards, cold disk': (f'{root}/shards', lambda: forget(root / 'shards')),
            'S3 folder, cold cache': ('s3://bucket/folder', forget_cache),
            'S3 folder, warm cache': ('s3://bucket/folder', lambda: None),
            'S3 shards, cold cache': ('s3://bucket/shards', forget_cache),
            'S3 shards, warm cache': ('s3://bucket/shards', lambda: None),
        }
        data = {way: pairs(place, root / 'cache', args.resolution) for way, (place, _) in ways.items()}
        passes: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for repeat in range(args.repeats + 1):
            for way, (_, prepare) in ways.items():
                prepare()
                seconds = one_pass(data[way], args.samples, args.resolution, repeat)
                if repeat:
                    passes[way].append(seconds)
    median = {way: sorted(times)[len(times) // 2] for way, times in passes.items()}
    reference = median['folder'][1]
    numbers = {
        way: {'samples_per_second': args.samples / wall, 'by_cpu': args.samples / cpu, 'of_folder': reference / cpu}
        for way, (wall, cpu) in median.items()
    }
    rows = [(way, *(f'{value:.2f}' if key == 'of_folder' else f'{value:.1f}' for key, value in values.items()))
            for way, values in numbers.items()]  # fmt: skip
    print(table([('from', 'samples/s', 'a core', 'of the folder'), *rows]))
    machine.write_json(args.json, numbers)


def write(root: Path, samples: int) -> None:
    """Write a folder of as many samples, each a file of its own, and the shards of it."""
    from helpers import drawings

    import make_shards

    (root / 'one').mkdir()
    for path in drawings.training_files(root / 'one'):
        target = root / 'folder' / path.stem
        target.mkdir(parents=True)
        for number in range(samples):
            shutil.copy(path, target / f'{number:05}.jpg')
    folder = root / 'folder'
    make_shards.main(['--fgr', f'{folder}/fgr', '--pha', f'{folder}/pha', '--output-dir', f'{root}/shards/pairs'])
    make_shards.main(['--bgr', f'{folder}/bgr', '--output-dir', f'{root}/shards/bgr'])


def pairs(place: str, cache: Path, side: int) -> WarpedPairs:
    """Return the data set of what lies in a place."""
    from dataset.cache import PictureCache
    from dataset.geometry import AffineRange
    from dataset.loaders import WarpedPairs
    from dataset.paths import find_images
    from dataset.sources import BackgroundFiles, MatteFiles
    from dataset.stores import open_folder

    between = '/pairs' if place.endswith('shards') else ''
    folders = [open_folder(f'{place}{below}', cache=PictureCache(cache / place[:2], 10**12))
               for below in (f'{between}/fgr', f'{between}/pha', '/bgr')]  # fmt: skip
    fgr, pha, bgr = ([folder / name for name in find_images(folder)] for folder in folders)
    scale = STAGES['base' if side <= 1024 else 'refine'].matte_scale
    return WarpedPairs(
        MatteFiles(list(zip(fgr, pha))), BackgroundFiles(bgr), AffineRange((scale, 1)), AffineRange((1, 2))
    )


def one_pass(data: WarpedPairs, samples: int, side: int, epoch: int) -> tuple[float, float]:
    """Read every sample once in an epoch's order; return the seconds by the clock and of this process's CPU."""
    from dataset.sampling import SamplingPlan

    plan = SamplingPlan(samples, samples, 8, side, 4)
    chosen = [
        sample for step in range(plan.steps_per_epoch) for sample in plan.step(epoch * plan.steps_per_epoch + step)
    ]
    wall, cpu = time.perf_counter(), time.process_time()
    for sample in chosen:
        data[sample]
    return time.perf_counter() - wall, time.process_time() - cpu


def forget(folder: Path) -> None:
    """Ask the system to forget what it holds of a folder's files."""
    os.sync()
    for path in folder.rglob('*'):
        if path.is_file():
            with path.open('rb') as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == '__main__':
    sys.exit(cli.run(main))
