"""The first stage of matting a video: all files that are read, opened, checked, and read frame by frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from common.network import MIN_SIDE
from inference.compositing import covering, fitted

from .pictures import PictureReader, open_video
from .plate import fit_matrix, read_plate, repeated
from .reader import Frame, VideoReader
from .settings import MATRICES, VideoSettings, is_picture


class FrameError(ValueError):
    """A frame cannot be matted. The message names it; no frame may be missing, so the run ends."""


class FrameInputs(NamedTuple):
    """A frame, and what lies at its place in a plate that is followed and in a video behind the subject."""

    frame: Frame
    plate: Frame | None
    target: Frame | None


class VideoInputs:
    """A video, its plate and what is behind the subject, opened. Use it in a `with` block.

    Attributes:
        size: (width, height) of all that is computed and written.
        deep: frames are written with more than 8 bits.
        plate: of all frames, uint8 RGB (H, W, 3) of `size`; None where it is a video that is followed.
        target: behind the subject in all frames, in the same form; None where it is a video, or nothing.

    Raises:
        ValueError: a file cannot be read, or the plate has another size than the video.
    """

    def __init__(self, settings: VideoSettings):
        self.settings = settings
        self.plate: np.ndarray | None = None
        self.target: np.ndarray | None = None
        self._plates: VideoReader | PictureReader | None = None
        self._targets: Iterator[Frame] | None = None
        self._held = 0  # frames for which a plate that is a video was over
        with ExitStack() as opening:
            matrix = MATRICES[settings.video_matrix] if settings.video_matrix else None
            film: dict[str, Any] = {'rate': settings.frame_rate, 'deinterlace': settings.deinterlace}
            reading = {**film, 'matrix': matrix}
            opened = partial(open_video, nvdec='decode' in settings.nvidia_codecs, gpu=settings.gpu)
            self.reader: VideoReader | PictureReader = opened(settings.video_src, **reading)
            opening.enter_context(self.reader)
            self.deep = settings.output_format == 'prores4444' and self.reader.colour.bits > 8
            width, height = settings.video_resize or (self.reader.width, self.reader.height)
            self.size = (width, height)
            if min(self.size) < MIN_SIDE:
                least = f'at least {MIN_SIDE} x {MIN_SIDE} is needed'
                raise ValueError(f'--video-src {settings.video_src}: {_by(self.size)} is too small: {least}')
            if settings.video_bgr_mode == 'each' and settings.video_bgr:
                self._plates = plates = opened(settings.video_bgr, **reading)
                opening.enter_context(plates)
                self._fit_matrices(plates)
                self._check_plate((plates.width, plates.height))
            else:
                if settings.video_bgr and not is_picture(settings.video_bgr):
                    with open_video(settings.video_bgr, **reading) as plates:
                        self._fit_matrices(plates)
                        reading['matrix'] = plates.colour.matrix
                plate = read_plate(settings.video_bgr or settings.video_src, settings.video_bgr_time, **reading)
                if settings.video_bgr and is_picture(settings.video_bgr):
                    fit_matrix(self.reader, plate)
                self._check_plate(plate.shape[1::-1])
                self.plate = fitted(plate, self.size)
            if settings.video_target_bgr and is_picture(settings.video_target_bgr):
                self.target = covering(read_plate(settings.video_target_bgr), self.size)
            elif settings.video_target_bgr:
                frames = repeated(settings.video_target_bgr, **film)
                opening.callback(frames.close)
                self._targets = itertools.chain([next(frames)], frames)  # a broken file is known now
            self._open = opening.pop_all()

    def _fit_matrices(self, plates: VideoReader | PictureReader) -> None:
        """Let the one of video and plate that says by which matrix its colours are stored tell the other's."""
        if not self.reader.colour.assumed:
            fit_matrix(plates, self.reader.peek(1)[0].pixels())
        elif not plates.colour.assumed:
            fit_matrix(self.reader, plates.peek(1)[0].pixels())

    def _check_plate(self, size: tuple[int, ...]) -> None:
        own = (self.reader.width, self.reader.height)
        if size != own and not self.settings.resize_bgr:
            raise ValueError(
                f'sizes differ (--resize-bgr resizes the plate): {self.settings.video_src} is {_by(own)}, its plate '
                f'{self.settings.video_bgr} {_by(size)}'
            )

    def read(self) -> Iterator[FrameInputs]:
        """Yield what belongs together, in order. A plate that ends early is held at its last frame."""
        plates = iter(self._plates or ())
        plate = None
        for frame in self.reader:
            latest = next(plates, None)
            self._held += self._plates is not None and latest is None
            plate = latest or plate
            try:
                target = next(self._targets) if self._targets else None
            except (ValueError, OSError) as error:
                raise FrameError(f'frame {frame.index}: --video-target-bgr {error}') from error
            yield FrameInputs(frame, plate, target)

    def warnings(self) -> list[str]:
        """Return what was wrong with the files, one line each. Call it when all is read."""
        found = [f'{self.reader.damage}; what can be decoded is done'] if self.reader.damage else []
        found += [self.reader.scaled] if self.reader.scaled else []
        if self._held:
            plate = self.settings.video_bgr
            found.append(f'--video-bgr {plate}: ended {self._held} frames early; its last frame was held')
        return [f'warning: {line}' for line in found]

    def __enter__(self) -> VideoInputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _by(size: tuple[int, ...]) -> str:
    return f'{size[0]}x{size[1]}'
