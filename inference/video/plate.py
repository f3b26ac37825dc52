"""The plate of a video, read from a picture, one frame or the median of many; and videos that begin again."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.console import progress, say
from dataset.readers import read_rgb
from inference.compositing import fitted
from inference.plates.agreement import clearly_closest

from .colour import BT601, BT709
from .pictures import PictureReader, open_video
from .reader import Frame, VideoReader
from .settings import MATRICES, Source, is_picture

MEDIAN_FRAMES = 25  # at most, at least half of them; their median has a quarter of one frame's noise
PEEKED = 6  # frames of a film from which the first and the last one tell its matrix
BAND = 64  # rows of which the median is taken at once: all frames of a whole 4K picture would be sorted in 1.5 GB


def read_plate(path: Source, seconds: float | None = None, **reading: Any) -> np.ndarray:
    """Read the plate, uint8 RGB (H, W, 3), that a picture or a video holds.

    `seconds` takes the frame of a video that is shown at this time from its start; else it is the median of frames
    spread over it. `reading` is how `open_video` reads.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or ends before that time.
    """
    if isinstance(path, Path) and is_picture(path):
        return read_rgb(path)
    if seconds is not None:
        return _frame_at(path, seconds, reading).pixels()
    with open_video(path, **reading) as reader:
        return _median([frame.pixels() for frame in _spread(reader)])


def fit_matrix(film: VideoReader | PictureReader, known: np.ndarray) -> None:
    """Take for a film that does not say its matrix the one by which it clearly is like a picture of its scene.

    A line says so where it is not the one that players assume. `known` is uint8 RGB (H, W, 3).
    """
    if not isinstance(film, VideoReader) or not film.colour.assumed:
        return
    names = {number: name for name, number in MATRICES.items() if number in (BT601, BT709)}
    closest = set()
    for frame in film.peek(PEEKED)[:: PEEKED - 1]:
        read = [replace(frame, colour=replace(film.colour, matrix=matrix)).pixels() for matrix in names]
        closest.add(clearly_closest([fitted(pixels, known.shape[1::-1]) for pixels in read], known))
    found = [[*names][index] for index in closest if index is not None]
    if len(found) == 1 and (matrix := found[0]) != film.colour.matrix:
        other = names[film.colour.matrix]
        say(f'{film.path}: does not say its matrix: {names[matrix]}, by which it is like the plate, not {other}')
        film.colour = replace(film.colour, matrix=matrix, assumed=False)


def _frame_at(path: Source, seconds: float, reading: Mapping[str, Any]) -> Frame:
    """Return the frame that is shown at a time."""
    for may_seek in (True, False):
        with open_video(path, **reading) as reader:
            sought = may_seek and reader.seek(seconds)
            shown = None
            for frame in reader:
                if reader.seconds(frame) > seconds + 1e-6:
                    break
                shown = frame
            else:
                end = 0.0 if shown is None else reader.seconds(shown) + float(shown.duration * reader.time_base)
                if seconds > end and not sought:
                    raise ValueError(f'{path}: has no frame at {seconds:g} seconds: it ends after {end:.2f}')
                shown = None if seconds > end else shown
            if shown is not None:
                return shown
    raise ValueError(f'{path}: has no frame at {seconds:g} seconds')


def _spread(reader: VideoReader | PictureReader) -> list[Frame]:
    """Return at most MEDIAN_FRAMES frames, evenly spread, of a video whose length is only known at its end."""
    kept: list[Frame] = []
    every = 1
    for frame in progress(reader, lambda: reader.expected, ' frames of the plate'):
        if len(kept) == MEDIAN_FRAMES and frame.index % every == 0:
            kept, every = kept[::2], every * 2
        if frame.index % every == 0:
            kept.append(frame)
    return kept


def _median(pictures: list[np.ndarray]) -> np.ndarray:
    plate = np.empty_like(pictures[0])
    for top in range(0, len(plate), BAND):
        rows = slice(top, top + BAND)
        plate[rows] = np.rint(np.median([picture[rows] for picture in pictures], axis=0))
    return plate


def repeated(path: Path, **reading: Any) -> Generator[Frame]:
    """Yield the frames of a video, from its beginning again whenever it ends."""
    while True:
        with open_video(path, **reading) as reader:
            yield from reader
