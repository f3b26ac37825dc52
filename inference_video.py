# PYTHON_ARGCOMPLETE_OK
"""Matte a video: from the video and its background plate to a composite, alpha and foreground, frame for frame.

a plate that was photographed:
  python inference_video.py --video-src talk.mp4 --video-bgr plate.png --output-dir out/
with your own weights, as alpha, too:
  python inference_video.py ... --model-checkpoint model.pth --output-types com pha
no plate, but nobody in the picture after 2.5 seconds:
  python inference_video.py ... --video-src talk.mp4 --video-bgr-time 2.5
for an editor, with alpha; for a web page; as pictures:
  python inference_video.py ... --output-types com --output-format prores4444
  python inference_video.py ... --output-types com --output-format webm
  python inference_video.py ... --output-types com pha --output-format image_sequences --picture-format pha=png

Writes <output-dir>/<type>.mp4, .mov or .webm, or <output-dir>/<type>/000000.png and so on. Times, sound, colours and
rotation follow the source. Ctrl-C finishes the files, so that what was done plays; a sequence of pictures that was cut
goes on if the command is given again with -y. Exit code 0: all done; 1: the video is damaged or an error stopped the
run, and what was done is kept; 2: nothing was started; 130 or 143: stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from common import cli
from common.devices import keep_memory
from common.signals import run_until_stopped
from inference import backend_options, options
from inference.video import options as video_options


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser)
    video_options.add_video_arguments(parser)
    video_options.add_video_output_arguments(parser)
    options.add_device_arguments(parser)
    return parser.parse_args(argv)


def start(argv: Sequence[str] | None) -> int:
    """Read the flags, check them, open all files and matte the video; return the exit code."""
    args = parse(argv)
    keep_memory()  # before there are threads
    with ExitStack() as opened:
        try:
            cli.raise_problems(backend_options.network_problems(args) + video_options.video_problems(args))
            from inference.backends import load_found
            from inference.images.stages import SPARE_MEMORY
            from inference.video.inputs import VideoInputs
            from inference.video.job import matte_video
            from inference.video.outputs import open_outputs, without_whole
            from inference.video.settings import VideoSettings

            settings = VideoSettings.from_options(vars(args), options.output_formats(args))
            if args.skip_existing and args.output_format != video_options.SEQUENCES:
                settings, whole = without_whole(settings)
                for path in whole:
                    print(f'{path}: is whole, skipped')
                if not settings.picture_formats:
                    return 0
            inputs = opened.enter_context(VideoInputs(settings))
            found = backend_options.find(args, [inputs.size], still=False)
            matting, loaded = load_found(found, vars(args))
            network = found.settings
            del found  # and with it a copy of the weights
            outputs = open_outputs(inputs, vars(args))
        except Exception as error:
            return cli.report_error(error, 2)
        print(loaded, flush=True)
        pixels = inputs.size[0] * inputs.size[1] * (args.batch_size or 1)
        threads = options.share_cores(
            matting.device.type, inputs.reader.expected or 1000, pixels, network, args.num_workers, args.compile
        )
        try:
            matte_video(inputs, outputs, matting, threads)
        except Exception as error:
            return cli.report_error(error, 1, 'stopped: ', SPARE_MEMORY)
        return 1 if inputs.reader.damage else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_until_stopped(partial(start, argv), 'stopped: what was done, if anything, is kept and plays')


if __name__ == '__main__':
    sys.exit(cli.run(main))
