"""Small colour profiles (ICC), made of their bytes."""

from __future__ import annotations

import itertools
import struct

import numpy as np

# Red, green and blue as XYZ, adapted to D50.
P3 = (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)
SRGB = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
D50 = (0.9642, 1.0, 0.8249)


def numbers(*values: float) -> bytes:
    return struct.pack(f'>{len(values)}i', *(round(value * 65536) for value in values))


def curve(*values: float) -> bytes:
    """A gamma, or the five numbers of a curve with a straight part at its beginning."""
    return b'para\0\0\0\0' + struct.pack('>HH', 0 if len(values) == 1 else 3, 0) + numbers(*values)


def made(space: str, tags: dict[str, bytes], kind: str = 'mntr', pcs: str = 'XYZ') -> bytes:
    table, content = b'', b''
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name.encode() + struct.pack('>II', start + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    words = struct.pack('>4s4s4s4s12x4s28x', b'\x04\0\0\0', kind.encode(), *(x.ljust(4).encode() for x in (space, pcs)),
                        b'acsp')  # fmt: skip
    header = struct.pack('>I4x', start + len(content)) + words + numbers(*D50)
    return header.ljust(128, b'\0') + struct.pack('>I', len(tags)) + table + content


def rgb_profile(primaries: tuple[tuple[float, ...], ...] = P3, values: tuple[float, ...] = SRGB_CURVE) -> bytes:
    """A display's, by default Display P3."""
    colours = {f'{name}XYZ': b'XYZ \0\0\0\0' + numbers(*colour) for name, colour in zip('rgb', primaries)}
    return made('RGB', colours | {f'{name}TRC': curve(*values) for name in 'rgb'})


def grey_profile(gamma: float) -> bytes:
    return made('GRAY', {'kTRC': curve(gamma), 'wtpt': b'XYZ \0\0\0\0' + numbers(*D50)})


def table_profile(space: str, lightness: list[float]) -> bytes:
    """One for a single direction: the lightness, 0..100, of each corner of its space."""
    inputs = {'RGB': 3, 'CMYK': 4}[space]
    assert len(lightness) == 2**inputs == len(list(itertools.product((0, 1), repeat=inputs)))
    ramp = bytes(range(256))
    corners = b''.join(bytes([round(x * 2.55), 128, 128]) for x in lightness)
    head = b'mft1\0\0\0\0' + bytes([inputs, 3, 2, 0]) + numbers(*np.eye(3).ravel())
    kind = 'scnr' if space == 'RGB' else 'prtr'
    return made(space, {'A2B0': head + ramp * inputs + corners + ramp * 3}, kind, 'Lab')
