"""Colour conversion between RGB and what videos store: luma and chroma by some matrix, in some range.

A file says, or leaves open, which matrix (ITU-R BT.601, BT.709, BT.2020) and which range (16..235, or 0..255) its
numbers mean. Read by another, skin turns green and blacks turn grey; so the source's are used for what is written, too,
and the file is labelled with them. Primaries and transfer are carried over as labels: matting needs no linear light.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

# By FFmpeg's numbers.
BT709, UNSPECIFIED, BT601 = 1, 2, 5
CONVERTER_MATRICES = {
    1: 1,
    4: 4,
    5: 5,
    6: 5,
    7: 7,
    9: 9,
}  # by the numbers that the converter knows: 5 and 6 are both BT.601
HDR = {16: 'PQ', 18: 'HLG'}  # transfers of high dynamic range
LEAST_HD_SIDE = 720  # pixels, from which on players take what is not labelled for BT.709

# Chroma at every pixel and exact rounding: within 1 level of the definition, where FFmpeg's default is within 3 and
# repeats chroma in blocks. HD takes 30 ms instead of 3, on threads beside the network.
CHROMA = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
EXACT: dict[str, Any] = {'interpolation': Interpolation.BILINEAR | Interpolation.ACCURATE_RND | CHROMA, 'threads': 1}


@dataclass(frozen=True)
class Colour:
    """Meaning of the numbers that a video stores, in FFmpeg's enumerations."""

    matrix: int = BT709  # AVColorSpace; one that the converter knows
    full_range: bool = False  # black to white is 0..255 in 8 bits, not 16..235
    primaries: int = UNSPECIFIED  # AVColorPrimaries
    transfer: int = UNSPECIFIED  # AVColorTransferCharacteristic
    bits: int = 8  # of each component
    light: bytes = b''  # QuickTime's boxes of the mastering display (mdcv) and the content's light (clli)
    assumed: bool = field(default=False, compare=False)  # the file does not say the matrix

    @classmethod
    def of(cls, frame: av.VideoFrame, matrix: int | None = None) -> Colour:
        """Read what a decoded frame says; where it says nothing, players assume BT.709 for HD, else BT.601.

        Frames of RGB have no matrix: what is made of them is written by BT.709. A `matrix` stands for the frame's own.
        """
        matrix = int(frame.colorspace) if matrix is None else matrix
        bits, light = frame.format.components[0].bits, _light(frame)
        if frame.format.is_rgb:
            return cls(primaries=int(frame.color_primaries), transfer=int(frame.color_trc), bits=bits, light=light)
        if assumed := matrix not in CONVERTER_MATRICES:
            matrix = BT709 if min(frame.width, frame.height) >= LEAST_HD_SIDE else BT601
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith('yuvj')
        return cls(matrix, full, int(frame.color_primaries), int(frame.color_trc), bits, light, assumed)

    @property
    def range(self) -> ColorRange:
        """The range, as PyAV names it."""
        return ColorRange.JPEG if self.full_range else ColorRange.MPEG


def _light(frame: av.VideoFrame) -> bytes:
    """Return what a frame says of its mastering display and its light as boxes, in which green comes first."""
    boxes, found = b'', cast(Any, frame.side_data)
    if side := found.get(Type.MASTERING_DISPLAY_METADATA):
        numbers = struct.unpack('22i', bytes(side)[:88])
        *places, least, most = (
            Fraction(*pair) if pair[1] else Fraction(0) for pair in zip(numbers[:20:2], numbers[1:20:2])
        )
        if all(numbers[20:]):  # both colours and light are there
            placed = [_held(place * 50_000, 16) for place in (*places[2:6], *places[:2], *places[6:])]
            levels = (_held(level * 10_000, 32) for level in (most, least))
            boxes += struct.pack('>I4s8H2I', 32, b'mdcv', *placed, *levels)
    if side := found.get(Type.CONTENT_LIGHT_LEVEL):
        boxes += struct.pack(
            '>I4s2H', 12, b'clli', *(_held(level, 16) for level in struct.unpack('2I', bytes(side)[:8]))
        )
    return boxes


def _held(value: Fraction | int, bits: int) -> int:
    """Round to what so many bits can hold."""
    return min(max(round(value), 0), 2**bits - 1)


def to_rgb(frame: av.VideoFrame, colour: Colour, pixel_format: str = 'rgb24') -> np.ndarray:
    """Convert a decoded frame to uint8 RGB (H, W, 3), or uint16 by 'rgb48le', as it lies in the file, not rotated."""
    matrix = CONVERTER_MATRICES[colour.matrix]
    ranges = {'src_color_range': colour.range, 'dst_color_range': ColorRange.JPEG}
    # A converter of its own: the one that a frame keeps fails where several threads convert the frame, as a held plate.
    converted = VideoReformatter().reformat(frame, format=pixel_format, src_colorspace=matrix, **ranges, **EXACT)
    return converted.to_ndarray()


def to_frame(pixels: np.ndarray, pixel_format: str, colour: Colour) -> av.VideoFrame:
    """Convert a picture, RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W), to a frame labelled with its colour.

    It is uint8, or uint16 in RGB and RGBA.

    The pixel format is one of FFmpeg's: 'yuv420p', 'yuva444p10le', ...; 'yuva...' for RGBA.
    """
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    formats = ('rgb24', 'rgba') if pixels.dtype == np.uint8 else ('rgb48le', 'rgba64le')
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=formats[pixels.shape[2] - 3])
    matrix = CONVERTER_MATRICES[colour.matrix]
    ranges = {'src_color_range': ColorRange.JPEG, 'dst_color_range': colour.range}
    converted = frame.reformat(format=pixel_format, dst_colorspace=matrix, **ranges, **EXACT)
    converted.colorspace, converted.color_range = colour.matrix, colour.range
    converted.color_primaries, converted.color_trc = colour.primaries, colour.transfer
    return converted
