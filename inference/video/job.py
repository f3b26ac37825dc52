"""A video with everything it is matted with: opened, brought to one size, and checked."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.network import MIN_SIDE
from inference.compositing import covering, fitted
from inference.images.inputs import NAMED
from inference.images.writer import PictureWriter
from inference.plates.steady import SteadyPlate
from inference.predictor import Matting

from .options import output_paths
from .outputs import Pictures, Videos
from .plate import frames_again, is_picture, read_plate
from .reader import VideoFrame, VideoReader
from .stages import FrameError, Loader, Moment, Shot
from .writer import VideoWriter

# Decide where and how fast something is computed, or where it lands, and not what.
NOT_IN_PICTURES = (
    'device', 'compile', 'num_workers', 'batch_size', 'output_dir', 'overwrite', 'typed', 'audio', 'video_quality',
)  # fmt: skip


class VideoJob:
    """Opens the video and its plate; use it in a `with` block.

    Args:
        args: the command line of inference_video.py, checked.

    Attributes:
        reader: of the video.
        size: (width, height) of all that is computed and written.
        held: for how many frames the plate, a video itself, was over.

    Raises:
        ValueError: a file cannot be read, or the plate has another size than the video.
    """

    def __init__(self, args: argparse.Namespace):
        self._args, self._open, self.held = args, ExitStack(), 0
        with ExitStack() as opening:
            self.reader = opening.enter_context(VideoReader(args.video_src))
            self.size = tuple(args.video_resize or (self.reader.width, self.reader.height))
            if min(self.size) < MIN_SIDE:
                raise ValueError(
                    f'--video-src {args.video_src}: {_by(self.size)} is too small: at least 16 x 16 is needed'
                )
            self._plates: VideoReader | None = None
            self._plate: np.ndarray | None = None
            if args.video_bgr_mode == 'each':
                self._plates = opening.enter_context(VideoReader(args.video_bgr))
                self._check_plate((self._plates.width, self._plates.height))
            else:
                plate = read_plate(args.video_bgr or args.video_src, args.video_bgr_time)
                self._check_plate(plate.shape[1::-1])
                self._plate = fitted(plate, self.size)
            self._target, self._targets = self._read_target(opening, args.video_target_bgr)
            self._open = opening.pop_all()

    def _check_plate(self, size: tuple[int, int]) -> None:
        own = (self.reader.width, self.reader.height)
        if size != own and not self._args.resize_bgr:
            raise ValueError(
                f'sizes differ (--resize-bgr resizes the plate): {self._args.video_src} is {_by(own)}, its plate '
                f'{self._args.video_bgr} {_by(size)}'
            )

    def _read_target(
        self, opening: ExitStack, path: Path | None
    ) -> tuple[np.ndarray | None, Iterator[VideoFrame] | None]:
        """What the subject is set before: one picture, or a frame for each."""
        if path is None:
            return None, None
        if is_picture(path):
            return covering(read_plate(path), self.size), None
        frames = frames_again(path)
        opening.callback(frames.close)
        return None, itertools.chain([next(frames)], frames)  # opened now, so that a broken file is known now

    def moments(self) -> Iterator[Moment]:
        """What belongs together, in order. A plate that ends early is held at its last frame.

        Raises:
            FrameError: the background cannot be read again.
        """
        plates = iter(self._plates or ())
        plate = None
        for frame in self.reader:
            latest = next(plates, None)
            self.held += self._plates is not None and latest is None
            plate = latest or plate
            try:
                target = next(self._targets) if self._targets else None
            except (ValueError, OSError) as error:
                raise FrameError(f'frame {frame.index}: --video-target-bgr {error}') from error
            yield Moment(frame, plate, target)

    def warnings(self) -> list[str]:
        """What was wrong with the files, once all is read."""
        found = [f'{self.reader.damage}; what can be decoded is done'] if self.reader.damage else []
        if self.held:
            found.append(f'--video-bgr {self._args.video_bgr}: ended {self.held} frames early; its last frame was held')
        return [f'warning: {line}' for line in found]

    def loader(self, matting: Matting, outputs: Pictures | Videos) -> Loader:
        """The stage that follows `moments`."""
        align = None
        if self._args.preprocess_alignment:
            assert self._plate is not None
            align = SteadyPlate(self._plate).aligned
        return Loader(
            matting, self._plate, self.size, outputs.done, max(1, round(self.reader.rate)), align, self._target
        )

    def outputs(self, formats: dict[str, str]) -> Pictures | Videos:
        """What is written; `formats` are those of pictures, by type."""
        args = self._args
        on_target = args.video_target_bgr is not None
        if args.output_format == 'image_sequences':
            writer = PictureWriter(args.output_dir, formats, args.png_compression, args.jpeg_quality)
            return Pictures(writer, self._settings(), on_target)
        alpha = args.output_format in ('prores4444', 'webm') and not on_target
        try:
            args.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f'--output-dir {args.output_dir}: cannot be made: {error.strerror}') from error
        with ExitStack() as opening:
            writers = {}
            for kind, path in output_paths(args).items():
                writers[kind] = opening.enter_context(
                    VideoWriter(
                        path,
                        args.output_format,
                        self.size,
                        self.reader.time_base,
                        self.reader.rate,
                        self.reader.colour,
                        alpha=alpha and kind == 'com',
                        quality=args.video_quality,
                        pixel_aspect=Fraction(1) if args.video_resize else self.reader.pixel_aspect,
                        audio=args.video_src if args.audio and kind in ('com', 'fgr') else None,
                        origin=self.reader.origin,
                    )
                )
            opening.pop_all()
        return Videos(writers, alpha)

    def _settings(self) -> dict[str, Any]:
        """All that the pictures follow from: flags, and which files they name, by size and time of change."""
        flags = {name: value for name, value in vars(self._args).items() if name not in NOT_IN_PICTURES}
        for name, value in flags.items():
            if isinstance(value, Path):
                stat = value.stat()
                flags[name] = [str(value.resolve()), stat.st_size, stat.st_mtime_ns]
        return flags

    def close(self) -> None:
        """Release all files that are read."""
        self._open.close()

    def __enter__(self) -> VideoJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Findings:
    """Counts frames, and says where the plate seems not to fit. `add` and `summary` return lines to print."""

    def __init__(self) -> None:
        self.done = self._misfits = self._unaligned = 0

    def add(self, shot: Shot) -> list[str]:
        """Count a frame; returns what to say of it now."""
        self.done += 1
        lines: list[str] = []
        if shot.misfit:
            self._misfits += 1
            lines += shot.misfit if self._misfits <= NAMED else ()
        if shot.unaligned:
            self._unaligned += 1
            lines += [shot.unaligned] if self._unaligned == 1 else []
        return [f'warning: frame {shot.index}: {"; ".join(lines)}'] if lines else []

    def summary(self) -> list[str]:
        """What to say at the end."""
        lines = []
        if self._misfits > NAMED:
            lines.append(f'warning: in {self._misfits} of the frames that were compared, the plate does not fit')
        if self._unaligned > 1:
            lines.append(f'warning: the plate could not be aligned anew to {self._unaligned} of {self.done} frames')
        return lines


def _by(size: tuple[int, ...]) -> str:
    return f'{size[0]}x{size[1]}'
