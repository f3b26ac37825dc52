"""A training sample the published way: decoded whole, warped to the training resolution and augmented by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from dataset.geometry import AffineRange, draw_affine

MATTE_RANGES = {'base': AffineRange((0.4, 1), flip=0), 'refine': AffineRange((0.3, 1), flip=0)}
BACKGROUND_RANGE = AffineRange((1, 2), flip=0)
JITTER = transforms.ColorJitter(0.15, 0.15, 0.15, 0.05)
TO_TENSOR = transforms.ToTensor()


def published_sample(
    fgr: Path, pha: Path, bgr: Path, side: int, stage: str, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Read and augment a foreground, its alpha and a background.

    Args:
        fgr, pha, bgr: pictures; the first two of one size.
        side: of the square results, 512 in the published base stage and 2048 in its refine stage.
        stage: 'base' or 'refine', for the range of the foreground's scale.
        rng: draws all but the colour jitter, which torch's own generator does.

    Returns:
        float32 fgr (3, side, side), pha (1, side, side), bgr (3, side, side), 0..1.
    """
    subject = [_opened(fgr, 'RGB'), _opened(pha, 'L')]
    colour, alpha = _augmented(_warped(subject, side, MATTE_RANGES[stage], rng), rng)
    (back,) = _augmented(_warped([_opened(bgr, 'RGB')], side, BACKGROUND_RANGE, rng), rng)
    return TO_TENSOR(JITTER(colour)), TO_TENSOR(alpha), TO_TENSOR(JITTER(back))


def _opened(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert(mode)


def _warped(pictures: list[Image.Image], side: int, ranges: AffineRange, rng: np.random.Generator) -> list[Image.Image]:
    """Warp pictures of one size to `side` x `side` by one affine."""
    coefficients = pillow_affine(draw_affine(rng, ranges).matrix(*pictures[0].size, side, side))
    return [
        picture.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        for picture in pictures
    ]


def pillow_affine(matrix: np.ndarray) -> tuple[float, ...]:
    """Return what `Image.transform` takes for a (2, 3) map from a picture's pixels to the result's.

    Pillow wants the map from the result to the picture, and pixel centres at halves instead of at integers.
    """
    back = np.linalg.inv(matrix[:, :2])
    shift = 0.5 - back @ (matrix[:, 2] + 0.5)
    return tuple(np.column_stack([back, shift]).flatten().tolist())


def _augmented(pictures: list[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
    """Flip, blur and sharpen pictures that belong together, all of them or none."""
    if rng.random() < 0.5:
        pictures = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    if rng.random() < 0.1:
        blur = ImageFilter.BoxBlur(int(rng.integers(0, 6)))
        pictures = [picture.filter(blur) for picture in pictures]
    if rng.random() < 0.1:
        pictures = [picture.filter(ImageFilter.SHARPEN) for picture in pictures]
    return pictures
