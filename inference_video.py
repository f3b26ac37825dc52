"""Matte a video: from the video and its background plate to a composite, alpha and foreground, frame for frame.

a plate that was photographed:
  python inference_video.py --model-type mattingrefine --model-backbone mobilenetv2 --model-checkpoint model.pth \\
      --video-src talk.mp4 --video-bgr plate.png --output-dir out/ --output-types com pha
no plate, but nobody in the picture after 2.5 seconds:
  python inference_video.py ... --video-src talk.mp4 --video-bgr-time 2.5
for an editor, with alpha; for a web page; as pictures:
  python inference_video.py ... --output-types com --output-format prores4444
  python inference_video.py ... --output-types com --output-format webm
  python inference_video.py ... --output-types com pha --output-format image_sequences --sequence-format pha=png

Writes <output-dir>/<type>.mp4, .mov or .webm, or <output-dir>/<type>/000000.png and so on. Times, sound, colours and
rotation follow the source. Ctrl-C finishes the files, so that what was done plays; a sequence of pictures that was cut
goes on if the command is given again with -y. Exit code 0: all done; 1: the video is damaged or an error stopped the
run, and what was done is kept; 2: nothing was started; 130 or 143: stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from common import cli
from common.devices import keep_memory
from inference import backend_options, options
from inference.video import options as video_options

if TYPE_CHECKING:
    from inference.predictor import Matting
    from inference.video.job import VideoJob
    from inference.video.outputs import Pictures, Videos


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser)
    video_options.add_video_arguments(parser)
    video_options.add_video_output_arguments(parser)
    options.add_device_arguments(parser)
    return backend_options.parse(parser, argv)


def check(args: argparse.Namespace) -> None:
    """Finds all that is wrong with the command line before anything is opened.

    Raises:
        ValueError: with all that is wrong, one line each.
    """
    problems = backend_options.network_problems(args) + video_options.video_problems(args)
    cli.raise_problems(problems)


def run(job: VideoJob, outputs: Pictures | Videos, matting: Matting, args: argparse.Namespace) -> int:
    """Mattes the video; returns the exit code. Whatever stops it, the files are finished."""
    from common.console import progress, say
    from common.devices import torch_threads
    from inference.pipeline import Pipeline
    from inference.video.job import Findings
    from inference.video.stages import compute, render

    pixels = job.size[0] * job.size[1] * args.batch_size
    threads = options.share_cores(args, matting.device.type, job.reader.expected or 1000, pixels)
    loaders = 1 if args.preprocess_alignment else threads.files
    load = job.loader(matting, outputs)
    if outputs.note:
        say(outputs.note)
    findings, complete, begin = Findings(), False, time.monotonic()
    with Pipeline():  # around all: a signal is answered when the files are finished
        try:
            with Pipeline() as pipeline, torch_threads(threads.each):
                shots = pipeline.ahead(load, pipeline.reading(job.moments(), depth=2), loaders)
                spread = partial(pipeline.ahead, threads=threads.batches) if threads.batches > 1 else map
                computed = compute(shots, matting, args.batch_size, set(args.output_types), spread)
                drawn = pipeline.ahead(partial(render, draw=outputs.draw), computed, threads.files)
                for encode in outputs.encoders():
                    drawn = pipeline.ahead(encode, drawn, 1)
                for shot, _ in progress(drawn, lambda: job.reader.expected, ' frames'):
                    for line in findings.add(shot):
                        say(line)
            complete = True
        finally:
            notes = outputs.finish(complete)
            rate = findings.done / max(time.monotonic() - begin, 1e-9)
            for line in (*findings.summary(), *job.warnings(), *notes):
                say(line)
            print(f'{max(findings.done, outputs.frames)} frames done, {rate:.2f} per second, in {args.output_dir}')
    return 1 if job.reader.damage else 0


def start(argv: Sequence[str] | None) -> int:
    """Reads the flags, prepares everything and runs; returns the exit code."""
    args = parse(argv)
    if args.device in ('auto', 'cpu'):
        keep_memory('cpu')  # before there are threads
    os.environ.setdefault('GOMP_SPINCOUNT', '100000')  # decoders and encoders need the cores, too
    with ExitStack() as opened:
        try:
            check(args)
            from inference.backends import device_for, load
            from inference.video.job import VideoJob

            device = device_for(args.backend, args.device)
            job = opened.enter_context(VideoJob(args))
            matting = load(options.model_arguments(args), args.backend, device, args.precision, args.compile)
            outputs = job.outputs(options.output_formats(args))
        except (ValueError, OSError) as error:
            print(f'error: {error}', file=sys.stderr)
            return 2
        precision = str(matting.dtype).removeprefix('torch.')
        print(f'{matting.loaded or args.model_checkpoint}; on {matting.device} in {precision}', flush=True)
        return finish(partial(run, job, outputs, matting, args))


def finish(work: Callable[[], int]) -> int:
    """Does the work; an error that a user can do something about becomes a line and exit code 1."""
    from common.cli import out_of_memory
    from inference.images.stages import SPARE_MEMORY

    try:
        return work()
    except (ValueError, OSError) as error:
        print(f'error: stopped: {error}', file=sys.stderr)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        print(f'error: stopped: too little memory: {SPARE_MEMORY}', file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    from common.signals import run_until_stopped

    return run_until_stopped(partial(start, argv), 'stopped: what was done, if anything, is kept and plays')


if __name__ == '__main__':
    sys.exit(main())
