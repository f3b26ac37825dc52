"""Pairs of picture and plate, found and checked before anything is computed.

Only names and headers are read, so this takes milliseconds for a hundred pictures and a second for thousands.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from common.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_of
from dataset.paths import find_images
from dataset.readers import ImageError, image_size
from inference.options import OUTPUT_TYPES

READ = 'jpg, jpeg, png or webp'
NAMED = 5  # findings of one kind that a message names before it counts the rest


@dataclass(frozen=True)
class Job:
    """One picture to matte, and its plate."""

    name: str  # path below the source folder without suffix: 'cam01/frame_0001', also on Windows; names the outputs
    src: Path
    bgr: Path
    size: tuple[int, int] | None = None  # (width, height); None where the header cannot be read: decoding will fail


def find_jobs(
    images_src: Path, images_bgr: Path, output_dir: Path, resize_bgr: bool
) -> tuple[list[Job], list[str], list[str]]:
    """Pair pictures with plates and compare their sizes.

    A plate is, in this order:
    1. the picture of the same relative path, whatever its suffix: `a/b.png` for `a/b.jpg`;
    2. that of the nearest folder: `a.png` for everything in `a/`, or the only picture in `a/` that is not some
       picture's own plate by rule 1;
    3. `images_bgr` itself if it is a file, or the only picture in it, if no picture has a plate by rules 1 and 2;
    4. the one at the same place in sorted order, if no picture has a plate by rules 1 and 2 and there are as many
       plates as pictures.

    Args:
        images_src: a folder, searched with its sub-folders, or one file.
        images_bgr: a folder or one file.
        output_dir: pictures in it are results of an earlier run, neither sources nor plates. Where it is or holds
            the folder of these, only its sub-folders of the output types count as results.
        resize_bgr: allow sizes to differ.

    Returns:
        The jobs, sorted by path; problems, with which a run must not start; and notes for the user.
    """
    results = [output_dir, *(output_dir / kind for kind in OUTPUT_TYPES)]
    sources = _listed('--images-src', images_src, [images_bgr, *results])
    plates = _listed('--images-bgr', images_bgr, [images_src, *results])
    notes = [listed.others for listed in (sources, plates) if listed.others]
    if problems := sources.problems + plates.problems:
        return [], problems, notes
    names = [name for name, _ in sources.pictures]
    problems = []
    if same := [' and '.join(map(str, paths)) for paths in _by_name(sources.pictures).values() if len(paths) > 1]:
        problems.append(f'--images-src: these would write the same output, rename one of each: {_some(same)}')
    if images_bgr.is_file():
        matched = dict.fromkeys(names, images_bgr)
    else:
        matched, unmatched, by_order = _match(names, plates.pictures, images_bgr)
        problems += unmatched
        notes += by_order
    jobs = [Job(name, path, matched[name]) for name, path in sources.pictures if name in matched]
    twice = [str(job.src) for job in jobs if os.path.realpath(job.src) == os.path.realpath(job.bgr)]
    if twice:
        problems.append(f'--images-bgr {images_bgr}: these are both picture and plate: {_some(twice)}')
    jobs, misfits = _measure(jobs, resize_bgr)
    return jobs, problems + misfits, notes


@dataclass(frozen=True)
class _Listed:
    """The contents of a flag's path: pictures by name, in order of path; problems; other files, in words."""

    pictures: list[tuple[str, Path]]
    problems: list[str]
    others: str = ''


def _listed(flag: str, root: Path, skip: Sequence[Path]) -> _Listed:
    if root.is_file():
        if root.suffix.lower() not in IMAGE_SUFFIXES:
            video = '; inference_video.py takes videos' if kind_of(root) == 'video' else ''
            return _Listed([], [f'{flag} {root}: must be {READ}, or a folder of such pictures{video}'])
        return _Listed([(root.stem, root)], [])
    # Resolved once and not for each picture: `..` and links in the flags are what makes one folder have two names.
    real_root = Path(os.path.realpath(root))
    real_skip = [real for path in skip if (real := Path(os.path.realpath(path))) != real_root]

    def skipped(relative: Path) -> bool:
        place = real_root / relative
        # A root within a result folder was named by the user: then it is no result.
        return any(real in (place, *place.parents) for real in real_skip if real_root in real.parents)

    pictures = [
        (relative.with_suffix('').as_posix(), root / relative)
        for relative in find_images(root)
        if not skipped(relative)
    ]
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
        return _Listed([], [f'{flag} {root}: no pictures found ({READ}){holds}'])
    return _Listed(pictures, [], f'{flag} {root}: not {READ}, so left out: {counted}' if counted else '')


def _by_name(pictures: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    grouped = defaultdict(list)
    for name, path in pictures:
        grouped[name].append(path)
    return grouped


def _match(
    names: Sequence[str], plates: Sequence[tuple[str, Path]], images_bgr: Path
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Apply the rules of `find_jobs`; return plates by picture name, problems, and notes for the user."""
    by_stem = _by_name(plates)
    by_folder = defaultdict(list)
    for stem in by_stem.keys() - set(names):
        by_folder[PurePosixPath(stem).parent].append(stem)

    def best(name: str) -> str | None:
        if name in by_stem:
            return name
        for folder in PurePosixPath(name).parents[:-1]:
            if str(folder) in by_stem:
                return str(folder)
            if len(by_folder[folder]) == 1:
                return by_folder[folder][0]
        return None

    found = {name: best(name) for name in names}
    if len(by_stem) == 1 and not any(found.values()):
        found = dict.fromkeys(names, next(iter(by_stem)))
    if len(plates) == len(names) > 1 and not any(found.values()):
        note = f'--images-bgr {images_bgr}: no names match, so the {len(names)} plates are paired in sorted order'
        return dict(zip(names, (path for _, path in plates))), [], [note]
    stems = {name: stem for name, stem in found.items() if stem is not None}
    problems = []
    if missing := [name for name in names if name not in stems]:
        problems.append(
            f'--images-bgr {images_bgr}: no plate for {len(missing)} of {len(names)} pictures ({_some(missing)}): give '
            'each a plate of its own name, each sub-folder one (cam01.png, or the only picture in cam01/), or name one '
            'file as --images-bgr for all'
        )
    if several := sorted({' and '.join(map(str, by_stem[s])) for s in stems.values() if len(by_stem[s]) > 1}):
        problems.append(f'--images-bgr: plates of one name, keep one of each: {_some(several)}')
    return {name: by_stem[stem][0] for name, stem in stems.items()}, problems, []


def _measure(jobs: list[Job], resize_bgr: bool) -> tuple[list[Job], list[str]]:
    """Return the jobs with their sizes, and a problem for each plate that cannot be used."""
    plates = list(dict.fromkeys(job.bgr for job in jobs))
    with ThreadPoolExecutor(8) as pool:
        src_sizes = list(pool.map(_size_or_error, [job.src for job in jobs]))
        bgr_sizes = dict(zip(plates, pool.map(_size_or_error, plates)))
    problems = [f'--images-bgr: {error}' for _, error in bgr_sizes.values() if error]
    jobs = [replace(job, size=size) for job, (size, _) in zip(jobs, src_sizes)]
    differ = [
        f'{job.src} is {_by(job.size)}, its plate {job.bgr} {_by(size)}'
        for job in jobs
        if job.size and (size := bgr_sizes[job.bgr][0]) and size != job.size
    ]
    if differ and not resize_bgr:
        problems.append(f'sizes differ (--resize-bgr resizes the plate): {_some(differ, "; ")}')
    return jobs, problems


def _size_or_error(path: Path) -> tuple[tuple[int, int] | None, str]:
    try:
        return image_size(path), ''
    except (OSError, ImageError) as error:
        return None, str(error)


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _some(findings: Sequence[str], separator: str = ', ') -> str:
    more = len(findings) - NAMED
    return separator.join(findings[:NAMED]) + (f'{separator}and {more} more' if more > 0 else '')
