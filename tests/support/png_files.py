"""PNG files of whatever the format allows and Pillow does not write, chunk by chunk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Of interlacing: the first row and column of each pass, and the steps from there.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(rows: np.ndarray, depth: int, colour: int, transparent: bytes = b'') -> bytes:
    """A PNG of raw rows, with a tRNS chunk if there is one."""
    width = rows.shape[1] * 8 * rows.itemsize // depth if rows.ndim == 2 else rows.shape[1]
    chunks = ((b'tRNS', transparent),) if transparent else ()
    return _file(width, len(rows), depth, colour, 0, b''.join(b'\0' + row.tobytes() for row in rows), *chunks)


def packed(left: int, right: int, depth: int, width: int, height: int) -> np.ndarray:
    """Rows of grey levels, of one level in the left half and of another in the right."""
    bits = f'{left:0{depth}b}' * (width // 2) + f'{right:0{depth}b}' * (width // 2)
    return np.tile(np.frombuffer(int(bits, 2).to_bytes(len(bits) // 8), np.uint8), (height, 1))


def interlaced(pixels: np.ndarray) -> bytes:
    """RGB of 8 bits in seven passes."""
    passes = (pixels[top::down, left::right] for top, left, down, right in _PASSES)
    content = b''.join(b'\0' + row.tobytes() for part in passes for row in part)
    return _file(pixels.shape[1], pixels.shape[0], 8, 2, 1, content)


def with_chunks(data: bytes, chunks: Mapping[bytes, bytes]) -> bytes:
    """A PNG with more chunks, behind its header."""
    return data[:33] + b''.join(chunk(*each) for each in chunks.items()) + data[33:]


def _file(width: int, height: int, depth: int, colour: int, interlace: int, content: bytes, *more: tuple[bytes, bytes]):
    head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, interlace)
    chunks = ((b'IHDR', head), *more, (b'IDAT', zlib.compress(content)), (b'IEND', b''))
    return SIGNATURE + b''.join(chunk(*each) for each in chunks)
