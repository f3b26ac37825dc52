"""The rows of a speed test: one for each combination of the flags that take several values. Imports no torch."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.network import BACKBONES, MIN_SIDE, PUBLISHED, SIZES, NetworkSettings, published_size
from inference import backend_options, options

if TYPE_CHECKING:
    import numpy as np

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class SpeedRow:
    """A network, how it is run (see `backends.load_matting`), and on what."""

    checkpoint: Path | None  # weights or an exported file; None for random weights
    network: NetworkSettings
    size: Size
    batch_size: int = 1
    precision: str = 'float32'
    backend: str = 'pytorch'
    compiled: bool = False

    @property
    def values(self) -> dict[str, Any]:
        """All of it by name, in plain values."""
        width, height = self.size
        rest = {name: getattr(self, name) for name in ('batch_size', 'precision', 'backend', 'compiled')}
        return {'checkpoint': self.checkpoint, **self.network.values, 'width': width, 'height': height, **rest}


def read_sizes(words: Sequence[str]) -> list[Size]:
    """Return the sizes that `--resolution` means: `hd`, `4k`, or two numbers each; else raise a ValueError."""
    found: list[Size] = []
    rest = iter(words)
    for word in rest:
        if word.lower() in SIZES:
            found.append(SIZES[word.lower()])
            continue
        pair = [word, *itertools.islice(rest, 1)]
        if len(pair) < 2 or not all(side.isdecimal() and int(side) >= MIN_SIDE for side in pair):
            raise ValueError(
                f'--resolution {" ".join(pair)}: must be hd, 4k, or width and height of at least {MIN_SIDE} pixels'
            )
        found.append((int(pair[0]), int(pair[1])))
    return found


def make_rows(args: argparse.Namespace, sizes: Sequence[Size]) -> list[SpeedRow]:
    """Combine the flags that take several values; settings that are None are those published for the size."""
    rows = []
    backbones = BACKBONES if 'all' in args.model_backbone else args.model_backbone
    for backbone, size, precision, backend in itertools.product(
        *map(dict.fromkeys, (backbones, sizes, args.precision, args.backend))
    ):
        scale, pixels = PUBLISHED[published_size(size)]
        flags = {**vars(args), 'model_backbone': backbone}
        for name, published in (('model_backbone_scale', scale), ('model_refine_sample_pixels', pixels)):
            flags[name] = published if flags[name] is None else flags[name]
        network = NetworkSettings.from_options(flags)
        rows.append(SpeedRow(args.model_checkpoint, network, size, args.batch_size, precision, backend, args.compile))
    return rows


def network_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags of network, machine and backend, after they followed an exported file."""
    of_backends = backend_options.backend_problems(args, convertible=True)
    if not of_backends:
        backend_options.follow(args)
    found = options.model_problems(args) + options.device_problems(args)
    if args.model_checkpoint is not None and ('all' in args.model_backbone or len(set(args.model_backbone)) > 1):
        found.append(
            f'--model-checkpoint {args.model_checkpoint}: has one backbone; give that alone as --model-backbone'
        )
    found += of_backends
    if 'onnx' in args.backend and 'bfloat16' in args.precision:
        found.append('--precision bfloat16: --backend onnx has float32 and float16')
    return list(dict.fromkeys(found))


def size_problems(rows: Sequence[SpeedRow]) -> list[str]:
    """Return the sizes of which the coarse network would see less than a pixel."""
    found = [
        f'--resolution {row.size[0]} {row.size[1]}: too small for --model-backbone-scale {refiner.backbone_scale}'
        for row in rows
        if (refiner := row.network.refiner) and 0 < min(row.size) * refiner.backbone_scale < 1
    ]
    return list(dict.fromkeys(found))


def measuring_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags that are of no row: pictures, repetitions, and the file to write."""
    found = cli.at_least_problems(args, {'batch_size': 1, 'repeats': 1})
    if args.seconds is not None and args.seconds <= 0:
        found.append(f'--seconds {args.seconds}: must be above 0')
    images = {'--images-src': args.images_src, '--images-bgr': args.images_bgr}
    given = {flag: path for flag, path in images.items() if path is not None}
    found += cli.file_problems(args, 'images_src', 'images_bgr')
    if len(given) == 1:
        found.append(f'{next(iter(given))}: needs the other one of --images-src and --images-bgr')
    if given and args.resolution:
        found.append(f'--resolution {" ".join(args.resolution)}: leave it out, or the pictures, which have a size')
    if args.json is not None:
        found += cli.output_file_problems('--json', args.json, args.overwrite, given.values())
    return found


def read_images(src: Path, bgr: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read picture and plate, uint8 RGB (H, W, 3); raise a ValueError if they do not fit each other."""
    from dataset.readers import read_rgb

    pictures = {'--images-src': read_rgb(src), '--images-bgr': read_rgb(bgr)}
    sizes = [x.shape[1::-1] for x in pictures.values()]
    if sizes[0] != sizes[1] or min(sizes[0]) < MIN_SIDE:
        listed = ', '.join(f'{flag} is {width}x{height}' for flag, (width, height) in zip(pictures, sizes))
        raise ValueError(f'{listed}: must be of one size, with sides of at least {MIN_SIDE}')
    return pictures['--images-src'], pictures['--images-bgr']
