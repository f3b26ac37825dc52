"""The published toolkit's data set of a video's frames, by index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from PIL import Image

from common.files import is_text


class VideoDataset:
    """The frames of a video file as upright RGB PIL images.

    Reading in order decodes each frame once. Any other index seeks first, which is slow (in raw streams, as slow as
    reading from the start), and can land on a neighbour in files of variable frame rate.

    Headers can be wrong about the number of frames. Where one claims too many, indexing the first frame that cannot be
    decoded raises `IndexError`, so `for frame in dataset` ends at the last good one; `len()` stays as claimed. Where
    one gives no number, the frames are counted once, by decoding them.

    Use it in a `with` block, or call `close()`.

    Args:
        path: a video file.
        transforms: called with the image; its result is the item.

    Attributes:
        width, height: size of a frame as it is returned, in pixels.
        frame_rate: frames per second.
        frame_count: number of frames according to the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no frame that OpenCV can decode.
    """

    def __init__(self, path: str | Path, transforms: Callable[[Any], Any] | None = None) -> None:
        self.path, self.transforms = Path(path), transforms
        if not self.path.is_file():
            raise FileNotFoundError(f'{path}: no such file')
        if not is_text(str(path)):
            raise ValueError(f'{path}: its name is no valid UTF-8, which OpenCV needs; rename it')
        probe = cv2.VideoCapture(str(path))
        decoded, first = probe.read()
        if not decoded:
            raise ValueError(f'{path}: not a video that OpenCV can decode')
        self.height, self.width = first.shape[:2]  # the header has the size before rotation
        self.frame_rate: float = probe.get(cv2.CAP_PROP_FPS)
        self.frame_count = int(probe.get(cv2.CAP_PROP_FRAME_COUNT))
        self._has_index = self.frame_count > 0  # in a raw stream, OpenCV claims to seek but does not
        if not self._has_index:
            self.frame_count = 1
            while probe.grab():
                self.frame_count += 1
        probe.release()
        self._capture = cv2.VideoCapture(str(path))
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
            self._capture, self._next = cv2.VideoCapture(str(self.path)), 0
        for _ in range(index - self._next):
            self._capture.grab()

    def close(self) -> None:
        """Release the file."""
        self._capture.release()

    def __enter__(self) -> VideoDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
