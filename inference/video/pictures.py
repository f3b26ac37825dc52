"""Pictures that are the frames of a video, read as `VideoReader` reads a file."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dataset.readers import read_rgb

from .colour import Colour
from .reader import Frame, VideoReader
from .settings import DEFAULT_RATE, TIMES, Source, is_sequence, sequence_gaps, sequence_paths

FINEST = 1_000_000  # units in a second of times that are read


@dataclass(frozen=True)
class PictureFrame(Frame):
    """One picture."""

    path: Path
    size: tuple[int, int]  # width and height of the first one

    def pixels(self, deep: bool = False) -> np.ndarray:
        """Read it, uint8 RGB (H, W, 3); raise a ValueError where it cannot be read or has another size."""
        del deep  # whatever their bits, pictures are read in 8, and so is `PictureReader.colour`
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

    damage = scaled = None
    origin, pixel_aspect = 0, Fraction(1)

    def __init__(self, path: Path, rate: Fraction | None = None):
        self.path, self._paths = path, sequence_paths(path)
        self.rate = rate or DEFAULT_RATE
        self.time_base, self._times = 1 / self.rate, list(range(len(self._paths) + 1))
        times = self._paths[0].with_name(TIMES)
        if rate is None and times.is_file():
            self._follow(times)
        gaps = sequence_gaps(self._paths)
        self.note = f'warning: {path}: {gaps}' if gaps else None
        self.height, self.width = read_rgb(self._paths[0]).shape[:2]
        self.colour, self.recorded, self.expected = Colour(), dict[str, str](), len(self._paths)

    def _follow(self, path: Path) -> None:
        """Take the times of a file; the end of the last picture may be missing."""
        count, times = len(self._paths), read_times(path)
        if count != len(times) and count != len(times) - 1:
            raise ValueError(f'{path}: {len(times)} times for {count} pictures; --frame-rate goes without it')
        if count > 1:
            step = (times[count - 1] - times[0]) / (count - 1)
            self.rate = (1 / step).limit_denominator(1001) if step < 1 else 1 / step.limit_denominator(1001)
        times = [*times, times[-1] + 1 / self.rate][: count + 1]
        units = math.lcm(*(time.denominator for time in times))
        units = units if units <= FINEST else FINEST
        self.time_base, self._times = Fraction(1, units), [round(time * units) for time in times]

    def __iter__(self) -> Iterator[PictureFrame]:
        """Yield the frames; none is read yet."""
        for index, (path, (begin, end)) in enumerate(zip(self._paths, itertools.pairwise(self._times))):
            yield PictureFrame(index, begin, end - begin, path, (self.width, self.height))

    def peek(self, count: int) -> list[PictureFrame]:
        """Return the first frames."""
        return list(itertools.islice(self, count))

    def seek(self, seconds: float) -> bool:
        """Return False: going through them costs nothing."""
        del seconds
        return False

    def seconds(self, frame: Frame) -> float:
        """Return when a frame is shown, from the start of the video."""
        return float((frame.pts - self._times[0]) * self.time_base)

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""


def read_times(path: Path) -> list[Fraction]:
    """Read when pictures are shown, in seconds, of a timestamp file v2: a header, then milliseconds, one a line.

    Raises:
        ValueError: the file is none, or its times do not rise.
    """
    header, *lines = path.read_text(errors='replace').splitlines() or ['']
    try:
        if not re.fullmatch(r'# time(code|stamp) format v2', header.strip()):
            raise ValueError('no "# timestamp format v2" in its first line')
        times = [(Fraction(line.strip()) / 1000).limit_denominator(FINEST) for line in lines if line.strip('# ')]
        if not times or any(after - before < Fraction(1, FINEST) for before, after in itertools.pairwise(times)):
            raise ValueError('its times do not rise')
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f'{path}: cannot be read as times: {error}; --frame-rate goes without it') from None
    return times


def written_times(times: Iterable[Fraction]) -> bytes:
    """Return a timestamp file v2 of times in seconds, from which `read_times` gets them back exactly."""
    lines = (divmod(round(time * 10**13), 10**10) for time in times)  # milliseconds, and the rest of them
    return '\n'.join(['# timestamp format v2', *(f'{whole}.{rest:010}' for whole, rest in lines), '']).encode()


def open_video(path: Source, rate: Fraction | None = None, **reading: Any) -> VideoReader | PictureReader:
    """Open a video, read as a `VideoReader` is told to, or pictures that are one at a rate of frames per second."""
    return PictureReader(path, rate) if is_sequence(path) else VideoReader(path, **reading)
