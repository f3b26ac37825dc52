"""The stages between reading a video and writing it: load, compute, render. Each keeps the order of the frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.batching import Loaded
from inference.compositing import as_levels, covering, fitted
from inference.matte import Matte, Pending
from inference.pipeline import Recent
from inference.plates.agreement import plate_agreement
from inference.plates.steady import SteadyPlate
from inference.predictor import Matting, Plate

from .inputs import FrameError, FrameInputs, VideoInputs
from .pictures import PictureFrame


@dataclass(frozen=True)
class FrameItem(Loaded):
    """A frame on its way through the stages; without inputs if its results are there already."""

    index: int
    pts: int  # in units of the reader's time base
    duration: int  # how long it is shown if it is the last one, in the same unit
    path: Path | None = None  # of a frame that is a picture
    deep: np.ndarray | None = None  # the frame, uint16 RGB (H, W, 3), where that is written
    target: np.ndarray | None = None  # behind the subject, uint8 RGB (H, W, 3); None for plain green


class Loader:
    """The stage that makes of a frame and its plate what the network takes.

    Where the plate is aligned, the stage must run on one thread: the alignment follows the frames in order. `done`
    tells of an index whether the frame's results are there already.
    """

    def __init__(self, inputs: VideoInputs, matting: Matting, done: Callable[[int], bool]):
        self._inputs, self._matting, self._done = inputs, matting, done
        self._plate = None if inputs.plate is None else matting.plate(inputs.plate)
        self._followed = Recent(1, lambda frame: matting.plate(fitted(frame.pixels(), inputs.size)))  # the last is held
        self._align = None
        if inputs.settings.preprocess_alignment and inputs.plate is not None:
            self._align = SteadyPlate(inputs.plate).aligned
        self._fit_every = max(1, round(inputs.reader.rate))  # frames: the comparison takes a third of a frame's time

    def __call__(self, read: FrameInputs) -> FrameItem:
        """Convert to RGB, resize, find the plate, and put both where the device can take them."""
        frame = read.frame
        path = frame.path if isinstance(frame, PictureFrame) else None
        item = FrameItem(frame.index, frame.pts, frame.duration, path)
        done = self._done(frame.index)
        if done and self._align is None:
            return item
        deep = fitted(frame.pixels(deep=True), self._inputs.size) if self._inputs.deep else None
        src = fitted(frame.pixels(), self._inputs.size) if deep is None else as_levels(deep, np.dtype(np.uint8))
        plate, unaligned = self._plate_for(read, src)
        if done:  # aligned all the same, so that the alignment goes on as if there had been no break
            return item
        misfit: tuple[str, ...] = ()
        if frame.index % self._fit_every == 0:
            misfit = tuple(plate_agreement(src, plate.pixels).warnings())
        target = self._inputs.target if read.target is None else covering(read.target.pixels(), self._inputs.size)
        inputs = self._matting.staged(src), plate
        return replace(item, inputs=inputs, deep=deep, target=target, misfit=misfit, unaligned=unaligned)

    def _plate_for(self, read: FrameInputs, src: np.ndarray) -> tuple[Plate, str | None]:
        if read.plate is not None:
            return self._followed.get(read.plate), None
        assert self._plate is not None
        if self._align is None:
            return self._plate, None
        aligned = self._align(src)
        if aligned.bgr is not self._plate.pixels:
            # Where the estimate stands still it gives the same array again, which is on the device already.
            self._plate = Plate(aligned.bgr, self._matting.plate(aligned.bgr).tensor)
        return self._plate, aligned.warning


def render(
    computed: tuple[FrameItem, Pending | None, int], draw: Callable[[FrameItem, Matte], Any]
) -> tuple[FrameItem, Any]:
    """Wait for the device and draw what is written of a frame; None if nothing was computed."""
    item, pending, index = computed
    if pending is None:
        return item, None
    try:
        return item, draw(item, pending.matte(index))
    except ValueError as error:
        raise FrameError(f'frame {item.index}: {error}') from None
