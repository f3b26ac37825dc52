# PYTHON_ARGCOMPLETE_OK
"""Cut a person out of a camera's picture as it comes, before a plain colour or a background of your own.

the first camera:
  python inference_webcam.py
your own weights:
  python inference_webcam.py --model-checkpoint model.pth
another camera, a background, and the result as a camera for video calls:
  python inference_webcam.py ... --video-src 2 --resolution 1920 1080 --video-target-bgr beach.jpg --virtual-camera
a film in place of the camera; without a window, 20 pictures into a folder:
  python inference_webcam.py ... --video-src film.mp4 --video-bgr plate.png --headless 20 --output-dir out/

Step out of the picture and press B: this is the plate, and from then on you are cut out. B again takes it anew. 1, 2
and 3, or V: composite, alpha, camera. S saves what is shown (3, then S: a plate for --video-bgr). F: full screen.
Q: quit.

Fix the camera and let nothing in the room move. Exposure and white balance are held from B on, where the driver can.
Exit code 0: quit, or the film has ended; 1: the camera is lost, or the run had to stop; 2: nothing was started; 130 or
143: stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

if __name__ == '__main__':
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports is no traceback; `main` answers it better

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import cli
from common.devices import keep_memory
from common.network import MIN_SIDE
from common.signals import run_until_stopped
from inference import backend_options, options
from inference.webcam import options as webcam_options
from inference.webcam.options import DEFAULT_SIZE

if TYPE_CHECKING:
    import numpy as np

    from inference.webcam.camera import Camera
    from inference.webcam.live import Live


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__)
    options.add_model_arguments(parser)
    webcam_options.add_camera_arguments(parser)
    webcam_options.add_display_arguments(parser)
    options.add_device_arguments(parser, workers=False)
    return parser.parse_args(argv)


def open_camera(args: argparse.Namespace) -> Camera:
    """Open what `--video-src` names; raise a ValueError if that cannot be, or its pictures are too small."""
    from inference.webcam.camera import Camera

    every = args.headless is not None and Path(args.video_src).is_file()
    try:
        camera = Camera(
            int(args.video_src) if args.video_src.isdigit() else args.video_src,
            tuple(args.resolution or DEFAULT_SIZE),
            every,
        )
    except ValueError as error:
        raise ValueError(f'--video-src {error}') from error
    (width, height), asked = camera.size, args.resolution or DEFAULT_SIZE
    if (width, height) != tuple(asked) and (camera.live or args.resolution):
        note = f'{args.video_src} gives {width}x{height}, which is used'
        print(f'note: --resolution {asked[0]} {asked[1]}: {note}', file=sys.stderr)
    if min(width, height) < MIN_SIDE:
        camera.close()
        raise ValueError(
            f'--video-src {args.video_src}: {width}x{height} is too small; it must be at least {MIN_SIDE} each'
        )
    return camera


def read_pictures(args: argparse.Namespace, size: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray]:
    """Read the plate, if one is given, and what to put behind the subject; both of the camera's size."""
    import numpy as np

    from dataset.readers import read_rgb
    from inference.compositing import covering

    plate = read_rgb(args.video_bgr) if args.video_bgr else None
    if plate is not None and plate.shape[1::-1] != size:
        height, width = plate.shape[:2]
        raise ValueError(
            f'--video-bgr {args.video_bgr}: is {width}x{height}, but {args.video_src} gives {size[0]}x{size[1]}'
        )
    if args.video_target_bgr:
        return plate, covering(read_rgb(args.video_target_bgr), size)
    return plate, np.full((size[1], size[0], 3), 255, np.uint8)


def run(camera: Camera, live: Live, virtual: Any, args: argparse.Namespace) -> int:
    """Show or write pictures; return the exit code."""
    from inference.images.stages import SPARE_MEMORY
    from inference.webcam.display import Window
    from inference.webcam.viewer import Viewer, write_pictures

    begin = time.monotonic()
    try:
        if args.headless:
            count = write_pictures(camera, live, args.headless, args.output_dir, virtual)
        else:
            with closing(Window('Background matting', camera.size)) as window:
                viewer = Viewer(camera, live, window, virtual, args.output_dir, args.mirror, not args.hide_fps)
                count = viewer.run()
    except Exception as error:  # a lost camera is an OSError
        return cli.report_error(error, 1, 'stopped: ', SPARE_MEMORY)
    if args.headless and count < args.headless:
        print(f'note: {args.video_src} ended after {count} of {args.headless} pictures', file=sys.stderr)
    rate = count / max(time.monotonic() - begin, 1e-9)
    done = 'written' if args.headless else 'shown'
    print(f'{count} pictures {done}, {camera.dropped} dropped, {rate:.2f} per second')
    return 0


def start(argv: Sequence[str] | None) -> int:
    """Read the flags, check them, open everything and run; return the exit code."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # that a file is no video is said once, by this script
    os.environ.setdefault('QT_LOGGING_RULES', 'default.warning=false')  # about fonts that OpenCV's window does not use
    args = parse(argv)
    keep_memory()  # before there are threads
    with ExitStack() as opened:
        try:
            cli.raise_problems(backend_options.network_problems(args) + webcam_options.webcam_problems(args))
            camera = opened.enter_context(open_camera(args))
            plate, backdrop = read_pictures(args, camera.size)
            virtual = None
            if args.virtual_camera:
                from inference.webcam.display import open_virtual_camera

                virtual = opened.enter_context(closing(open_virtual_camera(camera.size, camera.rate)))
            from inference.backends import load_found
            from inference.webcam.live import Live

            found = backend_options.find(args, [camera.size], still=False)
            matting, loaded = load_found(found, vars(args))
            del found  # and with it a copy of the weights
        except Exception as error:
            return cli.report_error(error, 2)
        print(loaded, flush=True)
        if virtual:
            print(f'other programs find the result as {virtual.device}', flush=True)
        live = Live(matting, backdrop, args.view)
        if plate is not None:
            live.take_plate(plate)
        return run(camera, live, virtual, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run_until_stopped(partial(start, argv), 'stopped')


if __name__ == '__main__':
    sys.exit(cli.run(main))
