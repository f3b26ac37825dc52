"""The picture files that training draws from: subjects with their alpha, and backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from .fringes import cut_out
from .readers import ImageError, decode, read_rgb, reduce, reduction


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
            alpha = reduce(alpha, size, min_size)
            known = _above(reduce(known, size, min_size), 0)
        else:
            rgb, alpha = reduce(rgb, size, min_size), reduce(alpha, size, min_size)
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


def _reduce_where(
    rgb: np.ndarray, known: np.ndarray, size: tuple[int, int], min_size: tuple[int, int] | None
) -> np.ndarray:
    """Average over squares, counting only the pixels where `known` is 255."""
    if reduction(size, min_size) == 1:
        return rgb
    total = reduce(cv2.copyTo(rgb, known), size, min_size)
    share = reduce(known, size, min_size)
    # Rounded to uint8 before the division: the less of a square is known, the coarser its colour, and the less its
    # alpha lets it show. Half a level in a composite, for a quarter of the time that floats would take.
    return cv2.divide(total, cv2.cvtColor(share, cv2.COLOR_GRAY2RGB), scale=255)


def _above(alpha: np.ndarray, level: int) -> np.ndarray:
    return cv2.threshold(alpha, level, 255, cv2.THRESH_BINARY)[1]
