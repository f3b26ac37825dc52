"""What `dataset.synthetic` draws with: noise, textures, outlines and strands, in NumPy and OpenCV.

Outlines have a subject's own coordinates (x right, y down, about -1..1), and a `Canvas` places them: so a drawing looks
the same at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike

_SUBPIXEL_BITS = 4


class Canvas:
    """Colour times alpha, and alpha, of a picture that is painted back to front.

    Args:
        size: side in pixels.
        centre, scale: place of a subject's origin, and its unit length, as shares of the side.
        angle, light: rotation of a subject and direction of the light, in radians.
    """

    def __init__(self, size: int, centre: tuple[float, float], scale: float, angle: float, light: float) -> None:
        self.size = size
        self.colour = np.zeros((size, size, 3), np.float32)  # 0..255, multiplied by alpha
        self.alpha = np.zeros((size, size), np.float32)  # 0..1
        self._turn = scale * size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        self._origin = np.array(centre) * size
        self._light = np.array([np.cos(light), np.sin(light)], np.float32)

    def fill(self, *outlines: np.ndarray) -> np.ndarray:
        """Rasterise the union of closed outlines (N, 2): coverage, uint8 (size, size)."""
        mask = np.zeros((self.size, self.size), np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self._fixed_point(outline, 1)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return mask

    def hatch(self, curves: np.ndarray, width: float) -> np.ndarray:
        """Rasterise open curves (count, N, 2) that taper to their ends: coverage, uint8 (size, size).

        `width` is that at the roots, in 1/256 of the side. One curve in three is faint, like hair against the light or
        thinner than a pixel.
        """
        # At twice the size, since OpenCV's lines are whole pixels wide and hair is not.
        mask = np.zeros((2 * self.size, 2 * self.size), np.uint8)
        points = self._fixed_point(curves, 2)
        last = points.shape[1] - 1
        for strength, group in ((120, points[::3]), (255, points[1::3]), (255, points[2::3])):
            for begin, end, share in ((0, 0.3, 1), (0.3, 0.6, 0.7), (0.6, 1, 0.4)):
                thickness = max(1, round(width * share * self.size / 128))
                pieces = list(group[:, round(begin * last) : round(end * last) + 1])
                cv2.polylines(mask, pieces, False, strength, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        return cv2.resize(mask, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def paint(
        self, mask: np.ndarray, colour: np.ndarray, opacity: float | np.ndarray = 1.0, relief: float = 0.5
    ) -> None:
        """Paint a part over what is there.

        Args:
            mask, opacity: coverage, uint8 (size, size), and 0..1, one number or (size, size).
            colour: uint8 (size, size, 3), or one colour (3,).
            relief: how strongly the light shades the part, 0 = flat.
        """
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            return
        box = np.s_[top : top + height, left : left + width]  # a third of the time: most parts are small
        strength = opacity[box] if isinstance(opacity, np.ndarray) else opacity
        cover = mask[box] * (np.float32(1 / 255) * strength)
        shade = np.clip(1 + np.float32(relief) * self._slope(mask[box]), 0.45, 1.5)
        surface = colour[box] if colour.ndim == 3 else colour
        lit = np.minimum(surface * shade[..., None], np.float32(255))
        self.colour[box] = cv2.blendLinear(self.colour[box], lit, 1 - cover, cover)
        self.alpha[box] += cover * (1 - self.alpha[box])

    def erase(self, mask: np.ndarray) -> None:
        """Cut a hole where `mask`, uint8 (size, size), is not 0."""
        keep = np.float32(1) - mask * np.float32(1 / 255)
        self.colour *= keep[..., None]
        self.alpha *= keep

    def _fixed_point(self, points: np.ndarray, zoom: int) -> np.ndarray:
        placed = points @ self._turn + self._origin
        return np.rint(placed * (zoom << _SUBPIXEL_BITS)).astype(np.int32)

    def _slope(self, mask: np.ndarray) -> np.ndarray:
        """Return how much a surface that bulges inside its outline faces the light: float32, about -1..1."""
        framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        small = cv2.resize(framed, (32, 32), interpolation=cv2.INTER_AREA)
        swell = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 3) * np.float32(1.5 / 255)
        facing = cv2.Sobel(swell, -1, 1, 0) * -self._light[0] + cv2.Sobel(swell, -1, 0, 1) * -self._light[1]
        return cv2.resize(facing, mask.shape[::-1])


def noise(rng: np.random.Generator, size: int, cells: int, roughness: float = 0.5) -> np.ndarray:
    """Draw clouds: octaves of smooth noise, float32 0..1 (size, size), mean 0.5, standard deviation 0.2.

    `cells` is the number of the largest clouds along a side, `roughness` each octave's amplitude, relative to the one
    before.
    """
    # A generator of its own: how many numbers are drawn here depends on the size, and what follows must not.
    rng = np.random.default_rng(rng.integers(2**63))
    side, height = cells, 1.0
    result: np.ndarray = rng.random((side, side), dtype=np.float32)
    while 4 * side <= size:  # a finer octave would double the time and add mere grain
        side, height = 2 * side, height * roughness
        result = cv2.resize(result, (side, side)) + np.float32(height) * rng.random((side, side), dtype=np.float32)
    result = cv2.resize(result, (size, size), interpolation=cv2.INTER_LINEAR)
    mean, deviation = cv2.meanStdDev(result)
    return np.clip(0.5 + (result - np.float32(mean.item())) * np.float32(0.2 / (deviation.item() + 1e-6)), 0, 1)


def any_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour, uint8 RGB (3,): dull ones are more frequent than bright ones, as in rooms and on clothes."""
    hsv = np.array([[[rng.integers(180), 255 * rng.beta(1.2, 2), 255 * rng.beta(1.6, 1.3)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def colour_map(field: np.ndarray, *colours: np.ndarray) -> np.ndarray:
    """Colour a field 0..1 (H, W) by a gradient through `colours`: uint8 RGB (H, W, 3)."""
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in np.array(colours).T], axis=-1)
    return cv2.applyColorMap((field * 255).astype(np.uint8), table.astype(np.uint8)[:, None])


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw cloth, wall or ground: uint8 RGB (size, size, 3)."""
    colours = [any_colour(rng) for _ in range(rng.integers(2, 5))]
    kind = rng.choice(['clouds', 'stripes', 'checks', 'gradient', 'plain'], p=[0.3, 0.25, 0.1, 0.2, 0.15])
    if kind == 'clouds':
        return colour_map(noise(rng, size, int(rng.integers(2, 24)), rng.uniform(0.3, 0.8)), *colours)
    if kind == 'gradient':
        return colour_map(_ramp(size, rng.uniform(0, 2 * np.pi)), *colours)
    if kind == 'plain':
        other = np.clip(colours[0].astype(int) + rng.integers(-12, 13, 3), 0, 255)
        return colour_map(noise(rng, size, 3, 0.7), colours[0], other)
    angle, count = rng.uniform(0, np.pi), rng.uniform(3, 40)
    waves = _waves(rng, size, angle, count)
    if kind == 'checks':
        waves = (waves + _waves(rng, size, angle + np.pi / 2, count)) / 2
    return colour_map(waves, *colours)


def tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw bricks, tiles, shelves or shingles: uint8 RGB (size, size, 3)."""
    rows, columns = (int(n) for n in rng.integers(2, 20, 2))
    across, down = _grid(size)
    row = np.minimum((down * rows).astype(int), rows - 1)
    shifted = across * columns + (row % 2) * rng.choice([0, 0.5])
    faces = np.stack([any_colour(rng) for _ in range(rng.integers(1, 5))])
    table = faces[rng.integers(len(faces), size=(rows, columns + 1))] * rng.uniform(0.8, 1, (rows, columns + 1, 1))
    picture = table.astype(np.uint8)[row, shifted.astype(int)]
    joint = rng.uniform(0.02, 0.15) / 2
    joints = (np.abs((down * rows) % 1 - 0.5) > 0.5 - joint) | (np.abs(shifted % 1 - 0.5) > 0.5 - joint)
    picture[joints] = any_colour(rng)
    return picture


def blob(
    rng: np.random.Generator, centre: ArrayLike, radius: float, aspect: float = 1.0, rough: float = 0.0
) -> np.ndarray:
    """Outline an ellipse with a wavy edge, (72, 2); `aspect` is height by width, `rough` the waves' amplitude."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    order = np.arange(2, 8)[:, None]
    waves = np.sin(order * angle + rng.uniform(0, 2 * np.pi, (6, 1))) * rng.normal(0, 1, (6, 1)) / order
    reach = radius * np.maximum(1 + rough * waves.sum(axis=0), 0.15)
    return np.array(centre) + np.stack([reach * np.cos(angle), reach * np.sin(angle) * aspect], axis=-1)


def limb(points: Sequence[ArrayLike], widths: Sequence[float]) -> np.ndarray:
    """Outline a tube through three points (start, bend, end) with three half widths."""
    t = np.linspace(0, 1, 16)
    basis = np.stack([(1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)], axis=-1)  # passes through all three
    centre, half = basis @ np.array(points), (basis @ np.array(widths))[:, None]
    along = np.gradient(centre, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    side = half * along[:, ::-1] * (1, -1)
    # Round ends, for joints and finger tips.
    arc = np.linspace(np.pi / 2, -np.pi / 2, 5)[1:-1, None]
    far = centre[-1] + np.sin(arc) * side[-1] + np.cos(arc) * half[-1] * along[-1]
    near = centre[0] - np.sin(arc) * side[0] - np.cos(arc) * half[0] * along[0]
    return np.concatenate([centre + side, far, (centre - side)[::-1], near])


def tube(start: ArrayLike, end: ArrayLike, start_width: float, end_width: float) -> np.ndarray:
    """Outline a straight `limb` between two points."""
    middle = (np.array(start) + np.array(end)) / 2
    return limb([start, middle, end], [start_width, (start_width + end_width) / 2, end_width])


def strands(
    rng: np.random.Generator, roots: np.ndarray, directions: np.ndarray, length: float, fall: float, curl: float
) -> np.ndarray:
    """Draw curves (N, 10, 2) of hair or fur.

    Args:
        rng, roots, directions: draws; where they begin, and the unit vectors along which they do, (N, 2).
        length: of the longest.
        fall, curl: how far gravity bends them and how far they wave sideways, relative to their length.
    """
    count = len(roots)
    t = np.linspace(0, 1, 10)[None, :, None]
    reach = length * rng.uniform(0.4, 1, (count, 1, 1))
    heading = directions[:, None] + rng.normal(0, 0.25, (count, 1, 2))
    sway = np.sin(t * rng.uniform(2, 9, (count, 1, 1)) + rng.uniform(0, 2 * np.pi, (count, 1, 1)))
    sideways = heading[..., ::-1] * (1, -1)
    return roots[:, None] + reach * (heading * t * (1 - 0.5 * fall * t) + sideways * curl * t * sway + (0, fall) * t**2)


def _waves(rng: np.random.Generator, size: int, angle: float, count: float) -> np.ndarray:
    """Draw slightly bent stripes of random sharpness, float32 0..1 (size, size)."""
    bend = noise(rng, size, 3, 0.3) * np.float32(rng.choice([0, 0.1]))
    phase = (_ramp(size, angle) + bend) * np.float32(2 * np.pi * count)
    return np.clip(0.5 + np.float32(rng.uniform(0.5, 4)) * np.sin(phase), 0, 1)


def _ramp(size: int, angle: float) -> np.ndarray:
    """Return a gradient from 0 to 1 along `angle`, float32 (size, size)."""
    across, down = _grid(size)
    ramp = across * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
    low, high = ramp[:: size - 1, :: size - 1].min(), ramp[:: size - 1, :: size - 1].max()
    return (ramp - low) / (high - low)


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.linspace(0, 1, size, dtype=np.float32)
    return line[None, :], line[:, None]
