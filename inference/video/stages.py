"""The stages between a video and what is written of it: read, load, compute, render.

Reading and writing keep the order; what lies between works on several frames at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from inference.compositing import covering, fitted
from inference.matte import Matte, Pending
from inference.pipeline import batches
from inference.plates.agreement import plate_fit
from inference.plates.alignment import AlignmentResult
from inference.predictor import Matting, Plate

from .reader import VideoFrame

Started = tuple[list['Shot'], Pending | None]


class FrameError(ValueError):
    """A frame cannot be matted, with its number and why. No frame may be missing, so it ends the run."""


@dataclass(frozen=True)
class Moment:
    """What is read together.

    Attributes:
        frame: of the video.
        plate: of a plate that is itself a video, at the same place; else None.
        target: what the subject is set before, at the same place; else None.
    """

    frame: VideoFrame
    plate: VideoFrame | None = None
    target: VideoFrame | None = None


@dataclass(frozen=True)
class Shot:
    """A frame on its way through the stages.

    Attributes:
        index, pts: its place in the video, and its time in the reader's unit.
        duration: for how long it is shown if it is the last one, in the same unit.
        inputs: the picture, and its plate on the device; None once computed, or if its results are there already.
        target: RGB (H, W, 3) to set the subject before.
        misfit: why the plate seems not to fit, with the measured differences.
        unaligned: why the plate could not be aligned.
    """

    index: int
    pts: int
    duration: int
    inputs: tuple[Tensor, Plate] | None = None
    target: np.ndarray | None = None
    misfit: tuple[str, ...] = ()
    unaligned: str | None = None


class Loader:
    """The stage from what was read to what the network takes.

    Args:
        matting: the network.
        plate: uint8 RGB (H, W, 3), for all frames; None where each moment has its own.
        size: (width, height) that frames, plates and targets are brought to.
        done: whether a frame's results are there already.
        fit_every: the plate is compared with one frame in so many.
        align: gives the plate for a frame, called with each frame's picture in order; None leaves the plate alone.
            The stage must then run on one thread.
        target: uint8 RGB (H, W, 3) of `size`, for all frames; None where each moment has its own, or none.
    """

    def __init__(
        self,
        matting: Matting,
        plate: np.ndarray | None,
        size: tuple[int, int],
        done: Callable[[int], bool],
        fit_every: int,
        align: Callable[[np.ndarray], AlignmentResult] | None = None,
        target: np.ndarray | None = None,
    ):
        self._matting, self._size, self._done, self._fit_every = matting, size, done, fit_every
        self._align, self._target = align, target
        self._plate = None if plate is None else matting.plate(plate)

    def __call__(self, moment: Moment) -> Shot:
        """Decode colours, resize, find the plate, and put both where the device can take them."""
        frame = moment.frame
        shot = Shot(frame.index, frame.pts, frame.duration)
        done = self._done(frame.index)
        if done and self._align is None:
            return shot
        src = fitted(frame.pixels(), self._size)
        plate, unaligned = self._plate_for(moment, src)
        if done:  # the alignment follows every frame, so that it goes on as if there had been no break
            return shot
        misfit: tuple[str, ...] = ()
        if frame.index % self._fit_every == 0:
            misfit = tuple(plate_fit(src, plate.pixels).warnings())
        target = self._target if moment.target is None else covering(moment.target.pixels(), self._size)
        return replace(
            shot, inputs=(self._matting.staged(src), plate), target=target, misfit=misfit, unaligned=unaligned
        )

    def _plate_for(self, moment: Moment, src: np.ndarray) -> tuple[Plate, str | None]:
        if moment.plate is not None:
            return self._matting.plate(fitted(moment.plate.pixels(), self._size)), None
        assert self._plate is not None
        if self._align is None:
            return self._plate, None
        aligned = self._align(src)
        if aligned.bgr is not self._plate.pixels:
            # Where the estimate stands still it gives the same array again, which is on the device already.
            self._plate = Plate(aligned.bgr, self._matting.plate(aligned.bgr).tensor)
        return self._plate, aligned.warning


def compute(
    shots: Iterable[Shot],
    matting: Matting,
    size: int,
    kinds: set[str],
    spread: Callable[..., Iterator[Started]] = map,
) -> Iterator[tuple[Shot, Pending | None, int]]:
    """Start each batch on the device; yields (shot, its batch's result, index), in order.

    Args:
        shots: loaded frames; those without inputs pass through, with None.
        matting: the network.
        size: of a batch at most.
        kinds: of outputs.
        spread: `map`, or a function of the same arguments that works on several batches at once.
    """
    grouped = batches(shots, size, key=lambda shot: shot.inputs is None)
    for batch, pending in spread(partial(_start, matting=matting, kinds=kinds), grouped):
        yield from ((shot, pending, i) for i, shot in enumerate(batch))


def _start(batch: list[Shot], matting: Matting, kinds: set[str]) -> Started:
    inputs = [shot.inputs for shot in batch if shot.inputs]
    if not inputs:
        return batch, None
    pending = matting.submit([src for src, _ in inputs], [plate for _, plate in inputs], 'err' in kinds, 'ref' in kinds)
    return [replace(shot, inputs=None) for shot in batch], pending


def render(computed: tuple[Shot, Pending | None, int], draw: Callable[[Shot, Matte], Any]) -> tuple[Shot, Any]:
    """Wait for the device and make what is written of a frame; None if nothing was computed.

    Raises:
        FrameError: the results are not finite.
    """
    shot, pending, index = computed
    if pending is None:
        return shot, None
    try:
        return shot, draw(shot, pending.matte(index))
    except ValueError as error:
        raise FrameError(f'frame {shot.index}: {error}') from None
