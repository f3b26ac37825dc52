"""Small videos to write, and what is in those that were written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (64, 48)
RATE = Fraction(25)
TICK = 1 / RATE


def picture(index: int, size: tuple[int, int] = SIZE, channels: int = 3) -> np.ndarray:
    """Smooth, so that codecs keep it well, and another one for each index."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [128 + 90 * np.sin((x * (1 + c % 2) + y * (2 - c % 2)) / 24 + c + index / 5) for c in range(channels)]
    return np.stack(waves, -1).astype(np.uint8)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def decoded(path: Path) -> list[av.VideoFrame]:
    """All frames; those of WebM by the decoder that knows alpha."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if path.suffix != '.webm':
            return list(container.decode(stream))
        decoder = av.CodecContext.create('libvpx-vp9', 'r')
        return [frame for packet in container.demux(stream) if packet.size for frame in decoder.decode(packet)]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files may have so many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
