"""One affine warp from a decoded picture to the batch's crop: rotation, shear, scale, shift, flip and crop at once.

The published toolkit resamples three times (affine at 512 or 2048, resize to the crop's longer side, centre crop); the
composed map has the same distribution and resamples once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np


class AffineRange(NamedTuple):
    """Ranges that an affine is drawn from. At scale 1 the picture covers the output."""

    scale: tuple[float, float]  # lowest and highest
    degrees: float = 5.0  # largest rotation, either way
    translate: float = 0.1  # largest shift along each axis, either way, as a fraction of the output's longer side
    shear: float = 5.0  # largest shear along x in degrees, either way
    flip: float = 0.5  # probability of a horizontal flip


class Affine(NamedTuple):
    """A map from a picture to an output of any size; angles in degrees, shifts by the output's longer side."""

    angle: float
    shift_x: float
    shift_y: float
    scale: float
    shear: float
    flip: bool

    def matrix(self, width: int, height: int, out_width: int, out_height: int) -> np.ndarray:
        """Return the (2, 3) map from a picture's pixel coordinates to the output's; pixel centres are at integers."""
        side = max(out_width, out_height)
        factor = self.scale * max(side / width, side / height)
        angle, shear = math.radians(self.angle), math.tan(math.radians(self.shear))
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = factor * rotation @ np.array([[1, -shear], [0, 1]]) @ np.diag([-1 if self.flip else 1, 1])
        centre = np.array([width - 1, height - 1]) / 2
        target = np.array([out_width - 1, out_height - 1]) / 2 + side * np.array([self.shift_x, self.shift_y])
        return np.column_stack([linear, target - linear @ centre])

    def needed_side(self, out_width: int, out_height: int) -> int:
        """Return the shorter side that a decoder may reduce a picture to, below which the warp would enlarge it."""
        return math.ceil(self.scale * max(out_width, out_height))


def draw_affine(generator: np.random.Generator, ranges: AffineRange) -> Affine:
    """Draw an affine uniformly from its ranges."""
    reach = [ranges.degrees, ranges.translate, ranges.translate, ranges.shear]
    angle, shift_x, shift_y, shear = generator.uniform(-1, 1, 4) * reach
    scale = generator.uniform(*ranges.scale)
    return Affine(angle, shift_x, shift_y, scale, shear, bool(generator.random() < ranges.flip))


def warp(picture: np.ndarray, affine: Affine, out_width: int, out_height: int, border: int) -> np.ndarray:
    """Resample a picture, uint8 (H, W, C), bilinearly to (out_height, out_width, C).

    To shrink by 2 or more it is averaged over areas first: bilinear sampling alone would skip pixels. `border` is
    cv2.BORDER_CONSTANT, zeros outside, or another of OpenCV's border modes.
    """
    height, width = picture.shape[:2]
    reduction = min(height, width) // max(1, affine.needed_side(out_width, out_height))
    if reduction >= 2:
        height, width = height // reduction, width // reduction
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    matrix = affine.matrix(width, height, out_width, out_height)
    left, top, right, bottom = _seen_part(cv2.invertAffineTransform(matrix), out_width, out_height, width, height)
    picture = picture[top:bottom, left:right]
    matrix[:, 2] += matrix[:, :2] @ [left, top]
    if picture.shape[2:] != (3,):
        return _resample(picture, matrix, out_width, out_height, border)
    # OpenCV resamples four channels in a third of the time that three take.
    rgba = _resample(cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA), matrix, out_width, out_height, border)
    return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)


def _resample(picture: np.ndarray, matrix: np.ndarray, out_width: int, out_height: int, border: int) -> np.ndarray:
    return cv2.warpAffine(picture, matrix, (out_width, out_height), flags=cv2.INTER_LINEAR, borderMode=border)


def _seen_part(
    inverse: np.ndarray, out_width: int, out_height: int, width: int, height: int
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what an output can show of a picture, reflected borders included."""
    corners = np.array([(x, y, 1) for x in (0, out_width - 1) for y in (0, out_height - 1)]) @ inverse.T
    last = np.array([width - 1, height - 1])
    # A margin of one pixel, for the rounding.
    low, high = np.floor(corners.min(0)) - 1, np.ceil(corners.max(0)) + 1
    low, high = np.minimum(low, 2 * last - high), np.maximum(high, -low)
    left, top = np.clip(low, 0, last).astype(int).tolist()
    right, bottom = np.clip(high, 0, last).astype(int).tolist()
    return left, top, right + 1, bottom + 1
