"""What `dataset.subjects` draws with: outlines from smooth curves, strands, and a canvas that lights what it paints.

Outlines have a subject's own coordinates (x right, y down, about -1..1), and a `Canvas` places them: so a drawing looks
the same at every size.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from .textures import soften

_SUBPIXEL_BITS = 4


class Canvas:
    """Colour times alpha, and alpha, of a picture that is painted back to front.

    Args:
        size: side in pixels.
        centre, scale: place of a subject's origin, and its unit length, as shares of the side.
        angle: rotation of a subject, in radians.
        light: towards the lamp, (3,): right, down, out of the picture; of length 1.
        spill: colour of the light that the surroundings throw on the edges, RGB (3,) 0..255.
    """

    def __init__(
        self, size: int, centre: tuple[float, float], scale: float, angle: float, light: np.ndarray, spill: np.ndarray
    ) -> None:
        self.size, self.scale = size, scale
        self.colour = np.zeros((size, size, 3), np.float32)  # 0..255, multiplied by alpha
        self.alpha = np.zeros((size, size), np.float32)  # 0..1
        self._turn = scale * size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        self._origin = np.array(centre) * size
        self._light, self._spill = light.astype(np.float32), spill.astype(np.float32)

    def fill(self, *outlines: np.ndarray, fillet: float = 0.0) -> np.ndarray:
        """Rasterise the union of closed outlines (N, 2): coverage, uint8 (size, size).

        `fillet` rounds corners and joins parts as skin or cloth does; it is about the radius, in the subject's units.
        """
        mask = np.zeros((self.size, self.size), np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [self._fixed_point(outline, 1)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        sigma = fillet * self.scale * self.size / 2
        if sigma >= 0.7 and (box := _around(mask, int(3 * sigma) + 1)):
            # The blurred edge is made as steep again as that of a polygon: a pixel wide.
            soft, gain = soften(mask[box], sigma), 2.5 * sigma
            mask[box] = cv2.addWeighted(soft, gain, soft, 0, 127.5 * (1 - gain))
        return mask

    def strokes(
        self, curves: np.ndarray, width: float, colours: np.ndarray, taper: bool = True, opacity: float = 1.0
    ) -> None:
        """Draw open curves (count, N, 2), with the true coverage of a pixel by what is thinner than it.

        Args:
            curves: each is drawn over those before.
            width: that at the roots, in 1/256 of the side.
            colours: uint8 (K, 3); curve number i has colour i modulo K.
            taper: let curves grow thinner towards their ends.
            opacity: of the faintest third of them; less than 1 is hair against the light.
        """
        wanted = width * self.size / 128
        points = self._fixed_point(curves, 2)
        margin, pixel = int(wanted / 4) + 2, 2 << _SUBPIXEL_BITS
        left, top = np.maximum(points.min((0, 1)) // pixel - margin, 0)
        right, bottom = np.minimum(points.max((0, 1)) // pixel + margin + 1, self.size)
        if left >= right or top >= bottom:
            return
        # Premultiplied colour and alpha at twice the size, since OpenCV's lines are whole pixels wide and hair is not.
        layer = np.zeros((2 * (bottom - top), 2 * (right - left), 4), np.uint8)
        points -= (left * pixel, top * pixel)
        last, k = points.shape[1] - 1, len(colours)
        faint = min(1.0, wanted / 1.36)  # of lines thinner than OpenCV's thinnest, which is so wide
        for share in (opacity, 1.0):
            for i, colour in enumerate(colours):
                group = points[i::k]
                cut = len(group) // 3
                group = group[:cut] if share < 1 else group[cut if opacity < 1 else 0 :]
                paint = [float(c) * share * faint for c in (*colour, 255)]
                for begin, end, part in ((0, 0.3, 1), (0.3, 0.6, 0.7), (0.6, 1, 0.4)) if taper else ((0, 1, 1),):
                    pieces = list(group[:, round(begin * last) : round(end * last) + 1])
                    thickness = _thickness(wanted * part)
                    cv2.polylines(layer, pieces, False, paint, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
            if opacity == 1:
                break
        over, box = cv2.resize(layer, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.s_[top:bottom, left:right]
        cover = over[..., 3] * np.float32(1 / 255)
        self.colour[box] *= cv2.cvtColor(1 - cover, cv2.COLOR_GRAY2RGB)
        self.colour[box] += cv2.cvtColor(over, cv2.COLOR_RGBA2RGB)
        self.alpha[box] += cover * (1 - self.alpha[box])

    def paint(
        self, mask: np.ndarray, colour: np.ndarray, opacity: float | np.ndarray = 1.0, relief: float = 0.5,
        bumps: np.ndarray | None = None, gloss: float = 0.0,
    ) -> None:  # fmt: skip
        """Paint a part over what is there, lit as a surface that bulges inside its outline.

        Args:
            mask, opacity: coverage, uint8 (size, size), and 0..1, one number or (size, size).
            colour: uint8 (size, size, 3), or one colour (3,).
            relief: how far it bulges; 0 is flat.
            bumps: height of folds and pores, float32 (size, size), 0..1.
            gloss: strength of the lamp's reflection, 0..1.
        """
        # With a pixel around it, a part bulges away from the box's sides.
        if not (box := _around(mask, 1)):
            return
        strength = opacity[box] if isinstance(opacity, np.ndarray) else opacity
        cover = mask[box] * (np.float32(1 / 255) * strength)
        surface = colour[box] if colour.ndim == 3 else colour
        lit = self._lit(surface, mask[box], relief, None if bumps is None else bumps[box], gloss)
        self.colour[box] = cv2.blendLinear(self.colour[box], lit, 1 - cover, cover)
        self.alpha[box] += cover * (1 - self.alpha[box])

    def erase(self, mask: np.ndarray) -> None:
        """Cut a hole where `mask`, uint8 (size, size), is not 0."""
        keep = np.float32(1) - mask * np.float32(1 / 255)
        self.colour *= cv2.cvtColor(keep, cv2.COLOR_GRAY2RGB)
        self.alpha *= keep

    def _fixed_point(self, points: np.ndarray, zoom: int) -> np.ndarray:
        placed = (points.reshape(-1, 2) @ self._turn + self._origin) * (zoom << _SUBPIXEL_BITS)
        return np.rint(placed).astype(np.int32).reshape(points.shape)

    def _lit(
        self, surface: np.ndarray, mask: np.ndarray, relief: float, bumps: np.ndarray | None, gloss: float
    ) -> np.ndarray:
        """Return a surface (H, W, 3), or one of one colour (3,), under the lamp, float32 (H, W, 3) 0..255."""
        inside = cv2.distanceTransform(cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1], cv2.DIST_L2, 3)
        reach = np.float32(max(2.0, min(0.15 * self.scale * self.size, 0.8 * float(inside.max()))))
        rise = np.minimum(inside / reach, 1)
        dome = soften(np.sqrt(rise * (2 - rise)), max(0.8, 0.15 * float(reach)))
        height = dome * (np.float32(relief) * reach)
        if bumps is not None:
            height += bumps * np.float32(0.05 * self.scale * self.size)
        right, down = cv2.Sobel(height, -1, 1, 0, scale=1 / 8), cv2.Sobel(height, -1, 0, 1, scale=1 / 8)
        facing = 1 / np.sqrt(1 + right * right + down * down)
        x, y, z = self._light
        lamp = (z - x * right - y * down) * facing
        light = np.maximum(lamp, 0) * np.float32(1.05) + np.float32(0.2)
        lit = _tinted(light, surface) if surface.ndim == 1 else surface * cv2.cvtColor(light, cv2.COLOR_GRAY2RGB)
        lit += _tinted((1 - facing) ** 2, self._spill * np.float32(0.5))
        if gloss:
            towards_us = np.maximum(2 * lamp * facing - z, 0)  # the reflected ray against the line of sight
            lit += cv2.cvtColor(cv2.pow(towards_us, 16) * np.float32(200 * gloss), cv2.COLOR_GRAY2RGB)
        return np.minimum(lit, np.float32(255), out=lit)


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice] | None:
    """Return rows and columns of what is not 0 in a mask (H, W), and `margin` pixels around it; None if all is 0."""
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return None
    return np.s_[max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin]


def _tinted(light: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return light (H, W) of a colour (3,): (H, W, 3), many times as fast as by broadcasting."""
    return cv2.merge([light * share for share in colour.astype(np.float32)])


def _thickness(width: float) -> int:
    """Return OpenCV's thickness for a smooth line of `width` pixels: 1 is 1.36 wide, an even n is n + 1.4."""
    return 1 if width < 2.2 else 2 * max(1, round((width - 1.4) / 2))


def unit(angle: float | np.ndarray) -> np.ndarray:
    """Return unit vectors (..., 2) of angles in radians."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def rotation(angle: float) -> np.ndarray:
    """Return the matrix (2, 2) by which points (N, 2) are multiplied from the right to turn them."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def blob(
    rng: np.random.Generator, centre: ArrayLike, radius: float, aspect: float = 1.0, rough: float = 0.0
) -> np.ndarray:
    """Outline an ellipse with a wavy edge, (72, 2); `aspect` is height by width, `rough` the waves' amplitude."""
    order = np.arange(2, 8)[:, None]
    sines = np.sin(order * _TURN + rng.uniform(0, 2 * np.pi, (6, 1))) * rng.normal(0, 1, (6, 1)) / order
    reach = radius * np.maximum(1 + rough * sines.sum(axis=0), 0.15)
    return np.array(centre) + _CIRCLE * reach[:, None] * (1, aspect)


def spline(points: ArrayLike, steps: int = 8) -> np.ndarray:
    """Outline a closed curve through points (N, 2), by Catmull and Rom: (N steps, 2)."""
    here = np.asarray(points, float)
    before, after, next_but_one = (np.roll(here, n, axis=0) for n in (1, -1, -2))
    t = np.arange(steps)[:, None, None] / steps
    linear, quadratic = after - before, 2 * before - 5 * here + 4 * after - next_but_one
    curve = here + t / 2 * (linear + t * (quadratic + t * (3 * (here - after) + next_but_one - before)))
    return curve.swapaxes(0, 1).reshape(-1, 2)


def lathe(profile: ArrayLike) -> np.ndarray:
    """Outline what is turned about a vertical axis, or a torso, from (N, 2): y, and half the width there."""
    y, half = np.asarray(profile, float).T
    right = np.stack([half, y], axis=-1)
    return spline(np.concatenate([right, (right * (-1, 1))[::-1]]))


def sweep(points: ArrayLike, widths: ArrayLike, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow limbs through three points (..., 3, 2): start, bend and end, of half widths (3,), at places `t` in 0..1.

    Returns:
        The centre line (..., N, 2), its unit tangents (..., N, 2), and the half width (N, 1).
    """
    return _follow(np.asarray(points, float), widths, *_quadratic(t))


def _quadratic(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what three points weigh at places `t` of the parabola through them, and in its slope there: (N, 3)."""
    through = np.stack([(1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)], axis=-1)
    return through, np.stack([4 * t - 3, 4 - 8 * t, 4 * t - 1], axis=-1)


def _follow(
    points: np.ndarray, widths: ArrayLike, through: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tangent = slope @ points
    tangent /= np.sqrt((tangent**2).sum(-1, keepdims=True)) + 1e-9
    return through @ points, tangent, (through @ np.asarray(widths, float))[:, None]


_TURN = np.linspace(0, 2 * np.pi, 72, endpoint=False)
_CIRCLE = unit(_TURN)
_TUBE = _quadratic(np.linspace(0, 1, 16))
_CAP = unit(np.linspace(np.pi / 2, -np.pi / 2, 5)[1:-1, None])


def limb(points: Sequence[ArrayLike], widths: Sequence[float]) -> np.ndarray:
    """Outline a tube through three points (start, bend, end) with three half widths, and round ends."""
    centre, along, half = _follow(np.asarray(points, float), widths, *_TUBE)
    side = half * along[:, ::-1] * (1, -1)
    ahead, across = _CAP[..., 0], _CAP[..., 1]
    far = centre[-1] + across * side[-1] + ahead * half[-1] * along[-1]
    start = centre[0] - across * side[0] - ahead * half[0] * along[0]
    return np.concatenate([centre + side, far, (centre - side)[::-1], start])


def tube(start: ArrayLike, end: ArrayLike, start_width: float, end_width: float) -> np.ndarray:
    """Outline a straight `limb` between two points."""
    middle = (np.array(start) + np.array(end)) / 2
    return limb([start, middle, end], [start_width, (start_width + end_width) / 2, end_width])


def strands(
    rng: np.random.Generator, roots: np.ndarray, directions: np.ndarray, length: float, fall: float, curl: float,
    clumps: int = 0,
) -> np.ndarray:  # fmt: skip
    """Draw curves (N, 10, 2) of hair or fur, a few of which fly away.

    Args:
        rng, roots, directions: draws; where they begin, and the unit vectors along which they do, (N, 2).
        length: of the longest.
        fall, curl: how far gravity bends them and how far they wave sideways, relative to their length.
        clumps: number of locks, in which neighbours in `roots` lean towards a common tip; 0 for loose ones.
    """
    count = len(roots)
    t = np.linspace(0, 1, 10)
    lock = np.arange(count) * max(clumps, 1) // count
    wild = np.where(rng.random((count, 1)) < 0.04, 2, 1)
    reach = length * rng.uniform(0.4, 1, (count, 1)) * np.sqrt(wild)
    right, down = (directions + rng.normal(0, 0.12, (count, 2)) * wild).T[..., None]
    # Those of a lock wave alike.
    phase, turns = rng.uniform(0, 2 * np.pi, (max(clumps, 1), 1)), rng.uniform(1, 8, (max(clumps, 1), 1))
    begin = phase[lock] + rng.normal(0, 0.3 if clumps else 3, (count, 1))
    sway = np.sin(begin + t * turns[lock]) - np.sin(begin)
    ahead, aside = t * (1 - 0.5 * fall * t), curl * wild * t * sway
    x = roots[:, :1] + reach * (right * ahead + down * aside)
    y = roots[:, 1:] + reach * (down * ahead - right * aside + fall * t**2)
    if clumps:
        leaders, pull = (np.arange(clumps) * count // clumps)[lock], 0.6 / wild * t**2
        x, y = x + pull * (x[leaders] - x), y + pull * (y[leaders] - y)
    return np.stack([x, y], axis=-1)
