"""TIFF files of kinds that Pillow reads and does not write, not compressed."""

from __future__ import annotations

import struct

import numpy as np

GREY_WHITE_IS_0, GREY, RGB = 0, 1, 2
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(size: tuple[int, int], content: np.ndarray, photometric: int, bits: int, number: int = UNSIGNED,
         planes: bool = False) -> bytes:  # fmt: skip
    """A TIFF of (width, height), of bytes as they are, in the order of this machine's numbers, the low byte first.

    `planes` has one colour after the other.
    """
    samples, data = 3 if photometric == RGB else 1, np.ascontiguousarray(content).tobytes()
    strips = samples if planes else 1
    length = len(data) // strips
    tags = {
        256: [size[0]], 257: [size[1]], 258: [bits] * samples, 259: [1], 262: [photometric], 273: [0] * strips,
        277: [samples], 278: [size[1]], 279: [length] * strips, 284: [1 + planes], 339: [number] * samples,
    }  # fmt: skip
    after = 8 + 2 + 12 * len(tags) + 4  # what is too long for the table
    start = after + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [start + length * strip for strip in range(strips)]
    table, more = struct.pack('<H', len(tags)), b''
    for tag, values in tags.items():
        packed = struct.pack(f'<{len(values)}I', *values)
        place = packed if len(values) == 1 else struct.pack('<I', after + len(more))
        more += packed if len(values) > 1 else b''
        table += struct.pack('<HHI', tag, 4, len(values)) + place
    return b'II*\0' + struct.pack('<I', 8) + table + bytes(4) + more + data
