"""Pairs of picture and plate, found and checked before anything is computed.

Only names and headers are read, so this takes milliseconds for a hundred pictures and a second for thousands.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from common.console import some
from common.files import IMAGE_SUFFIXES, IMAGES, VIDEO_SUFFIXES, kind_of
from dataset.pairing import alike, by_last_parts, by_name
from dataset.paths import find_images
from dataset.readers import ImageError, image_size
from inference.options import OUTPUT_TYPES

NAMED = 5  # findings of one kind that a message names before it counts the rest


@dataclass(frozen=True)
class Job:
    """One picture to matte, and its plate."""

    name: str  # path below the source folder without suffix: 'cam01/frame_0001', also on Windows; names the outputs
    src: Path
    bgr: Path | None  # None: it has no plate, and will fail
    size: tuple[int, int] | None = None  # (width, height); None where the header cannot be read: decoding will fail


def find_jobs(
    images_src: Path, images_bgr: Path, output_dir: Path, resize_bgr: bool, skip_unmatched: bool = False
) -> tuple[list[Job], list[str], list[str]]:
    """Pair pictures with plates and compare their sizes.

    A plate is, in this order:
    1. the picture of the same relative path, whatever its suffix: `a/b.png` for `a/b.jpg`;
    2. that of the nearest folder: `a.png` for everything in `a/`, or the only picture in `a/` that is not some
       picture's own plate by rule 1;
    and if no picture has a plate by rules 1 and 2, in this order:
    3. `images_bgr` itself if it is a file, or the only picture in it, unless that is by rule 4 the plate of some;
    4. the only one that shares the most of the last parts of the path: `cam_A.png` for `frame_00000/images/cam_A.png`;
    5. the one at the same place in the order of names, if no picture has a plate by rule 4 and there are as many plates
       as pictures.

    Args:
        images_src: a folder, searched with its sub-folders, or one file.
        images_bgr: a folder or one file.
        output_dir: pictures in it are results of an earlier run, neither sources nor plates. Where it is or holds
            the folder of these, only its sub-folders of the output types count as results.
        resize_bgr: allow sizes to differ.
        skip_unmatched: allow pictures without a plate, if there are others.

    Returns:
        The jobs, in the order of their names; problems, with which a run must not start; and notes for the user.
    """
    results = [output_dir, *(output_dir / kind for kind in OUTPUT_TYPES)]
    sources = _listed('--images-src', images_src, [images_bgr, *results])
    plates = _listed('--images-bgr', images_bgr, [images_src, *results])
    notes = [listed.others for listed in (sources, plates) if listed.others]
    if problems := sources.problems + plates.problems:
        return [], problems, notes
    problems = []
    if same := [alike(paths) for paths in sources.files.values() if len(paths) > 1]:
        problems.append(f'--images-src: these have one name, rename one of each: {some(same, most=NAMED)}')
    if images_bgr.is_file():
        matched = dict.fromkeys(sources.files, images_bgr)
    else:
        matched, unmatched, rule = _match(sources.files, plates.files, images_bgr, skip_unmatched)
        problems += unmatched
        notes += rule
    jobs = [
        Job(path.relative_to(sources.root).with_suffix('').as_posix(), path, matched.get(name))
        for name, paths in sources.files.items()
        for path in paths
    ]
    twice = [str(job.src) for job in jobs if job.bgr and os.path.realpath(job.src) == os.path.realpath(job.bgr)]
    if twice:
        problems.append(f'--images-bgr {images_bgr}: these are both picture and plate: {some(twice, most=NAMED)}')
    jobs, misfits = _measure(jobs, resize_bgr)
    return jobs, problems + misfits, notes


@dataclass(frozen=True)
class _Listed:
    """The contents of a flag's path: pictures by name, in order; problems; other files, in words."""

    root: Path
    files: dict[str, list[Path]]
    problems: list[str]
    others: str = ''


def _listed(flag: str, root: Path, skip: Sequence[Path]) -> _Listed:
    if root.is_file():
        if root.suffix.lower() not in IMAGE_SUFFIXES:
            video = '; inference_video.py takes videos' if kind_of(root) == 'video' else ''
            return _Listed(root, {}, [f'{flag} {root}: must be {IMAGES}, or a folder of such pictures{video}'])
        return _Listed(root.parent, by_name([Path(root.name)], root.parent), [])
    # Resolved once and not for each picture: `..` and links in the flags are what makes one folder have two names.
    real_root = Path(os.path.realpath(root))
    # A root that is or lies within a result folder was named by the user: then it is no result.
    below_root = [real for path in skip if real_root in (real := Path(os.path.realpath(path))).parents]

    def skipped(relative: Path) -> bool:
        return any((real_root / relative).is_relative_to(real) for real in below_root)

    pictures = by_name((relative for relative in find_images(root) if not skipped(relative)), root)
    others: Counter[str] = Counter()
    for folder, below, files in os.walk(root):
        here = Path(folder).relative_to(root)
        below[:] = [name for name in below if not name.startswith('.') and not skipped(here / name)]
        suffixes = (Path(name).suffix.lower() for name in files if not name.startswith('.'))
        others.update(suffix for suffix in suffixes if suffix not in IMAGE_SUFFIXES)
    counted = ', '.join(f'{count} {suffix or "without suffix"}' for suffix, count in others.most_common(NAMED))
    if not pictures:
        holds = f', but it holds {counted}' if counted else ''
        if any(suffix in VIDEO_SUFFIXES for suffix in others):
            holds += '; inference_video.py takes videos, one at a time'
        return _Listed(root, {}, [f'{flag} {root}: no pictures found ({IMAGES}){holds}'])
    return _Listed(root, pictures, [], f'{flag} {root}: not {IMAGES}, so left out: {counted}' if counted else '')


def _match(
    sources: Mapping[str, list[Path]], plates: Mapping[str, list[Path]], images_bgr: Path, skip_unmatched: bool
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Apply the rules of `find_jobs`; return plates by picture name, problems, and the rule for the user."""
    by_folder = defaultdict(list)
    for plate in plates.keys() - sources.keys():
        by_folder[PurePosixPath(plate).parent].append(plate)

    def best(name: str) -> str | None:
        if name in plates:
            return name
        for folder in PurePosixPath(name).parents[:-1]:
            if str(folder) in plates:
                return str(folder)
            if len(by_folder[folder]) == 1:
                return by_folder[folder][0]
        return None

    found, rule = {name: own for name, own in zip(sources, map(best, sources)) if own}, ''
    alike_at_end = {} if found else by_last_parts(sources, plates)
    if not found and len(plates) == 1 and len(alike_at_end) in (0, len(sources)):
        found = dict.fromkeys(sources, next(iter(plates)))
    elif not found and (found := alike_at_end):
        rule = f'{len(found)} pictures are matched by the last parts of their paths'
    elif not found and len(plates) == len(sources):
        found = dict(zip(sources, plates))
        rule = f'the {len(plates)} plates are paired in the order of the numbers in their names'
    pairs = [f'{sources[name][0]} with {plates[plate][0]}' for name, plate in found.items()]
    notes = [f'--images-bgr {images_bgr}: no names match, so {rule}: {pairs[0]} ... {pairs[-1]}'] if rule else []
    problems = []
    missing = [name for name in sources if name not in found]
    if missing and not (skip_unmatched and found):
        if not found:
            more = f'or as many plates as pictures, not {len(plates)} and {len(sources)}'
        elif alike_at_end and all(PurePosixPath(plate).name.isdigit() for plate in alike_at_end.values()):
            more = 'the others have no more than a number in common with theirs, which may be chance'
        else:
            more = '--skip-unmatched does the others'
        problems.append(
            f'--images-bgr {images_bgr}: no plate for {len(missing)} of {len(sources)} pictures '
            f'({some(missing, most=NAMED)}): give each a plate of its own name, each sub-folder one (cam01.png, or '
            f'the only picture in cam01/), or name one file as --images-bgr for all; {more}'
        )
    if several := dict.fromkeys(alike(plates[plate]) for plate in found.values() if len(plates[plate]) > 1):
        problems.append(f'--images-bgr: plates of one name, keep one of each: {some([*several], most=NAMED)}')
    return {name: plates[plate][0] for name, plate in found.items()}, problems, notes


def _measure(jobs: list[Job], resize_bgr: bool) -> tuple[list[Job], list[str]]:
    """Return the jobs with their sizes, and a problem for each plate that cannot be used."""
    plates = list(dict.fromkeys(job.bgr for job in jobs if job.bgr))
    with ThreadPoolExecutor(8) as pool:
        src_sizes = list(pool.map(_size_or_error, [job.src for job in jobs]))
        bgr_sizes = dict(zip(plates, pool.map(_size_or_error, plates)))
    problems = [f'--images-bgr: {error}' for _, error in bgr_sizes.values() if error]
    jobs = [replace(job, size=size) for job, (size, _) in zip(jobs, src_sizes)]
    differ = [
        f'{job.src} is {_by(job.size)}, its plate {job.bgr} {_by(size)}'
        for job in jobs
        if job.size and job.bgr and (size := bgr_sizes[job.bgr][0]) and size != job.size
    ]
    if differ and not resize_bgr:
        problems.append(f'sizes differ (--resize-bgr resizes the plate): {some(differ, "; ", most=NAMED)}')
    return jobs, problems


def _size_or_error(path: Path) -> tuple[tuple[int, int] | None, str]:
    try:
        return image_size(path), ''
    except (OSError, ImageError) as error:
        if isinstance(error.__cause__, ImportError):  # the others of its format would fail as well
            raise
        return None, str(error)


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
