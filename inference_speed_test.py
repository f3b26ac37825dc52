"""How fast the networks are on this machine: milliseconds, pictures per second, GMac and memory.

one network, with random weights:
  python inference_speed_test.py --model-type mattingrefine --model-backbone resnet50 --resolution 1920 1080
all of them at HD and 4K, in two precisions, also as JSON:
  python inference_speed_test.py --model-type mattingrefine --model-backbone all --resolution hd 4k \\
      --precision float32 bfloat16 --json speed.json
your weights on your picture:
  python inference_speed_test.py --model-type mattingrefine --model-backbone resnet50 --model-checkpoint model.pth \\
      --image-src photo.jpg --image-bgr plate.jpg
the same network by all backends:
  python inference_speed_test.py --model-type mattingrefine --model-backbone mobilenetv2 --device cpu \\
      --backend pytorch torchscript onnx

Times the network alone, from float pictures on the device to alpha and foreground there: no files, no decoding, no
copies between computer and device. A row is printed as soon as it is measured:
  median ms, p10-p90  of the times for a batch, and their 10th to 90th percentile
  fps                 pictures per second, by the median
  GMac                multiply-adds in the convolutions for one picture, in 10^9
  MiB                 most memory in use: the GPU's for tensors; on a CPU the process's, with Python and torch

Exit code 0: all is measured; 1: a row failed, or the JSON file was not written; 2: nothing was started; 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli, network
from common.devices import keep_memory
from inference import backend_options, options
from inference.speed import sweep
from inference.speed.table import COLUMNS, cells, fields, line

if TYPE_CHECKING:
    import numpy as np
    import torch

    from inference.speed.measure import Work

Images = tuple['np.ndarray', 'np.ndarray'] | None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser, sweep=True)
    add = parser.add_argument_group('pictures').add_argument
    add('--batch-size', type=int, default=1, metavar='N', help='pictures computed at once')
    add('--resolution', nargs='+', metavar='SIZE',
        help='hd, 4k, or width and height in pixels; one or several, such as hd 2560 1440. hd if left out. '
        'More than twice the pixels of hd get the settings of 4k, where these are not given')  # fmt: skip
    add('--image-src', type=Path, metavar='FILE', help='a picture, for the whole batch; noise if left out')
    add('--image-bgr', type=Path, metavar='FILE', help='its plate')
    options.add_device_arguments(parser, sweep=True)
    add = parser.add_argument_group('measuring').add_argument
    add('--repeats', type=int, default=30, metavar='N', help='runs to time, after three or more to warm up')
    add('--seconds', type=float, metavar='S', help='begin no more runs of a row after so many')
    add('--json', type=Path, metavar='FILE', help='write the rows there, with settings and versions')
    add('-y', dest='overwrite', action='store_true', help='replace the JSON file if there is one')
    return backend_options.parse(parser, argv)


def prepare(args: argparse.Namespace) -> tuple[list[Work], Images]:
    """Checks everything that can be checked before a network is built; returns the rows' work, and the pictures.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    problems, images, sizes = sweep.measuring_problems(args), None, [network.SIZES['hd']]
    try:
        if args.resolution:
            sizes = sweep.read_sizes(args.resolution)
        elif args.image_src and not problems:
            images = sweep.read_images(args.image_src, args.image_bgr)
            sizes = [images[0].shape[1::-1]]
    except ValueError as error:
        problems.append(str(error))
    rows = sweep.make_rows(args, sizes)
    problems += sweep.row_problems(rows)
    cli.raise_problems(problems)
    from inference.speed.measure import Work

    return [
        Work(options.model_arguments(row), row.resolution, row.batch_size, row.precision, row.backend, row.compile)
        for row in rows
    ], images


def run(args: argparse.Namespace, works: list[Work], images: Images, device: torch.device) -> int:
    """Measures row after row; returns the exit code. A row that fails is reported and passed over."""
    from tqdm import tqdm

    from common.cli import out_of_memory
    from common.files import write_atomic
    from inference.speed import measure as speed

    where = speed.machine(device)
    report: dict[str, Any] = {'machine': where, 'flags': vars(args), 'rows': []}
    weights = 'random weights' if args.model_checkpoint is None else str(args.model_checkpoint)
    print('{processor}, {cores} cores, {threads} threads; torch {torch}; on {device}'.format(**where), end='; ')
    print(f'batch {args.batch_size}, {weights}{", compiled" if args.compile else ""}')
    print(line(list(COLUMNS)), flush=True)
    if len(works) > 1 and not speed.reset_peak(device):
        print('note: MiB is the highest of the row and those before it; only Linux tells rows apart', file=sys.stderr)
    with (
        tqdm(works, unit=' rows', leave=False, disable=None, dynamic_ncols=True) as bar,
        tempfile.TemporaryDirectory() as folder,
    ):
        for work in bar:
            bar.set_description(' '.join(cells(work)))
            try:
                ready = exported(work, Path(folder)) if is_to_be_exported(work) else work
                found = speed.measure(ready, device, images, args.repeats, args.seconds or math.inf)
                text = line(cells(work, found))
                report['rows'].append(fields(work) | asdict(found))
            except (ValueError, RuntimeError, MemoryError) as error:
                if not isinstance(error, ValueError) and not out_of_memory(error):
                    raise
                reason = error if isinstance(error, ValueError) else 'too little memory'
                text = line(cells(work)) + f' failed: {reason}'
            with bar.external_write_mode():
                print(text, flush=True)
            if args.json is not None:  # after each row: an hour's work is not lost to the last one
                write_atomic(args.json, (json.dumps(report, indent=2, default=str) + '\n').encode())
    return 0 if len(report['rows']) == len(works) else 1


def is_to_be_exported(work: Work) -> bool:
    """Whether it takes an ONNX file that is not there yet."""
    path = work.model['path']
    return work.backend == 'onnx' and (path is None or path.suffix != '.onnx')


def exported(work: Work, folder: Path) -> Work:
    """The same with an ONNX file, which is made once for all sizes of equal settings."""
    from export import onnx_file
    from inference.networks import load_network, random_network
    from model.folding import folded

    about = {name: str(value) for name, value in work.model.items() if name != 'path'}
    path = folder / f'{"-".join([*about.values(), work.precision])}.onnx'
    if not path.exists():
        network = random_network(work.model) if work.model['path'] is None else load_network(**work.model)[0]
        onnx_file.save(onnx_file.convert(folded(network), work.precision, about=about), path)
    return replace(work, model={**work.model, 'path': path})


def start(argv: Sequence[str] | None) -> int:
    """Reads the flags, prepares everything and runs; returns the exit code."""
    args = parse(argv)
    try:
        works, images = prepare(args)
        import torch

        from common.devices import choose_device
        from inference.backends import load, precision_for

        device = choose_device(args.device)
        keep_memory(device.type)
        works = [replace(x, precision=precision_for(x.backend, x.precision, device)) for x in works]
        if args.model_checkpoint is not None:
            backend = 'pytorch' if is_to_be_exported(works[0]) else works[0].backend
            matting = load(works[0].model, backend, torch.device('cpu'), traceable=True)
            print(matting.loaded or args.model_checkpoint)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    try:
        return run(args, works, images, device)
    except OSError as error:
        print(f'error: stopped: {error}', file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    try:
        return start(argv)
    except KeyboardInterrupt:
        print('stopped: the rows above are measured, and in the JSON file if there is one', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
