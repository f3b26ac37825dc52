"""Live matting: a camera's pictures before a plain colour or another background, as alpha, or as they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from inference.plates.agreement import plate_agreement

from .camera import CameraFrame

if TYPE_CHECKING:
    from inference.matte import Matte, Pending
    from inference.predictor import Matting, Plate

FIT_EVERY = 30  # pictures, about a second: comparing them with the plate takes a third of a picture's time


class Shown(NamedTuple):
    """What is shown of a camera's picture."""

    picture: np.ndarray  # uint8 RGB (H, W, 3)
    matted: bool  # False where there was no plate yet, and the picture is the camera's


class Live:
    """Matting of one frame after the other. On a GPU the next one is computed while the last one is shown.

        live.put(frame)
        for shown in live.done(more=camera.waiting):
            window.show(shown.picture)

    Args:
        matting: the predictor.
        backdrop: behind the subject, uint8 RGB (H, W, 3) of the frames' size.
        view: 'com', the subject before the backdrop; 'pha', alpha as grey; 'src', the camera's picture.
    """

    def __init__(self, matting: Matting, backdrop: np.ndarray, view: str = 'com'):
        self.view, self.backdrop = view, backdrop
        self.plate: Plate | None = None  # without one, the camera's picture is shown in all views
        self.misfit: list[str] = []  # how the plate differs from the picture, in sentences
        self._matting = matting
        self._begun: deque[tuple[np.ndarray, Pending | None]] = deque()
        # A CPU computes within `put`: a result that waited for the next one would only be shown late.
        self._ahead = 1 if matting.device.type == 'cuda' else 0
        self._until_fit = 0

    def take_plate(self, picture: np.ndarray) -> None:
        """Use a picture of the empty scene, uint8 RGB (H, W, 3), for the frames that follow."""
        self.plate, self.misfit, self._until_fit = self._matting.plate(picture), [], 1

    def put(self, frame: CameraFrame) -> None:
        """Start on a frame, of the plate's size; on a CPU, compute it."""
        picture, pending = frame.picture, None
        if self.plate is not None:
            if self.view != 'src':
                pending = self._matting.submit([self._matting.staged(picture)], [self.plate])
            self._until_fit -= 1
            if self._until_fit <= 0:
                self.misfit = plate_agreement(picture, self.plate.pixels).warnings()
                self._until_fit = FIT_EVERY
        self._begun.append((picture, pending))

    def done(self, more: bool) -> Iterator[Shown]:
        """Yield what can be shown, in order; raise a NotFiniteError for NaN.

        With `more`, the next frame is there already, and a GPU may keep one to work on. Else all are waited for.
        """
        while len(self._begun) > (self._ahead if more else 0):
            picture, pending = self._begun.popleft()
            matte = pending.matte(0) if pending else None
            yield Shown(self._drawn(picture, matte), matte is not None)

    def _drawn(self, picture: np.ndarray, matte: Matte | None) -> np.ndarray:
        if matte is None or self.view == 'src':
            return picture
        if self.view == 'pha':
            return cv2.cvtColor(matte.pha, cv2.COLOR_GRAY2RGB)
        return matte.composite(self.backdrop)

    def outgoing(self, shown: Shown) -> np.ndarray:
        """Return what others may see: the backdrop alone as long as the room cannot be cut out, unless asked for."""
        return shown.picture if shown.matted or self.view == 'src' else self.backdrop
