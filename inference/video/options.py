"""The flags of inference_video.py beyond those that it shares, and their checks. Importing this imports no torch."""

from __future__ import annotations

import argparse
import math
import os
from fractions import Fraction
from pathlib import Path

from common import cli, path_checks
from common.installation import missing_problems
from common.network import MIN_SIDE
from inference import options

from .settings import (
    DEFAULT_QUALITY,
    FORMATS,
    H264,
    MATRICES,
    NVIDIA_CODECS,
    SEQUENCES,
    STDIN,
    TIMES,
    WORST_QUALITY,
    as_source,
    is_picture,
    is_sequence,
    sequence_paths,
    video_paths,
)

BOTH = ['picture', 'video']
FASTEST = 1000  # frames per second


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the video, its plate and what is made of them."""
    add = parser.add_argument_group('video').add_argument
    add('--video-src', type=as_source, required=True, metavar='PATH',
        help='the video: a file, a URL, or - for standard input; or its frames: a folder of pictures, or their '
        'numbered name, frames/%%05d.png')  # fmt: skip
    add('--video-bgr', type=as_source, metavar='FILE',
        help='its plate: a picture, or a video (also a URL) of the scene, whose median is taken; where everybody '
        'moves, the video itself will do')  # fmt: skip
    add('--video-bgr-time', type=float, metavar='SECONDS',
        help='the plate is the frame at this time, of --video-bgr if given, else of the video itself')  # fmt: skip
    add('--video-bgr-mode', choices=('median', 'each'), default='median',
        help='each: of a plate that is a video, frame for frame, as from a motion-controlled camera; a shorter one '
        'is held at its last frame')  # fmt: skip
    add('--video-target-bgr', type=Path, metavar='FILE',
        help='picture or video, repeated as needed, behind the subject in com; plain green if left out')  # fmt: skip
    add('--frame-rate', type=_rate, metavar='FPS',
        help=f'of frames that are pictures, such as 24 or 24000/1001; left out: by their {TIMES}, else 25')  # fmt: skip
    add('--deinterlace', action=argparse.BooleanOptionalAction, default=True,
        help='make whole frames of interlaced ones, as many, at their times')  # fmt: skip
    add('--video-matrix', choices=tuple(MATRICES),
        help='by which the colours of the video, and of a plate that is one, are stored; if left out as they say, else '
        'as fits a plate whose colours are known, else bt709 from 720 lines on, bt601 below')  # fmt: skip
    add('--video-resize', type=int, nargs=2, metavar=('W', 'H'), help='compute and write at this size, in pixels')
    add('--resize-bgr', action=argparse.BooleanOptionalAction, default=False,
        help='resize a plate of another size than the video\'s instead of refusing it')  # fmt: skip
    add('--preprocess-alignment', action=argparse.BooleanOptionalAction, default=False,
        help='warp the plate onto each frame, steadily, for a camera that was not quite fixed')  # fmt: skip


def add_video_output_arguments(parser: cli.Parser) -> None:
    """Add the flags for what is written."""
    add = parser.group('output').add_argument
    add('--output-format', choices=(SEQUENCES, *FORMATS), default='video',
        help='H.264 in .mp4; numbered pictures; ProRes 4444 in .mov or VP9 in .webm, where com has alpha')  # fmt: skip
    add('--video-quality', type=int, default=DEFAULT_QUALITY, metavar=f'0-{WORST_QUALITY}',
        help='constant rate factor: lower is better and larger; 18 looks like the source; not for prores')  # fmt: skip
    add('--audio', action=argparse.BooleanOptionalAction, default=True, help='copy the sound into com and fgr')
    add('--nvidia-codecs', nargs='+', choices=NVIDIA_CODECS, default=[],
        help='on an NVIDIA GPU: decode by NVDEC, to the same frames; encode .mp4 by NVENC, with less CPU time and '
        'larger files of equal quality; the CPU does what the GPU cannot')  # fmt: skip
    options.add_output_arguments(parser, '--sequence-format')
    add('--skip-existing', action='store_true',
        help='make nothing again that is there as a whole: a video of as many frames as the source, pictures to their '
        'last byte; the flags and weights they were made with cannot be seen')  # fmt: skip


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f'{text}: must be a number such as 24 or 24000/1001') from None


def video_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with these flags, one line each, without opening a video."""
    found = missing_problems('av', needed_by='videos: ')
    for name, kinds in (('video_src', ['video']), ('video_bgr', BOTH), ('video_target_bgr', BOTH)):
        path = getattr(args, name)
        if isinstance(path, str):  # a URL is known when it is opened
            continue
        if path is None or not is_sequence(path):
            found += path_checks.file_problems(args, name, kinds=kinds)
            continue
        try:
            sequence_paths(path)
        except ValueError as error:
            found.append(f'{cli.flag(name)} {error}')
    if args.frame_rate is not None and not 0 < args.frame_rate <= FASTEST:
        found.append(f'--frame-rate {args.frame_rate}: must be above 0 and at most {FASTEST}')
    if args.video_src == STDIN and args.skip_existing:
        found.append('--skip-existing: compares with the video, and standard input can be read once; leave it out')
    found += _plate_problems(args)
    if args.video_resize and min(args.video_resize) < MIN_SIDE:
        width, height = args.video_resize
        found.append(f'--video-resize {width} {height}: must be at least {MIN_SIDE} x {MIN_SIDE}')
    found += cli.at_least_problems(args, {'batch_size': 1})
    found += cli.range_problems(args, {'video_quality': (0, WORST_QUALITY)})
    found += options.output_problems(args)
    if args.video_target_bgr is not None and 'com' not in args.output_types:
        found.append(f'--video-target-bgr {args.video_target_bgr}: only com shows it; add com to --output-types')
    if args.picture_formats and args.output_format != SEQUENCES:
        found.append(f'--picture-format: needs --output-format {SEQUENCES}, not {args.output_format}')
    if 'encode' in args.nvidia_codecs and FORMATS.get(args.output_format) is not H264:
        found.append(f'--nvidia-codecs encode: writes H.264, not {args.output_format}; leave it or --output-format out')
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        found.append('torchrun: a video is written by one process; start one per video, without torchrun')
    return found + (path_checks.output_folder_problems(args.output_dir) or _overwriting_problems(args))


def _plate_problems(args: argparse.Namespace) -> list[str]:
    path, seconds = args.video_bgr, args.video_bgr_time
    if path is None and seconds is None:
        return ['--video-bgr: give a picture or video of the empty scene, or --video-bgr-time, when the scene is empty']
    found = []
    if (path or args.video_src) == STDIN:
        flag = '--video-src' if path is None else '--video-bgr'
        found.append(f'{flag} -: standard input can be read once: give the plate as a picture or a file of its own')
    picture = path is not None and is_picture(path)
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        found.append(f'--video-bgr-time {seconds:g}: must be 0 or more, in seconds from the start')
    if picture and seconds is not None:
        found.append(f'--video-bgr-time {seconds:g}: {path} is a picture; leave one of the two out')
    if args.video_bgr_mode == 'each':
        if picture or path is None:
            found.append('--video-bgr-mode each: needs a video as --video-bgr')
        if seconds is not None:
            found.append('--video-bgr-mode each: leave out --video-bgr-time, which picks one frame')
        if args.preprocess_alignment:
            found.append('--video-bgr-mode each: cannot be aligned; leave out --preprocess-alignment')
    return found


def _overwriting_problems(args: argparse.Namespace) -> list[str]:
    """Return what would be lost in an output folder that can be written to."""
    folder, sequences = args.output_dir, args.output_format == SEQUENCES
    given = args.video_src, args.video_bgr, args.video_target_bgr
    inputs = {path.resolve() for path in given if isinstance(path, Path)}
    if sequences:
        written = {(folder / kind).resolve() for kind in args.output_types}
        hit = [path for path in inputs if not written.isdisjoint((path, path.parent))]
    else:
        videos = video_paths(folder, args.output_types, args.output_format).values()
        hit = [path for path in videos if path.resolve() in inputs]
    if hit:
        return [f'--output-dir {folder}: {hit[0]} is to be read; choose another folder']
    shown = (path for path in folder.iterdir() if not path.name.startswith('.')) if folder.is_dir() else iter(())
    resume = ', or to go on with a sequence that was cut' if sequences else ''
    return path_checks.not_empty_problems(folder, next(shown, None), args.overwrite or args.skip_existing, resume)
