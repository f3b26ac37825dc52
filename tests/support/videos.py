"""Small videos for tests, encoded with PyAV alone, and how to look at what is in one."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import cv2
import numpy as np

from inference.video.colour import UNSPECIFIED
from inference.video.reader import VideoReader

WIDTH, HEIGHT = 96, 64
MILLISECOND = Fraction(1, 1000)
SIZE = (64, 48)  # of `picture` and `noise`
RATE = Fraction(25)
TICK = 1 / RATE
INTERLACED = '+ilme+ildct'  # FFmpeg's flags of an encoder


def moving(count: int, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """A bright square that goes to the right before a soft texture; uint8 RGB. Frame i's square begins at 2 i + 4."""
    blotches = np.random.default_rng(0).integers(60, 160, (height // 16 + 1, width // 16 + 1, 3)).astype(np.uint8)
    back = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
    frames = []
    for i in range(count):
        frame = back.copy()
        frame[20:44, (left := (2 * i + 4) % (width - 24)) : left + 24] = (235, 220, 40)
        frames.append(frame)
    return frames


def picture(index: int, size: tuple[int, int] = SIZE, channels: int = 3) -> np.ndarray:
    """Smooth, so that codecs keep it well, and another one for each index."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [128 + 90 * np.sin((x * (1 + c % 2) + y * (2 - c % 2)) / 24 + c + index / 5) for c in range(channels)]
    return np.stack(waves, -1).astype(np.uint8)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    time_base: Fraction = MILLISECOND,
    codec: str = 'libx264',
    pixel_format: str = 'yuv420p',
    rotation: int = 0,
    colour: tuple[int, bool] | None = None,
    rate: int = 25,
    crf: int | None = 10,
    audio: Sequence[np.ndarray] = (),
    said: bool = True,
    field_order: int = 0,
    **options: str,
) -> Path:
    """Encode pictures.

    Args:
        path: its suffix says the container.
        pictures: uint8 RGB (H, W, 3) of one size.
        times: of each, in units of `time_base`; evenly by `rate` if left out.
        time_base: in seconds.
        codec, pixel_format: FFmpeg's names.
        rotation: degrees by which a player must turn the frames, as phones write them.
        colour: (matrix, full range) to convert with and to write down; FFmpeg's defaults, unsaid, if left out.
        rate: frames per second.
        crf: of libx264; None for other codecs.
        said: whether the file says the matrix of `colour`.
        field_order: of interlaced pictures, by FFmpeg's number; the encoder marks them if its flags are `INTERLACED`.
        audio: blocks of 16-bit samples (1, N) of one channel at 8 kHz, written as AAC.
        options: of the encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ({'crf': str(crf)} if codec == 'libx264' and crf is not None else {}) | options
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base, stream.codec_context.field_order = time_base, field_order
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream('aac', rate=8000, layout='mono') if len(audio) else None
        if colour is not None:
            stream.codec_context.colorspace = colour[0] if said else UNSPECIFIED
            stream.codec_context.color_range = 1 + colour[1]
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24')
            if colour is not None:
                frame = frame.reformat(
                    format=pixel_format, dst_colorspace=colour[0], src_color_range=2, dst_color_range=1 + colour[1]
                )
                frame.colorspace, frame.color_range = colour[0] if said else UNSPECIFIED, 1 + colour[1]
            frame.pts = times[i] if times is not None else round(i / rate / time_base)
            frame.time_base = time_base
            if field_order:
                frame = marked(frame, 'tff' if field_order % 2 == 0 else 'bff')
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        position = 0
        for block in audio:
            samples = av.AudioFrame.from_ndarray(block, format='s16', layout='mono')
            samples.sample_rate, samples.pts = 8000, position
            position += block.shape[1]
            container.mux(sound.encode(samples))
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def marked(frame: av.VideoFrame, fields: str) -> av.VideoFrame:
    """A frame that says in which order its fields are shown, which PyAV cannot set."""
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
        graph.add('setfield', fields),
        graph.add('buffersink'),
    ).configure()
    graph.push(frame)
    return graph.vpull()


def interlaced(count: int, top_first: bool = True) -> list[np.ndarray]:
    """Grey frames of two fields. The earlier one of frame i is of `moving`'s picture 4 i, the later one of the next."""
    pictures = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2) for picture in moving(4 * count)]
    frames = [earlier.copy() for earlier in pictures[::4]]
    for frame, later in zip(frames, pictures[1::4]):
        frame[top_first::2] = later[top_first::2]
    return frames


def edges(pixels: np.ndarray) -> set[int]:
    """Where the square of `interlaced` begins, in each of its rows."""
    return {int(np.flatnonzero(row > 182)[0]) for row in pixels[26:38, :, 1]}


def decoded(path: Path) -> list[av.VideoFrame]:
    """All frames; those of WebM by the decoder that knows alpha."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if path.suffix != '.webm':
            return list(container.decode(stream))
        decoder = av.CodecContext.create('libvpx-vp9', 'r')
        return [frame for packet in container.demux(stream) if packet.size for frame in decoder.decode(packet)]


def pictures_of(path: Path) -> list[np.ndarray]:
    """What the toolkit reads of a video, uint8 RGB."""
    with VideoReader(path) as reader:
        return [frame.pixels() for frame in reader]


def times_of(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds, as FFmpeg reads it."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def square(frame: np.ndarray) -> int:
    """Where the square of `moving` begins, of a frame that was encoded and decoded."""
    yellow = (frame[..., 0] > 190) & (frame[..., 2] < 110)
    return int(np.flatnonzero(yellow[24:40].mean(0) > 0.5)[0])


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files may have so many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
