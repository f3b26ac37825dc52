# PYTHON_ARGCOMPLETE_OK
"""How fast the networks are on this machine: milliseconds, pictures per second, GMac and memory.

one network, with random weights:
  python inference_speed_test.py --model-type mattingrefine --model-backbone resnet50 --resolution 1920 1080
all of them at HD and 4K, in two precisions, also as JSON:
  python inference_speed_test.py --model-type mattingrefine --model-backbone all --resolution hd 4k \\
      --precision float32 bfloat16 --json speed.json
your weights on your picture, and what a precision costs them there:
  python inference_speed_test.py --model-checkpoint model.pth --images-src photo.jpg --images-bgr plate.jpg \\
      --precision float32 bfloat16
the same network by all backends:
  python inference_speed_test.py --model-type mattingrefine --model-backbone mobilenetv2 --device cpu \\
      --backend pytorch torchscript onnx

Times the network alone, from float pictures on the device to alpha and foreground there: no files, no decoding, no
copies between computer and device. A row is printed as soon as it is measured:
  median ms, p10-p90  of the times for a batch, and their 10th to 90th percentile
  fps                 pictures per second, by the median
  GMac                multiply-adds in the convolutions for one picture, in 10^9
  MiB                 most memory in use: the GPU's for tensors; on a CPU the process's, with Python and torch
  alpha mean, max     of weights on a picture: difference of alpha (0 to 1) from float32 on the CPU

Exit code 0: all is measured; 1: a row failed, or the JSON file was not written; 2: nothing was started; 130 or 143:
stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli, network
from common.devices import choose_device, keep_memory
from common.signals import run_until_stopped
from inference import options
from inference.speed import sweep

if TYPE_CHECKING:
    import numpy as np
    import torch

    from inference.networks import FoundNetwork
    from inference.speed.measure import Speed
    from inference.speed.sweep import SpeedRow

    Images = tuple[np.ndarray, np.ndarray] | None

# Widths of the table's columns; those below 0 are aligned to the left.
COLUMNS = {'model': -13, 'backbone': -11, 'resolution': 10, 'precision': -9, 'backend': -11, 'median ms': 10,
           'p10-p90': 17, 'fps': 8, 'GMac': 7, 'MiB': 7, 'alpha mean': 10, 'alpha max': 9}  # fmt: skip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser, sweep=True)
    add = parser.add_argument_group('pictures').add_argument
    add('--resolution', nargs='+', metavar='SIZE',
        help='512px, hd, 4k, or width and height in pixels; one or several, such as hd 2560 1440. hd if left out. '
        'Settings that neither flags nor a record give are those published for the nearest of the three')  # fmt: skip
    add('--images-src', '--image-src', type=Path, metavar='FILE',
        help='a picture, for the whole batch; noise if left out')  # fmt: skip
    add('--images-bgr', '--image-bgr', type=Path, metavar='FILE', help='its plate')
    options.add_device_arguments(parser, sweep=True)
    add = parser.add_argument_group('measuring').add_argument
    add('--repeats', type=int, default=30, metavar='N', help='runs to time, after three or more to warm up')
    add('--seconds', type=float, metavar='S', help='begin no more runs of a row after so many')
    add('--json', type=Path, metavar='FILE', help='write the rows there, with settings and versions')
    add('-y', dest='overwrite', action='store_true', help='replace the JSON file if there is one')
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> tuple[list[SpeedRow], Images, FoundNetwork | None]:
    """Check all that can be checked before a network is built; return rows, pictures and what the checkpoint holds."""
    problems, images, sizes = sweep.measuring_problems(args), None, [network.SIZES['hd']]
    try:
        if args.resolution:
            sizes = sweep.read_sizes(args.resolution)
        elif args.images_src and not problems:
            images = sweep.read_images(args.images_src, args.images_bgr)
            sizes = [images[0].shape[1::-1]]
    except ValueError as error:
        problems.append(str(error))
    problems += sweep.network_problems(args)
    rows, found = ([], None) if problems else sweep.make_rows(args, sizes)
    cli.raise_problems(problems + sweep.size_problems(rows))
    return rows, images, found


def run(args: argparse.Namespace, rows: list[SpeedRow], images: Images, device: torch.device) -> int:
    """Measure row after row and return the exit code. A row that fails is reported and passed over."""
    from common.console import progress, say, to_json
    from common.files import write_atomic
    from inference.speed import measure

    machine, done = measure.machine(device), []
    weights = 'random weights' if args.model_checkpoint is None else network.weights_name(args.model_checkpoint)
    print('{processor}, {cores} cores, {threads} threads; torch {torch}; on {device}'.format(**machine), end='; ')
    print(f'batch {args.batch_size}, {weights}{", compiled" if args.compile else ""}')
    # Weights and pictures mean one network and one size: one alpha for all rows. ONNX files hold no weights to convert.
    compared = images is not None and args.model_checkpoint is not None and args.model_checkpoint.suffix != '.onnx'
    reference = measure.float32_alpha(rows[0], images) if compared and images is not None else None
    print(line(list(COLUMNS)[: None if compared else -2]), flush=True)
    if len(rows) > 1 and not measure.reset_peak(device):
        print('note: MiB is the highest of the row and those before it; only Linux tells rows apart', file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for row in progress(rows, len(rows), ' rows', show=sys.stderr.isatty(), leave=False):
            try:
                ready = exported(row, Path(folder)) if is_to_be_exported(row) else row
                speed = measure.measure(ready, device, images, args.repeats, args.seconds or math.inf, reference)
                text = line(cells(row, speed))
                done.append(row.values | asdict(speed))
            except (ValueError, RuntimeError, MemoryError) as error:
                if not isinstance(error, ValueError) and not cli.out_of_memory(error):
                    raise
                reason = error if isinstance(error, ValueError) else 'too little memory'
                text = line(cells(row)) + f' failed: {reason}'
            say(text, to_stdout=True)
            sys.stdout.flush()
            if args.json is not None:  # after each row: an hour's work is not lost to the last one
                report = {'machine': machine, 'flags': vars(args), 'rows': done}
                write_atomic(args.json, (to_json(report) + '\n').encode())
    return 0 if len(done) == len(rows) else 1


def cells(row: SpeedRow, speed: Speed | None = None) -> list[str]:
    """Return a row of the table; its beginning alone where nothing was measured."""
    size = '{}x{}'.format(*row.size)
    names = [row.network.model_type, row.network.backbone, size, row.precision, row.backend]
    if speed is None:
        return names
    gmac, mib = ('-' if x is None else f'{x:.1f}' for x in (speed.gmac, speed.peak_mib))
    apart = [f'{x:.1e}' for x in (speed.alpha_mean, speed.alpha_max) if x is not None]
    times = [f'{speed.median_ms:.2f}', f'{speed.p10_ms:.2f}-{speed.p90_ms:.2f}', f'{speed.fps:.2f}']
    return [*names, *times, gmac, mib, *apart]


def line(values: Sequence[str]) -> str:
    """Align the cells of a row in the table's columns."""
    return ' '.join(f'{x:<{-width}}' if width < 0 else f'{x:>{width}}' for x, width in zip(values, COLUMNS.values()))


def is_to_be_exported(row: SpeedRow) -> bool:
    """Return whether a row needs an ONNX file that is not there yet."""
    return row.backend == 'onnx' and (row.checkpoint is None or row.checkpoint.suffix != '.onnx')


def exported(row: SpeedRow, folder: Path) -> SpeedRow:
    """Return the row with an ONNX file, which is made once for all sizes of equal settings."""
    from export import onnx_file
    from inference.networks import find_network, random_network
    from model.folding import folded

    about = {name: str(value) for name, value in row.network.values.items()}
    path = folder / f'{"-".join([*about.values(), row.precision])}.onnx'
    if not path.exists():
        if row.checkpoint is None:
            model = random_network(row.network)
        else:
            model = find_network(row.checkpoint, backend='pytorch', **row.network.values).build()[0]
        onnx_file.save(onnx_file.convert(folded(model), row.precision, about=about), path)
    return replace(row, checkpoint=path)


def start(argv: Sequence[str] | None) -> int:
    """Read the flags, prepare everything and run; return the exit code."""
    args = parse(argv)
    try:
        rows, images, found = prepare(args)
        import torch

        from inference.backends import load_matting, precision_for

        device = choose_device(args.device)
        keep_memory()
        rows = [replace(row, precision=precision_for(row.backend, row.precision, device)) for row in rows]
        if found is not None:
            first, cpu = rows[0], torch.device('cpu')
            backend = 'pytorch' if is_to_be_exported(first) else first.backend
            load_matting(first.checkpoint, first.network, backend, cpu, traceable=True)
            print(found)
    except Exception as error:
        return cli.report_error(error, 2)
    try:
        return run(args, rows, images, device)
    except OSError as error:
        return cli.report_error(error, 1, 'stopped: ')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    message = 'stopped: the rows above are measured, and in the JSON file if there is one'
    return run_until_stopped(partial(start, argv), message)


if __name__ == '__main__':
    sys.exit(cli.run(main))
