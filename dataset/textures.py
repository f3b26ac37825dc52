"""Surfaces that are drawn: noise with the spectrum of photographs, cloth, stone, prints, and leaves over leaves.

All are square, and look the same at every size: what the generator draws does not depend on it.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

_SUBPIXEL_BITS = 4
# Of hair and fur.
HAIRS = np.array([[30, 24, 22], [70, 45, 30], [110, 72, 42], [170, 130, 80], [215, 190, 140], [140, 60, 30], [150] * 3])


def noise(rng: np.random.Generator, size: int, cells: int, roughness: float = 0.7) -> np.ndarray:
    """Draw clouds: octaves of smooth noise, float32 0..1 (size, size), mean 0.5, standard deviation 0.2.

    `cells` is the number of the largest clouds along a side, `roughness` each octave's amplitude, relative to the one
    before: about 0.9 has the 1/f spectrum of photographs, 0.3 is smooth.
    """
    # A generator of its own: how many numbers are drawn here depends on the size, and what follows must not.
    rng = np.random.default_rng(rng.integers(2**63))
    side, height = cells, 1.0
    result: np.ndarray = rng.random((side, side), dtype=np.float32)
    while 4 * side <= size:  # a finer octave would double the time and add mere grain
        side, height = 2 * side, height * roughness
        result = cv2.scaleAdd(rng.random((side, side), dtype=np.float32), height, cv2.resize(result, (side, side)))
    result = np.asarray(cv2.resize(result, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
    result -= result.mean()
    result *= np.float32(0.2) / (np.sqrt(np.vdot(result, result)) / size + np.float32(1e-6))
    result += np.float32(0.5)
    return np.clip(result, 0, 1, out=result)


def any_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour, uint8 RGB (3,): dull ones are more frequent than bright ones, as in rooms and on clothes."""
    warm = rng.random() < 0.5  # wood, skin, stone, brick
    hue = rng.normal(15, 8) % 180 if warm else rng.integers(180)
    hsv = np.array([[[hue, 255 * rng.beta(1.1, 2.6), 255 * rng.beta(1.4, 1.3)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def near(rng: np.random.Generator, colour: np.ndarray, spread: float) -> np.ndarray:
    """Draw a colour like another one: brighter or darker by a share of about `spread`, its hue a little off."""
    return np.clip(colour * rng.normal(1, spread) + rng.normal(0, 25 * spread, 3), 0, 255).astype(np.uint8)


def colour_map(field: np.ndarray, *colours: np.ndarray) -> np.ndarray:
    """Colour a field 0..1 (H, W) by a gradient through `colours`: uint8 RGB (H, W, 3)."""
    stops = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in np.array(colours).T], axis=-1)
    return cv2.applyColorMap((field * 255).astype(np.uint8), table.astype(np.uint8)[:, None])


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw cloth, wall, ground or a print: uint8 RGB (size, size, 3)."""
    picture = _weave(rng, size)
    if rng.random() < 0.4:
        colours = [any_colour(rng) for _ in range(rng.integers(2, 6))]
        picture = leaves(rng, size, colours, int(rng.integers(20, 120)), (0.01, rng.uniform(0.05, 0.3)), picture)
    return picture


def _weave(rng: np.random.Generator, size: int) -> np.ndarray:
    base = any_colour(rng)
    kind = rng.choice(['plain', 'clouds', 'gradient', 'stripes', 'checks'], p=[0.45, 0.25, 0.1, 0.12, 0.08])
    if kind == 'plain':
        cells, fineness = int(rng.integers(2, 24)), rng.uniform(0.4, 0.9)
        return colour_map(noise(rng, size, cells, fineness), near(rng, base, 0.12), near(rng, base, 0.12))
    colours = [base, *(any_colour(rng) for _ in range(rng.integers(1, 4)))]
    if kind == 'clouds':
        return colour_map(noise(rng, size, int(rng.integers(2, 16)), rng.uniform(0.4, 0.9)), *colours)
    if kind == 'gradient':
        return colour_map(ramp(size, rng.uniform(0, 2 * np.pi)), *colours)
    angle, count = rng.uniform(0, np.pi), rng.uniform(3, 40)
    field = waves(rng, size, angle, count)
    if kind == 'checks':
        field = (field + waves(rng, size, angle + np.pi / 2, count)) / 2
    return colour_map(field, *colours)


def leaves(
    rng: np.random.Generator, size: int, colours: list[np.ndarray], count: int, radii: tuple[float, float],
    picture: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw flat shapes over each other, small ones more often than large ones: uint8 RGB (size, size, 3).

    Edges of all lengths and a 1/f spectrum come out, as in photographs. `radii` are the least and the largest, as
    shares of the side; `picture` is what they are drawn over, one of the colours if left out.
    """
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    low, high = radii
    radius = 1 / np.sqrt(rng.uniform(high**-2, low**-2, (count, 1)))  # density falls with the cube of the radius
    reach = radius * (1 + rng.uniform(0, 0.4, (count, 1)) * np.sin(rng.integers(1, 5, (count, 1)) * angle))
    across, down = np.cos(angle) * rng.uniform(0.3, 1, (count, 1)), np.sin(angle)
    turn = rng.uniform(0, 2 * np.pi, (count, 1))
    x = reach * (across * np.cos(turn) - down * np.sin(turn)) + rng.uniform(0, 1, (count, 1))
    y = reach * (across * np.sin(turn) + down * np.cos(turn)) + rng.uniform(0, 1, (count, 1))
    points = np.rint(np.stack([x, y], axis=-1) * (size << _SUBPIXEL_BITS)).astype(np.int32)
    chosen = np.array(colours)[rng.integers(len(colours), size=count)] * rng.uniform(0.6, 1.25, (count, 1))
    if picture is None:
        picture = np.full((size, size, 3), colours[0], np.uint8)
    for outline, colour in zip(points, np.minimum(chosen, 255).tolist()):
        cv2.fillPoly(picture, [outline], colour, cv2.LINE_AA, _SUBPIXEL_BITS)
    return shaded(picture, noise(rng, size, 4, 0.8), 0.6)


def tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw bricks, tiles, planks, shelves or shingles: uint8 RGB (size, size, 3)."""
    rows, columns = (int(n) for n in rng.integers(2, 20, 2))
    across, down = grid(size)
    row = np.minimum((down * rows).astype(int), rows - 1)
    shifted = across * columns + (row % 2) * rng.choice([0, 0.5])
    base = any_colour(rng)
    faces = np.stack(
        [near(rng, base, 0.12) for _ in range(4)] if rng.random() < 0.7 else [any_colour(rng)] * 2 + [base]
    )
    table = faces[rng.integers(len(faces), size=(rows, columns + 1))] * rng.uniform(0.8, 1, (rows, columns + 1, 1))
    column = shifted.astype(int)
    picture = table.astype(np.uint8)[row, column]
    joint = rng.uniform(0.02, 0.1) / 2
    joints = (np.abs((down * rows) % 1 - 0.5) > 0.5 - joint) | (np.abs(shifted - column - 0.5) > 0.5 - joint)
    picture[joints] = near(rng, base, 0.3)
    return shaded(picture, noise(rng, size, 3, 0.8), 0.4)


def shaded(picture: np.ndarray, light: np.ndarray, depth: float) -> np.ndarray:
    """Darken and brighten a picture, uint8 (H, W, 3), by a field 0..1 (H, W); 0.5 leaves it as it is."""
    factor = cv2.cvtColor(np.float32(1 - depth / 2) + np.float32(depth) * light, cv2.COLOR_GRAY2RGB)
    return cv2.multiply(picture, factor, dtype=cv2.CV_8U)


def shades(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Return colours of strands, dark ones first: those at the back lie in the shadow."""
    factors = np.array([0.5, 0.7, 0.9, 0.8, 1.0, 1.2, 1.5])[:, None]
    return np.clip(colour * factors + rng.normal(0, 4, (7, 3)), 0, 255).astype(np.uint8)


def folds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the height of folds in cloth: ridges where two clouds are equal, float32 (size, size), about 0..1."""
    depth = np.float32(rng.uniform(0.3, 2))
    field = noise(rng, size, int(rng.integers(3, 9)), 0.5)
    return np.abs(field - np.float32(0.5)) * depth + np.float32(0.05 * rng.random() ** 2) * noise(rng, size, 24, 0.9)


def soften(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a picture (H, W) or (H, W, C) by a Gaussian of `sigma` pixels; a wide one at a reduced size, for speed."""
    height, width = picture.shape[:2]
    step = 2 ** max(0, int(np.log2(max(sigma, 1) / 2)))
    if step == 1:
        return cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    small = cv2.resize(picture, (-(-width // step), -(-height // step)), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)


def waves(rng: np.random.Generator, size: int, angle: float, count: float) -> np.ndarray:
    """Draw slightly bent stripes of random sharpness, float32 0..1 (size, size)."""
    bend = noise(rng, size, 3, 0.3) * np.float32(rng.choice([0, 0.1, 0.3]))
    phase = (ramp(size, angle) + bend) * np.float32(2 * np.pi * count)
    return np.clip(0.5 + np.float32(rng.uniform(0.4, 4)) * np.sin(phase), 0, 1)


def ramp(size: int, angle: float) -> np.ndarray:
    """Return a gradient from 0 to 1 along `angle`, float32 (size, size)."""
    across, down = grid(size)
    field = across * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
    low, high = field[:: size - 1, :: size - 1].min(), field[:: size - 1, :: size - 1].max()
    return (field - low) / (high - low)


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x (1, size) and y (size, 1), 0..1 from the first to the last pixel."""
    line = np.linspace(0, 1, size, dtype=np.float32)
    return line[None, :], line[:, None]
