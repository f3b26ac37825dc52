"""Matte pictures: from photographs and their background plates to cut-outs, alpha and foreground.

one plate for a folder of pictures:
  python inference_images.py --model-type mattingrefine --model-backbone mobilenetv2 --model-checkpoint model.pth \\
      --images-src photos/ --images-bgr plate.jpg --output-dir out/ --output-types com pha fgr
4K, lossless alpha, two pictures at once:
  python inference_images.py ... --model-backbone-scale 0.125 --model-refine-sample-pixels 320000 \\
      --output-types pha fgr --output-format pha=png --batch-size 2
a capture rig, photos/cam01/frame_0001.jpg with plates/cam01.png, over all GPUs of a machine:
  torchrun --nproc-per-node gpu inference_images.py ... --images-src photos/ --images-bgr plates/

Writes <output-dir>/<type>/<name below the source folder>.png or .jpg. Exit code 0: all done; 1: some pictures failed
and the others are done, or the run had to stop; 2: nothing was started.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inference import options

if TYPE_CHECKING:
    from torch import Tensor

    from inference.inputs import Job
    from inference.predictor import Matting, Pending, Plate
    from inference.writers import PictureWriter

NAMED = 5  # pictures, or plates, that are named one by one before they are only counted


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = options.Parser(__doc__)
    options.add_model_arguments(parser)
    options.add_picture_arguments(parser)
    options.add_output_arguments(parser)
    options.add_device_arguments(parser)
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace, share: options.Share) -> tuple[list[Job], PictureWriter]:
    """Pairs pictures with plates and checks everything that can be checked before the model is loaded.

    Returns:
        The pictures of this process and the writer for their outputs.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    from inference.inputs import find_jobs
    from inference.writers import PictureWriter, output_folder_problems

    problems = options.model_problems(args) + options.device_problems(args) + options.output_problems(args)
    unusable = options.picture_problems(args)
    formats = options.output_formats(args)
    writer = PictureWriter(args.output_dir, formats, args.png_compression, args.jpeg_quality)
    jobs: list[Job] = []
    if not unusable:
        jobs, unusable = find_jobs(args.images_src, args.images_bgr, args.output_dir, args.resize_bgr)
    mine = jobs[share.rank :: share.world]
    others = [job for i, job in enumerate(jobs) if i % share.world != share.rank]
    problems += unusable + output_folder_problems(writer, mine, others, args.overwrite)
    if problems:
        raise ValueError('\n  '.join([f'{len(problems)} problems:', *problems]) if problems[1:] else problems[0])
    return mine, writer


@dataclass(frozen=True)
class Item:
    """A picture on its way: decoded, with its plate on the device, or the reason why not."""

    job: Job
    inputs: tuple[Tensor, Plate] | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None


def load(job: Job, matting: Matting, resize: bool, align: bool) -> Item:
    """First stage, on threads: decode a picture, see that its plate is on the device, compare the two."""
    from dataset.images import ImageError, read_rgb
    from inference.alignment import align_plate, plate_fit

    try:
        src = read_rgb(job.src)
        plate = matting.plate(job.bgr, src.shape[1::-1] if resize else None)
        warnings = []
        if align:
            aligned = align_plate(src, plate.pixels)
            warnings += [aligned.warning] if aligned.warning else []
            plate = plate if aligned.homography is None else matting.plate(aligned.bgr)
        warnings += plate_fit(src, plate.pixels).warnings()
    except (ImageError, OSError, ValueError) as error:
        return Item(job, error=str(error) if isinstance(error, (ImageError, OSError)) else f'{job.src}: {error}')
    return Item(job, (matting.staged(src), plate), tuple(warnings))


def compute(items: Iterable[Item], matting: Matting, size: int, kinds: set[str]) -> Iterator[tuple]:
    """Second stage, in the main thread: start each batch on the device; yields (item, its batch's result, index)."""
    from inference.pipeline import batches

    for batch in batches(items, size, key=lambda item: item.inputs and item.inputs[0].shape):
        inputs = [item.inputs for item in batch if item.inputs]
        pending: Pending | None = None
        try:
            if inputs:
                srcs, plates = [src for src, _ in inputs], [plate for _, plate in inputs]
                pending = matting.submit(srcs, plates, 'err' in kinds, 'ref' in kinds)
        except ValueError as error:  # a picture too small for the network
            batch = [replace(item, error=f'{item.job.src}: {error}') for item in batch]
        yield from ((replace(item, inputs=None), pending, i) for i, item in enumerate(batch))


def write(computed: tuple[Item, Pending | None, int], writer: PictureWriter) -> Item:
    """Third stage, on threads: wait for the device, encode and write."""
    item, pending, index = computed
    if pending is not None:
        writer.write(item.job.name, pending.result()[index])
    return item


def run(
    jobs: list[Job], matting: Matting, writer: PictureWriter, args: argparse.Namespace, share: options.Share
) -> int:
    """Mattes all pictures; returns the exit code. A picture that fails is reported and passed over."""
    from inference.pipeline import Pipeline, progress, say

    # Pictures of one plate follow each other, so that few plates are held; and of one size, so that batches fill.
    jobs = sorted(jobs, key=lambda job: (job.bgr, job.size or (0, 0)))
    threads = options.thread_count(args.num_workers, share.local_world)
    stage_load = partial(load, matting=matting, resize=args.resize_bgr, align=args.preprocess_alignment)
    stage_write = partial(write, writer=writer)
    failed, misfits, done, start = 0, Counter[Path](), 0, time.monotonic()
    with Pipeline() as pipeline:
        loaded = pipeline.ahead(stage_load, jobs, threads)
        computed = compute(loaded, matting, args.batch_size, set(writer.formats))
        written = pipeline.ahead(stage_write, computed, threads)
        for item in progress(written, len(jobs), ' pictures', show=share.rank == 0):
            if item.error is None:
                done += 1
            else:
                failed += 1
                say(f'failed: {item.error}')
            if item.warnings:
                misfits[item.job.bgr] += 1
                if misfits[item.job.bgr] == 1 and len(misfits) <= NAMED:
                    say(f'warning: {item.job.src} with {item.job.bgr}: {"; ".join(item.warnings)}')
    if misfits:
        named = ', '.join(f'{plate} ({count})' for plate, count in misfits.most_common(NAMED))
        more = f' and {len(misfits) - NAMED} more' if len(misfits) > NAMED else ''
        say(f'warning: the plate does not fit {misfits.total()} of {len(jobs)} pictures: {named}{more}')
    rate = done / max(time.monotonic() - start, 1e-9)
    part = f'process {share.rank}: ' if share.world > 1 else ''
    print(f'{part}{done} pictures done, {failed} failed, {rate:.2f} per second, in {writer.folder}', flush=True)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    args, share = parse(argv), options.process_share()
    # Waiting threads must sleep: beside decoders and encoders, spinning ones slow the network down fivefold on a CPU.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    try:
        jobs, writer = prepare(args, share)
        import torch

        from inference.predictor import Matting, choose_device

        device = choose_device(args.device, share.local_rank)
        matting = Matting.from_checkpoint(**options.model_arguments(args), device=device, precision=args.precision)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    if share.rank == 0:
        precision = str(matting.dtype).removeprefix('torch.')
        print(f'{matting.loaded}; on {matting.device} in {precision}', flush=True)
    try:
        return run(jobs, matting, writer, args, share)
    except OSError as error:
        print(f'error: stopped: {error}', file=sys.stderr)
    except torch.OutOfMemoryError:
        advice = 'lower --batch-size, --model-backbone-scale or --model-refine-sample-pixels, or --precision float16'
        print(f'error: stopped: the GPU has too little memory: {advice}', file=sys.stderr)
    except KeyboardInterrupt:
        print('stopped: the files written so far are whole; -y allows to write into the folder again', file=sys.stderr)
        return 130
    return 1


if __name__ == '__main__':
    sys.exit(main())
