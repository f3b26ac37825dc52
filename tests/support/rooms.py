"""Made-up rooms, seen by a camera that may be nudged, with a subject in front."""

from __future__ import annotations

import cv2
import numpy as np

WIDTH, HEIGHT = 480, 320


def scene(seed: int = 0, margin: int = 40) -> np.ndarray:
    """A room of large and small shapes, uint8 RGB, larger than a picture by `margin` on each side."""
    rng = np.random.default_rng(seed)
    blotches = rng.integers(70, 180, (9, 13, 3)).astype(np.uint8)
    picture = cv2.resize(blotches, (WIDTH + 2 * margin, HEIGHT + 2 * margin), interpolation=cv2.INTER_LINEAR)
    for _ in range(250):
        centre = tuple(int(v) for v in rng.integers(0, (picture.shape[1], picture.shape[0])))
        colour = tuple(int(v) for v in rng.integers(40, 215, 3))
        size = int(rng.integers(3, 40))
        if rng.random() < 0.5:
            cv2.circle(picture, centre, size // 2, colour, -1, cv2.LINE_AA)
        else:
            corner = (centre[0] + size, centre[1] + int(rng.integers(3, 40)))
            cv2.rectangle(picture, centre, corner, colour, -1)
    return cv2.GaussianBlur(picture, (0, 0), 0.8)


def crop(picture: np.ndarray, dx: int = 0, dy: int = 0) -> np.ndarray:
    """What a camera sees that is turned so far that the scene lies (dx, dy) further right and down."""
    margin = (picture.shape[1] - WIDTH) // 2
    return picture[margin - dy : margin - dy + HEIGHT, margin - dx : margin - dx + WIDTH]


def with_subject(bgr: np.ndarray, cover: float, seed: int = 9) -> np.ndarray:
    """A plate with a textured subject in the middle that covers about `cover` of it."""
    mask = np.zeros(bgr.shape[:2], np.uint8)
    width = int(np.sqrt(cover) * WIDTH)
    height = int(cover * WIDTH * HEIGHT / width)
    left, top = (WIDTH - width) // 2, HEIGHT - height
    mask[top:, left : left + width] = 255
    return cv2.copyTo(crop(scene(seed)), mask, bgr.copy())


def disturbed(picture: np.ndarray, seed: int, gamma: float = 1.0, gain: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 3, picture.shape)
    return np.clip((picture / 255) ** gamma * 255 * gain + noise, 0, 255).astype(np.uint8)
