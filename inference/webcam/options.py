"""The flags of inference_webcam.py beyond those that it shares, and their checks. Imports neither torch nor OpenCV."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from common import cli, path_checks
from common.files import is_url
from common.network import MIN_SIDE

DEFAULT_SIZE = (1280, 720)


def add_camera_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for what is looked at."""
    add = parser.add_argument_group('camera').add_argument
    add('--video-src', '--source', '--video-device-id', '--video_device_id', type=os.path.expanduser, default='0',
        metavar='CAMERA',
        help='number or path of a camera, URL of a stream, or a video file')  # fmt: skip
    add('--resolution', type=int, nargs=2, metavar=('W', 'H'),
        help='to ask a camera for; what it gives instead is taken. 1280 720 if left out')  # fmt: skip
    add('--video-bgr', '--plate', type=Path, metavar='FILE',
        help='a picture of the empty scene to start with, instead of key B')  # fmt: skip


def add_display_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for what is made of it."""
    add = parser.add_argument_group('display').add_argument
    add('--video-target-bgr', '--target-bgr', type=Path, metavar='FILE',
        help='picture to put behind the subject; plain white if left out')  # fmt: skip
    add('--view', choices=('com', 'pha', 'src'), default='com', help="composite, alpha, or the camera's picture")
    add('--mirror', action='store_true', help='show left and right exchanged; what is saved or sent on is not')
    add('--hide-fps', action='store_true', help='do not write the frame rate on the picture')
    add('--virtual-camera', action='store_true', help='be a camera for other programs, too; needs pyvirtualcam')
    add('--headless', type=int, metavar='N',
        help='no window: write the first N pictures as <view>_0000.png and so on; the first is the plate if there is '
        'no --video-bgr. A file waits until each of its pictures is done')  # fmt: skip
    add('--output-dir', type=Path, default=Path(), metavar='DIR', help='for stills, and for --headless')
    add('-y', dest='overwrite', action='store_true', help='let --headless replace pictures of an earlier run')


def webcam_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with these flags, one line each, without opening a camera."""
    from . import display

    found = []
    named = args.video_src.isdigit() or is_url(args.video_src) or args.video_src.startswith('/dev/')
    if not named and (why := path_checks.file_problem(Path(args.video_src), ['video'])):
        found.append(f'--video-src {args.video_src}: {why}; cameras are given by number, the first is 0')
    if args.resolution and min(args.resolution) < MIN_SIDE:
        found.append(f'--resolution {args.resolution[0]} {args.resolution[1]}: must be at least {MIN_SIDE} each')
    found += path_checks.file_problems(args, 'video_bgr', 'video_target_bgr', kinds=['picture'])
    found += path_checks.output_folder_problems(args.output_dir)
    if args.headless is not None:
        found += cli.at_least_problems(args, {'headless': 1})
        earlier = next(args.output_dir.glob(f'{args.view}_*.png'), None)
        found += path_checks.not_empty_problems(args.output_dir, earlier, args.overwrite)
    elif problem := display.display_problem():
        found.append(f'{problem}; --headless N writes pictures instead')
    if args.virtual_camera and (problem := display.virtual_camera_problem()):
        found.append(problem)
    return found
