"""The flags that inference, speed test and export share, in groups, and their checks.

Importing this does not import torch, so `--help` answers at once. Each `add_…` function adds one group; the
`…_problems` function beside it says what is wrong with the values, one line per flag, so that a script reports all of
them in one message.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_TYPES = ('mattingbase', 'mattingrefine')
BACKBONES = ('resnet101', 'resnet50', 'mobilenetv2')
DEVICES = ('auto', 'cuda', 'mps', 'cpu')
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')
BACKENDS = ('pytorch', 'torchscript', 'onnx')
OUTPUT_TYPES = ('com', 'pha', 'fgr', 'err', 'ref')
PICTURE_FORMATS = ('png', 'jpg', 'webp')
DEFAULT_FORMATS = {'com': 'png', 'pha': 'jpg', 'fgr': 'jpg', 'err': 'jpg', 'ref': 'jpg'}


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults and keeps the description's line breaks."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.required:
            return action.help
        return super()._get_help_string(action)


def refuse(problems: Sequence[str]) -> None:
    """Refuses a command line.

    Raises:
        ValueError: with all that is wrong, one line each, if anything is.
    """
    if problems:
        raise ValueError('\n  '.join([f'{len(problems)} problems:', *problems]) if problems[1:] else problems[0])


def add_model_arguments(parser: argparse.ArgumentParser, sweep: bool = False) -> None:
    """Adds the flags that name a network and its weights.

    Args:
        parser: gets them.
        sweep: for a speed test: several backbones, random weights without a checkpoint, and None for the settings
            that follow the size of the pictures.
    """
    add = parser.add_argument_group('model').add_argument
    add('--model-type', required=True, choices=MODEL_TYPES,
        help='mattingrefine: full resolution; mattingbase: the coarse network alone, on the whole picture')  # fmt: skip
    if sweep:
        add('--model-backbone', required=True, nargs='+', choices=(*BACKBONES, 'all'), help='one encoder or several')
    else:
        add('--model-backbone', required=True, choices=BACKBONES, help='encoder that the weights were trained with')
    add('--model-backbone-scale', type=float, default=None if sweep else 0.25, metavar='X',
        help='sides of what the coarse network sees, of the picture\'s; 0.25 for HD, 0.125 for 4K')  # fmt: skip
    add('--model-checkpoint', type=Path, required=not sweep, metavar='FILE',
        help='weights; random ones if left out' if sweep else 'weights')  # fmt: skip
    add('--model-refine-mode', choices=('full', 'sampling', 'thresholding'), default='sampling',
        help='refine all cells of 4x4 pixels, a fixed number, or those of large error')  # fmt: skip
    add('--model-refine-sample-pixels', type=int, default=None if sweep else 80_000, metavar='N',
        help='pixels refined per picture, for sampling; 80000 for HD, 320000 for 4K')  # fmt: skip
    add('--model-refine-threshold', type=float, default=0.7, metavar='X',
        help='error above which a cell is refined, 0..1, for thresholding')  # fmt: skip
    add('--model-refine-kernel-size', type=int, choices=(1, 3), default=3, help='of the refiner, as it was trained')


def model_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with the model's flags, each as the flag, its value and what is allowed."""
    found = []
    if args.model_checkpoint is not None and not args.model_checkpoint.is_file():
        found.append(f'--model-checkpoint {args.model_checkpoint}: no such file')
    if not 0 < args.model_backbone_scale <= 0.5:
        found.append(f'--model-backbone-scale {args.model_backbone_scale}: must be above 0 and at most 0.5')
    if args.model_refine_sample_pixels < 16:
        found.append(f'--model-refine-sample-pixels {args.model_refine_sample_pixels}: must be at least 16, one cell')
    if not 0 <= args.model_refine_threshold <= 1:
        found.append(f'--model-refine-threshold {args.model_refine_threshold}: must be in 0..1')
    return found


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The model's flags as arguments of `Matting.from_checkpoint`."""
    refine = {
        'backbone_scale': args.model_backbone_scale,
        'refine_mode': args.model_refine_mode,
        'refine_sample_pixels': args.model_refine_sample_pixels,
        'refine_threshold': args.model_refine_threshold,
        'refine_kernel_size': args.model_refine_kernel_size,
    }
    return {
        'path': args.model_checkpoint,
        'model_type': args.model_type,
        'backbone': args.model_backbone,
        **(refine if args.model_type == 'mattingrefine' else {}),
    }


def add_device_arguments(parser: argparse.ArgumentParser, sweep: bool = False, workers: bool = True) -> None:
    """Adds the flags that say where and how precisely to compute.

    Args:
        parser: gets them.
        sweep: for a speed test: several precisions and backends.
        workers: threads read and write.
    """
    add = parser.add_argument_group('machine').add_argument
    add('--device', choices=DEVICES, default='auto', help='auto: cuda, else mps, else cpu')
    add('--precision', choices=PRECISIONS, nargs='+' if sweep else None, default=['float32'] if sweep else 'auto',
        help='auto: float16 on cuda, float32 elsewhere')  # fmt: skip
    add('--compile', action=argparse.BooleanOptionalAction, default=False,
        help='compile the network: the first picture of a size takes half a minute or more, others less')  # fmt: skip
    add('--backend', choices=BACKENDS, nargs='+' if sweep else None, default=['pytorch'] if sweep else 'pytorch',
        help='what runs: weights; a TorchScript archive (.pt); an ONNX file (.onnx). '
        + ('Weights are traced for the size, or exported, which takes a minute. ' if sweep else '')
        + 'Model flags that are left out follow an exported file')  # fmt: skip
    if workers and not sweep:
        add('--num-workers', type=int, default=0, metavar='N',
            help='threads that read pictures, and as many that write; 0: one per core (CPU: per 2)')  # fmt: skip


def _has_compiler() -> bool:
    return bool(os.environ.get('CXX')) or any(map(shutil.which, ('c++', 'g++', 'clang++', 'cl')))


def device_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with the machine's flags. Imports torch to ask for a GPU if one is named."""
    found = []
    if getattr(args, 'num_workers', 0) < 0:
        found.append(f'--num-workers {args.num_workers}: must be at least 0')
    if args.compile and args.device != 'cuda' and not _has_compiler():
        found.append('--compile: needs a C++ compiler for the CPU, such as g++; install one or leave the flag out')
    if args.device == 'cpu' and args.precision == 'float16' and getattr(args, 'backend', None) != 'onnx':
        found.append('--precision float16: needs a GPU; use bfloat16 or float32 with --device cpu')
    if args.device in ('cuda', 'mps'):
        from common.devices import choose_device

        try:
            choose_device(args.device)
        except ValueError as error:
            found.append(str(error))
    return found


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for pictures in: sources and plates."""
    add = parser.add_argument_group('pictures').add_argument
    add('--images-src', type=Path, required=True, metavar='PATH', help='a folder, read with its sub-folders, or a file')
    add('--images-bgr', type=Path, required=True, metavar='PATH',
        help='one plate for all, or a folder: a plate of each picture\'s name, or one per sub-folder of pictures '
        '(cam01.png or the only picture in cam01/ for cam01/frame_0001.jpg)')  # fmt: skip
    add('--resize-bgr', action=argparse.BooleanOptionalAction, default=False,
        help='resize plates to their pictures where sizes differ, instead of refusing')  # fmt: skip
    add('--preprocess-alignment', action=argparse.BooleanOptionalAction, default=False,
        help='warp each plate onto its picture first, for a camera that was not quite fixed')  # fmt: skip
    add('--batch-size', type=int, default=1, metavar='N', help='pictures of equal size computed at once')


def picture_problems(args: argparse.Namespace) -> list[str]:
    """What is wrong with the flags for pictures in; the pictures themselves are `inference.images.inputs`' business."""
    found = [
        f'{flag} {path}: no such file or folder'
        for flag, path in (('--images-src', args.images_src), ('--images-bgr', args.images_bgr))
        if not path.exists()
    ]
    if args.batch_size < 1:
        found.append(f'--batch-size {args.batch_size}: must be at least 1')
    return found


def add_output_arguments(parser: argparse.ArgumentParser, format_flag: str = '--output-format') -> None:
    """Adds the flags for pictures out; `format_flag` names the one for the format of each type."""
    add = parser.add_argument_group('output').add_argument
    add('--output-dir', type=Path, required=True, metavar='DIR', help='each type gets a sub-folder, or a video')
    add('--output-types', '--output-type', nargs='+', required=True, choices=OUTPUT_TYPES,
        help='cut-out with alpha, alpha, foreground, predicted error, refined regions')  # fmt: skip
    add(format_flag, dest='picture_formats', nargs='+', default=[], metavar='TYPE=FORMAT',
        help=f'such as pha=png fgr=webp, of {", ".join(PICTURE_FORMATS)}; com is png and the others jpg if left out. '
        'jpg has no alpha, so com cannot be jpg')  # fmt: skip
    add('--png-compression', type=int, default=1, metavar='0-9',
        help='1 is fast; 9 halves the file at best and takes ten times as long')  # fmt: skip
    add('--jpeg-quality', type=int, default=95, metavar='1-100', help='of jpg and webp; webp at 100 is lossless')
    add('-y', dest='overwrite', action='store_true',
        help='write into a folder that is not empty; files of equal name are replaced, others kept')  # fmt: skip


def output_problems(args: argparse.Namespace, format_flag: str = '--output-format') -> list[str]:
    """What is wrong with the flags for pictures out; `format_flag` as for `add_output_arguments`."""
    found = []
    if 'ref' in args.output_types and args.model_type == 'mattingbase':
        found.append('--output-types ref: mattingbase refines nothing; leave it out or use --model-type mattingrefine')
    for entry in args.picture_formats:
        kind, _, picture_format = entry.partition('=')
        if kind not in OUTPUT_TYPES or picture_format not in PICTURE_FORMATS:
            found.append(
                f'{format_flag} {entry}: must be TYPE=FORMAT with a type of {", ".join(OUTPUT_TYPES)} '
                f'and a format of {", ".join(PICTURE_FORMATS)}, such as pha=png'
            )
        elif kind == 'com' and picture_format == 'jpg':
            found.append(f'{format_flag} com=jpg: jpg has no alpha; use png or webp')
    if not 0 <= args.png_compression <= 9:
        found.append(f'--png-compression {args.png_compression}: must be in 0..9')
    if not 1 <= args.jpeg_quality <= 100:
        found.append(f'--jpeg-quality {args.jpeg_quality}: must be in 1..100')
    return found


def output_formats(args: argparse.Namespace) -> dict[str, str]:
    """The format of each type asked for, in the order asked: {'com': 'png', 'pha': 'jpg', ...}."""
    entries = (entry.partition('=') for entry in args.picture_formats)
    given = {kind: picture_format for kind, _, picture_format in entries}
    return {kind: given.get(kind, DEFAULT_FORMATS[kind]) for kind in args.output_types}


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's: every `world`-th item, from item `rank` on."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def process_share(environ: Mapping[str, str] = os.environ) -> Share:
    """Reads what torchrun tells its processes; without it, all the work is this process's."""
    rank, world, local_rank, local_world = (
        int(environ.get(name, default))
        for name, default in (('RANK', 0), ('WORLD_SIZE', 1), ('LOCAL_RANK', 0), ('LOCAL_WORLD_SIZE', 1))
    )
    return Share(rank, world, local_rank, local_world)


# What one thread computes in about 0.4 s with MobileNetV2, and holds in less than 200 MB.
PIXELS_OF_A_THREAD = 2_500_000
MOST_THREADS = 16  # that do the same


@dataclass(frozen=True)
class Threads:
    """How many threads do what.

    Attributes:
        files: that read pictures, and as many that write.
        batches: that compute a batch each at the same time.
        each: of the network for each of these; 0 leaves it to torch.
    """

    files: int
    batches: int
    each: int


def share_cores(args: argparse.Namespace, device: str, batches: int, pixels: int, processes: int = 1) -> Threads:
    """Shares this process's part of the machine's cores among the stages; OMP_NUM_THREADS limits it.

    A GPU takes one batch after the other, and all cores read and write. On a CPU the network takes most of the time.
    Batches there are computed at the same time rather than by several threads together, which would wait for each other
    at every layer: half as fast again for HD on two cores. Large pictures get several threads, or memory would not
    suffice; so do few, and a network that is compiled, which torch would do once for each thread.

    Args:
        args: the command line.
        device: 'cpu', or any other.
        batches: that there are.
        pixels: of the largest one.
        processes: on this machine, this one included.
    """
    cores = max(1, _cores() // processes)
    if device != 'cpu':
        return Threads(args.num_workers or min(MOST_THREADS, cores), 1, 0)
    if processes == 1 and os.environ.get('OMP_NUM_THREADS', '').isdigit():  # torchrun sets it by itself
        cores = max(1, min(cores, int(os.environ['OMP_NUM_THREADS'])))
    if args.model_type == 'mattingbase':
        pixels *= 8  # the coarse network sees the whole picture
    elif args.model_refine_mode == 'full':
        pixels *= 4
    together = min(cores // min(cores, math.ceil(pixels / PIXELS_OF_A_THREAD)), batches, MOST_THREADS)
    together = 1 if args.compile else max(1, together)
    return Threads(args.num_workers or min(MOST_THREADS, max(1, cores // 2)), together, cores // together)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
