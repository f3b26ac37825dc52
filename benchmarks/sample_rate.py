"""Milliseconds of a training sample on one core, the published way and ours, and the rate of several loader processes.

python benchmarks/sample_rate.py [--num-workers 1 2 4 8 16 --plot rate.png] [--json rate.json]
python benchmarks/sample_rate.py --drawn        subjects and backgrounds of --dataset-name synthetic alone

A sample is a 1080p JPEG pair and a 2400x1600 background. The published loader makes float32 pictures of 512 x 512
(base) or 2048 x 2048 (refine) and augments them in the worker. Ours warps to the crop of the sample's step, whose sides
are half to all of that, and leaves the augmentation to the device, where training_step.py times it.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers import machine

from common import cli
from common.devices import cores

if TYPE_CHECKING:
    import numpy as np

    from dataset.loaders import Source, WarpedPairs
    from dataset.sampling import SamplingPlan

Files = tuple[Path, Path, Path]


class Stage(NamedTuple):
    """A stage's published resolution, lowest scale of a matte, multiple of crops, batch size, and target ratio."""

    side: int
    matte_scale: float
    multiple: int
    batch_size: int
    target: float


STAGES = {'base': Stage(512, 0.4, 1, 8, 4), 'refine': Stage(2048, 0.3, 4, 4, 8)}
DECODE_TARGET = 2.5
SAMPLES = 1000


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--stages', nargs='+', choices=tuple(STAGES), default=list(STAGES))
    parser.add_argument('--train-resolution', type=int, metavar='N', help="instead of each stage's own")
    parser.add_argument('--repeats', type=int, default=30, metavar='N', help='draws that the medians are of')
    parser.add_argument(
        '--num-workers', '--workers', type=int, nargs='+', default=[], metavar='N', help='processes of the loader'
    )
    parser.add_argument('--seconds', type=float, default=10, help='measured for each number of workers')
    parser.add_argument(
        '--plot', type=Path, metavar='FILE.png', help='the rate against --num-workers; needs matplotlib'
    )
    parser.add_argument('--drawn', action='store_true', help='time drawings, 256 pixels, and nothing else')
    parser.add_argument('--json', type=Path, metavar='FILE')
    args = parser.parse_args(argv)
    machine.check_plot(parser, args.plot)
    if args.plot and not args.num_workers:
        parser.error('--plot: needs --num-workers, such as --num-workers 1 2 4')

    import cv2
    import torch
    from helpers import drawings

    # As in a worker of the loader.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    print(machine.describe())
    if args.drawn:
        machine.write_json(args.json, drawn(args.repeats))
        return
    print(f'JPEG pair of 1920x1080, background of 2400x1600; milliseconds on one core, medians of {args.repeats} draws')
    numbers: dict[str, dict[str, object]] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = drawings.training_files(Path(folder))
        for name in args.stages:
            stage = STAGES[name]
            stage = stage._replace(side=args.train_resolution or stage.side)
            numbers[name] = one_core(name, stage, files, args.repeats)
            rates = {workers: rate(stage, files, workers, args.seconds) for workers in with_a_core(args.num_workers)}
            numbers[name]['samples_per_second'] = rates
            curves[f'{name}, {stage.side} pixels'] = list(rates.items())
    machine.write_json(args.json, numbers)
    if args.plot:
        machine.log_plot(args.plot, 'samples/s, decoded and warped', 'loader processes', curves)


def one_core(name: str, stage: Stage, files: Files, repeats: int) -> dict[str, object]:
    """Print and return the milliseconds of bare decoding, of the published sample and of ours, timed in turn."""
    import numpy as np

    from benchmarks.published.reading import published_sample

    (data, plan), generator = training(stage, files), np.random.default_rng(0)
    mattes, backgrounds = Timed(data.mattes), Timed(data.backgrounds)
    data = dataclasses.replace(data, mattes=mattes, backgrounds=backgrounds)
    # The samples of a step share their crop, so each is taken from another step.
    samples = (plan.step(step)[0] for step in itertools.count())
    reading = []

    def ours() -> None:
        data[next(samples)]
        reading.append(mattes.seconds + backgrounds.seconds)

    seconds = machine.interleaved(
        {
            'decode': lambda: decode(files),
            'published': lambda: published_sample(*files, stage.side, name, generator),
            'ours': ours,
        },
        repeats,
    )
    decoding, published, own = seconds.values()
    share = statistics.median(reading[1:]) / own  # the first was the warm-up
    print(f'{name}, {stage.side} pixels')
    print(f'  decode at full size {1000 * decoding:8.1f}')
    print(f'  published           {1000 * published:8.1f}   {published / decoding:6.2f} x decode')
    print(f'  ours                {1000 * own:8.1f}   {own / decoding:6.2f} x decode, target {DECODE_TARGET} at most')
    print(f'    reading {share:.0%}, warping {1 - share:.0%}')
    print(f'  published / ours    {published / own:8.2f}   target {stage.target}')
    return {
        **{f'{way}_ms': 1000 * value for way, value in seconds.items()},
        'published_over_ours': published / own,
        'ours_over_decode': own / decoding,
        'reading_share': share,
    }


def drawn(repeats: int) -> dict[str, float]:
    """Print and return the CPU milliseconds of drawn subjects and backgrounds, of 256 pixels.

    Means over so many drawings, which differ, of the medians of three times each.
    """
    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

    def timed(source: SyntheticMattes | SyntheticBackgrounds, index: int) -> float:
        start = time.process_time()
        source.read(index, (256, 256))
        return 1000 * (time.process_time() - start)

    numbers = {}
    for source in (SyntheticMattes(repeats), SyntheticBackgrounds(repeats)):
        timed(source, 0)
        each = [statistics.median(timed(source, index) for _ in range(3)) for index in range(repeats)]
        numbers[source.kind] = statistics.mean(each)
    total = sum(numbers.values())
    print(f'drawn, 256 pixels: matte {numbers["matte"]:.1f} ms, background {numbers["background"]:.1f} ms, '
          f'{1000 / total:.1f} samples/s of a core, target 20')  # fmt: skip
    return numbers


def rate(stage: Stage, files: Files, workers: int, seconds: float) -> float:
    """Print and return the samples per second of the training loader with so many processes."""
    import torch

    from dataset.loaders import TrainingBatches
    from dataset.sampling import StepSampler

    data, plan = training(stage, files)
    batches = iter(TrainingBatches(data, StepSampler(plan, 0, 10**6), workers, torch.cuda.is_available()))
    # What the workers had ready does not count.
    for _ in range(2 * workers + 1):
        next(batches)
    samples, start, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds:
        samples += len(next(batches))
        elapsed = time.perf_counter() - start
    print(f'  {workers:2} workers {samples / elapsed:17.1f} samples/s, {samples / elapsed / workers:.1f} a worker')
    return samples / elapsed


def with_a_core(workers: Sequence[int]) -> list[int]:
    """Return the numbers of workers for which there are cores, and say which are skipped."""
    for number in workers:
        if number > cores():
            print(f'  {number:2} workers: skipped, there are {cores()} cores')
    return [number for number in workers if number <= cores()]


def decode(files: Files) -> None:
    from PIL import Image

    for file in files:
        with Image.open(file) as image:
            image.load()


def training(stage: Stage, files: Files) -> tuple[WarpedPairs, SamplingPlan]:
    """Return a stage's data set, which repeats one picture of each kind, and its steps."""
    from dataset.geometry import AffineRange
    from dataset.loaders import WarpedPairs
    from dataset.sampling import SamplingPlan
    from dataset.sources import BackgroundFiles, MatteFiles

    fgr, pha, bgr = files
    mattes, backgrounds = MatteFiles([(fgr, pha)] * SAMPLES), BackgroundFiles([bgr] * SAMPLES)
    data = WarpedPairs(mattes, backgrounds, AffineRange((stage.matte_scale, 1)), AffineRange((1, 2)))
    return data, SamplingPlan(SAMPLES, SAMPLES, stage.batch_size, stage.side, stage.multiple)


class Timed:
    """A source of pictures that keeps the seconds its last read took."""

    def __init__(self, source: Source):
        self.source, self.seconds = source, 0.0

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        start = time.perf_counter()
        picture = self.source.read(index, min_size)
        self.seconds = time.perf_counter() - start
        return picture


if __name__ == '__main__':
    sys.exit(cli.run(main))
