"""Which plate belongs to which picture, found and checked before anything is computed.

Only names and headers are read, so this takes milliseconds for a hundred pictures and a second for thousands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dataset.images import ImageError, image_size
from dataset.paths import find_images

NAMED = 5  # findings of one kind that a message names before it counts the rest


@dataclass(frozen=True)
class Job:
    """One picture to matte.

    Attributes:
        name: path below the source folder without suffix, '/' between its parts: 'cam01/frame_0001'. Names the outputs.
        src: the picture.
        bgr: its plate.
        size: (width, height) of the picture; None where its header cannot be read, so that decoding will fail.
    """

    name: str
    src: Path
    bgr: Path
    size: tuple[int, int] | None = None


def find_jobs(images_src: Path, images_bgr: Path, output_dir: Path, resize_bgr: bool) -> tuple[list[Job], list[str]]:
    """Pair pictures with plates and compare their sizes.

    A plate is, in this order:
    1. the picture of the same relative path, whatever its suffix: `a/b.png` for `a/b.jpg`;
    2. that of the nearest folder: `a.png` for everything in `a/`, or the only picture in `a/` that is not some
       picture's own plate by rule 1;
    3. `images_bgr` itself if it is a file, or the only picture in it, if no picture has a plate by rules 1 and 2.

    Args:
        images_src: a folder, searched with its sub-folders, or one file.
        images_bgr: a folder or one file.
        output_dir: pictures in it are results of an earlier run and no sources. Neither are plates, where these lie
            in the source folder.
        resize_bgr: allow sizes to differ.

    Returns:
        The jobs, sorted by path, and what is wrong: a run must not start unless that is empty.
    """
    sources = _sources(images_src, skip=[images_bgr, output_dir])
    if not sources:
        return [], [f'--images-src {images_src}: no pictures found (jpg, jpeg, png or webp)']
    problems = _clashes(sources)
    if images_bgr.is_file():
        plates = {name: images_bgr for name, _ in sources}
    else:
        plates, unmatched = _match([name for name, _ in sources], images_bgr, skip=images_src)
        problems += unmatched
    jobs = [Job(name, path, plates[name]) for name, path in sources if name in plates]
    jobs, misfits = _measure(jobs, resize_bgr)
    return jobs, problems + misfits


def _sources(images_src: Path, skip: Sequence[Path]) -> list[tuple[str, Path]]:
    if images_src.is_file():
        return [(images_src.stem, images_src)]
    return [
        (relative.with_suffix('').as_posix(), images_src / relative)
        for relative in find_images(images_src)
        if not any(_below(folder, images_src) and _within(images_src / relative, folder) for folder in skip)
    ]


def _within(path: Path, other: Path) -> bool:
    return other.absolute() in (path.absolute(), *path.absolute().parents)


def _below(path: Path, folder: Path) -> bool:
    return _within(path, folder) and path.absolute() != folder.absolute()


def _clashes(sources: Iterable[tuple[str, Path]]) -> list[str]:
    by_name = defaultdict(list)
    for name, path in sources:
        by_name[name].append(path)
    same = [' and '.join(map(str, paths)) for paths in by_name.values() if len(paths) > 1]
    return [f'--images-src: these would write the same output, rename one of each: {_some(same)}'] if same else []


def _match(names: Sequence[str], images_bgr: Path, skip: Path) -> tuple[dict[str, Path], list[str]]:
    """Plates by picture name, and what is wrong, by the rules of `find_jobs`."""
    by_stem = defaultdict(list)
    for relative in find_images(images_bgr):
        if not (_below(skip, images_bgr) and _within(images_bgr / relative, skip)):
            by_stem[relative.with_suffix('').as_posix()].append(images_bgr / relative)
    if not by_stem:
        return {}, [f'--images-bgr {images_bgr}: no pictures found (jpg, jpeg, png or webp)']
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
    return {name: by_stem[stem][0] for name, stem in stems.items()}, problems


def _measure(jobs: list[Job], resize_bgr: bool) -> tuple[list[Job], list[str]]:
    """The jobs with their sizes, and the plates that cannot be used for them."""
    plates = list(dict.fromkeys(job.bgr for job in jobs))
    with ThreadPoolExecutor(8) as pool:
        src_sizes = list(pool.map(_size_or_error, [job.src for job in jobs]))
        bgr_sizes = dict(zip(plates, pool.map(_size_or_error, plates)))
    problems = [f'--images-bgr: {size}' for size in bgr_sizes.values() if isinstance(size, ImageError)]
    jobs = [replace(job, size=None if isinstance(size, ImageError) else size) for job, size in zip(jobs, src_sizes)]
    differ = [
        f'{job.src} is {_by(job.size)}, its plate {job.bgr} {_by(size)}'
        for job in jobs
        if job.size is not None and not isinstance(size := bgr_sizes[job.bgr], ImageError) and size != job.size
    ]
    if differ and not resize_bgr:
        problems.append(f'sizes differ (--resize-bgr resizes the plate): {_some(differ, "; ")}')
    return jobs, problems


def _size_or_error(path: Path) -> tuple[int, int] | ImageError:
    try:
        return image_size(path)
    except ImageError as error:
        return error


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _some(findings: Sequence[str], separator: str = ', ') -> str:
    more = len(findings) - NAMED
    return separator.join(findings[:NAMED]) + (f'{separator}and {more} more' if more > 0 else '')
