"""OpenEXR: pictures of scene-linear floating point numbers, by the package OpenEXR. Importing this teaches Pillow them.

Colour is read with the transfer of sRGB, in 8 bits: NaN and what is below 0 count as 0, what is above 1 as 1. These
files hold colour multiplied by alpha, so it is divided by it. Alpha, and what is read as a matte (`draft('L')`), is
taken as it is. The primaries are taken for those of sRGB.
"""

from __future__ import annotations

import functools
import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import OpenEXR
from PIL import Image, ImageFile

from common.console import say_once
from common.files import EXR_MAGIC

LARGEST = float(np.finfo(np.float16).max)


class ExrImageFile(ImageFile.ImageFile):
    """An EXR file as a Pillow picture of 8 bits."""

    format = 'EXR'
    _linear = False

    def _open(self) -> None:
        file = OpenEXR.File(self.fp, header_only=True)
        part, names = _picture_in(file)
        (left, top), (right, bottom) = file.header(part)['displayWindow']
        self._size = int(right - left + 1), int(bottom - top + 1)
        self._mode = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[len(names)]
        self._linear = names == ['A']

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> None:
        """Take colour as it is from now on, if the mode is that of mattes, 'L'."""
        del size
        self._linear |= mode == 'L'

    def load(self) -> Any:
        """Decode the file."""
        if self._im is None:
            assert self.fp is not None
            self.fp.seek(0)
            colour, alpha = _read(self.fp)  # type: ignore[arg-type]
            if not self._linear and (colour > 1).any():
                name = os.fsdecode(self.filename)
                say_once('EXR', f'note: {name}: values above 1 count as 1; other such pictures are not named')
            bands = [_in_bytes(colour, self._linear), _in_bytes(alpha, linear=True)][: 1 + self.mode.endswith('A')]
            pixels = np.concatenate(bands, axis=2)
            self.im = Image.fromarray(pixels[..., 0] if self.mode == 'L' else pixels, self.mode).im
        return super().load()


Image.register_open(ExrImageFile.format, ExrImageFile, lambda head: head.startswith(EXR_MAGIC))


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Apply the transfer of sRGB to values from 0 on, also above 1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(values: np.ndarray) -> np.ndarray:
    """Undo `to_srgb`."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def beyond_bytes(path: Path) -> np.ndarray:
    """Return what 8 bits lose of a file's colour, with the transfer of sRGB, white being 1: float32 (H, W, 3).

    It is half a level at most where the colour is in 0..1.
    """
    with path.open('rb') as file:
        colour = _read(file)[0]
    return np.repeat(to_srgb(colour) - _in_bytes(colour) / np.float32(255), 3 // colour.shape[2], axis=2)


def encoded(picture: np.ndarray, beyond: np.ndarray | None = None) -> bytes:
    """Return a picture as a file of halves.

    Args:
        picture: uint8 grey (H, W), which is kept as it is, 255 being 1; or RGB (H, W, 3) or RGBA (H, W, 4), whose
            colour becomes scene-linear and multiplied by alpha.
        beyond: of `beyond_bytes`, is added to the colour before.
    """
    values = picture / np.float32(255)
    if picture.ndim == 3:
        if beyond is None:  # 256 values to compute, not as many as there are pixels
            colour = to_linear(np.arange(256, dtype=np.float32) / 255)[picture[..., :3]]
        else:
            colour = to_linear((values[..., :3] + beyond).clip(0))
        values[..., :3] = colour * values[..., 3:] if values.shape[2] == 4 else colour
    names = {2: 'Y'}.get(values.ndim) or 'RGBA'[: values.shape[2]]
    header = {'compression': OpenEXR.ZIP_COMPRESSION, 'type': OpenEXR.scanlineimage}
    file = io.BytesIO()
    OpenEXR.File(header, {names: np.ascontiguousarray(values.clip(0, LARGEST), np.float16)}).write(file)
    return file.getvalue()


def is_whole(path: Path) -> bool:
    """Return whether a file of `encoded` ends where the last of its chunks does, and not in zeros."""
    data, at = path.read_bytes(), len(EXR_MAGIC) + 4
    try:
        while data[at]:  # attributes of the header: name, type, size of the value, value
            at = data.index(0, data.index(0, at) + 1) + 1
            at += 4 + struct.unpack_from('<i', data, at)[0]
        # Then the place of each chunk, up to where the first of them begins with its row and its size.
        (first,) = struct.unpack_from('<q', data, at + 1)
        (last,) = struct.unpack_from('<q', data, first - 8)
        return last + 8 + struct.unpack_from('<ii', data, last)[1] == len(data) and any(data[-4:])
    except (IndexError, ValueError, struct.error):
        return False


def _picture_in(file: OpenEXR.File) -> tuple[int, list[str]]:
    """Return the part of a file that holds a picture, and its channels: of R, G, B or Y, and A."""
    found = []
    for part in range(len(file.parts)):
        header = file.header(part)
        names = [channel.name for channel in header['channels']]
        found += names
        if header['type'] in (OpenEXR.deepscanline, OpenEXR.deeptile):
            continue
        layers = [x[:-1] for x in names if x[-2:] in ('R', '.R') and {f'{x[:-1]}G', f'{x[:-1]}B'} <= {*names}]
        if '' in layers or len(layers) == 1:
            layer = '' if '' in layers else layers[0]
            return part, [f'{layer}{band}' for band in 'RGBA' if f'{layer}{band}' in names]
        if 'RY' not in names and (grey := [name for name in 'YA' if name in names]):
            return part, grey
    raise ValueError(f'which of its channels are the picture is not clear: {", ".join(found)}')


def _read(file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour, float32 (H, W, 1 or 3) and finite, not multiplied by alpha, and alpha (H, W, 1), 1 if none."""
    opened = OpenEXR.File(io.BytesIO(file.read()), separate_channels=True)
    if not opened.parts:  # that is all it says
        raise ValueError('it is damaged')
    part, names = _picture_in(opened)
    windows = (opened.header(part)[f'{name}Window'] for name in ('display', 'data'))
    (start, end), (left_top, _) = (np.array(window)[:, ::-1] for window in windows)
    planes = [opened.channels(part)[name].pixels for name in names]
    if len({plane.shape for plane in planes}) > 1:
        raise ValueError('its channels differ in size')
    # What lies outside the data window is 0, what lies outside the display window is not shown.
    shown = np.zeros((*(end - start + 1), len(names)), np.float32)
    (top, left), (bottom, right) = left_top - start, left_top - start + planes[0].shape
    target = shown[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    for band, plane in enumerate(planes):
        target[..., band] = plane[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]
    shown = np.nan_to_num(shown, copy=False, nan=0, posinf=LARGEST, neginf=0).clip(0, LARGEST)
    if names[-1][-1] != 'A' or len(names) == 1:
        return shown, np.ones((*shown.shape[:2], 1), np.float32)
    colour, alpha = shown[..., :-1], shown[..., -1:]
    return np.divide(colour, alpha, where=(alpha > 0) & (alpha < 1), out=colour.copy()), alpha


def _in_bytes(values: np.ndarray, linear: bool = False) -> np.ndarray:
    """Round values to uint8, after the transfer of sRGB or as they are."""
    with np.errstate(over='ignore'):  # halves are infinite from 65520 on
        return _table(linear)[values.astype(np.float16).view(np.uint16)]


@functools.cache
def _table(linear: bool) -> np.ndarray:
    """Return what each half becomes, by its bits; looking it up is ten times as fast as computing it."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = np.nan_to_num(halves, nan=0).clip(0, 1)
    return np.rint(255 * (values if linear else to_srgb(values))).astype(np.uint8)
