"""The recipes of a test set: which foreground over which background, and every draw. Only headers are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from common.console import some
from common.files import IMAGES
from dataset.images import SampleDataset
from dataset.pairing import match_listed
from dataset.paths import drawn_part, find_images
from dataset.sampling import rng
from dataset.stores import Folder, Picture, name_below

from .layout import picture_sizes

LONGEST_NAME = 255  # bytes, on nearly every file system
# Of the plate: pixels, exponents, parts of white (paper, appendix D.2).
SHIFT = 0.3
GAMMA = (0.85, 1.15)
NOISE_MEAN = 0.02

# Of a clip's subject, in parts of the picture's sides: how far the middle of its way is from its place, the way
# from one frame to the next, and the whole way, so that a long clip does not leave the picture.
CLIP_OFFSET, CLIP_STEP, CLIP_WAY = 0.05, 0.01, 0.3

_Job = tuple[str, Path, Path, Path]  # name, foreground, alpha, background


@dataclass(frozen=True)
class Sources:
    """Folders of foregrounds, of alphas of equal relative path, and of backgrounds.

    Attributes:
        share, bgr_share: of the pairs and of the backgrounds that validation takes; None where all are meant.
        split: 'train' or 'valid': whose share it is.
    """

    fgr: Folder
    pha: Folder
    bgr: Folder
    share: float | None = None
    bgr_share: float | None = None
    split: str = 'valid'


@dataclass(frozen=True)
class TestsetSettings:
    """The settings that a test set follows from, besides its sources.

    The paper prints 0.08 to 0.15 for the noise, which no camera shows; 0.01 is what validation during training adds.
    """

    seed: int = 0
    backgrounds_per_foreground: int = 1
    size: tuple[int, int] | None = None  # (width, height) to fit foregrounds into, alpha 0 around; None: their own
    clip_frames: int = 1  # 1 for stills
    noise: tuple[float, float] = (0.01, 0.01)  # lowest and highest sigma of the plate's noise, in parts of white
    limit: int | None = None  # take this many foregrounds, spread evenly; None: all


@dataclass(frozen=True)
class Recipe:
    """One foreground over one background: everything that its pictures follow from. Sizes are (width, height)."""

    name: str  # the foreground's path without suffix, and the number of the background: 'anna/0001-00'
    fgr: str  # files, below their source folders
    pha: str
    background: str
    size: tuple[int, int]
    placed: tuple[int, int, int, int]  # left, top, width and height of the foreground in the picture
    scaled: tuple[int, int]  # to which the background is scaled, so that it covers the picture
    crop: tuple[int, int]  # left and top of the picture in that; only this part is scaled, cut out at whole pixels
    shift: tuple[float, float]  # of the plate, in pixels to the right and down
    gamma: float  # of the plate, and its noise
    mean: float
    sigma: float
    noise_seed: int
    positions: Sequence[tuple[float, float]] = ()  # in each frame of a clip, pixels to the right of and below `placed`


def plan(sources: Sources, settings: TestsetSettings) -> list[Recipe]:
    """Pair foregrounds with backgrounds and draw everything, by name: other foregrounds change nothing about one.

    Raises:
        ValueError: folders or files cannot be used; all that is wrong, a line each.
    """
    pairs, backgrounds, problems = _listed(sources)
    if not problems and settings.backgrounds_per_foreground > len(backgrounds):
        count = settings.backgrounds_per_foreground
        problems.append(f'--backgrounds-per-foreground {count}: {sources.bgr} holds only {len(backgrounds)} pictures')
    if problems:
        raise ValueError('\n'.join(problems))
    if settings.limit is not None:
        chosen = SampleDataset(pairs, settings.limit)
        pairs = [chosen[i] for i in range(len(chosen))]
    jobs: list[_Job] = []
    for fgr, pha in pairs:
        stem = fgr.with_suffix('').as_posix()
        order = rng(settings.seed, 'test set', stem, 'backgrounds').permutation(len(backgrounds))
        numbered = enumerate(order[: settings.backgrounds_per_foreground])
        jobs += [(f'{stem}-{number:02}', fgr, pha, backgrounds[index]) for number, index in numbered]
    sizes, problems = _measured(sources, jobs)
    too_long = [name for name, *_ in jobs if len(os.fsencode(f'{PurePosixPath(name).name}.png')) > LONGEST_NAME]
    if too_long:
        problems.append(f'{len(too_long)} names are too long for what is added to them: {some(too_long)}')
    if problems:
        raise ValueError('\n'.join(problems))
    return [_drawn(job, sizes[sources.fgr / job[1]], sizes[sources.bgr / job[3]], settings) for job in jobs]


def _drawn(job: _Job, own: tuple[int, int], back: tuple[int, int], settings: TestsetSettings) -> Recipe:
    """Draw one recipe. `own` and `back` are the sizes of the foreground and of the background."""
    name, fgr, pha, background = job
    g = rng(settings.seed, 'test set', name)
    width, height = size = settings.size or own
    scale = min(width / own[0], height / own[1])
    w, h = (max(1, round(side * scale)) for side in own)
    cover = max(width / back[0], height / back[1])
    scaled = (max(width, round(back[0] * cover)), max(height, round(back[1] * cover)))
    crop = (int(g.integers(scaled[0] - width + 1)), int(g.integers(scaled[1] - height + 1)))
    shift = (g.uniform(-SHIFT, SHIFT), g.uniform(-SHIFT, SHIFT))
    gamma, mean, sigma = g.uniform(*GAMMA), g.uniform(-NOISE_MEAN, NOISE_MEAN), g.uniform(*settings.noise)
    return Recipe(
        name=name, fgr=fgr.as_posix(), pha=pha.as_posix(), background=background.as_posix(), size=size,
        placed=((width - w) // 2, (height - h) // 2, w, h), scaled=scaled, crop=crop, shift=shift, gamma=gamma,
        mean=mean if sigma else 0.0,  # a part of the noise, and there is none
        sigma=sigma, noise_seed=int(g.integers(2**32)),
        positions=_way(g, size, settings.clip_frames) if settings.clip_frames > 1 else (),
    )  # fmt: skip


def _way(g: np.random.Generator, size: tuple[int, int], frames: int) -> tuple[tuple[float, float], ...]:
    """Draw a straight way at steady speed whose middle is near the subject's place."""
    middle = g.uniform(-CLIP_OFFSET, CLIP_OFFSET, 2) * size
    step = g.uniform(-1, 1, 2) * size * min(CLIP_STEP, CLIP_WAY / (frames - 1))
    positions = middle + (np.arange(frames)[:, None] - (frames - 1) / 2) * step
    return tuple((x, y) for x, y in positions.tolist())


def _listed(sources: Sources) -> tuple[list[tuple[Path, Path]], list[Path], list[str]]:
    """Return pairs of foreground and alpha, and backgrounds, as paths below their folders, and what is wrong."""
    names: dict[str, list[Path]] = {}
    problems = []
    for kind, folder in (('fgr', sources.fgr), ('pha', sources.pha), ('bgr', sources.bgr)):
        try:
            found = find_images(folder, by_text=True)
        except OSError as error:
            problems.append(str(error))
            continue
        share = sources.bgr_share if kind == 'bgr' else sources.share
        names[kind] = drawn_part(found, share, sources.split)
        if not found:
            problems.append(f'{folder}: no pictures ({IMAGES}) in it, nor in its sub-folders')
        elif not names[kind]:
            problems.append(
                f'{folder}: with valid = {share} none of its {len(found)} pictures is of --split {sources.split}'
            )
    if problems:
        return [], [], problems
    pairing = match_listed(sources.fgr, names['fgr'], sources.pha, names['pha'])
    problems += pairing.problems(sources.fgr, sources.pha)
    pairs = [(name_below(fgr, sources.fgr), name_below(pha, sources.pha)) for fgr, pha in pairing.pairs]
    return pairs, names['bgr'], problems


def _measured(sources: Sources, jobs: list[_Job]) -> tuple[dict[Picture, tuple[int, int]], list[str]]:
    """Return the (width, height) of every picture that is needed, and what is wrong with them."""
    roots = (sources.fgr, sources.pha, sources.bgr)
    sizes, broken = picture_sizes(root / file for _, *files in jobs for root, file in zip(roots, files))
    different = []
    for fgr, pha in dict.fromkeys((sources.fgr / fgr, sources.pha / pha) for _, fgr, pha, _ in jobs):
        if fgr in sizes and pha in sizes and sizes[fgr] != sizes[pha]:
            (w, h), (x, y) = sizes[fgr], sizes[pha]
            different.append(f'{fgr} is {w}x{h}, {pha} is {x}x{y}')
    problems = [f'{len(broken)} pictures cannot be read: {some(broken, "; ")}'] if broken else []
    if different:
        problems.append(f'{len(different)} foregrounds and alphas differ in size: {some(different, "; ")}')
    return sizes, problems
