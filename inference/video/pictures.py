"""Pictures that are the frames of a video, read as `VideoReader` reads a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dataset.readers import read_rgb

from .colour import Colour
from .reader import Frame, VideoReader
from .settings import DEFAULT_RATE, is_sequence, sequence_gaps, sequence_paths


@dataclass(frozen=True)
class PictureFrame(Frame):
    """One picture."""

    path: Path
    size: tuple[int, int]  # width and height of the first one

    def pixels(self) -> np.ndarray:
        """Read it, uint8 RGB (H, W, 3); raise a ValueError where it cannot be read or has another size."""
        pixels = read_rgb(self.path)
        if pixels.shape[1::-1] != self.size:
            expected = '{}x{}'.format(*self.size)
            raise ValueError(f'{self.path}: is {pixels.shape[1]}x{pixels.shape[0]}, the first picture {expected}')
        return pixels


class PictureReader:
    """A folder of pictures, or a name with their number such as `%05d.png`, with the attributes of a `VideoReader`.

    Raises:
        ValueError: `sequence_paths` refuses them, or the first cannot be read.
    """

    damage = None
    origin, pixel_aspect = 0, Fraction(1)

    def __init__(self, path: Path, rate: Fraction):
        self.path, self.rate, self.time_base = path, rate, 1 / rate
        self._paths = sequence_paths(path)
        gaps = sequence_gaps(self._paths)
        self.note = f'warning: {path}: {gaps}' if gaps else None
        self.height, self.width = read_rgb(self._paths[0]).shape[:2]
        self.colour, self.recorded, self.expected = Colour(), dict[str, str](), len(self._paths)

    def __iter__(self) -> Iterator[PictureFrame]:
        """Yield the frames; none is read yet."""
        for index, path in enumerate(self._paths):
            yield PictureFrame(index, index, 1, path, (self.width, self.height))

    def peek(self, count: int) -> list[PictureFrame]:
        """Return the first frames."""
        return list(itertools.islice(self, count))

    def seek(self, seconds: float) -> bool:
        """Return False: going through them costs nothing."""
        del seconds
        return False

    def seconds(self, frame: Frame) -> float:
        """Return when a frame is shown, from the start of the video."""
        return float(frame.pts * self.time_base)

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""


def open_video(path: Path, rate: Fraction | None = None, **reading: Any) -> VideoReader | PictureReader:
    """Open a video, read as a `VideoReader` is told to, or pictures that are one at a rate of frames per second."""
    return PictureReader(path, rate or DEFAULT_RATE) if is_sequence(path) else VideoReader(path, **reading)
