"""What is done to a plate, harmless and not, and the pictures that it is done with."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def moved(share: float = 0.0, degrees: float = 0.0, zoom: float = 1.0) -> Change:
    """Move a plate by a share of its width into any direction, turn it and enlarge it about its middle."""

    def change(plate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = plate.shape[:2]
        angle = rng.uniform(0, 2 * math.pi)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees * rng.choice([-1, 1]), zoom)
        matrix[:, 2] += share * width * math.cos(angle), share * width * math.sin(angle)
        return cv2.warpAffine(plate, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)

    return change


def exposed(*gain: float) -> Change:
    """Multiply the channels of a plate, clipped as a sensor does."""
    return lambda plate, _: np.clip(plate * np.float32(gain) + 0.5, 0, 255).astype(np.uint8)


def blurred(share: float) -> Change:
    return lambda plate, _: cv2.GaussianBlur(plate, (0, 0), share * plate.shape[1])


def as_in_testsets(plate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Disturb a plate as make_testset.py does."""
    from evaluation.testset.compose import disturbed
    from evaluation.testset.recipes import GAMMA, NOISE_MEAN, SHIFT

    shift = rng.uniform(-SHIFT, SHIFT), rng.uniform(-SHIFT, SHIFT)
    mean = rng.uniform(-NOISE_MEAN, NOISE_MEAN)
    return disturbed(plate, shift, rng.uniform(*GAMMA), 0.01, int(rng.integers(2**31)), mean)


def grainy(plate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the most noise that training adds."""
    return cv2.add(plate, 0.03 * 255 * rng.standard_normal(plate.shape), dtype=cv2.CV_8U)


def relit(plate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the light by up to a tenth, otherwise in each region, and cast a soft shadow of up to a third."""
    height, width = plate.shape[:2]
    light = cv2.resize(rng.uniform(0.9, 1.1, (3, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    shadow = np.zeros((height, width), np.float32)
    middle = round(rng.uniform(0.2, 0.8) * width), round(rng.uniform(0.3, 0.9) * height)
    radii = round(rng.uniform(0.1, 0.35) * width), round(rng.uniform(0.1, 0.35) * height)
    cv2.ellipse(shadow, middle, radii, rng.uniform(0, 180), 0, 360, 1, -1)
    light *= 1 - rng.uniform(0, 1 / 3) * cv2.GaussianBlur(shadow, (0, 0), 0.05 * width)
    return np.clip(plate * light[..., None] + 0.5, 0, 255).astype(np.uint8)


def taken_again(plate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Take a scene again later: in other light, disturbed as in test sets, a little softer, compressed."""
    later = as_in_testsets(relit(plate, rng), rng)
    return compressed(cv2.GaussianBlur(later, (0, 0), 0.8), rng)


def compressed(plate: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return cv2.imdecode(cv2.imencode('.jpg', plate, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)


# What is done to a plate, and the warning that it calls for.
HARMLESS: dict[str, Change] = {
    'as it is': lambda plate, _: plate,
    'as in test sets': as_in_testsets,
    'noise of 3 % of white': grainy,
    'JPEG of quality 75': compressed,
    '5 % brighter': exposed(1.05),
    'in other light': relit,
    'taken again': taken_again,
}
FAULTS: dict[str, tuple[str, Change]] = {
    'moved by 0.6 % of the width': ('position', moved(0.006)),
    'moved by 1 % of the width': ('position', moved(0.01)),
    'moved by 2 %': ('position', moved(0.02)),
    'moved by 5 %': ('position', moved(0.05)),
    'turned by 2 degrees': ('position', moved(degrees=2)),
    'turned by 4 degrees': ('position', moved(degrees=4)),
    'enlarged by 4 %': ('position', moved(zoom=1.04)),
    'enlarged by 15 %': ('position', moved(zoom=1.15)),
    'exposed by 0.7': ('exposure', exposed(0.7)),
    'exposed by 0.8': ('exposure', exposed(0.8)),
    'exposed by 1.25': ('exposure', exposed(1.25)),
    'exposed by 1.4': ('exposure', exposed(1.4)),
    'red 1.2, blue 0.85': ('exposure', exposed(1.2, 1, 0.85)),
    'out of focus by 1 %': ('', blurred(0.01)),
    'out of focus by 3 %': ('', blurred(0.03)),
}


@dataclass(frozen=True)
class Case:
    """A picture and its plate, uint8 RGB (H, W, 3), and the scene that it was taken in."""

    src: np.ndarray
    bgr: np.ndarray
    scene: str


def drawn(count: int) -> Iterator[Case]:
    from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
    from evaluation.testset.compose import composite

    mattes, backgrounds = SyntheticMattes(count), SyntheticBackgrounds(count)
    for i in range(count):
        matte, back = mattes.read(i), backgrounds.read(i)
        yield Case(composite(np.ascontiguousarray(matte[..., :3]), matte[..., 3], back), back, f'drawing {i}')


def composed(args: argparse.Namespace) -> Iterator[Case]:
    from evaluation.testset.compose import pictures
    from evaluation.testset.recipes import Sources, TestsetSettings, plan

    sources = Sources(args.fgr, args.pha, args.bgr)
    settings = TestsetSettings(backgrounds_per_foreground=args.backgrounds_per_foreground, limit=args.limit)
    for recipe in plan(sources, settings):
        still = replace(recipe, shift=(0, 0), gamma=1, mean=0, sigma=0)
        bgr, src = (picture for (_, picture), _ in zip(pictures(still, sources), range(2)))
        yield Case(src, bgr, recipe.background)


def captured(folder: Path) -> Iterator[Case]:
    from dataset.paths import find_images
    from dataset.readers import read_rgb

    for name in find_images(folder / 'src'):
        yield Case(read_rgb(folder / 'src' / name), read_rgb(folder / 'bgr' / name), str(name))


def filmed(video: Path, plate: Path, count: int) -> Iterator[Case]:
    from dataset import SampleDataset, VideoDataset
    from dataset.readers import read_rgb

    bgr = read_rgb(plate)
    with VideoDataset(video) as dataset:
        spread = SampleDataset(list(dataset), count)
    for i in range(len(spread)):
        yield Case(np.asarray(spread[i]), bgr, str(video))
