"""How often the warnings about plates are false, and how often they are missing.

python benchmarks/plate_warnings.py
python benchmarks/plate_warnings.py --fgr cutouts/fgr --pha cutouts/pha --bgr rooms/ --backgrounds-per-foreground 5
python benchmarks/plate_warnings.py --captured photographs/ --video walk.mp4 plate.png

Each picture is compared with its own plate after one thing was done to that: harmless ones, which real plates differ
by as well and the network is trained for, and faults. The pictures are drawings, composites of your cut-outs, folders
with src/ and bgr/ of equal names, or frames of a video. A row of the table is one thing done; its columns say in how
many of a hundred pictures each warning came, and whether that was right.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import machine  # noqa: F401, puts the toolkit on the path
import numpy as np

from common.cli import Parser

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
KINDS = {'scene': 'plate of this camera and scene', 'exposure': 'is exposed', 'position': 'background lies'}
MARGIN = 0.06  # of each side, cut off after a plate was moved, so that no invented border is seen


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


def compressed(plate: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return cv2.imdecode(cv2.imencode('.jpg', plate, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)


# What is done to a plate, and the warning that it calls for.
HARMLESS: dict[str, Change] = {
    'as it is': lambda plate, _: plate,
    'as in test sets': as_in_testsets,
    'noise of 3 % of white': grainy,
    'JPEG of quality 75': compressed,
    '5 % brighter': exposed(1.05),
}
FAULTS: dict[str, tuple[str, Change]] = {
    'moved by 1 % of the width': ('position', moved(0.01)),
    'moved by 2 %': ('position', moved(0.02)),
    'moved by 5 %': ('position', moved(0.05)),
    'turned by 2 degrees': ('position', moved(degrees=2)),
    'turned by 4 degrees': ('position', moved(degrees=4)),
    'enlarged by 4 %': ('position', moved(zoom=1.04)),
    'exposed by 0.7': ('exposure', exposed(0.7)),
    'exposed by 0.8': ('exposure', exposed(0.8)),
    'exposed by 1.25': ('exposure', exposed(1.25)),
    'exposed by 1.4': ('exposure', exposed(1.4)),
    'red 1.2, blue 0.85': ('exposure', exposed(1.2, 1, 0.85)),
    'out of focus by 1 %': ('', blurred(0.01)),
    'out of focus by 3 %': ('', blurred(0.03)),
}
OTHER = 'of another scene'


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


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    for name in ('fgr', 'pha', 'bgr', 'captured'):
        parser.add_argument(f'--{name}', type=Path, metavar='DIR')
    parser.add_argument('--backgrounds-per-foreground', type=int, default=1)
    parser.add_argument('--limit', type=int, help='foregrounds')
    parser.add_argument('--video', nargs=2, type=Path, metavar=('VIDEO', 'PLATE'))
    parser.add_argument('--frames', type=int, default=20, help='of the video')
    parser.add_argument('--drawings', type=int, default=100, help='taken where nothing else is named')
    parser.add_argument('--show', nargs='*', default=[], metavar='ROW', help='print the sentences of these rows')
    args = parser.parse_args(argv)

    if args.fgr:
        cases = list(composed(args))
    elif args.captured:
        cases = list(captured(args.captured))
    elif args.video:
        cases = list(filmed(*args.video, args.frames))
    else:
        cases = list(drawn(args.drawings))
    print(f'{len(cases)} pictures; warnings in percent of them\n')
    print(f'{"plate":28} {"scene":>6} {"exposure":>9} {"position":>9} {"any":>6}')
    for name, change in HARMLESS.items():
        report(name, '', change, cases, args.show)
    for name, (kind, change) in FAULTS.items():
        report(name, kind, change, cases, args.show)
    report(OTHER, 'scene', None, cases, args.show)


def report(name: str, expected: str, change: Change | None, cases: Sequence[Case], show: Sequence[str]) -> None:
    """Measure one row and print it; without a change, each picture gets the plate of another scene."""
    from inference.plates.agreement import plate_agreement

    found: Counter[str] = Counter()
    count = 0
    for i, case in enumerate(cases):
        rng = np.random.default_rng(i)
        if change is None:
            others = [other.bgr for other in cases if other.scene != case.scene]
            if not others:
                continue
            plate = cv2.resize(others[rng.integers(len(others))], case.bgr.shape[1::-1], interpolation=cv2.INTER_AREA)
        else:
            plate = change(case.bgr, rng)
        top, left = (round(MARGIN * side) for side in case.src.shape[:2])
        inner = (slice(top, -top), slice(left, -left))
        sentences = plate_agreement(*(np.ascontiguousarray(x[inner]) for x in (case.src, plate))).warnings()
        kinds = {kind for kind, words in KINDS.items() if any(words in sentence for sentence in sentences)}
        found.update([*kinds, *(['any'] if sentences else [])])
        count += 1
        if name in show and sentences:
            print(f'  {i} {case.scene}: {"; ".join(sentences)}')
    if count:
        rates = {kind: f'{100 * found[kind] / count:.1f}{"*" if kind == expected else ""}' for kind in (*KINDS, 'any')}
        print(
            f'{name:28} {rates["scene"]:>6} {rates["exposure"]:>9} {rates["position"]:>9} {rates["any"]:>6}', flush=True
        )


if __name__ == '__main__':
    main()
