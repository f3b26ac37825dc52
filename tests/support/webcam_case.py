"""inference_webcam.py and its parts with a window, a camera and a virtual camera that are not there."""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import inference_webcam
from inference import Matting, backends
from inference.webcam import display
from inference.webcam.camera import CameraFrame
from support.in_process import loaded_once
from support.inference_case import HEIGHT, WIDTH, photo, room

__all__ = ['loaded_once']
WHITE = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
HINT = 'Step out of the picture, then press B'


class FakeWindow:
    """Notes what is shown; `keys` are pressed one after the other, a function is called first."""

    keys: ClassVar[list[Any]] = []
    last: FakeWindow

    def __init__(self, title: str = '', size: tuple[int, int] = (WIDTH, HEIGHT)):
        FakeWindow.last = self
        self.size, self.shown, self.closed, self.toggled = size, [], False, 0
        self._keys = list(self.keys)

    def show(self, picture: np.ndarray, above: str = '', below: Any = ()) -> None:
        assert picture.dtype == np.uint8
        assert not self.closed
        self.shown.append((picture, above, list(below)))

    def key(self) -> str:
        key = self._keys.pop(0) if self._keys else ''
        return key() if callable(key) else key

    def toggle_full_screen(self) -> None:
        self.toggled += 1

    def close(self) -> None:
        self.closed = True


class FakeCamera:
    """Gives these pictures, one for each look, and ends."""

    live = True

    def __init__(self, pictures: list[np.ndarray], held: list[str] | None = None):
        self._frames = deque(CameraFrame(picture, number) for number, picture in enumerate(pictures))
        self.waiting, self.locks, self._held = False, 0, held or []

    def latest(self, timeout: float) -> CameraFrame | None:
        return self._frames.popleft() if self._frames else None

    def lock(self) -> list[str]:
        self.locks += 1
        return self._held


class FakeVirtualCamera:
    """Stands in for pyvirtualcam.Camera; the real one refuses other shapes, too."""

    made: ClassVar[list[FakeVirtualCamera]] = []

    def __init__(self, width: int, height: int, fps: float):
        if width > 1000:
            raise RuntimeError("'v4l2loopback' backend: no device\nfound")
        self.size, self.rate, self.sent, self.closed, self.device = (width, height), fps, [], False, '/dev/video9'
        self.made.append(self)

    def send(self, picture: np.ndarray) -> None:
        assert picture.shape == (self.size[1], self.size[0], 3)
        self.sent.append(picture)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope='module')
def matting(checkpoints: dict[str, Path]) -> Matting:
    return Matting.from_checkpoint(checkpoints['mattingrefine'], device='cpu', refine_sample_pixels=800)


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """An empty room for ten pictures, and somebody else in each of five more."""
    return [room(0)] * 10 + [photo(room(0), seed) for seed in range(1, 6)]


@pytest.fixture
def run(checkpoints: dict[str, Path], in_tmp: Path, loaded_once: None) -> Callable[..., int]:
    def call(*flags: object) -> int:
        words = ['--model-type', 'mattingrefine', '--model-backbone', 'mobilenetv2', '--device', 'cpu']
        words += ['--model-checkpoint', str(checkpoints['mattingrefine']), '--model-refine-sample-pixels', '800']
        return inference_webcam.main([*words, *map(str, flags)])

    return call


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> type[FakeWindow]:
    """A display; its windows are fake."""
    monkeypatch.setattr(display, 'display_problem', lambda: None)
    monkeypatch.setattr(display, 'Window', FakeWindow)
    monkeypatch.setattr(FakeWindow, 'keys', [])
    return FakeWindow


@pytest.fixture
def pyvirtualcam(monkeypatch: pytest.MonkeyPatch) -> type[FakeVirtualCamera]:
    stand_in = types.ModuleType('pyvirtualcam')
    stand_in.Camera = FakeVirtualCamera  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'pyvirtualcam', stand_in)
    monkeypatch.setattr(FakeVirtualCamera, 'made', [])
    return FakeVirtualCamera


@pytest.fixture
def no_network(loaded_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the network takes seconds: what is refused is refused before."""
    monkeypatch.setattr(backends, 'load_matting', lambda *_: pytest.fail('the network was loaded'))
