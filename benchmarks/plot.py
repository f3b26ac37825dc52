"""Curves into a PNG file, drawn with OpenCV: both axes logarithmic, so that what scales is a straight line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 960, 640
LEFT, RIGHT, TOP, BOTTOM = 90, 930, 60, 560
INK, GRID = (40, 40, 40), (220, 220, 220)
COLOURS = ((180, 90, 20), (30, 90, 220), (60, 150, 40), (160, 40, 140))  # BGR


def log_plot(file: Path, title: str, x_label: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draws named curves of (x, y) points, all above 0, over a grid at powers of 2; the title says what y is."""
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    points = [point for curve in curves.values() for point in curve]
    x_range, y_range = (_powers([point[axis] for point in points]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[int, int]:
        across = (math.log2(x) - x_range[0]) / (x_range[1] - x_range[0])
        up = (math.log2(y) - y_range[0]) / (y_range[1] - y_range[0])
        return round(LEFT + across * (RIGHT - LEFT)), round(BOTTOM - up * (BOTTOM - TOP))

    for power in range(x_range[0], x_range[1] + 1):
        x, _ = place(2.0**power, 2.0 ** y_range[0])
        cv2.line(picture, (x, TOP), (x, BOTTOM), GRID, 1)
        _text(picture, f'{2.0**power:g}', (x - 8, BOTTOM + 24))
    for power in range(y_range[0], y_range[1] + 1):
        _, y = place(2.0 ** x_range[0], 2.0**power)
        cv2.line(picture, (LEFT, y), (RIGHT, y), GRID, 1)
        _text(picture, f'{2.0**power:g}', (LEFT - 55, y + 6))
    for i, (name, curve) in enumerate(curves.items()):
        colour, places = COLOURS[i % len(COLOURS)], [place(x, y) for x, y in sorted(curve)]
        cv2.polylines(picture, [np.array(places, np.int32)], False, colour, 2, cv2.LINE_AA)
        for spot in places:
            cv2.circle(picture, spot, 5, colour, -1, cv2.LINE_AA)
        _text(picture, name, (LEFT + 20, TOP + 30 + 28 * i), colour)
    _text(picture, title, (LEFT, TOP - 24))
    _text(picture, x_label, ((LEFT + RIGHT) // 2 - 40, HEIGHT - 20))
    if not cv2.imwrite(str(file), picture):
        raise OSError(f'{file}: cannot be written')


def _powers(values: Sequence[float]) -> tuple[int, int]:
    """The powers of 2 that hold all values between them."""
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    return low, max(high, low + 1)


def _text(picture: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int] = INK) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
