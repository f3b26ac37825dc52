"""Pictures from files: one reader for colour, one for alpha, and the sources that training draws from.

Every reader honours EXIF rotation and gives 8 bits per channel, whatever the file holds (the upper 8 of 16-bit colour).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from .fringes import cut_out
from .geometry import average
from .readers import ImageError, alpha_channel, decode, open_picture, reduction, upright_size


def read_rgb(path: Path, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a picture's colour as uint8 RGB (H, W, 3). An alpha channel is dropped.

    Args:
        path: a picture; 8 or 16 bit, grey, palette, CMYK, with or without alpha.
        min_size: (width, height) that is enough, in terms of the upright picture. The result is smaller than the
            file by 2, 4 or 8 where both sides stay at least that. JPEG decodes faster for it.

    Raises:
        ImageError: the file is no picture, or a damaged one.
        FileNotFoundError: there is no such file.
    """
    pixels, size = decode(path, 'colour', min_size)
    return _reduce(pixels, size, min_size)


def read_alpha(path: Path, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a matte as uint8 (H, W), 255 = subject, from where `alpha_source` says.

    Arguments and errors are those of `read_rgb`.
    """
    pixels, size = decode(path, 'matte', min_size)
    return _reduce(pixels, size, min_size)


def alpha_source(path: Path) -> Literal['alpha', 'luminance']:
    """Say where `read_alpha` takes a file's matte from: its alpha channel, or its brightness if it has none.

    An alpha channel that is 255 everywhere tells nothing, and some editors add one to every grey picture: then it
    is the brightness. A file with an alpha channel is decoded to find out, others are not.
    """
    with open_picture(path) as image:
        return 'luminance' if alpha_channel(image) is None else 'alpha'


def image_size(path: Path) -> tuple[int, int]:
    """Read (width, height) of the upright picture from the file's header."""
    with open_picture(path) as image:
        return upright_size(image)


class MatteFiles:
    """Subjects to cut out, from pairs of files: colour from the first, alpha from the second."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Name a sample in messages: the path of its foreground."""
        return str(self.pairs[index][0])

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Read one subject as uint8 (H, W, 4): RGB, not multiplied by alpha, and alpha.

        Colour where alpha is 0 is whatever the cutting tool left there, often black. Resampling would mix it into
        the soft edge as a dark fringe, so near the subject it is replaced (`cut_out`), and a picture is
        reduced by averaging only the pixels whose alpha is above 0. These keep their colour exactly. Lossy files
        (JPEG, WebP) need more: an alpha has specks around edges, so up to 8 counts as 0; a reduced foreground
        has the outside mixed in, so colour within a pixel of alpha 0 is replaced as well.

        Raises:
            ImageError: a file cannot be read, or the two differ in size.
            FileNotFoundError: a file is missing.
        """
        fgr, pha = self.pairs[index]
        rgb, size = decode(fgr, 'colour', min_size)
        alpha, alpha_size = decode(pha, 'matte', min_size)
        if size != alpha_size:
            raise ImageError(
                f'{fgr} is {size[0]}x{size[1]} and its alpha {pha} is {alpha_size[0]}x{alpha_size[1]}: '
                'make both the same size'
            )
        specks = 8 if pha.suffix.lower() != '.png' else 0
        known = _above(alpha, specks)
        mixed = fgr.suffix.lower() != '.png' and reduction(size, min_size) > 1
        if not mixed and alpha.shape == size[::-1]:
            rgb = _reduce_where(rgb, known, size, min_size)
            alpha = _reduce(alpha, size, min_size)
            known = _above(_reduce(known, size, min_size), 0)
        else:
            rgb, alpha = _reduce(rgb, size, min_size), _reduce(alpha, size, min_size)
            known = cv2.erode(_above(alpha, specks), np.ones((3, 3), np.uint8))
        return cut_out(rgb, alpha, known)


class BackgroundFiles:
    """Background pictures from files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Name a sample in messages: its path."""
        return str(self.paths[index])

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Read one background as uint8 RGB (H, W, 3); see `read_rgb`."""
        return read_rgb(self.paths[index], min_size)


def _reduce(pixels: np.ndarray, size: tuple[int, int], min_size: tuple[int, int] | None) -> np.ndarray:
    """Average over squares, as far as `min_size` allows and the codec has not done it."""
    done = pixels.shape[:2] != size[::-1]
    return pixels if done else average(pixels, reduction(size, min_size))


def _reduce_where(
    rgb: np.ndarray, known: np.ndarray, size: tuple[int, int], min_size: tuple[int, int] | None
) -> np.ndarray:
    """Average over squares, counting only the pixels where `known` is 255."""
    if reduction(size, min_size) == 1:
        return rgb
    total = _reduce(cv2.copyTo(rgb, known), size, min_size)
    share = _reduce(known, size, min_size)
    # Rounded to uint8 before the division: the less of a square is known, the coarser its colour, and the less its
    # alpha lets it show. Half a level in a composite, for a quarter of the time that floats would take.
    return cv2.divide(total, cv2.cvtColor(share, cv2.COLOR_GRAY2RGB), scale=255)


def _above(alpha: np.ndarray, level: int) -> np.ndarray:
    return cv2.threshold(alpha, level, 255, cv2.THRESH_BINARY)[1]
