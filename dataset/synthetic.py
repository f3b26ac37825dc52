"""Drawn subjects and backgrounds, by index: training data that needs no files.

They have what makes matting hard (hair, fur, holes, veils, blur, colours shared with the background), so a network
trained on them learns to matte, but not what people look like. A picture depends on (seed, index, size) alone. At
256 x 256 a subject takes about 7 ms on one core and a background 4 ms; at twice the side, three to five times that.
"""

from __future__ import annotations

import cv2
import numpy as np

from .drawing import Canvas, any_colour, blob, colour_map, limb, noise, strands, texture, tiles, tube
from .fringes import cut_out

_DEFAULT_SIZE, _LEAST_SIZE = 512, 64
_MATTES, _BACKGROUNDS = 1, 2  # keeps the draws of the two apart
_SKINS = np.array([[243, 208, 178], [224, 172, 105], [198, 134, 66], [141, 85, 36], [92, 58, 36], [255, 219, 202]])


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
        if rng.random() < 0.2:
            colour, alpha = _blur(rng, colour, alpha)
        alpha_8bit = np.round(alpha * 255).astype(np.uint8)
        known = cv2.threshold(alpha_8bit, 0, 255, cv2.THRESH_BINARY)[1]
        straight = cv2.divide(colour, cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U)
        return cut_out(straight, alpha_8bit, known)


class SyntheticBackgrounds(_Synthetic):
    """Drawn backgrounds, in place of `dataset.sources.BackgroundFiles`."""

    kind = 'background'

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Draw a background as uint8 RGB (S, S, 3), S as in `SyntheticMattes.read`."""
        size = _size(min_size)
        rng = np.random.default_rng([_BACKGROUNDS, self.seed, range(self.count)[index]])
        picture = tiles(rng, size) if rng.random() < 0.25 else texture(rng, size)
        if rng.random() < 0.5:
            picture = _clutter(rng, picture)
        if rng.random() < 0.3:
            picture = cv2.GaussianBlur(picture, (0, 0), size * rng.uniform(0.002, 0.02))
        if rng.random() < 0.6:
            light = noise(rng, size, 2, 0.3) * np.float32(0.8) + np.float32(0.6)
            picture = np.clip(picture * light[..., None], 0, 255).astype(np.uint8)
        # The noise of a sensor, the same on all three channels.
        grain = rng.standard_normal(picture.shape[:2], dtype=np.float32) * np.float32(rng.uniform(0, 4))
        return cv2.add(picture, cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U)


def _draw_subject(rng: np.random.Generator, size: int) -> Canvas:
    draw, scale, turn = {
        'bust': (_figure, (0.75, 1.1), 0.1),
        'figure': (_figure, (0.42, 0.6), 0.15),
        'creature': (_creature, (0.3, 0.5), 1.0),
        'plant': (_plant, (0.35, 0.55), 0.2),
        'thing': (_thing, (0.3, 0.5), 3.0),
    }[rng.choice(['bust', 'figure', 'creature', 'plant', 'thing'], p=[0.3, 0.25, 0.2, 0.1, 0.15])]
    factor = rng.uniform(*scale)
    top = 0.95 * factor if draw is _figure else 0.5  # a bust is placed by its head and cut by the lower border
    centre = (rng.normal(0.5, 0.1), top + rng.normal(0, 0.05))
    canvas = Canvas(size, centre, factor, rng.normal(0, turn), rng.uniform(0, 2 * np.pi))
    veiled = rng.random()
    if veiled < 0.1:
        _veil(rng, canvas)
    draw(rng, canvas)
    if veiled > 0.8:
        _veil(rng, canvas)
    return canvas


def _figure(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw a person from the front: head at (0, -0.6), hips at (0, 0.1), feet at (0, 0.9)."""
    size = canvas.size
    skin = _SKINS[rng.integers(len(_SKINS))].astype(np.uint8)
    cloth, trousers = texture(rng, size), texture(rng, size)
    hair = colour_map(noise(rng, size, 24, 0.8), *(any_colour(rng) // 2 + rng.integers(0, 60) for _ in range(2)))
    head = np.array([rng.normal(0, 0.03), -0.62])
    width = rng.uniform(0.85, 1.3)
    long = rng.random() < 0.5
    if long:
        _hair(rng, canvas, head, hair, rng.uniform(0.2, 0.5), int(rng.integers(80, 300)))

    legs = []
    for side in (-1, 1):
        knee, foot = (side * rng.uniform(0.08, 0.16), 0.45), (side * rng.uniform(0.06, 0.25), 0.9)
        legs.append(limb([(side * 0.08, 0.05), knee, foot], [0.1, 0.075, 0.05]))
    tucked_in = rng.random() < 0.5
    if not tucked_in:
        canvas.paint(canvas.fill(*legs), trousers)
    canvas.paint(canvas.fill(limb([head, (0, -0.5), (0, -0.4)], [0.05, 0.05, 0.07])), skin, relief=0.8)
    torso = limb([(0, -0.42), (0, -0.15), (0, 0.12)], [0.17 * width, 0.15 * width, 0.16 * width])
    sleeves, hands = [], []
    for side in (-1, 1):
        elbow = np.array([side * rng.uniform(0.2, 0.42), rng.uniform(-0.4, 0.0)])
        hand = elbow + rng.uniform(0.15, 0.25) * _unit(rng.uniform(0, 2 * np.pi))
        sleeves += [tube((side * 0.13 * width, -0.39), elbow, 0.065, 0.05), tube(elbow, hand, 0.05, 0.035)]
        hands.append(blob(rng, hand, 0.045, rng.uniform(0.7, 1.4), 0.3))
    canvas.paint(canvas.fill(*hands), skin, relief=0.8)
    canvas.paint(canvas.fill(torso, *sleeves), cloth, relief=0.7)
    if tucked_in:
        hips = limb([(-0.09 * width, 0.1), (0, 0.08), (0.09 * width, 0.1)], [0.08] * 3)
        canvas.paint(canvas.fill(*legs, hips), trousers)

    face = blob(rng, head, 0.115, 1.28, 0.04)
    canvas.paint(canvas.fill(face), skin, relief=1.0)
    features = [blob(rng, head + offset, 0.014, 0.7) for offset in ((-0.045, -0.01), (0.045, -0.01))]
    features.append(blob(rng, head + (0, 0.075), 0.035, 0.25))
    canvas.paint(canvas.fill(*features), skin // 3, relief=0)
    _hair(rng, canvas, head, hair, rng.uniform(0.03, 0.15), int(rng.integers(50, 200)), cap=True)


def _hair(
    rng: np.random.Generator, canvas: Canvas, head: np.ndarray, colour: np.ndarray, length: float, count: int,
    cap: bool = False,
) -> None:  # fmt: skip
    """Draw hair around a head, a mass and loose strands; as a cap it leaves the face free."""
    if cap:
        mass = blob(rng, head + (0, -0.04), 0.125, 1.15, 0.1)
        mass[:, 1] = np.minimum(mass[:, 1], head[1] - rng.uniform(0.02, 0.08))
    else:
        mass = blob(rng, head + (0, 0.4 * length), 0.15, 1 + 2 * length, 0.15)
    angle = rng.uniform(np.pi, 2 * np.pi, count) if cap else rng.uniform(0, 2 * np.pi, count)
    roots = head + np.stack([0.12 * np.cos(angle), 0.14 * np.sin(angle)], axis=-1)
    curves = strands(rng, roots, _unit(angle), length, rng.uniform(0, 1.2), rng.choice([0.05, 0.3]))
    canvas.paint(np.maximum(canvas.fill(mass), canvas.hatch(curves, rng.uniform(0.2, 1.1))), colour, relief=0.6)


def _creature(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw one to four overlapping lumps, furry or smooth, some with holes."""
    for _ in range(rng.integers(1, 5)):
        centre, radius = rng.normal(0, 0.35, 2), rng.uniform(0.3, 0.7)
        outline = blob(rng, centre, radius, rng.uniform(0.6, 1.6), rng.uniform(0, 0.5))
        mask = canvas.fill(outline)
        if rng.random() < 0.3:  # an edge out of focus, or of wool
            mask = cv2.GaussianBlur(mask, (0, 0), canvas.size * rng.uniform(0.003, 0.02))
        if rng.random() < 0.5:
            roots = outline[rng.integers(len(outline), size=rng.integers(80, 300))] + rng.normal(0, 0.01, 2)
            away = roots - centre
            away /= np.linalg.norm(away, axis=1, keepdims=True) + 1e-9
            curves = strands(rng, roots - 0.03 * away, away, rng.uniform(0.05, 0.4), rng.uniform(0, 0.5), 0.1)
            mask = np.maximum(mask, canvas.hatch(curves, rng.uniform(0.3, 1.6)))
        canvas.paint(mask, texture(rng, canvas.size), relief=rng.uniform(0.2, 1))
    if rng.random() < 0.4:
        canvas.erase(canvas.fill(*(blob(rng, rng.normal(0, 0.3, 2), rng.uniform(0.05, 0.2), 1, 0.3) for _ in range(3))))


def _plant(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw stems and leaves in a pot: thin parts and many gaps."""
    tips = np.stack([rng.uniform(-0.9, 0.9, 9), rng.uniform(-1, 0, 9)], axis=-1)
    stems = [limb([(0, 0.6), (tip[0] * 0.3, 0.1), tip], [0.02, 0.014, 0.006]) for tip in tips]
    leaves = []
    for tip in tips:
        for share in rng.uniform(0.4, 1, 3):
            foot = tip * share + (0, 0.6 * (1 - share))
            end = foot + rng.uniform(0.15, 0.35) * _unit(rng.uniform(0, 2 * np.pi))
            leaves.append(limb([foot, (foot + end) / 2 + rng.normal(0, 0.02, 2), end], [0.005, 0.06, 0.002]))
    greens = [np.array([g // 2, g, g // 3], np.uint8) for g in rng.integers(60, 220, 3)]
    clouds = noise(rng, canvas.size, 12)
    leaf = colour_map(clouds, *(greens if rng.random() < 0.7 else [any_colour(rng) for _ in range(3)]))
    canvas.paint(canvas.fill(*stems), greens[0] // 2)
    canvas.paint(canvas.fill(*leaves), leaf, relief=0.8)
    canvas.paint(canvas.fill(limb([(0, 0.5), (0, 0.75), (0, 1)], [0.3, 0.25, 0.2])), texture(rng, canvas.size))


def _thing(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw an object with hard edges, such as a star or wheel, with a handle, an opening or a lattice."""
    corners = int(rng.integers(3, 12))
    angle = np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False)
    reach = np.where(np.arange(2 * corners) % 2, rng.uniform(0.4, 1), 0.9)[:, None]
    canvas.paint(canvas.fill(reach * _unit(angle)), texture(rng, canvas.size), relief=rng.uniform(0, 0.6))
    if rng.random() < 0.5:
        start, top, end = _unit(rng.uniform(0, 2 * np.pi) + np.array([-0.5, 0, 0.5]))
        handle = limb([0.6 * start, rng.uniform(1, 1.4) * top, 0.6 * end], [rng.uniform(0.02, 0.08)] * 3)
        canvas.paint(canvas.fill(handle), any_colour(rng), relief=0.8)
    opening = rng.random()
    if opening < 0.3:
        canvas.erase(canvas.fill(blob(rng, (0, 0), rng.uniform(0.15, 0.35), 1, 0.05)))
    elif opening < 0.6:  # a lattice
        step, gap = rng.uniform(0.1, 0.25), rng.uniform(0.3, 0.48)
        square = step * gap * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        holes = [square + step * np.array(cell) for cell in np.ndindex(5, 5)]
        canvas.erase(canvas.fill(*(hole - 2 * step for hole in holes)))


def _veil(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw a folded veil, smoke, or a pane of glass with a rim: alpha between 0.2 and 0.8."""
    outline = blob(rng, rng.normal(0, 0.3, 2), rng.uniform(0.3, 0.7), rng.uniform(0.5, 1.6), rng.uniform(0, 0.5))
    mask = canvas.fill(outline)
    low, high = np.sort(rng.uniform(0.2, 0.8, 2)).astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:
        canvas.paint(mask, any_colour(rng), low, relief=0.3)
        canvas.paint(canvas.hatch(np.concatenate([outline, outline])[None], 3), any_colour(rng), 0.9)
        return
    folds = noise(rng, canvas.size, int(rng.integers(3, 8)), 0.4)
    if kind == 1:
        mask = cv2.GaussianBlur(mask, (0, 0), 0.03 * canvas.size)
    canvas.paint(mask, colour_map(folds, any_colour(rng), any_colour(rng)), low + (high - low) * folds, relief=0.2)


def _blur(rng: np.random.Generator, colour: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur a subject like motion or a lens out of focus; `colour` is multiplied by alpha, or fringes would show."""
    size = len(alpha)
    if rng.random() < 0.4:
        sigma = size * rng.uniform(0.002, 0.01)
        return cv2.GaussianBlur(colour, (0, 0), sigma), cv2.GaussianBlur(alpha, (0, 0), sigma)
    radius = max(2, round(size * rng.uniform(0.006, 0.025)))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    tip = np.round(radius * _unit(rng.uniform(0, 2 * np.pi))).astype(int)
    cv2.line(kernel, tuple(radius - tip), tuple(radius + tip), 1.0, 1)
    kernel /= kernel.sum()
    border = cv2.BORDER_REPLICATE
    return cv2.filter2D(colour, -1, kernel, borderType=border), cv2.filter2D(alpha, -1, kernel, borderType=border)


def _clutter(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Draw furniture-like shapes on a background: boxes, lumps, poles."""
    canvas = Canvas(len(picture), (0.5, 0.5), 0.5, rng.normal(0, 0.1), rng.uniform(0, 2 * np.pi))
    for _ in range(rng.integers(2, 7)):
        centre, reach = rng.uniform(-1, 1, 2), rng.uniform(0.05, 0.6, 2)
        kind = rng.integers(3)
        if kind == 0:
            outline = centre + reach * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        elif kind == 1:
            outline = blob(rng, centre, reach[0], rng.uniform(0.5, 2), 0.2)
        else:
            outline = tube(centre, rng.uniform(-1, 1, 2), *rng.uniform(0.01, 0.08, 2))
        surface = texture(rng, canvas.size) if rng.random() < 0.3 else any_colour(rng)
        canvas.paint(canvas.fill(outline), surface, relief=0.3)
    return cv2.blendLinear(picture, canvas.colour.astype(np.uint8), 1 - canvas.alpha, canvas.alpha)


def _unit(angle: float | np.ndarray) -> np.ndarray:
    """Return unit vectors (..., 2) of angles in radians."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
