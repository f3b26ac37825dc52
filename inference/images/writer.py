"""Matte files: one sub-folder per type of output, whole files or none, nothing overwritten unasked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.files import EXR_MAGIC, write_atomic
from common.path_checks import not_empty_problems, output_folder_problems
from dataset.tags import NO_TAGS, Tags, converted
from inference.compositing import fitted
from inference.options import COLOURED_TYPES

if TYPE_CHECKING:
    from inference.matte import Matte

    from .inputs import Job


class PictureWriter:
    """A writer of `<folder>/<type>/<name>.<format>` for each type asked for.

    `com` is RGBA: the foreground where alpha is above 0, else 0, and alpha. `pha`, `err` and `ref` are grey, `fgr` is
    RGB. `com` and `fgr` carry the tags of their picture. In EXR files they are in the primaries of sRGB, see
    `dataset.exr.encoded`.

    Args:
        folder: made when the first file is written, with the sub-folders.
        formats: type to 'png', 'jpg', 'webp' or 'exr'.
        png_compression: 0..9. 1 takes OpenCV's fastest settings, also for the filter.
        jpeg_quality: 1..100, of jpg and webp; webp at 100 is lossless, but for the colour where alpha is 0.
        keep: leave whole files alone that are there already.
    """

    def __init__(
        self,
        folder: Path,
        formats: dict[str, str],
        png_compression: int = 1,
        jpeg_quality: int = 95,
        keep: bool = False,
    ):
        self.folder, self.formats, self.keep = folder, formats, keep
        self._parameters = {
            # Naming level 1 would select a filter per row by trial and take twice as long as naming none.
            'png': [] if png_compression == 1 else [cv2.IMWRITE_PNG_COMPRESSION, png_compression],
            'jpg': [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality],
            'webp': [cv2.IMWRITE_WEBP_QUALITY, jpeg_quality if jpeg_quality < 100 else 101],
        }

    def path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f'{name}.{self.formats[kind]}'

    def waits_for(self, name: str) -> bool:
        """Return whether an output of a picture is still to be written."""
        return not (self.keep and all(is_whole(self.path(kind, name)) for kind in self.formats))

    def write(self, name: str, matte: Matte, src: Path | None = None) -> None:
        """Write all outputs of one picture.

        Args:
            name: path below the type's folder, '/' between its parts, without suffix.
            matte: the result; what is asked for must be in it.
            src: the picture; see `lost`.

        Raises:
            OSError: a file cannot be encoded or written. The message names it.
        """
        lost = self.lost(src)
        for kind in self.formats:
            tags = matte.tags if kind in COLOURED_TYPES else NO_TAGS
            self.write_picture(kind, name, getattr(matte, kind), tags, lost)

    def lost(self, src: Path | None) -> np.ndarray | None:
        """Return what 8 bits lose of a picture, such as values above 1, where both it and output of colour are EXR."""
        if src is None or src.suffix.lower() != '.exr' or 'exr' not in map(self.formats.get, COLOURED_TYPES):
            return None
        from dataset import exr

        return exr.beyond_bytes(src)

    def write_picture(
        self, kind: str, name: str, picture: np.ndarray, tags: Tags = NO_TAGS, lost: np.ndarray | None = None
    ) -> None:
        """Write one output, uint8 grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4), like `write`. A `com` is used up.

        What was `lost` of the source is added to colour in EXR files.
        """
        path = self.path(kind, name)
        if self.keep and is_whole(path):
            return
        if self.formats[kind] == 'exr':
            from dataset import exr

            if tags.profile:
                colour = converted(np.ascontiguousarray(picture[..., :3]), tags.profile, None)
                picture = np.dstack([colour, picture[..., 3:]])
            write_atomic(path, exr.encoded(picture, None if lost is None else fitted(lost, picture.shape[1::-1])))
            return
        if picture.ndim == 3:
            order = cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
            # The cut-out is made for this one use, so its channels may be swapped where they are.
            picture = cv2.cvtColor(picture, order, picture if kind == 'com' else None)
        write_atomic(path, _encoded(path, picture, self._parameters[self.formats[kind]], tags).data)


def is_whole(path: Path) -> bool:
    """Return whether a picture is there from its first byte to its last; a power cut, or copying, can leave a part."""
    try:
        with path.open('rb') as file:
            head = file.read(12)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max(12, size // 8)))
            tail = file.read()
    except OSError:
        return False
    if head[:4] == EXR_MAGIC:
        from dataset import exr

        return exr.is_whole(path)
    if head[:4] == b'RIFF':  # WebP, which has no mark at its end; of an even picture the last twentieth can be 0
        return size >= 8 + int.from_bytes(head[4:8], 'little') and any(tail)
    return tail.endswith(b'IEND\xaeB`\x82' if head[1:4] == b'PNG' else b'\xff\xd9')


def overwriting_problems(
    writer: PictureWriter, mine: Sequence[Job], others: Sequence[Job], overwrite: bool
) -> list[str]:
    """Return why a run must not write into its output folder, which holds files already only with `overwrite`.

    A writer that keeps files may, too.

    The `others` are pictures of other processes, which may be writing already, so their files do not count.
    """
    folder, overwrite = writer.folder, overwrite or writer.keep
    if problems := output_folder_problems(folder):
        return problems
    inputs = {path.resolve() for job in (*mine, *others) for path in (job.src, job.bgr) if path}
    hit = [path for path in _outputs(writer, mine) if os.path.exists(path) and path.resolve() in inputs]
    if hit:
        return [f'--output-dir {folder}: {hit[0]} is one of the pictures to read; choose another folder']
    expected = set(_outputs(writer, others))
    held = next((path for path in _files(folder) if path not in expected), None)
    return not_empty_problems(
        folder, held, overwrite, ', or --skip-existing to write only what a run that was cut left out'
    )


def _outputs(writer: PictureWriter, jobs: Iterable[Job]) -> Iterator[Path]:
    return (writer.path(kind, job.name) for job in jobs for kind in writer.formats)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, except hidden ones: those are unfinished files of other processes."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names if not name.startswith('.'))


def _encoded(path: Path, picture: np.ndarray, parameters: list[int], tags: Tags) -> np.ndarray:
    exif = tags.exif.removeprefix(b'Exif\0\0')  # which OpenCV adds where a format has it
    contents = {cv2.IMAGE_METADATA_ICCP: tags.profile, cv2.IMAGE_METADATA_EXIF: exif}
    held = {kind: np.frombuffer(content, np.uint8) for kind, content in contents.items() if content}
    try:
        fine, data = cv2.imencodeWithMetadata(path.suffix, picture, [*held], [*held.values()], parameters)
    except cv2.error as error:
        raise OSError(f'{path}: cannot be encoded: {error.err}') from error
    if not fine:
        height, width = picture.shape[:2]
        raise OSError(f'{path}: OpenCV cannot encode a picture of {width}x{height} as {path.suffix[1:]}')
    return data
