"""Test sets on disk: made ones with a manifest, and folders of pictures and plates from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset.paths import find_images
from dataset.readers import ImageError, image_size

KINDS = ('src', 'bgr', 'fgr', 'pha', 'trimap')
MANIFEST = 'manifest.json'
UNFINISHED = 'manifest.unfinished'  # there while a set is being made, so that half of one is not taken for a whole
FORMAT = 'matting test set'
VERSION = 1

_NAMED = 3  # findings of one kind that a message names


@dataclass(frozen=True)
class Entry:
    """One picture of a test set.

    Attributes:
        name: below each folder, '/' between its parts, without suffix: 'anna/0001-00', or 'anna/0001-00/0003' in a
            clip.
        clip: of which it is a frame; None for a still. Frames of a clip follow each other in order.
        src: the picture.
        bgr: its plate, which the frames of a clip share.
        pha: the true alpha.
        fgr: the true foreground, if there is one.
        trimap: if there is one.
        subject: whom or what it shows, where the manifest says so; equal for all pictures of one foreground.
    """

    name: str
    clip: str | None
    src: Path
    bgr: Path
    pha: Path
    fgr: Path | None = None
    trimap: Path | None = None
    subject: str | None = None


def find_testset(folder: Path) -> list[Entry]:
    """List the pictures of a test set with or without a manifest.

    Without one, src/ and pha/ hold pictures of equal relative path, suffix aside. The plate is the picture of the same
    path in bgr/, or that of the nearest folder, bgr/walk.png for all of src/walk/, which then is a clip whose frames
    are in the order of the numbers in their names. fgr/ and trimap/ are taken where they hold the name.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no test set, or the making of one was interrupted, or files are missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: {"a file, not a folder" if folder.exists() else "no such folder"}')
    if (folder / MANIFEST).is_file():
        return read_manifest(folder)
    if (folder / UNFINISHED).is_file():
        raise ValueError(f'{folder}: an unfinished test set: its making was interrupted. Make it again, with -y')
    missing = [f'{kind}/' for kind in ('src', 'bgr', 'pha') if not (folder / kind).is_dir()]
    if missing:
        raise ValueError(f'{folder}: no test set: it has no {MANIFEST}, and lacks {", ".join(missing)}')
    files = {kind: pictures_by_name(folder / kind) if (folder / kind).is_dir() else {} for kind in KINDS}
    if not files['src']:
        raise ValueError(f'{folder / "src"}: no pictures in it, nor in its sub-folders')
    entries, lacking = [], []
    for name, src in files['src'].items():
        plate = plate_name(name, files['bgr'])
        if plate is None or name not in files['pha']:
            lacking += [f'bgr/{name}'] if plate is None else []
            lacking += [f'pha/{name}'] if name not in files['pha'] else []
            continue
        clip = plate if plate != name else None
        fgr, trimap = files['fgr'].get(name), files['trimap'].get(name)
        entries.append(Entry(name, clip, src, files['bgr'][plate], files['pha'][name], fgr, trimap))
    if lacking:
        raise ValueError(f'{folder}: {len(lacking)} pictures are missing: {some(lacking)} (png, jpg, jpeg or webp)')
    return sorted(entries, key=lambda entry: (entry.clip or entry.name, numbered(entry.name)))


def read_manifest(folder: Path) -> list[Entry]:
    """List the pictures of a made test set, in the manifest's order; pictures that it does not name are not looked at.

    Raises:
        ValueError: there is no manifest, or not one that this version reads, or files are missing.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise ValueError(f'{folder}: no test set: it has no {MANIFEST}') from None
    except ValueError as error:
        raise ValueError(f'{path}: cannot be read as JSON: {error}') from error
    if not isinstance(manifest, dict) or manifest.get('format') != FORMAT:
        raise ValueError(f'{path}: not the manifest of a test set')
    if manifest.get('version') != VERSION:
        raise ValueError(f'{path}: version {manifest.get("version")}; this program reads version {VERSION}')
    try:
        entries = [entry for picture in manifest['pictures'] for entry in _entries(Path(folder), picture)]
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path}: damaged: {type(error).__name__}: {error}') from error
    if not entries:
        raise ValueError(f'{path}: lists no pictures')
    paths = dict.fromkeys(p for e in entries for p in (e.src, e.bgr, e.pha, e.fgr, e.trimap) if p is not None)
    if lacking := [str(path.relative_to(folder)) for path in paths if not path.is_file()]:
        raise ValueError(f'{folder}: {len(lacking)} of {len(paths)} files are missing: {some(lacking)}')
    return entries


def frame_names(name: str, frames: int) -> list[str]:
    """Return the names of a clip's frames, numbered from 0 with at least four digits."""
    digits = max(4, len(str(frames - 1)))
    return [f'{name}/{frame:0{digits}}' for frame in range(frames)]


def _entries(folder: Path, picture: dict[str, Any]) -> Iterator[Entry]:
    name, frames = picture['name'], len(picture['positions'])
    for each in frame_names(name, frames) if frames else [name]:
        paths = {kind: folder / kind / f'{each}.png' for kind in KINDS}
        paths['bgr'] = folder / 'bgr' / f'{name}.png'
        yield Entry(name=each, clip=name if frames else None, subject=str(picture['fgr']), **paths)


def pictures_by_name(root: Path) -> dict[str, Path]:
    """Return the pictures below a folder by relative path without suffix, in order.

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


def picture_sizes(paths: Iterable[Path]) -> tuple[dict[Path, tuple[int, int]], list[str]]:
    """Return the (width, height) of pictures by their headers, which threads read, and why others have none."""

    def measure(path: Path) -> tuple[int, int] | str:
        try:
            return image_size(path)
        except (OSError, ImageError) as error:
            return str(error)

    different = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(8) as pool:
        measured = dict(zip(different, pool.map(measure, different)))
    sizes = {path: size for path, size in measured.items() if not isinstance(size, str)}
    return sizes, [reason for reason in measured.values() if isinstance(reason, str)]


def numbered(name: str) -> list[str | int]:
    """Return a sort key that puts 2 before 10."""
    parts = re.split(r'(\d+)', name)  # text and digits by turns, so that like meets like
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def plate_name(name: str, plates: Container[str]) -> str | None:
    """Return the name of a picture's plate: its own, else that of the nearest folder, else None."""
    folders = (str(parent) for parent in PurePosixPath(name).parents if parent.name)
    return next((each for each in (name, *folders) if each in plates), None)


def some(findings: Sequence[object], separator: str = ', ') -> str:
    """Return the first three of a message's findings, and how many more there are."""
    more = len(findings) - _NAMED
    return separator.join(map(str, findings[:_NAMED])) + (f' and {more} more' if more > 0 else '')
