"""Stands in for cv2.VideoCapture, and films to read with the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

import cv2
import numpy as np
import pytest


class Capture:
    """A camera whose pictures come when the test says so; a read waits for the next.

    Attributes:
        reads: how often a picture was asked for.
        done: what was set, with the name of the thread that did; and 'release'.
        repeat: give this picture every 5 ms instead.
    """

    def __init__(self, backend: str = 'V4L2', refused: Iterable[int] = ()) -> None:
        self.pictures: SimpleQueue[np.ndarray | Exception | None] = SimpleQueue()
        self.properties: dict[int, float] = {cv2.CAP_PROP_FPS: 30.0}
        self.reads = 0
        self.done: list[tuple[object, ...]] = []
        self.repeat: np.ndarray | None = None
        self.opens = True
        self._backend, self._refused = backend, set(refused)

    def give(self, *pictures: np.ndarray | Exception | None) -> None:
        """RGB pictures; None is a read that fails, an exception is raised by it."""
        for picture in pictures:
            self.pictures.put(picture)

    def until(self, reads: int) -> None:
        """Waits until the thread asks for this picture, counted from 1: all before it are handed over."""
        wait_for(lambda: self.reads >= reads)

    def isOpened(self) -> bool:
        return self.opens

    def getBackendName(self) -> str:
        return self._backend

    def get(self, name: int) -> float:
        return self.properties.get(name, -1.0)

    def set(self, name: int, value: float) -> bool:
        if name in self._refused:
            return False
        self.done.append((name, value, threading.current_thread().name))
        self.properties[name] = value
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.reads += 1
        if self.repeat is not None:
            time.sleep(0.005)
            return True, self.repeat[..., ::-1]
        picture = self.pictures.get()
        if isinstance(picture, Exception):
            raise picture
        return picture is not None, None if picture is None else np.ascontiguousarray(picture[..., ::-1])

    def release(self) -> None:
        self.done.append(('release',))


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Capture:
    """What OpenCV opens, whatever the source."""
    stand_in = Capture()
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: stand_in)
    return stand_in


def flat(level: int, width: int = 32, height: int = 24) -> np.ndarray:
    """A picture of one colour with three different channels, uint8 RGB."""
    return np.full((height, width, 3), (level, level // 2, 255 - level), np.uint8)


def film(path: Path, pictures: Iterable[np.ndarray], rate: float = 25.0) -> Path:
    """Writes uint8 RGB pictures as a film of JPEGs."""
    writer = None
    for picture in pictures:
        size = picture.shape[1::-1]
        writer = writer or cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), rate, size)
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    assert writer is not None
    writer.release()
    return path


def frames(path: Path) -> list[np.ndarray]:
    """What OpenCV reads of a film, RGB."""
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(np.ascontiguousarray(read[1][..., ::-1]))
    return found
