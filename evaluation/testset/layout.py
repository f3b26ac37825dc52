"""Test sets on disk: made ones with a manifest, and folders of pictures and plates from elsewhere."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from common.console import some
from common.files import IMAGES, not_a_folder
from dataset.pairing import alike, by_last_parts, by_name, composed, natural_order, shared_end
from dataset.paths import find_images
from dataset.readers import ImageError, image_size
from dataset.stores import Picture

Where = TypeVar('Where', bound=Picture)

log = logging.getLogger(__name__)

KINDS = ('src', 'bgr', 'fgr', 'pha', 'trimap')
MANIFEST = 'manifest.json'
UNFINISHED = 'manifest.unfinished'  # there while a set is being made, so that half of one is not taken for a whole
FORMAT = 'matting test set'
VERSION = 1


@dataclass(frozen=True)
class Truth:
    """A picture and what is known of it, as files. Frames of a clip follow each other in order."""

    name: str  # below each folder, without suffix, composed: 'anna/0001-00', or 'anna/0001-00/0003' in a clip
    clip: str | None  # of which it is a frame; None for a still
    pha: Path
    fgr: Path | None = None
    trimap: Path | None = None  # else it is computed from the alpha
    src: Path | None = None  # networks need it, predictions are shown beside it
    bgr: Path | None = None  # for networks; the frames of a clip share it
    subject: str | None = None  # whom or what it shows, where the manifest says so: equal for one foreground


def find_testset(folder: Path) -> list[Truth]:
    """List the pictures of a test set with or without a manifest.

    Without one, src/ and pha/ hold pictures of equal relative path, suffix aside. The plate is the picture of the same
    path in bgr/, or that of the nearest folder, bgr/walk.png for all of src/walk/, which then is a clip whose frames
    are in the order of the numbers in their names. fgr/ and trimap/ are taken where they hold the name. Where no path
    of a kind agrees, the last parts of the paths count: bgr/cam_A.png is the plate of src/frame_00000/images/cam_A.png
    and of all that cam_A took, which then is a clip.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no test set, or the making of one was interrupted, or files are missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: {not_a_folder(folder)}')
    if (folder / MANIFEST).is_file():
        return read_manifest(folder)
    if (folder / UNFINISHED).is_file():
        raise ValueError(f'{folder}: an unfinished test set: its making was interrupted. Make it again, with -y')
    missing = [f'{kind}/' for kind in ('src', 'bgr', 'pha') if not (folder / kind).is_dir()]
    if missing:
        raise ValueError(f'{folder}: no test set: it has no {MANIFEST}, and lacks {", ".join(missing)}')
    return _match(folder, folder / 'pha', folder / 'src')


def find_truth(folder: Path) -> list[Truth]:
    """Find the truths of a test set, of a folder with pha/ and perhaps other kinds, or of a folder of alphas.

    Where there are src/ and bgr/ as well, pictures and clips are those that `find_testset` finds, but plates may be
    missing: predictions are compared without them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: there are no pictures in it, or two of one name, or it is an unfinished test set.
    """
    if any((folder / name).is_file() for name in (MANIFEST, UNFINISHED)):
        return find_testset(folder)
    return _match(folder, folder / 'pha' if (folder / 'pha').is_dir() else folder)


def _match(folder: Path, alphas: Path, sources: Path | None = None) -> list[Truth]:
    """Match the pictures of each kind by name.

    Args:
        folder: holds the kinds.
        alphas: of these, or the folder itself, if it holds nothing but alphas.
        sources: the pictures that count, each of which needs a plate; if left out, all that have an alpha count, or
            those of src/ where there are plates.
    """
    files = {kind: pictures_by_name(folder / kind) if (folder / kind).is_dir() else {} for kind in KINDS}
    if alphas == folder:
        files = {kind: {} for kind in KINDS} | {'pha': pictures_by_name(folder)}
    src, bgr, pha = files['src'], files['bgr'], files['pha']
    names = [*(src if sources or (src and bgr) else pha)]
    if not (names if sources else pha):
        raise ValueError(f'{sources or alphas}: no pictures in it, nor in its sub-folders')
    pha, fgr, trimap = (matched(names, files[kind], folder) for kind in ('pha', 'fgr', 'trimap'))
    plates = {name: plate for name in names if (plate := plate_name(name, bgr))}
    if bgr and not plates:
        plates = by_last_parts(names, bgr)
        _say_last_parts(plates, bgr, folder / 'bgr')
    served = Counter(plates.values())
    truths, lacking = [], []
    for name in names:
        plate = plates.get(name, '')
        lacking += [f'bgr/{name}'] if sources and not plate else []
        if name not in pha:
            lacking.append(f'pha/{name}')
            continue
        of_clip = plate != name and (name.startswith(f'{plate}/') or served[plate] > 1)
        clip = plate if of_clip else None
        truths.append(Truth(name, clip, pha[name], fgr.get(name), trimap.get(name), src.get(name), bgr.get(plate)))
    if lacking:
        raise ValueError(f'{folder}: {len(lacking)} pictures are missing: {some(lacking)} ({IMAGES})')
    return sorted(truths, key=lambda truth: (natural_order(truth.clip or truth.name), natural_order(truth.name)))


def read_manifest(folder: Path) -> list[Truth]:
    """List the pictures of a made test set, in the manifest's order; pictures that it does not name are not looked at.

    Raises:
        ValueError: there is no manifest, or not one that this version reads, or files are missing.
    """
    path = folder / MANIFEST
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
        # A disk may store letters with accents in another way than the manifest does.
        held = {composed(path.as_posix()): path for path in find_images(folder)}
        entries = [entry for picture in manifest['pictures'] for entry in _entries(folder, picture, held)]
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path}: damaged: {type(error).__name__}: {error}') from error
    if not entries:
        raise ValueError(f'{path}: lists no pictures')
    paths = dict.fromkeys(path for x in entries for path in (x.src, x.bgr, x.pha, x.fgr, x.trimap) if path is not None)
    if lacking := [str(path.relative_to(folder)) for path in paths if not path.is_file()]:
        raise ValueError(f'{folder}: {len(lacking)} of {len(paths)} files are missing: {some(lacking)}')
    return entries


def frame_names(name: str, frames: int) -> list[str]:
    """Return the names of a clip's frames, numbered from 0 with at least four digits."""
    digits = max(4, len(str(frames - 1)))
    return [f'{name}/{frame:0{digits}}' for frame in range(frames)]


def _entries(folder: Path, picture: dict[str, Any], held: Mapping[str, Path]) -> Iterator[Truth]:
    name, frames = composed(picture['name']), len(picture['positions'])
    for each in frame_names(name, frames) if frames else [name]:
        files = {kind: f'{kind}/{name if kind == "bgr" else each}.png' for kind in KINDS}
        paths = {kind: folder / held.get(file, file) for kind, file in files.items()}
        yield Truth(name=each, clip=name if frames else None, subject=str(picture['fgr']), **paths)


def pictures_by_name(root: Path) -> dict[str, Path]:
    """Return the pictures below a folder by name, in order.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: two of one name.
    """
    found = by_name(find_images(root), root)
    if several := next((paths for paths in found.values() if len(paths) > 1), None):
        raise ValueError(f'{alike(several)}: of one name; keep one of them')
    return {name: path for name, (path,) in found.items()}


def matched(names: Sequence[str], files: dict[str, Path], root: Path) -> dict[str, Path]:
    """Return files by the names that they belong to: their own, or, if none has one of these, by their last parts.

    Args:
        names: of the pictures; a file belongs to one of them at most, and what stands before the parts that are shared
            is the same for all files: several folders may be of several runs.
        files: by their own names.
        root: the folder of the files, for the line that says so.
    """
    if not files or any(name in files for name in names):
        return files
    others = by_last_parts(names, files)
    before = {other.removesuffix(shared_end(name, other)) for name, other in others.items()}
    if len(set(others.values())) < len(others) or len(before) > 1:
        return files
    _say_last_parts(others, files, root)
    return {name: files[other] for name, other in others.items()}


def _say_last_parts(others: Mapping[str, str], files: Mapping[str, Path], root: Path) -> None:
    for name, other in [*others.items()][:1]:
        log.warning('%s: no path agrees, so files are matched by the last parts of their paths: %s belongs to %s',
                    root, files[other].relative_to(root), name)  # fmt: skip


def picture_sizes(paths: Iterable[Where]) -> tuple[dict[Where, tuple[int, int]], list[str]]:
    """Return the (width, height) of pictures by their headers, which threads read, and why others have none."""

    def measure(path: Where) -> tuple[int, int] | str:
        try:
            return image_size(path)
        except (OSError, ImageError) as error:
            return str(error)

    different = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(8) as pool:
        measured = dict(zip(different, pool.map(measure, different)))
    sizes = {path: size for path, size in measured.items() if not isinstance(size, str)}
    return sizes, [reason for reason in measured.values() if isinstance(reason, str)]


def plate_name(name: str, plates: Container[str]) -> str | None:
    """Return the name of a picture's plate: its own, else that of the nearest folder, else None."""
    folders = (str(parent) for parent in PurePosixPath(name).parents if parent.name)
    return next((each for each in (name, *folders) if each in plates), None)
