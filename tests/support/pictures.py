"""Small pictures for tests, and files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps within a few levels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 200 / width + 20, y * 200 / height + 20, (x + y) * 100 / (width + height) + 60], -1).astype(
        np.uint8
    )


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
