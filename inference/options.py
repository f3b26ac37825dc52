"""The flags that inference, speed test and export share, in groups, and their checks. Importing this imports no torch.

Each `add_…` function adds one group; the `…_problems` function beside it says what is wrong with the values.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import cli, devices, path_checks
from common.installation import missing_problems
from common.network import BACKBONES, MODEL_TYPES, NetworkSettings, weights_path

BACKENDS = ('pytorch', 'torchscript', 'onnx')
OUTPUT_TYPES = ('com', 'pha', 'fgr', 'err', 'ref')
COLOURED_TYPES = ('com', 'fgr')  # which carry the tags of their picture
PICTURE_FORMATS = ('png', 'jpg', 'webp', 'exr')
DEFAULT_FORMATS = {'com': 'png', 'pha': 'jpg', 'fgr': 'jpg', 'err': 'jpg', 'ref': 'jpg'}


def add_model_arguments(parser: argparse.ArgumentParser, sweep: bool = False, required: bool = False) -> None:
    """Add the flags that name a network and its weights; these are the starter model unless they are `required`.

    `sweep` makes them those of a speed test: several backbones, and random weights without a checkpoint.
    """
    title = 'model (left out: what the file holds, as it was trained, else as published for the size of the pictures)'
    add = parser.add_argument_group(title).add_argument
    add('--model-checkpoint', type=weights_path, metavar='FILE|starter', required=required,
        default=None if sweep or required else 'starter',
        help='weights, an exported file, or the model that comes with the toolkit'
        + ('; random weights if left out' if sweep else ''))  # fmt: skip
    add('--model-type', choices=MODEL_TYPES,
        help='mattingrefine: full resolution; mattingbase: the coarse network alone, on the whole picture')  # fmt: skip
    if sweep:
        add('--model-backbone', nargs='+', choices=(*BACKBONES, 'all'), help='one encoder or several')
    else:
        add('--model-backbone', choices=BACKBONES, help='encoder that the weights were trained with')
    cli.add_refiner_arguments(add, None)


def model_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the model's flags, each as the flag, its value and what is allowed."""
    return path_checks.file_problems(args, 'model_checkpoint') + cli.refiner_problems(args)


def add_device_arguments(parser: argparse.ArgumentParser, sweep: bool = False, workers: bool = True) -> None:
    """Add the flags that say where and how precisely to compute.

    `sweep` makes them those of a speed test: several precisions and backends, and no `--num-workers`.
    """
    add = parser.add_argument_group('machine').add_argument
    cli.add_device_argument(add)
    if sweep:
        add('--precision', choices=cli.PRECISIONS, nargs='+', default=['auto'], help=cli.AUTO_PRECISION)
    else:
        cli.add_precision_argument(add)
    add('--compile', action=argparse.BooleanOptionalAction, default=False,
        help='compile the network: the first picture of a size takes half a minute or more, others less')  # fmt: skip
    add('--cuda-graphs', action=argparse.BooleanOptionalAction, default=True,
        help='on cuda, record what is done to a size of pictures and replay it, which spares the CPU')  # fmt: skip
    add('--backend', choices=BACKENDS, nargs='+' if sweep else None,
        help='what runs: weights; a TorchScript archive (.pt); an ONNX file (.onnx). The file decides if left out'
        + ('. Weights are traced for the size, or exported, which takes a minute' if sweep else ''))  # fmt: skip
    if workers:
        add('--batch-size', type=int, default=1 if sweep else None, metavar='N',
            help='pictures of equal size, or frames, computed at once'
            + ('' if sweep else '; if left out 1, on cuda up to 8 (4 of 4K), fewer where memory is short'))  # fmt: skip
    if workers and not sweep:
        cli.add_threads_argument(add, 'write')


def device_problems(args: argparse.Namespace, backends: Sequence[str] = ('pytorch',)) -> list[str]:
    """Return what is wrong with the machine's flags. Import torch to ask for a GPU if one is named."""
    found = cli.at_least_problems(args, {'num_workers': 0})
    has_compiler = os.environ.get('CXX') or any(map(shutil.which, ('c++', 'g++', 'clang++', 'cl')))
    kind = args.device.partition(':')[0]
    if args.compile and kind != 'cuda' and not has_compiler:
        found.append('--compile: needs a C++ compiler for the CPU, such as g++; install one or leave the flag out')
    if any(backend != 'onnx' for backend in backends):
        for precision in several(args.precision):
            found += cli.precision_problems(args.device, precision)
    if kind in ('cuda', 'mps'):
        try:
            devices.choose_device(args.device)
        except ValueError as error:
            found.append(str(error))
    return found


def several(value: str | list[str]) -> list[str]:
    """Return the values of a flag that takes several in a speed test and one elsewhere."""
    return value if isinstance(value, list) else [value]


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for pictures in: sources and plates."""
    add = parser.add_argument_group('pictures').add_argument
    add('--images-src', type=Path, required=True, metavar='PATH', help='a folder, read with its sub-folders, or a file')
    add('--images-bgr', type=Path, required=True, metavar='PATH',
        help='one plate for all, or a folder: a plate of each picture\'s name, or one per sub-folder of pictures '
        '(cam01.png or the only picture in cam01/ for cam01/frame_0001.jpg); docs/inputs.md has all rules')  # fmt: skip
    add('--resize-bgr', action=argparse.BooleanOptionalAction, default=False,
        help='resize plates to their pictures where sizes differ, instead of refusing')  # fmt: skip
    add('--preprocess-alignment', action=argparse.BooleanOptionalAction, default=False,
        help='warp each plate onto its picture first, for a camera that was not quite fixed')  # fmt: skip
    add('--skip-unmatched', action='store_true',
        help='do the others where pictures have no plate; these are named, and the exit code is 1')  # fmt: skip


def picture_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags for pictures in; the pictures themselves are checked by `find_jobs`."""
    found = [
        f'{flag} {path}: no such file or folder'
        for flag, path in (('--images-src', args.images_src), ('--images-bgr', args.images_bgr))
        if not path.exists()
    ]
    return found + cli.at_least_problems(args, {'batch_size': 1})


def add_output_arguments(parser: cli.Parser, *old_format_flags: str) -> None:
    """Add the flags for pictures out, and other spellings of the one for the format of each type."""
    add = parser.group('output').add_argument
    add('--output-dir', type=Path, required=True, metavar='DIR', help='each type gets a sub-folder, or a video')
    add('--output-types', '--output-type', nargs='+', default=['com'], choices=OUTPUT_TYPES,
        help='cut-out with alpha (the default), alpha, foreground, predicted error, refined regions')  # fmt: skip
    add('--picture-format', *old_format_flags, dest='picture_formats', nargs='+', default=[], metavar='TYPE=FORMAT',
        help=f'such as pha=png fgr=webp, of {", ".join(PICTURE_FORMATS)}; com is png and the others jpg if left out. '
        'jpg has no alpha, so com cannot be jpg; exr has scene-linear halves')  # fmt: skip
    add('--png-compression', type=int, default=1, metavar='0-9',
        help='1 is fast; 9 halves the file at best and takes ten times as long')  # fmt: skip
    add('--jpeg-quality', type=int, default=95, metavar='1-100', help='of jpg and webp; webp at 100 is lossless')
    add('-y', dest='overwrite', action='store_true',
        help='write into a folder that is not empty; files of equal name are replaced, others kept')  # fmt: skip


def output_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags for pictures out."""
    found = []
    for entry in args.picture_formats:
        kind, _, picture_format = entry.partition('=')
        if kind not in OUTPUT_TYPES or picture_format not in PICTURE_FORMATS:
            found.append(
                f'--picture-format {entry}: must be TYPE=FORMAT with a type of {", ".join(OUTPUT_TYPES)} '
                f'and a format of {", ".join(PICTURE_FORMATS)}, such as pha=png'
            )
        elif kind == 'com' and picture_format == 'jpg':
            found.append('--picture-format com=jpg: jpg has no alpha; use png or webp')
        elif picture_format == 'exr':
            found += missing_problems('OpenEXR', needed_by=f'--picture-format {entry}: ')
    if args.skip_existing and args.overwrite:
        found.append('--skip-existing: not together with -y, which replaces what is there')
    return found + cli.range_problems(args, {'png_compression': (0, 9), 'jpeg_quality': (1, 100)})


def output_formats(args: argparse.Namespace) -> dict[str, str]:
    """Return the format of each type asked for, in the order asked: {'com': 'png', 'pha': 'jpg', ...}."""
    formats = DEFAULT_FORMATS | dict(entry.split('=', 1) for entry in args.picture_formats if '=' in entry)
    return {kind: formats[kind] for kind in args.output_types}


# What one thread computes in about 0.4 s with MobileNetV2, and holds in less than 200 MB.
PIXELS_OF_A_THREAD = 2_500_000
MOST_THREADS = 16  # that do the same


@dataclass(frozen=True)
class Threads:
    """The numbers of threads of the stages."""

    files: int  # that read pictures, and as many that write
    batches: int  # that compute a batch each at the same time
    each: int  # of the network within each of these; 0 leaves it to torch


def share_cores(
    device: str,
    batches: int,
    pixels: int,
    network: NetworkSettings | None = None,
    num_workers: int | None = None,
    compiled: bool = False,
    processes: int = 1,
) -> Threads:
    """Share this process's part of the machine's cores among the stages; OMP_NUM_THREADS limits it.

    A GPU takes one batch after the other, and all cores read and write. On a CPU the network takes most of the time.
    Batches there are computed at the same time rather than by several threads together, which would wait for each other
    at every layer: half as fast again for HD on two cores. Large pictures get several threads, or memory would not
    suffice; so do few, and a network that is compiled, which torch would do once for each thread.

    Args:
        device: 'cpu', or any other.
        batches: how many there are.
        pixels: of the largest batch.
        network: what computes them; None for the refine network as it is published.
        num_workers: `Threads.files`; None or 0 derives it from the cores.
        compiled: the network is compiled.
        processes: on this machine, this one included.
    """
    cores = max(1, devices.cores() // processes)
    if device != 'cpu':
        return Threads(num_workers or min(MOST_THREADS, cores), 1, 0)
    if processes == 1 and os.environ.get('OMP_NUM_THREADS', '').isdigit():  # torchrun sets it by itself
        cores = max(1, min(cores, int(os.environ['OMP_NUM_THREADS'])))
    if network and network.model_type == 'mattingbase':
        pixels *= 8  # the coarse network sees the whole picture
    elif network and network.refiner and network.refiner.refine_mode == 'full':
        pixels *= 4
    together = min(cores // min(cores, math.ceil(pixels / PIXELS_OF_A_THREAD)), batches, MOST_THREADS)
    together = 1 if compiled else max(1, together)
    return Threads(num_workers or min(MOST_THREADS, max(1, cores // 2)), together, cores // together)
