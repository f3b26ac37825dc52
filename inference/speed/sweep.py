"""The rows of a speed test: flags with several values become one set of flags for each combination, checked.

Like the flags themselves, this imports torch for nothing but to ask for a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.network import BACKBONES, MIN_SIDE, PUBLISHED, SIZES, published_size
from inference import backend_options, options

if TYPE_CHECKING:
    import numpy as np


Size = tuple[int, int]


def read_sizes(words: Sequence[str]) -> list[Size]:
    """The sizes, (width, height), that the words of `--resolution` mean: `hd`, `4k`, or two numbers.

    Raises:
        ValueError: a word is none of these, or a number is missing or too small.
    """
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


def make_rows(args: argparse.Namespace, sizes: Sequence[Size]) -> list[argparse.Namespace]:
    """The flags of each row: one value where there were several, and the published settings where there was none.

    Raises:
        ValueError: see `backend_options.follow`.
    """
    backbones = BACKBONES if 'all' in args.model_backbone else args.model_backbone
    rows = []
    for values in itertools.product(*map(dict.fromkeys, (backbones, sizes, args.precision, args.backend))):
        row = argparse.Namespace(**vars(args))
        row.model_backbone, row.resolution, row.precision, row.backend = values
        if not backend_options.backend_problems(row, convertible=True):
            backend_options.follow(row)
        scale, pixels = PUBLISHED[published_size(row.resolution)]
        if row.model_backbone_scale is None:
            row.model_backbone_scale = scale
        if row.model_refine_sample_pixels is None:
            row.model_refine_sample_pixels = pixels
        rows.append(row)
    return rows


def row_problems(rows: Sequence[argparse.Namespace]) -> list[str]:
    """What is wrong with the flags of the rows, each as the flag, its value and what is allowed."""
    found = [line for row in rows for line in options.model_problems(row) + options.device_problems(row)]
    checkpoint = rows[0].model_checkpoint
    if checkpoint is not None and len({row.model_backbone for row in rows}) > 1:
        found.append(f'--model-checkpoint {checkpoint}: has one backbone; give that alone as --model-backbone')
    for row in rows:
        found += backend_options.backend_problems(row, convertible=True)
        if row.backend == 'onnx' and row.precision == 'bfloat16':
            found.append('--precision bfloat16: --backend onnx has float32 and float16')
        small = min(row.resolution) * row.model_backbone_scale
        if row.model_type == 'mattingrefine' and 0 < small < 1:
            width, height = row.resolution
            found.append(
                f'--resolution {width} {height}: too small for --model-backbone-scale {row.model_backbone_scale}'
            )
    return list(dict.fromkeys(found))


def measuring_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with the flags that are of no row: pictures, repetitions, and the file to write."""
    found = [
        f'{flag} {value}: must be {"above 0" if flag == "--seconds" else "at least 1"}'
        for flag, value, fine in (
            ('--batch-size', args.batch_size, args.batch_size >= 1),
            ('--repeats', args.repeats, args.repeats >= 1),
            ('--seconds', args.seconds, args.seconds is None or args.seconds > 0),
        )
        if not fine
    ]
    images = {'--image-src': args.image_src, '--image-bgr': args.image_bgr}
    given = {flag: path for flag, path in images.items() if path is not None}
    found += [f'{flag} {path}: no such file' for flag, path in given.items() if not path.is_file()]
    if len(given) == 1:
        found.append(f'{next(iter(given))}: needs the other one of --image-src and --image-bgr')
    if given and args.resolution:
        found.append(f'--resolution {" ".join(args.resolution)}: leave it out, or the pictures, which have a size')
    folder = None if args.json is None else args.json.absolute().parent
    if folder and not (folder.is_dir() and os.access(folder, os.W_OK)):
        found.append(f'--json {args.json}: there is no folder {folder}, or it is not writable')
    elif args.json is not None and (args.json.is_dir() or (args.json.exists() and not args.overwrite)):
        found.append(f'--json {args.json}: exists; choose another name, or add -y to replace a file')
    return found


def read_images(src: Path, bgr: Path) -> tuple[np.ndarray, np.ndarray]:
    """Picture and plate, uint8 RGB (H, W, 3).

    Raises:
        ValueError: a file cannot be read, or the sizes differ or are too small.
    """
    from dataset.readers import read_rgb

    pictures = {'--image-src': read_rgb(src), '--image-bgr': read_rgb(bgr)}
    sizes = [x.shape[1::-1] for x in pictures.values()]
    if sizes[0] != sizes[1] or min(sizes[0]) < MIN_SIDE:
        listed = ', '.join(f'{flag} is {width}x{height}' for flag, (width, height) in zip(pictures, sizes))
        raise ValueError(f'{listed}: must be of one size, with sides of at least {MIN_SIDE}')
    return pictures['--image-src'], pictures['--image-bgr']
