"""The rows of a speed test: one for each combination of the flags that take several values. Imports no torch."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, path_checks
from common.network import BACKBONES, MIN_SIDE, SIZES, NetworkSettings, RefinerSettings, Size, published_size
from inference import backend_options

if TYPE_CHECKING:
    import numpy as np

    from inference.networks import FoundNetwork

REFINES = 'mattingrefine'


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
    graphs: bool = True  # on cuda

    @property
    def values(self) -> dict[str, Any]:
        """All of it by name, in plain values."""
        width, height = self.size
        rest = {name: getattr(self, name) for name in ('batch_size', 'precision', 'backend', 'compiled', 'graphs')}
        return {'checkpoint': self.checkpoint, **self.network.values, 'width': width, 'height': height, **rest}


def read_sizes(words: Sequence[str]) -> list[Size]:
    """Return the sizes that `--resolution` means: `hd`, `4k`, `512px`, or two numbers each; else raise a ValueError."""
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


def make_rows(args: argparse.Namespace, sizes: Sequence[Size]) -> tuple[list[SpeedRow], FoundNetwork | None]:
    """Combine the flags that take several values; those that were left out follow the file, else the size.

    Args:
        args: flags of which `network_problems` finds none wrong.
        sizes: of the pictures.

    Returns:
        The rows, and what the file of `--model-checkpoint` holds.

    Raises:
        FileNotFoundError, ValueError: as `find_network`.
    """
    given = {name: getattr(args, f'model_{name}') for name in vars(RefinerSettings())}
    given = {name: value for name, value in given.items() if value is not None}
    backbones, precisions, backends = args.model_backbone or [None], args.precision, args.backend
    found = None
    if args.model_checkpoint is not None:
        from inference.networks import find_network

        backend = None if backends is None else 'onnx' if args.model_checkpoint.suffix == '.onnx' else 'pytorch'
        found = find_network(
            args.model_checkpoint, args.model_type, backbones[0], sizes=sizes, still=False, backend=backend, **given
        )
        backends = backends or [found.backend]
        if found.backend == 'onnx':
            held = found.about['precision']
            precisions = [held if name == 'auto' else name for name in precisions]
    rows = []
    backbones = BACKBONES if 'all' in backbones else backbones
    for backbone, size, precision, backend in itertools.product(
        *map(dict.fromkeys, (backbones, sizes, precisions, backends or ['pytorch']))
    ):
        if found is not None:
            settings = NetworkSettings(found.model_type, found.backbone, found.refiner_for(size))
        else:
            refiner = replace(RefinerSettings.published(published_size(size)), **given)
            settings = NetworkSettings(args.model_type, backbone, refiner if args.model_type == REFINES else None)
        rows.append(SpeedRow(
            args.model_checkpoint, settings, size, args.batch_size, precision, backend, args.compile, args.cuda_graphs
        ))  # fmt: skip
    return rows, found


def network_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags of network, machine and backend; no file is read yet."""
    found = backend_options.network_problems(args, convertible=True)
    if args.model_checkpoint is None:
        needed = ('model_type', 'model_backbone')
        found += [f'{cli.flag(name)}: give it, or --model-checkpoint' for name in needed if not getattr(args, name)]
    elif 'all' in (several := args.model_backbone or ()) or len(set(several)) > 1:
        found.append(
            f'--model-checkpoint {args.model_checkpoint}: has one backbone; give that alone as --model-backbone'
        )
    if 'onnx' in backend_options.backends_of(args) and 'bfloat16' in args.precision:
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
    found += path_checks.file_problems(args, 'images_src', 'images_bgr', kinds=['picture'])
    if len(given) == 1:
        found.append(f'{next(iter(given))}: needs the other one of --images-src and --images-bgr')
    if given and args.resolution:
        found.append(f'--resolution {" ".join(args.resolution)}: leave it out, or the pictures, which have a size')
    if args.json is not None:
        found += path_checks.output_file_problems('--json', args.json, args.overwrite, given.values())
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
