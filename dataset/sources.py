"""Subjects and backgrounds from picture files, by index: what training draws from."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from common.files import LOSSLESS_SUFFIXES

from .fringes import cut_out
from .readers import ImageError, decode, read_rgb, reduce, reduction
from .stores import Picture


class MatteFiles:
    """Subjects from pairs of files: colour from the first, alpha from the second."""

    def __init__(self, pairs: Sequence[tuple[Picture, Picture]]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Return what messages call a subject: the path of its foreground."""
        return str(self.pairs[index][0])

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Read a subject as uint8 (H, W, 4): RGB, not multiplied by alpha, and alpha.

        Where alpha is 0, colour is whatever the matting tool left there, often black. Resampling would mix it into
        the soft edge as a dark fringe. So near the subject it is replaced (`cut_out`), and a picture is reduced by
        averaging only pixels of alpha above 0; these keep their colour exactly. Lossy files (JPEG, WebP, HEIC, AVIF)
        need more: their alpha has specks around edges, so values up to 8 count as 0, and a foreground that the codec
        reduced has the outside mixed in, so colour within a pixel of alpha 0 is replaced as well.

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
        specks = 8 if pha.suffix.lower() not in LOSSLESS_SUFFIXES else 0
        known = _above(alpha, specks)
        mixed = fgr.suffix.lower() not in LOSSLESS_SUFFIXES and reduction(size, min_size) > 1
        if not mixed and alpha.shape == size[::-1]:
            rgb = _reduce_where(rgb, known, size, min_size)
            alpha = reduce(alpha, size, min_size)
            known = _above(reduce(known, size, min_size), 0)
        else:
            rgb, alpha = reduce(rgb, size, min_size), reduce(alpha, size, min_size)
            known = cv2.erode(_above(alpha, specks), np.ones((3, 3), np.uint8))
        return cut_out(rgb, alpha, known)


class BackgroundFiles:
    """Background pictures from files."""

    def __init__(self, paths: Sequence[Picture]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return what messages call a background: its path."""
        return str(self.paths[index])

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Read a background as uint8 RGB (H, W, 3); see `read_rgb`."""
        return read_rgb(self.paths[index], min_size)


def _reduce_where(
    rgb: np.ndarray, known: np.ndarray, size: tuple[int, int], min_size: tuple[int, int] | None
) -> np.ndarray:
    """Shrink `rgb` as `reduce` does, averaging only the pixels where `known` is 255."""
    if reduction(size, min_size) == 1:
        return rgb
    total = reduce(cv2.copyTo(rgb, known), size, min_size)
    share = reduce(known, size, min_size)
    # Rounding to uint8 before the division takes a quarter of the time of floats. It makes colour coarser the less of a
    # square is known, but the less does its alpha let it show: half a level in a composite.
    return cv2.divide(total, cv2.cvtColor(share, cv2.COLOR_GRAY2RGB), scale=255)


def _above(alpha: np.ndarray, level: int) -> np.ndarray:
    return cv2.threshold(alpha, level, 255, cv2.THRESH_BINARY)[1]
