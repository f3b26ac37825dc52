"""Live matting shown in a window that obeys keys, or written into files."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.console import progress
from common.files import write_atomic
from inference.pipeline import Pipeline

from .camera import Camera, CameraFrame
from .display import Window
from .live import Live, Shown

KEYS = 'B plate, 1 composite, 2 alpha, 3 camera, V next view, S still, F full screen, Q quit'
VIEWS = {'1': 'com', '2': 'pha', '3': 'src'}
WAIT = 0.05  # seconds that keys wait for a picture at most
SETTLE = 5  # pictures that a camera may have begun before its exposure was held
NOTICE_SECONDS = 3.0


class FrameRate:
    """Mean rate of a second, or of the last two times if they are farther apart."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def tick(self, now: float) -> float:
        """Count a time, in seconds; return the rate per second, 0 at first."""
        self._times.append(now)
        while len(self._times) > 2 and self._times[0] < now - 1:
            self._times.popleft()
        return (len(self._times) - 1) / max(now - self._times[0], 1e-9)


class Viewer:
    """Loop that shows a camera's pictures and obeys keys until told to quit.

    `virtual` is a virtual camera, which gets them without words and unmirrored; `folder` is for stills.
    """

    def __init__(
        self,
        camera: Camera,
        live: Live,
        window: Window,
        virtual: Any = None,
        folder: Path = Path(),
        mirror: bool = False,
        show_rate: bool = True,
    ):
        self._camera, self._live, self._window, self._virtual = camera, live, window, virtual
        self._folder, self._mirror, self._show_rate = folder, mirror, show_rate
        self._shown = 0
        self._rate = FrameRate()
        self._plate_due: int | None = None  # number of the frame to take for the plate
        self._last: np.ndarray | None = None
        self._notice, self._notice_ends = '', 0.0

    def run(self) -> int:
        """Go on until the user quits or a file ends; return how many pictures were shown.

        Raises:
            CameraLostError: the camera is gone.
            NotFiniteError: the network gives NaN.
        """
        number = -1
        while (frame := self._camera.latest(WAIT)) is not None:
            if self._plate_due is not None and frame.number >= self._plate_due:
                self._live.take_plate(frame.picture)
                self._plate_due = None
            if frame.number > number:
                self._live.put(frame)
                number = frame.number
            for shown in self._live.done(more=self._camera.waiting):
                self._show(shown)
            key = self._window.key()
            if key in ('q', 'esc'):
                break
            self._obey(key, frame)
        return self._shown

    def _show(self, shown: Shown) -> None:
        now = time.monotonic()
        rate = self._rate.tick(now)
        if self._virtual:
            self._virtual.send(self._live.outgoing(shown))
        picture = cv2.flip(shown.picture, 1) if self._mirror else shown.picture
        self._window.show(picture, f'{rate:.1f} fps' if self._show_rate else '', self._words(now))
        self._last = shown.picture
        self._shown += 1

    def _words(self, now: float) -> list[str]:
        lines = [self._notice] if now < self._notice_ends else []
        if self._live.plate is None:
            return [*lines, 'Step out of the picture, then press B', KEYS]
        # The figures alone: the advice after them is for files.
        misfit = [warning.partition(':')[0] for warning in self._live.misfit]
        return [*lines, *misfit, *(['Step out of the picture and press B to take the plate anew'] if misfit else [])]

    def _obey(self, key: str, frame: CameraFrame) -> None:
        if key == 'b':
            held = self._camera.lock()
            if self._camera.live:
                self._say(f'held: {" and ".join(held)}' if held else 'this camera does not hold its exposure')
            self._plate_due = frame.number + SETTLE if held else None
            if not held:
                self._live.take_plate(frame.picture)
        elif key == 'v':
            self._live.view = {'com': 'pha', 'pha': 'src', 'src': 'com'}[self._live.view]
        elif key in VIEWS:
            self._live.view = VIEWS[key]
        elif key == 's' and self._last is not None:
            self._save(self._last)
        elif key == 'f':
            self._window.toggle_full_screen()

    def _save(self, picture: np.ndarray) -> None:
        paths = (self._folder / f'still_{number:04}.png' for number in itertools.count())
        path = next(path for path in paths if not path.exists())
        try:
            save_picture(path, picture)
            self._say(f'saved {path}')
        except OSError as error:  # a full disk does not end the call
            self._say(f'not saved: {error}')

    def _say(self, text: str) -> None:
        print(text, flush=True)
        self._notice, self._notice_ends = text, time.monotonic() + NOTICE_SECONDS


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB (H, W, 3) as PNG."""
    write_atomic(path, cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].data)


def write_pictures(camera: Camera, live: Live, count: int, folder: Path, virtual: Any = None) -> int:
    """Write what is to be seen of the first `count` pictures as <folder>/<view>_0000.png and so on; return how many.

    If there is no plate, the first picture is the plate. A virtual camera gets the pictures, too.

    Raises:
        OSError: a file cannot be written, or the camera is lost.
        NotFiniteError: the network gives NaN.
    """

    def write(numbered: tuple[int, Shown]) -> None:
        number, shown = numbered
        if virtual:
            virtual.send(live.outgoing(shown))
        save_picture(folder / f'{live.view}_{number:04}.png', shown.picture)

    with Pipeline() as pipeline:
        shown = pipeline.ahead(write, enumerate(_first(camera, live, count)), threads=1)
        return sum(1 for _ in progress(shown, count, ' pictures'))


def _first(camera: Camera, live: Live, count: int) -> Iterator[Shown]:
    taken, number = 0, -1
    while taken < count and (frame := camera.latest(timeout=1.0)) is not None:
        if frame.number == number:  # nothing new
            continue
        taken, number = taken + 1, frame.number
        if live.plate is None:
            live.take_plate(frame.picture)
        live.put(frame)
        yield from live.done(more=True)
    yield from live.done(more=False)
