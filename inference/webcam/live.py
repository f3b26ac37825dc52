"""From a camera's pictures to what is shown of them: matted before a plain colour or another background."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from inference.compositing import composite
from inference.plates.agreement import plate_fit

from .camera import Shot

if TYPE_CHECKING:
    from inference.matte import Matte, Pending
    from inference.predictor import Matting, Plate

FIT_EVERY = 30  # pictures: once in a second or so, since it takes the time of a third of a picture


class Shown(NamedTuple):
    """What is shown of a shot.

    Attributes:
        picture: uint8 RGB (H, W, 3).
        shot: that it was made of.
        matted: False where there was no plate yet, and the picture is the camera's.
    """

    picture: np.ndarray
    shot: Shot
    matted: bool


class Live:
    """Mattes one shot after the other. On a GPU the next one can be computed while the last one is shown.

        live.put(shot)
        for shown in live.done(more=camera.waiting):
            window.show(shown.picture)

    Args:
        matting: the network.
        backdrop: to be seen behind the subject, uint8 RGB (H, W, 3) of the shots' size.
        view: 'com', the subject before the backdrop; 'pha', alpha as grey; 'src', the camera's picture.

    Attributes:
        plate: that is used, or None: then the camera's picture is shown in all views.
        misfit: how the plate differs from the picture, in sentences; empty where it fits.
    """

    def __init__(self, matting: Matting, backdrop: np.ndarray, view: str = 'com'):
        self.view, self.backdrop = view, backdrop
        self.plate: Plate | None = None
        self.misfit: list[str] = []
        self._matting = matting
        self._held: deque[tuple[Shot, Pending | None]] = deque()
        # A CPU computes within `put`: a result that waited for the next one would only be shown late.
        self._ahead = 1 if matting.device.type == 'cuda' else 0
        self._until_fit = 0

    def take_plate(self, picture: np.ndarray) -> None:
        """Uses a picture of the empty scene, uint8 RGB (H, W, 3), for the shots that follow."""
        self.plate, self.misfit, self._until_fit = self._matting.plate(picture), [], 1

    def put(self, shot: Shot) -> None:
        """Starts on a shot; on a CPU, computes it.

        Raises:
            ValueError: its size is not the plate's.
        """
        if self.plate is None:
            self._held.append((shot, None))
            return
        pending = None
        if self.view != 'src':
            pending = self._matting.submit([self._matting.staged(shot.picture)], [self.plate])
        self._held.append((shot, pending))
        self._until_fit -= 1
        if self._until_fit <= 0:
            self.misfit = plate_fit(shot.picture, self.plate.pixels).warnings()
            self._until_fit = FIT_EVERY

    def done(self, more: bool) -> Iterator[Shown]:
        """What can be shown, in order.

        Args:
            more: the next shot is there already, so that a GPU may keep one to work on. Else all shots are waited for.

        Raises:
            NotFiniteError: a result holds NaN.
        """
        while len(self._held) > (self._ahead if more else 0):
            shot, pending = self._held.popleft()
            matte = pending.matte(0) if pending else None
            yield Shown(self._picture(shot, matte), shot, matte is not None)

    def _picture(self, shot: Shot, matte: Matte | None) -> np.ndarray:
        if matte is None or self.view == 'src':
            return shot.picture
        if self.view == 'pha':
            return cv2.cvtColor(matte.pha, cv2.COLOR_GRAY2RGB)
        return composite(matte, self.backdrop)

    def outgoing(self, shown: Shown) -> np.ndarray:
        """What others may see of it: the backdrop alone as long as the room could not be cut out, unless asked for."""
        return shown.picture if shown.matted or self.view == 'src' else self.backdrop


class FrameRate:
    """How often something happens, per second: the mean over the last second, or over the last two times."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def tick(self, now: float) -> None:
        """It happens at `now`, in seconds."""
        self._times.append(now)
        while len(self._times) > 2 and self._times[0] < now - 1:
            self._times.popleft()

    @property
    def value(self) -> float:
        """Per second; 0 as long as it happened less than twice."""
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)
