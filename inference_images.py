# PYTHON_ARGCOMPLETE_OK
"""Matte pictures: from photographs and their background plates to cut-outs, alpha and foreground.

one plate for a folder of pictures:
  python inference_images.py --images-src photos/ --images-bgr plate.jpg --output-dir out/
with your own weights, as cut-out, alpha and foreground:
  python inference_images.py ... --model-checkpoint model.pth --output-types com pha fgr
lossless alpha, two pictures at once, another scale than the weights were trained with:
  python inference_images.py ... --output-types pha fgr --picture-format pha=png --batch-size 2 \\
      --model-backbone-scale 0.125
a capture rig, photos/cam01/frame_0001.jpg with plates/cam01.png, over all GPUs of a machine:
  torchrun --nproc-per-node gpu inference_images.py ... --images-src photos/ --images-bgr plates/
what a run that was cut has not written yet, with the flags of that run:
  python inference_images.py ... --skip-existing
an exported file, with the settings that it was exported with:
  python inference_images.py ... --model-checkpoint model.onnx

One line says what the weights are and which settings were taken from where.

Writes <output-dir>/<type>/<name below the source folder>.png or .jpg. Exit code 0: all done; 1: some pictures failed
and the others are done, or the run had to stop; 2: nothing was started; 130 or 143: stopped by Ctrl-C or SIGTERM.
torchrun's processes wait for each other and all leave with the largest code.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import math
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common import cli
from common.devices import keep_memory
from common.network import NetworkSettings
from common.signals import run_until_stopped
from inference import backend_options, options
from inference.processes import Shard, common_exit_code, process_shard

if TYPE_CHECKING:
    from inference.images.inputs import Job
    from inference.images.writer import PictureWriter
    from inference.networks import FoundNetwork
    from inference.predictor import Matting


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser)
    options.add_picture_arguments(parser)
    options.add_output_arguments(parser, '--output-format')
    add = parser.group('output').add_argument
    add('--srgb', action='store_true',
        help='convert pictures with another colour profile to sRGB; without it outputs have the profile of '
        'their picture')  # fmt: skip
    add('--skip-existing', action='store_true',
        help='write only what is not there yet as a whole file; with what flags and weights files were made cannot be '
        'seen of them, so give the same again')  # fmt: skip
    options.add_device_arguments(parser)
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace, shard: Shard) -> tuple[list[Job], PictureWriter, FoundNetwork]:
    """Check everything that can be checked before the network is built; return it, and this process's pictures."""
    from inference.images.inputs import find_jobs
    from inference.images.writer import PictureWriter, overwriting_problems

    problems = backend_options.network_problems(args) + options.output_problems(args)
    unusable = options.picture_problems(args)
    formats = options.output_formats(args)
    writer = PictureWriter(args.output_dir, formats, args.png_compression, args.jpeg_quality, args.skip_existing)
    jobs: list[Job] = []
    notes: list[str] = []
    if not unusable:
        jobs, unusable, notes = find_jobs(
            args.images_src, args.images_bgr, args.output_dir, args.resize_bgr, args.skip_unmatched
        )
    mine = jobs[shard.rank :: shard.world]
    others = [job for i, job in enumerate(jobs) if i % shard.world != shard.rank]
    problems += unusable + overwriting_problems(writer, mine, others, args.overwrite)
    cli.raise_problems(problems)
    waiting = [job for job in mine if writer.waits_for(job.name)]
    if args.skip_existing:
        left = len(waiting) + sum(writer.waits_for(job.name) for job in (others if shard.rank == 0 else []))
        notes.append(f'{len(jobs) - left} of {len(jobs)} pictures are there already and skipped')
    for note in notes if shard.rank == 0 else []:
        print(note, file=sys.stderr)
    return waiting, writer, backend_options.find(args, list({job.size for job in jobs if job.size}))


def run(jobs: list[Job], matting: Matting, writer: PictureWriter, args: argparse.Namespace, shard: Shard) -> int:
    """Matte all pictures and return the exit code. A picture that fails is reported and passed over."""
    from common.console import progress, say
    from common.devices import torch_threads
    from inference.images.report import Report
    from inference.images.stages import compute, load_pair, write
    from inference.pipeline import Pipeline

    # Pictures of one plate follow each other, so that few plates are held; and of one size, so that batches fill.
    jobs = sorted(jobs, key=lambda job: (job.bgr or Path(), job.size or (0, 0)))
    largest = max((width * height for width, height in (job.size or (1, 1) for job in jobs)), default=1)
    at_once = args.batch_size or 1
    batches, pixels = math.ceil(len(jobs) / at_once), largest * at_once
    network = NetworkSettings.from_options(vars(args))
    threads = options.share_cores(
        matting.device.type, batches, pixels, network, args.num_workers, args.compile, shard.local_world
    )
    stage_load = partial(
        load_pair, matting=matting, resize=args.resize_bgr, align=args.preprocess_alignment, srgb=args.srgb
    )
    stage_write = partial(write, writer=writer)
    report, start = Report(), time.monotonic()
    with Pipeline() as pipeline, torch_threads(threads.each):
        loaded = pipeline.ahead(stage_load, jobs, threads.files)
        spread = partial(pipeline.ahead, threads=threads.batches) if threads.batches > 1 else map
        computed = compute(loaded, matting, args.batch_size, set(writer.formats), spread)
        written = pipeline.ahead(stage_write, computed, threads.files)
        for item in progress(written, len(jobs), ' pictures', show=shard.rank == 0):
            for line in report.add(item):
                say(line)
    for line in report.summary():
        say(line)
    rate = report.done / max(time.monotonic() - start, 1e-9)
    part = f'process {shard.rank}: ' if shard.world > 1 else ''
    counts = f'{report.done} pictures done, {report.failed} failed, {rate:.2f} per second'
    print(f'{part}{counts}, in {writer.folder}', flush=True)
    return 1 if report.failed else 0


def start(argv: Sequence[str] | None, shard: Shard) -> int:
    """Read the flags, prepare everything and run; return the exit code."""
    args = parse(argv)
    keep_memory()  # before there are threads
    try:
        jobs, writer, found = prepare(args, shard)
        from inference.backends import load_found

        matting, loaded = load_found(found, vars(args), shard.local_rank)
        del found  # and with it a copy of the weights
    except Exception as error:
        return cli.report_error(error, 2, memory=f'{args.model_checkpoint} does not fit')
    if shard.rank == 0:
        print(loaded, flush=True)
    try:
        return run(jobs, matting, writer, args, shard)
    except OSError as error:
        return cli.report_error(error, 1, 'stopped: ')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    shard = process_shard()
    try:
        message = 'stopped: files written so far are whole; --skip-existing does the others'
        code = run_until_stopped(partial(start, argv, shard), message)
    except Exception:
        if shard.world == 1:
            raise
        traceback.print_exc()
        code = 1
    return code if code > 128 else common_exit_code(code, shard)  # a signal reaches all: nobody waits


if __name__ == '__main__':
    sys.exit(cli.run(main))
