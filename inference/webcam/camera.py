"""Pictures from a camera as they come: a thread reads, so that whoever shows them never waits for the driver.

    with Camera(0, (1280, 720)) as camera:
        while (frame := camera.latest(timeout=0.1)) is not None:
            ...  # frame.picture is the newest one there is

Pictures that nobody took in time are dropped and counted. A video file can take the place of a camera: it plays at its
own rate, or with `every=True` waits for each of its pictures to be taken.
"""

from __future__ import annotations

import glob
import math
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.files import is_text
from dataset.video import open_capture

PATIENCE = 15.0  # seconds without a picture after which a camera counts as lost; OpenCV's own limit on Linux is 10
RETRIES = 5  # a frame damaged by a bad cable does not make a lost camera
CLOSING_SECONDS = 2.0
# Value of AUTO_EXPOSURE when it is off, by driver. Others have no such switch, or do not turn it on again afterwards.
EXPOSURE_OFF = {'V4L2': 1.0, 'MSMF': 0.0}


class CameraLostError(OSError):
    """A camera gives no more pictures."""


class CameraFrame(NamedTuple):
    """A picture of a camera."""

    picture: np.ndarray  # uint8 RGB (H, W, 3); nobody writes to it
    number: int  # since the camera was opened, from 0; dropped ones count


class Camera:
    """A camera, or a video file in its place, read by a thread of its own. Use it in a `with` block.

    Args:
        source: the camera's number, or a device's path, a stream's URL or a video file.
        size: (width, height) to ask a camera for; what it gives instead is in `size`. Files give what they hold.
        every: hand out every picture: the thread reads on when one is taken. For files; a camera would soon be late.

    Attributes:
        live: whether it is a camera or a stream, which has no end, but can be lost.
        size: (width, height) of the pictures.
        rate: frames per second that the source claims; 30 where that makes no sense.
        dropped: number of pictures that nobody took, not counting those before the first one that somebody did.

    Raises:
        ValueError: the source cannot be opened, or gives no picture.
    """

    def __init__(self, source: int | str, size: tuple[int, int], every: bool = False):
        if not is_text(str(source)):
            raise ValueError(f'{source}: its name is no valid UTF-8, which OpenCV needs; rename it')
        self.live = isinstance(source, int) or not Path(source).is_file()
        self.dropped = 0
        self._source, self._every = source, every
        self._changed = threading.Condition()  # guards what follows
        self._newest: CameraFrame | None = None
        self._came = time.monotonic()  # when the newest one did
        self._taken = -1  # number of the frame that was handed out last
        self._started: float | None = None  # when the first one was
        self._closing = self._ended = self._wants_lock = False
        self._held: list[str] | None = None  # the driver's answer to `lock`
        self._failure: Exception | None = None
        driver = _Driver(source, size if self.live else None)
        self.rate = driver.rate
        self._thread = threading.Thread(target=self._capture, args=(driver,), name='camera', daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self._ended, PATIENCE)
        if self._newest is None:
            self.close()
            raise ValueError(f'{source}: opened, but gives no picture')
        height, width = self._newest.picture.shape[:2]
        self.size: tuple[int, int] = (width, height)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> bool:
        """Whether there is a picture that was not handed out yet."""
        return self._newest is not None and self._newest.number > self._taken

    def latest(self, timeout: float) -> CameraFrame | None:
        """Return the newest picture.

        Waits up to `timeout` seconds for one that was not handed out yet; if none comes, the last one is, again.

        Returns:
            The frame; None if a file has ended and its last picture was handed out.

        Raises:
            CameraLostError: a camera has failed, or was silent for PATIENCE seconds; a file changes its size.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.waiting or self._ended, timeout)
            if not self.waiting:
                if self._ended and (self.live or self._failure):
                    reason = self._failure or 'gives no more pictures; was it unplugged?'
                    raise CameraLostError(f'{self._source}: {reason}')
                if self._ended:
                    return None
                if self.live and time.monotonic() - self._came > PATIENCE:
                    raise CameraLostError(f'{self._source}: no picture for {PATIENCE:.0f} seconds; was it unplugged?')
            assert self._newest is not None
            self._started = self._started or time.monotonic()
            self._taken = self._newest.number
            self._changed.notify_all()
            return self._newest

    def lock(self, timeout: float = 1.0) -> list[str]:
        """Hold the exposure and the white balance of this moment until the camera is closed, where the driver can.

        A plate and the pictures after it must be exposed alike, and a camera adapts to whoever steps before it.
        Pictures on their way were still taken with the old settings.

        Returns:
            What is held now: 'exposure', 'white balance', both or nothing; nothing if the driver does not answer.
        """
        if not self.live:
            return []
        with self._changed:
            self._held, self._wants_lock = None, True
            self._changed.wait_for(lambda: self._held is not None or self._ended, timeout)
            self._wants_lock = False  # a late driver must not hold them when nobody expects it any more
            return self._held or []

    def close(self) -> None:
        """End the thread and release the camera; a driver that hangs is left alone after two seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSING_SECONDS)

    def _capture(self, driver: _Driver) -> None:
        """Read until the end, in the thread. No other uses the driver: drivers are not made for two at once."""
        number = 0
        try:
            while not self._closing and (picture := driver.read()) is not None:
                self._hand_over(CameraFrame(picture, number))
                number += 1
                if self._wants_lock:
                    held = driver.lock()
                    with self._changed:
                        self._held, self._wants_lock = held, False
                        self._changed.notify_all()
        except (cv2.error, ValueError) as error:
            self._failure = error
        finally:
            driver.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hand_over(self, frame: CameraFrame) -> None:
        with self._changed:
            if self._every:
                self._changed.wait_for(lambda: self._closing or not self.waiting)
            elif not self.live and frame.number:
                # A file's clock starts when its first picture is taken: networks take seconds to load.
                self._changed.wait_for(lambda: self._closing or self._started is not None)
                due = (self._started or 0) + frame.number / self.rate
                self._changed.wait_for(lambda: self._closing, max(0, due - time.monotonic()))
            if self.waiting and self._started is not None:  # while a network loads, nobody wants pictures
                self.dropped += 1
            self._newest, self._came = frame, time.monotonic()
            self._changed.notify_all()


class _Driver:
    """OpenCV's capture of a source; `size` as to ask a camera for, None for a file."""

    def __init__(self, source: int | str, size: tuple[int, int] | None):
        self._source, self._is_camera = source, size is not None
        logging = cv2.utils.logging
        before = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # it prints a page where there is no such camera
        try:
            self._capture = cv2.VideoCapture(source) if size else open_capture(Path(str(source)))[0]
        finally:
            logging.setLogLevel(before)
        if not self._capture.isOpened():
            raise ValueError(f'{source}: cannot be opened; {_advice() if size else "OpenCV reads no video in it"}')
        if size:
            if sys.platform == 'linux':  # uncompressed, USB 2 carries HD at 10 frames per second
                self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*'MJPG'))
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        claimed = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = claimed if math.isfinite(claimed) and 1 <= claimed <= 240 else 30.0
        self._shape: tuple[int, ...] | None = None
        self._before: list[tuple[int, float]] = []  # properties to set back on release

    def read(self) -> np.ndarray | None:
        """Return the next picture, of the others' size; None where a file ends or a camera fails."""
        for _ in range(RETRIES if self._is_camera else 1):
            there, pixels = self._capture.read()
            if there:
                break
            if self._unplugged():  # some drivers would then give their last picture again
                return None
        else:
            return None
        if self._shape not in (None, pixels.shape):
            raise ValueError(f'pictures of {pixels.shape[1]}x{pixels.shape[0]} follow others of another size')
        self._shape = pixels.shape
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    def _unplugged(self) -> bool:
        device = f'/dev/video{self._source}' if isinstance(self._source, int) else self._source
        return sys.platform == 'linux' and device.startswith('/dev/') and not Path(device).exists()

    def lock(self) -> list[str]:
        """Hold exposure and white balance; see `Camera.lock`."""
        get, put, held = self._capture.get, self._capture.set, []
        exposure_off = EXPOSURE_OFF.get(self._capture.getBackendName())
        if exposure_off is None:
            return []
        for name, switch, setting, off in (
            ('exposure', cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_EXPOSURE, exposure_off),
            ('white balance', cv2.CAP_PROP_AUTO_WB, cv2.CAP_PROP_WB_TEMPERATURE, 0.0),
        ):
            automatic, value = get(switch), get(setting)
            if automatic == off:
                held.append(name)
            elif put(switch, off):
                held.append(name)
                self._before.append((switch, automatic))
                # Some cameras would go back to the last value that was set by hand. A value below 0 cannot be read.
                if value > 0:
                    put(setting, value)
        return held

    def release(self) -> None:
        """Undo the locks, or the next program would find them, and release the camera."""
        for switch, automatic in self._before:
            self._capture.set(switch, automatic)
        self._capture.release()


def _advice() -> str:
    if sys.platform == 'linux':
        devices = ', '.join(sorted(glob.glob('/dev/video*')))
        return f'the cameras here are {devices}; another program may be using it' if devices else 'there is no camera'
    return 'is it the right number, does another program use it, and may this one (see the privacy settings)?'
