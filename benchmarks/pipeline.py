"""inference_images.py end to end against the published script, on the same folder, and against its own stages.

python benchmarks/pipeline.py [--resolution 4k] [--precision float32 bfloat16] [--json pipeline.json]

Both run as processes, in turn, from JPEG files to com.png, pha.jpg and fgr.jpg, on a folder of many pictures and on one
of few. A picture's time is that from the first finished file to the last, of many pictures minus of few, divided by the
difference of their numbers. So the start, a compilation, and what was under way at the first file do not count, and the
last encoder does. The published script has float32 alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers import machine
from helpers.folder_runs import KINDS, Inputs, Network, Run, our_command, prepare, published_command, run

from common import cli
from common.devices import choose_device, cores
from common.network import PUBLISHED, SIZES

DRAWN = 8  # different pictures, which repeat, since drawing them takes longer than reading
TARGET = 1.15  # most of a picture's time by its slowest stage's
BASELINE = 'published float32'

Numbers = dict[str, float]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add('--resolution', choices=tuple(SIZES), default='hd', help='of drawn pictures, and the settings for it')
    add('--pictures', type=int, default=24, metavar='N', help='in the folder of many')
    add('--few', type=int, default=4, metavar='N', help='in the folder of few')
    add('--images-src', type=Path, metavar='DIR', help='pictures of one size, instead of drawn ones')
    add('--images-bgr', type=Path, metavar='FILE', help='their plate')
    add('--model-backbone', default='mobilenetv2')
    add('--model-checkpoint', type=Path, metavar='FILE', help='random weights if left out')
    add('--precision', nargs='+', choices=('float32', 'bfloat16', 'float16'), default=['float32'], help='of ours')
    add('--compile', action='store_true', help='ours')
    cli.add_device_argument(add)
    add('--repeats', type=int, default=3, metavar='N', help='runs that the medians are of')
    add('--json', type=Path, metavar='FILE')
    args = parser.parse_args(argv)
    if not 0 < args.few < args.pictures:
        parser.error(f'--few {args.few}: must be at least 1 and less than --pictures, {args.pictures}')
    if (args.images_src is None) != (args.images_bgr is None):
        parser.error('--images-src and --images-bgr: give both or none')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    # Scripts of ours set this one themselves.
    environment = {name: value for name, value in os.environ.items() if name != 'GOMP_SPINCOUNT'}

    from helpers.picture_stages import png_seconds

    scale, pixels = PUBLISHED[args.resolution]
    network = Network(args.model_backbone, scale, pixels, choose_device(args.device).type)
    print(machine.describe(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = make_inputs(args, folder)
        commands = {BASELINE: published_command(network, inputs)}
        for precision in args.precision:
            commands[f'ours {precision}'] = our_command(network, inputs, precision, args.compile)
        runs: dict[str, list[tuple[Run, Run]]] = {way: [] for way in commands}
        for i in range(args.repeats):
            for way, command in commands.items():
                few, many = (run(command, pictures, folder, environment) for pictures in (inputs.few, inputs.many))
                runs[way].append((few, many))
                print(f'run {i + 1} of {args.repeats}, {way}: {many.whole:.1f} s', file=sys.stderr, flush=True)
        print(
            f'{network.backbone} on {network.device}, scale {network.scale:g}, {network.pixels} pixels; '
            f'{args.pictures} pictures less {args.few}, medians of {args.repeats} runs, highest peaks'
        )
        ways = report_runs(runs, args.pictures - args.few)
        stages = {
            precision: report_stages(args, network, inputs, folder, precision, ways[f'ours {precision}'])
            for precision in args.precision
        }
    calibration = png_seconds(2 * args.repeats + 1)
    for encoder, value in calibration.items():
        ratio = ways[BASELINE]['seconds_a_picture'] / value
        print(f'PNG of a 1920x1080 cut-out with {encoder}: {value:.3f} s; published / this {ratio:.2f}')
    machine.write_json(args.json, {'network': vars(network), 'ways': ways, 'stages': stages, 'png': calibration})


def make_inputs(args: argparse.Namespace, folder: Path) -> Inputs:
    from helpers import drawings

    from model.weights import read_weights

    if args.images_src:
        files, plate = sorted(path for path in args.images_src.iterdir() if path.is_file()), args.images_bgr
        if not files:
            raise SystemExit(f'--images-src {args.images_src}: no pictures in it')
    else:
        files, plate = drawings.photographs(folder, min(args.pictures, DRAWN), *SIZES[args.resolution])
    checkpoint = args.model_checkpoint
    weights = read_weights(checkpoint).state_dict if checkpoint else drawings.random_weights(args.model_backbone)
    return prepare(folder, files, plate, args.pictures, args.few, weights)


def report_runs(runs: Mapping[str, Sequence[tuple[Run, Run]]], difference: int) -> dict[str, Numbers]:
    """Print and return medians; `difference` is the number of pictures by which few and many differ."""
    print(f'{"":20} {"a picture":>10} {"first file":>11} {"in all":>9} {"peak":>9} {"published / this":>17}')
    ways: dict[str, Numbers] = {}
    for way, pairs in runs.items():
        each = statistics.median((many.writing - few.writing) / difference for few, many in pairs)
        ways[way] = numbers = {
            'seconds_a_picture': each,
            'seconds_to_first_file': statistics.median(many.startup for _, many in pairs),
            'seconds_in_all': statistics.median(many.whole for _, many in pairs),
            'peak_bytes': max(many.peak_bytes for _, many in pairs),
            'published_over_this': ways[BASELINE]['seconds_a_picture'] / each if ways else 1.0,
        }
        print(
            f'{way:20} {each:8.3f} s {numbers["seconds_to_first_file"]:9.1f} s {numbers["seconds_in_all"]:7.1f} s '
            f'{numbers["peak_bytes"] / 1e9:6.2f} GB {numbers["published_over_this"]:17.2f}'
        )
    return ways


def report_stages(
    args: argparse.Namespace, network: Network, inputs: Inputs, folder: Path, precision: str, ours: Numbers
) -> dict[str, object]:
    """Print and return what each stage costs alone, and how near the pipeline comes to what they allow."""
    from helpers.picture_stages import stage_costs

    from common.devices import keep_memory
    from inference import Matting

    keep_memory()
    matting = Matting.from_checkpoint(
        inputs.weights, device=network.device, precision=precision, compiled=args.compile,
        backbone_scale=network.scale, refine_sample_pixels=network.pixels,
    )  # fmt: skip
    src = min(inputs.many.iterdir())
    costs = stage_costs(matting, src, inputs.plate, folder / 'stages', 2 * args.repeats + 1)
    whole = sum(cost.clock for cost in costs.values())
    print(f'stages alone, {precision}: milliseconds a picture, share, milliseconds of cores')
    for name, cost in costs.items():
        print(f'  {name:10} {1000 * cost.clock:8.1f} {cost.clock / whole:5.0%} {1000 * cost.cores:8.1f}')
    encode = sum(costs[f'encode {kind}'].clock for kind in KINDS)
    slowest = max(costs['decode'].clock, costs['compute'].clock, encode)
    spread = sum(cost.cores for cost in costs.values()) / cores()
    each = ours['seconds_a_picture']
    print(
        f'  slowest of decode, compute, encode {slowest:.3f} s: pipeline {each / slowest:.2f} x that, target {TARGET}'
    )
    print(f'  all of them spread over {cores()} cores {spread:.3f} s: pipeline {each / spread:.2f} x that')
    seconds = {name: cost._asdict() for name, cost in costs.items()}
    return {'seconds': seconds, 'pipeline_over_slowest': each / slowest, 'pipeline_over_spread': each / spread}


if __name__ == '__main__':
    sys.exit(cli.run(main))
