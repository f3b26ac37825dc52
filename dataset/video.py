"""The published toolkit's data set of a video's frames, by index; and how interlaced frames are made whole."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from common.console import say_once
from common.files import is_text, kind_of

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

FIELD_ORDERS = {2: 'tff', 3: 'bff', 4: 'tff', 5: 'bff'}  # the earlier field, by FFmpeg's numbers
# Codecs that mark every frame as interlaced or not; of others the container's mark counts, for all frames.
MARKING = {'dnxhd', 'dvvideo', 'ffv1', 'h264', 'hevc', 'mpeg1video', 'mpeg2video', 'mpeg4', 'prores', 'vc1', 'wmv3'}
MADE_WHOLE = "FFmpeg's bwdif makes whole frames of it (inference_video.py --no-deinterlace leaves it)"


def deinterlaced(frames: Iterable[av.VideoFrame], stream: VideoStream, path: Path | str) -> Iterator[av.VideoFrame]:
    """Yield a stream's decoded frames, as many and at their times, with whole ones in place of interlaced ones.

    FFmpeg's bwdif completes the earlier field of each. Progressive frames pass as they are. A line tells the user of a
    file's first interlaced frame.
    """
    order = container_order(stream)
    for _, alike in itertools.groupby(frames, lambda frame: (frame.width, frame.height, frame.format.name)):
        bwdif = None
        for frame in alike:
            if bwdif is None and (frame.interlaced_frame or order):
                bwdif = _Bwdif(frame, order)
                say_once(str(path), f'{path}: is interlaced: {MADE_WHOLE}')
            if bwdif is None:
                yield frame
            else:
                yield from bwdif.made(frame)
        if bwdif is not None:
            yield from bwdif.made(None)


def container_order(stream: VideoStream) -> str | None:
    """Return which field comes first, where the container alone says that all frames are interlaced."""
    if stream.codec_context.codec.canonical_name in MARKING:
        return None
    return FIELD_ORDERS.get(int(stream.codec_context.field_order))


class _Bwdif:
    """FFmpeg's filter for frames of one size and format; `order` is that of frames which do not tell theirs."""

    def __init__(self, first: av.VideoFrame, order: str | None):
        from av.filter import Graph

        which = 'deint=interlaced' if first.interlaced_frame or not order else f'deint=all:parity={order}'
        self._graph, self._times = Graph(), deque[tuple[Any, ...]]()
        source = self._graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=first.time_base
        )
        nodes = source, self._graph.add('bwdif', f'mode=send_frame:{which}'), self._graph.add('buffersink')
        self._graph.link_nodes(*nodes).configure()

    def made(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Yield what is complete after one more frame: the one before it; after None all that is left."""
        if frame is not None:
            self._times.append((frame.time_base, frame.pts, frame.dts, frame.duration))
        self._graph.push(frame)
        with suppress(BlockingIOError, EOFError):
            while True:
                whole = self._graph.vpull()
                whole.time_base, whole.pts, whole.dts, whole.duration = self._times.popleft()
                yield whole


class _InterlacedCapture:
    """An interlaced file, decoded by PyAV, with the methods of a `cv2.VideoCapture` that reading in order needs."""

    def __init__(self, path: Path, deinterlace: bool):
        import av

        headers = cv2.VideoCapture(str(path))
        self.get, self.set, self.isOpened = headers.get, headers.set, headers.isOpened
        self.getBackendName, self._close_headers = headers.getBackendName, headers.release
        self._errors = (StopIteration, av.FFmpegError)
        self._container = av.open(str(path.absolute()), metadata_errors='replace')
        frames = _decoded(self._container)
        self._frames = deinterlaced(frames, self._container.streams.video[0], path) if deinterlace else frames

    def read(self) -> tuple[bool, Any]:
        """Return whether there is one more frame, and it, upright, uint8 BGR (H, W, 3)."""
        with suppress(*self._errors):
            frame = next(self._frames)
            return True, np.ascontiguousarray(np.rot90(frame.to_ndarray(format='bgr24'), round(frame.rotation / 90)))
        return False, None

    def grab(self) -> bool:
        """Go past a frame."""
        return self.read()[0]

    def release(self) -> None:
        """Close the file."""
        self._close_headers()
        self._container.close()


def _decoded(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """Yield the frames of a file's first video stream, going past packets that cannot be decoded."""
    import av

    with suppress(av.FFmpegError):  # a damaged container ends the stream
        for packet in container.demux(video=0):
            with suppress(av.FFmpegError):
                yield from packet.decode()


def open_capture(path: Path, deinterlace: bool = True) -> tuple[cv2.VideoCapture | _InterlacedCapture, bool]:
    """Open a video with OpenCV, or with PyAV behind the same methods where its first frame is interlaced.

    OpenCV garbles interlaced frames, which PyAV alone can tell; where that is not installed, they stay so.

    Returns:
        The capture, and whether the video is interlaced: then it cannot seek.
    """
    with suppress(ImportError):
        import av

        with suppress(IndexError, StopIteration, av.FFmpegError, ValueError):
            with av.open(str(path.absolute()), metadata_errors='replace') as container:
                first = next(_decoded(container))
                interlaced = first.interlaced_frame or container_order(container.streams.video[0])
            if interlaced:
                return _InterlacedCapture(path, deinterlace), True
    return cv2.VideoCapture(str(path)), False


class VideoDataset:
    """The frames of a video file as upright RGB PIL images.

    Reading in order decodes each frame once. Any other index seeks first, which is slow (in raw streams, as slow as
    reading from the start), and can land on a neighbour in files of variable frame rate.

    Headers can be wrong about the number of frames. Where one claims too many, indexing the first frame that cannot be
    decoded raises `IndexError`, so `for frame in dataset` ends at the last good one; `len()` stays as claimed. Where
    one gives no number, the frames are counted once, by decoding them.

    Where PyAV is installed, the frames of an interlaced video are made whole, and are found by reading from the start.

    Use it in a `with` block, or call `close()`.

    Args:
        path: a video file.
        transforms: called with the image; its result is the item.
        deinterlace: False leaves interlaced frames as they are.

    Attributes:
        width, height: size of a frame as it is returned, in pixels.
        frame_rate: frames per second.
        frame_count: number of frames according to the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: by its name it is a picture, or it holds no frame that OpenCV can decode.
    """

    def __init__(
        self, path: str | Path, transforms: Callable[[Any], Any] | None = None, deinterlace: bool = True
    ) -> None:
        self.path, self.transforms = Path(path), transforms
        if not self.path.is_file():
            raise FileNotFoundError(f'{path}: no such file')
        if kind_of(self.path) == 'picture':
            raise ValueError(f'{path}: a picture, not a video; ImagesDataset reads pictures')
        if not is_text(str(path)):
            raise ValueError(f'{path}: its name is no valid UTF-8, which OpenCV needs; rename it')
        self._deinterlace = deinterlace
        probe, interlaced = open_capture(self.path, deinterlace)
        decoded, first = probe.read()
        if not decoded:
            raise ValueError(f'{path}: not a video that OpenCV can decode')
        self.height, self.width = first.shape[:2]  # the header has the size before rotation
        self.frame_rate: float = probe.get(cv2.CAP_PROP_FPS)
        self.frame_count = int(probe.get(cv2.CAP_PROP_FRAME_COUNT))
        self._has_index = self.frame_count > 0 and not interlaced  # in a raw stream, OpenCV only claims to seek
        if self.frame_count <= 0:
            self.frame_count = 1
            while probe.grab():
                self.frame_count += 1
        probe.release()
        self._capture, _ = open_capture(self.path, deinterlace)
        self._next = 0  # index of the frame that the next read() returns

    def __len__(self) -> int:
        return self.frame_count

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index != self._next:
            self._move_to(index)
        decoded, frame = self._capture.read()
        if not decoded:
            self._next = len(self)  # so that every later access seeks
            raise IndexError(f'{self.path}: frame {index} of {len(self)} cannot be decoded')
        self._next = index + 1
        image = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        return self.transforms(image) if self.transforms else image

    def _move_to(self, index: int) -> None:
        if self._has_index:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            return
        if index < self._next:
            self.close()
            self._capture, self._next = open_capture(self.path, self._deinterlace)[0], 0
        for _ in range(index - self._next):
            self._capture.grab()

    def close(self) -> None:
        """Release the file."""
        self._capture.release()

    def __enter__(self) -> VideoDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
