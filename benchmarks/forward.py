"""Seconds of a forward pass beside those of the published data flow, each in a process of its own, in turn.

python benchmarks/forward.py [--model-backbone mobilenetv2 resnet50 --resolution hd 4k --threads 1 2 --compile]

The weights predict an error in every cell: new ones would predict none nearly everywhere, and such cells are skipped.
Our processes keep freed memory, as `inference_images.py` does; the published one does not.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path

from helpers import machine

from common import cli
from common.devices import choose_device, cores
from common.network import PUBLISHED, SIZES

# (width, height), and (backbone scale, refined pixels).
RESOLUTIONS = {**{name: (SIZES[name], PUBLISHED[name]) for name in SIZES}, 'tiny': ((128, 96), (1 / 4, 1_600))}


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--model-backbone', nargs='+', default=['mobilenetv2'])
    parser.add_argument('--resolution', nargs='+', choices=RESOLUTIONS, default=['hd'])
    parser.add_argument('--threads', nargs='+', type=int, default=sorted({1, cores()}))
    cli.add_device_argument(parser.add_argument)
    parser.add_argument('--compile', action='store_true', help='rows of the compiled network as well')
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work(args)
        return
    print(machine.describe())
    rows = []
    for backbone, resolution, threads in itertools.product(args.model_backbone, args.resolution, args.threads):
        rows += compare(args, backbone, resolution, threads)
    machine.write_json(args.json, {'rows': rows})


def compare(args: argparse.Namespace, backbone: str, resolution: str, threads: int) -> list[dict[str, object]]:
    """Time all variants in turn, so that a busy moment hits all of them, and print their rows."""
    half = 'float16' if choose_device(args.device).type == 'cuda' else 'bfloat16'
    variants = ['published', 'float32', half, *(['float32 compiled', f'{half} compiled'] if args.compile else [])]
    shared = [sys.executable, __file__, '--model-backbone', backbone, '--resolution', resolution]
    shared += ['--threads', str(threads), '--device', args.device]
    workers = {
        variant: subprocess.Popen(
            [*shared, '--worker', variant], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for variant in variants
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    peaks = {}
    try:
        for variant in variants:
            ask(workers[variant], 'warm')
        for _ in range(args.repeats):
            for variant, worker in workers.items():
                seconds[variant].append(ask(worker, 'run'))
        for variant, worker in workers.items():
            peaks[variant] = ask(worker, 'peak')
    finally:
        for worker in workers.values():
            worker.kill()
    published = statistics.median(seconds['published'])
    rows = []
    for variant in variants:
        median = statistics.median(seconds[variant])
        row = {
            'backbone': backbone, 'resolution': resolution, 'threads': threads, 'variant': variant, 'seconds': median,
            'least': min(seconds[variant]), 'ratio': published / median, 'peak_mib': peaks[variant],
        }  # fmt: skip
        rows.append(row)
        print(
            f'{backbone:12} {resolution:3} {threads} threads  {variant:18} {median:7.3f} s, least {row["least"]:7.3f}, '
            f'{row["ratio"]:5.2f} x published, peak {peaks[variant]:5.0f} MiB',
            flush=True,
        )
    return rows


def ask(worker: subprocess.Popen[str], what: str) -> float:
    """Send a worker a command and return the number that it answers."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(what, file=worker.stdin)
    return float(worker.stdout.readline())


def work(args: argparse.Namespace) -> None:
    """Run a pass for each line of the standard input and print the seconds it took."""
    import torch
    from helpers import drawings

    from benchmarks.published.network import Published
    from common.devices import keep_memory
    from inference import Matting
    from inference.speed.measure import peak_mib
    from model import MattingRefine

    torch.set_num_threads(args.threads[0])
    device = choose_device(args.device)
    (width, height), (scale, pixels) = RESOLUTIONS[args.resolution[0]]
    generator = torch.Generator().manual_seed(0)
    network = Published if args.worker == 'published' else MattingRefine
    model = network(args.model_backbone[0], scale, refine_sample_pixels=pixels).eval()
    model.load_state_dict(drawings.random_weights(args.model_backbone[0]))
    src, bgr = (torch.rand(1, 3, height, width, generator=generator).to(device) for _ in range(2))
    if args.worker == 'published':
        run = model.to(device)
    else:
        keep_memory()
        precision, _, compiled = args.worker.partition(' ')
        run = Matting(model, device, precision, bool(compiled)).predict
        src, bgr = (x.to(memory_format=torch.channels_last) for x in (src, bgr))
    for line in sys.stdin:
        began = time.perf_counter()
        if line.strip() == 'peak':
            print(peak_mib(device), flush=True)
            continue
        with torch.inference_mode():
            for _ in range(3 if line.strip() == 'warm' else 1):
                run(src, bgr)
            if device.type == 'cuda':
                torch.cuda.synchronize()
        print(time.perf_counter() - began, flush=True)


if __name__ == '__main__':
    sys.exit(cli.run(main))
