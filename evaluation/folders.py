"""What lies in folders: truths to compare with, and predictions that go with them by their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from dataset.images import ImageError, image_size
from dataset.paths import find_images

from .testset import MANIFEST, UNFINISHED, Entry, find_testset, numbered

NAMED = 5  # findings of one kind that a message names before it counts the rest


@dataclass(frozen=True)
class Truth:
    """The files that say what is true of a picture.

    Attributes:
        name: of the picture, '/' between its parts, without suffix.
        clip: of which it is a frame; None for a still.
        pha: the true alpha.
        fgr: the true foreground, if it is known.
        trimap: if there is one; else it is made of the alpha.
        src: the picture itself, to be looked at.
        subject: whom or what it shows, where that is known.
    """

    name: str
    clip: str | None
    pha: Path
    fgr: Path | None = None
    trimap: Path | None = None
    src: Path | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Predictions:
    """The predictions of one model as files, by the names of the pictures.

    Attributes:
        folder: as the user named it.
        pha: of every picture.
        fgr: of those that have one.
        problems: why they cannot be scored.
        notes: what to tell.
    """

    folder: Path
    pha: dict[str, Path]
    fgr: dict[str, Path]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_truth(folder: Path) -> list[Truth]:
    """The truths of a test set, of a folder with pha/ and if need be fgr/, trimap/ and src/, or of a folder of alphas.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: there are no pictures in it, or two of one name, or it is an unfinished test set.
    """
    if any((folder / name).is_file() for name in (MANIFEST, UNFINISHED)) or all(
        (folder / kind).is_dir() for kind in ('src', 'bgr', 'pha')
    ):
        return truths_of(find_testset(folder))
    root = folder / 'pha' if (folder / 'pha').is_dir() else folder
    alphas = pictures_by_name(root)
    if not alphas:
        raise ValueError(f'{root}: no pictures in it, nor in its sub-folders')
    beside = {
        kind: pictures_by_name(folder / kind) if root != folder and (folder / kind).is_dir() else {}
        for kind in ('fgr', 'trimap', 'src')
    }
    fgr, trimap, src = (beside[kind] for kind in ('fgr', 'trimap', 'src'))
    return [Truth(name, None, path, fgr.get(name), trimap.get(name), src.get(name)) for name, path in alphas.items()]


def truths_of(entries: Iterable[Entry]) -> list[Truth]:
    """The truths of a test set's pictures."""
    return [Truth(x.name, x.clip, x.pha, x.fgr, x.trimap, x.src, x.subject) for x in entries]


def as_clips(truths: Sequence[Truth]) -> list[Truth]:
    """Each folder of pictures as a clip, its frames in the order of the numbers in their names: 2 before 10."""
    clips = [replace(truth, clip=PurePosixPath(truth.name).parent.as_posix()) for truth in truths]
    return sorted(clips, key=lambda truth: (truth.clip or '', numbered(truth.name)))


def find_predictions(folder: Path, truths: Sequence[Truth]) -> Predictions:
    """Predictions as inference_images.py writes them, with pha/ and maybe fgr/, or a plain folder of alphas.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: two pictures of one name.
    """
    root = folder / 'pha' if (folder / 'pha').is_dir() else folder
    alphas = pictures_by_name(root)
    colours = pictures_by_name(folder / 'fgr') if root != folder and (folder / 'fgr').is_dir() else {}
    names = {truth.name for truth in truths}
    found = Predictions(
        folder,
        {name: path for name, path in alphas.items() if name in names},
        {name: path for name, path in colours.items() if name in names},
    )
    for kind, held in ((root, found.pha), (folder / 'fgr', found.fgr)):
        missing = [truth.name for truth in truths if truth.name not in held]
        if missing and (held or kind == root):
            found.problems.append(f'{kind}: {len(missing)} of {len(truths)} pictures are missing: {some(missing)}')
    if surplus := [name for name in alphas if name not in names]:
        found.notes.append(f'{root}: {len(surplus)} pictures without a truth are left out: {some(surplus)}')
    lossy = sorted(
        {path.suffix for path in (*found.pha.values(), *found.fgr.values()) if path.suffix.lower() != '.png'}
    )
    if lossy:
        found.notes.append(f'{folder}: {", ".join(lossy)} may be lossy, and what the format loses counts as error')
    found.problems.extend(
        size_problems(
            (truth.pha, held[truth.name]) for held in (found.pha, found.fgr) for truth in truths if truth.name in held
        )
    )
    return found


def pictures_by_name(root: Path) -> dict[str, Path]:
    """The pictures below a folder by relative path without suffix, in order.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: two of one name.
    """
    found: dict[str, Path] = {}
    for relative in find_images(root):
        name = relative.with_suffix('').as_posix()
        if name in found:
            raise ValueError(f'{root / relative}: of the same name as {found[name].name}; keep one of them')
        found[name] = root / relative
    return found


def size_problems(pairs: Iterable[tuple[Path, Path]]) -> list[str]:
    """Which pictures differ in size, and which cannot be read; by their headers, on threads."""
    listed = list(pairs)
    paths = list(dict.fromkeys(path for pair in listed for path in pair))
    with ThreadPoolExecutor(8) as pool:
        sizes = dict(zip(paths, pool.map(_size, paths)))
    unreadable = [size for size in sizes.values() if isinstance(size, str)]
    differ = [
        f'{first} is {sizes[first][0]}x{sizes[first][1]}, {second} {sizes[second][0]}x{sizes[second][1]}'
        for first, second in listed
        if not isinstance(sizes[first], str) and not isinstance(sizes[second], str) and sizes[first] != sizes[second]
    ]
    return [some(unreadable, '; ')] * bool(unreadable) + [f'sizes differ: {some(differ, "; ")}'] * bool(differ)


def some(findings: Sequence[str], separator: str = ', ') -> str:
    """The first few of a list, and how many more there are."""
    more = len(findings) - NAMED
    return separator.join(findings[:NAMED]) + (f'{separator}and {more} more' if more > 0 else '')


def _size(path: Path) -> tuple[int, int] | str:
    try:
        return image_size(path)
    except (OSError, ImageError) as error:
        return str(error)
