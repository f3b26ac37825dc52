"""Drawn subjects and backgrounds, by index: training data that needs no files.

They have what makes matting hard (hundreds of hairs thinner than a pixel, fur, nets and spokes, holes, veils, blur,
colours shared with the background) in front of rooms, landscapes and walls, under one lamp. People are recognizable, no
more. A picture depends on (seed, index, size) alone. At 256 x 256 a subject takes about 30 ms on a busy core and a
background 11 ms: `benchmarks/sample_rate.py --drawn`.
"""

from __future__ import annotations

from statistics import NormalDist

import cv2
import numpy as np

from .drawing import Canvas, unit
from .fringes import cut_out
from .people import person
from .scenery import scenery
from .subjects import animal, plant, thing, veil
from .textures import any_colour

DRAWINGS = 2  # number of the drawings: one more whenever an index gets another picture; kept in a run's record
_DEFAULT_SIZE, _LEAST_SIZE = 512, 64
_MATTES, _BACKGROUNDS = 1, 2  # keeps the draws of the two apart
# Normal deviates of mean 0 and deviation 1 that are equally likely.
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)


class _Synthetic:
    """Drawings by index.

    Args:
        count: how many there are.
        seed: another seed gives other drawings; validation must not share that of training.
    """

    kind = ''

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Return what messages call a drawing."""
        return f'synthetic {self.kind} {index} (seed {self.seed})'


def _size(min_size: tuple[int, int] | None) -> int:
    return max(*min_size, _LEAST_SIZE) if min_size else _DEFAULT_SIZE


class SyntheticMattes(_Synthetic):
    """Drawn subjects, in place of `dataset.sources.MatteFiles`."""

    kind = 'matte'

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Draw a subject as uint8 (S, S, 4): RGB, not multiplied by alpha, and alpha.

        S is the longer side of `min_size` (width, height), at least 64, or 512 without a `min_size`.
        """
        size = _size(min_size)
        rng = np.random.default_rng([_MATTES, self.seed, range(self.count)[index]])
        canvas = _draw_subject(rng, size)
        colour, alpha = canvas.colour, canvas.alpha
        if rng.random() < 0.15:
            colour, alpha = _blur(rng, colour, alpha)
        alpha_8bit = np.round(alpha * 255).astype(np.uint8)
        known = cv2.threshold(alpha_8bit, 0, 255, cv2.THRESH_BINARY)[1]
        straight = cv2.divide(colour, cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U)
        return cut_out(_grainy(rng, straight), alpha_8bit, known)


class SyntheticBackgrounds(_Synthetic):
    """Drawn backgrounds, in place of `dataset.sources.BackgroundFiles`."""

    kind = 'background'

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Draw a background as uint8 RGB (S, S, 3), S as in `SyntheticMattes.read`."""
        size = _size(min_size)
        rng = np.random.default_rng([_BACKGROUNDS, self.seed, range(self.count)[index]])
        picture = scenery(rng, size)
        return _grainy(rng, picture)


def _grainy(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Add the noise of a sensor, the same on all three channels."""
    height, width, _ = picture.shape
    strength = np.float32(rng.uniform(0, 4))
    # A lot faster than normal draws, and as good: what comes of it is whole numbers.
    grain = cv2.LUT(np.frombuffer(rng.bytes(height * width), np.uint8).reshape(height, width), _NORMAL * strength)
    return cv2.add(picture, cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U)


def _draw_subject(rng: np.random.Generator, size: int) -> Canvas:
    draw, scale, turn = {
        'bust': (person, (0.8, 1.4), 0.1),
        'figure': (person, (0.48, 0.75), 0.15),
        'animal': (animal, (0.45, 0.8), 0.2),
        'plant': (plant, (0.45, 0.65), 0.15),
        'thing': (thing, (0.5, 0.9), 1.0),
    }[rng.choice(['bust', 'figure', 'animal', 'plant', 'thing'], p=[0.33, 0.24, 0.2, 0.08, 0.15])]
    factor = rng.uniform(*scale)
    top = 0.95 * factor if draw is person else 0.5  # a bust is placed by its head and cut by the lower border
    centre = (rng.normal(0.5, 0.1), top + rng.normal(0, 0.05))
    light = np.array([rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.3), rng.uniform(0.4, 1.2)])
    light /= np.linalg.norm(light)
    canvas = Canvas(size, centre, factor, rng.normal(0, turn), light, any_colour(rng))
    veiled = rng.random()
    if veiled < 0.03:
        veil(rng, canvas)
    draw(rng, canvas)
    if veiled > 0.97:
        veil(rng, canvas)
    return canvas


def _blur(rng: np.random.Generator, colour: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur a subject like motion or a lens out of focus; `colour` is multiplied by alpha, or fringes would show."""
    size = len(alpha)
    if rng.random() < 0.4:
        sigma = size * rng.uniform(0.002, 0.01)
        return cv2.GaussianBlur(colour, (0, 0), sigma), cv2.GaussianBlur(alpha, (0, 0), sigma)
    radius = max(2, round(size * rng.uniform(0.006, 0.025)))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    tip = np.round(radius * unit(rng.uniform(0, 2 * np.pi))).astype(int)
    cv2.line(kernel, tuple(radius - tip), tuple(radius + tip), 1.0, 1)
    kernel /= kernel.sum()
    border = cv2.BORDER_REPLICATE
    return cv2.filter2D(colour, -1, kernel, borderType=border), cv2.filter2D(alpha, -1, kernel, borderType=border)
