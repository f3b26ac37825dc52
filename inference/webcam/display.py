"""Places where pictures are shown: a window with keys, and a virtual camera for other programs, such as video calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np

from common.installation import OPENCV_SWAP

TRIAL = 'import cv2; cv2.namedWindow("trial"); cv2.destroyAllWindows()'
FONT = cv2.FONT_HERSHEY_SIMPLEX
MARGIN = 0.5  # around words, in heights of a line
INSTALL = 'pip install pyvirtualcam'
DRIVERS = {
    'linux': 'it needs the kernel module v4l2loopback (sudo modprobe v4l2loopback devices=1)',
    'darwin': 'it needs OBS, whose virtual camera was started once',
    'win32': 'it needs OBS',
}
DRIVER = DRIVERS.get(sys.platform, 'see its documentation')


def display_problem() -> str | None:
    """Return why no window can be opened, and what to do; None if one can. Takes half a second.

    Another process tries, since the toolkit that OpenCV uses on Linux ends its process where there is no display.
    """
    names = ('DISPLAY', 'WAYLAND_DISPLAY')
    if sys.platform == 'linux' and not any(map(os.environ.get, names)):
        return 'there is no display to show pictures on: neither DISPLAY nor WAYLAND_DISPLAY is set'
    trial = subprocess.run([sys.executable, '-c', TRIAL], capture_output=True, text=True)
    if trial.returncode == 0:
        return None
    if 'not implemented' in trial.stderr or 'has no attribute' in trial.stderr:
        return f'this OpenCV has no windows: {OPENCV_SWAP.format("opencv-python")}'
    reason = next((line.strip() for line in trial.stderr.splitlines() if line.strip()), f'exit code {trial.returncode}')
    return f'no window can be opened on display {next(filter(None, map(os.environ.get, names)), "")}: {reason}'


class Window:
    """Window of a size, (width, height), that the user may change, one per title. Only the main thread may use it."""

    def __init__(self, title: str, size: tuple[int, int]):
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(title, *size)

    def show(self, picture: np.ndarray, above: str = '', below: Sequence[str] = ()) -> None:
        """Show a picture, uint8 RGB (H, W, 3), with words in its upper left corner and lines along its lower edge."""
        cv2.imshow(self._title, cv2.cvtColor(with_words(picture, above, below), cv2.COLOR_RGB2BGR))

    def key(self) -> str:
        """Return the key that was pressed, a small letter or 'esc', or ''. Closing the window counts as 'q'.

        The desktop's events are handled here: without a call now and then the window freezes.
        """
        code = cv2.waitKey(1)
        try:
            closed = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:  # Qt raises where it was the last window
            closed = True
        return 'q' if closed else {-1: '', 27: 'esc'}.get(code, chr(code & 0xFF).lower())

    def toggle_full_screen(self) -> None:
        """Cover the screen, or no longer."""
        full = cv2.getWindowProperty(self._title, cv2.WND_PROP_FULLSCREEN) == cv2.WINDOW_FULLSCREEN
        mode = cv2.WINDOW_NORMAL if full else cv2.WINDOW_FULLSCREEN
        cv2.setWindowProperty(self._title, cv2.WND_PROP_FULLSCREEN, mode)

    def close(self) -> None:
        """Close it, unless the user has."""
        with suppress(cv2.error):
            cv2.destroyWindow(self._title)


def with_words(picture: np.ndarray, above: str, below: Sequence[str]) -> np.ndarray:
    """Copy a picture, uint8 RGB (H, W, 3), with words on darkened bars, broken where they are too long."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    scale = max(0.4, height / 900)
    line = round(22 * scale * (1 + MARGIN))
    if above:
        _write(picture[:line, : _width(above, scale) + line], above, scale)
    broken = [part for text in below for part in _broken(text, scale, width - line)]
    for place, part in enumerate(broken, max(1, height // line) - len(broken)):
        # Whole lines from the lower edge up; in a picture that is too small for all, the first are left out.
        if place >= 0:
            end = height - line * (max(1, height // line) - 1 - place)
            _write(picture[max(0, end - line) : end], part, scale)
    return picture


def _write(bar: np.ndarray, text: str, scale: float) -> None:
    """Darken a part of a picture and write on it."""
    np.floor_divide(bar, 3, out=bar)
    place = round(len(bar) * 0.35), round(len(bar) * 0.72)
    cv2.putText(bar, text, place, FONT, scale, (255, 255, 255), max(1, round(1.6 * scale)), cv2.LINE_AA)


def _width(text: str, scale: float) -> int:
    return cv2.getTextSize(text, FONT, scale, max(1, round(1.6 * scale)))[0][0]


def _broken(text: str, scale: float, width: int) -> list[str]:
    """Break a text into lines that are narrow enough, or one word long."""
    lines: list[str] = []
    for word in text.split():
        if lines and _width(f'{lines[-1]} {word}', scale) <= width:
            lines[-1] += f' {word}'
        else:
            lines.append(word)
    return lines


def virtual_camera_problem() -> str | None:
    """Return why there can be no virtual camera, and what to do; None if pyvirtualcam is installed. Opens none."""
    try:
        import pyvirtualcam  # noqa: F401
    except ImportError as error:
        return f'--virtual-camera: {error}: {INSTALL}; {DRIVER}'
    return None


def open_virtual_camera(size: tuple[int, int], rate: float) -> Any:
    """Open a camera that other programs find, for pictures of a size, (width, height).

    Returns:
        An object whose `send(picture)` takes uint8 RGB (H, W, 3); `device` is its name, and `close()` ends it.

    Raises:
        ValueError: there is none, or it refuses this size.
    """
    import pyvirtualcam

    try:
        return pyvirtualcam.Camera(*size, rate)
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f'--virtual-camera: {" ".join(str(error).split())}; {DRIVER}') from error
