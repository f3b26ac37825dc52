"""A plate that follows the camera through a video, without trembling.

Aligned to each frame by itself, a plate trembles by what the frame's noise and the moving subject do to the estimate,
0.05 to 0.7 pixels at the corners, and alpha flickers with it. `SteadyPlate` measures every frame and lets
`CornerFilter` tell noise from movement.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .agreement import check_pair
from .alignment import AlignmentResult, in_full, warped
from .tracking import PlateTracker

LEAST_MOVE = 0.5  # pixels of the picture: less is not worth the sharpness that resampling costs
LEAST_STEP = 0.05  # pixels of the picture: less is not worth a new plate

MEMORY = 8  # frames over which deviations are averaged
EAGERNESS = 3  # power of the consistency; 2 trembles three times as much, 4 lags a quarter more
FIRST_NOISE = 0.3  # pixels of the copy
LEAST_JUMP = 1.0  # pixels of the copy
JUMP = 4  # times the noise
AGREEING = 3  # frames until a jump is believed: two could be one passer-by


class CornerFilter:
    """An estimate of where the corners of a plate lie, from one noisy measurement per frame.

    Exponential smoothing whose gain follows the deviations (measured - estimated), as Trigg and Leach proposed in
    1967: over the last `MEMORY` frames, consistency = |mean deviation| / root mean square deviation. Noise cancels in
    the mean, about 0.25 are left; movement does not, and brings it near 1. The gain is consistency ** EAGERNESS, so
    noise hardly moves the estimate (gain near 0.015), a drift is followed at a distance of about the noise or of one
    frame's movement, whichever is more, and both without knowing how large the noise is.

    A measurement that lies `JUMP` times the noise away is set aside. `AGREEING` of these in a row that lie on a line
    over time are a camera that was knocked, or turns fast: the estimate moves there at once, and starts to learn anew.
    Only the first measurement of all is believed by itself.
    """

    def __init__(self) -> None:
        self.corners = np.zeros((4, 2))  # displacements from where the plate has them
        self.noise = FIRST_NOISE  # root mean square of a corner's deviations
        self._mean = np.zeros((4, 2))
        self._frames = MEMORY  # that mean and noise rest on; all, at first: the plate is expected to fit
        self._aside: list[np.ndarray] = []
        self._agreeing = 1

    def is_far(self, measured: np.ndarray) -> bool:
        """Return whether a measurement lies too far from the estimate to be noise."""
        return _size(measured - self.corners) > self._reach()

    def follow(self, measured: np.ndarray) -> None:
        """Take in the next frame's displacements, (4, 2)."""
        if self.is_far(measured):
            self._set_aside(measured)
        else:
            self._aside = []
            deviation = measured - self.corners
            self._learn(deviation, _size(deviation))
            consistency = min(1.0, _size(self._mean) / self.noise) if self.noise else 0.0
            self.corners = self.corners + consistency**EAGERNESS * deviation
        self._agreeing = AGREEING

    def _set_aside(self, measured: np.ndarray) -> None:
        self._aside = [*self._aside, measured][-self._agreeing :]
        bends = [last - 2 * middle + first for first, middle, last in zip(*(self._aside[i:] for i in range(3)))]
        if len(self._aside) == self._agreeing and all(_size(bend) <= self._reach() for bend in bends):
            self.corners, self._mean = measured, np.zeros((4, 2))
            self._frames, self._aside = 0, []
        else:
            # Under more noise than estimated all would be set aside for ever, so each widens the reach a little.
            self._learn(np.zeros((4, 2)), 2 * self.noise)

    def _learn(self, deviation: np.ndarray, size: float) -> None:
        self._frames = min(self._frames + 1, MEMORY)
        share = 1 / self._frames
        self._mean = self._mean + share * (deviation - self._mean)
        self.noise = float(np.sqrt(self.noise**2 + share * (size**2 - self.noise**2)))

    def _reach(self) -> float:
        return max(LEAST_JUMP, JUMP * self.noise)


class SteadyPlate:
    """One plate, uint8 RGB (H, W, 3), aligned to the frames of a video in their order.

    Where the camera stands as the plate has it, the plate is given back as it is: it is first warped when its corners
    move by more than `LEAST_MOVE` and by more than the noise, and no more once they come back to half of that. Frames
    that cannot be measured keep the last alignment. What moves like a camera is followed like one: leaves that fill
    the picture and sway in the wind take the plate along, by a pixel or two.

    A frame costs 25 to 45 ms of one core, about twice that where tracking fails, and where the alignment moved a warp:
    35 ms for HD.

    Holds state from frame to frame: one object per video, and not from several threads at once.
    """

    def __init__(self, bgr: np.ndarray) -> None:
        self._bgr = bgr
        self._tracker = PlateTracker(bgr)
        height, width = self._tracker.size
        self._corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        self._filter = CornerFilter()
        self._result = AlignmentResult(bgr, None, 0, None)
        self._result_corners = np.zeros((4, 2))

    def aligned(self, src: np.ndarray) -> AlignmentResult:
        """Return the plate for the next frame, uint8 RGB (H, W, 3) of the plate's size.

        The result's `bgr` is the very array of the frame before where it moved by less than `LEAST_STEP`, so that
        what was made of it can be kept. Its `warning` says why this frame kept the last alignment, None if all is well.
        """
        check_pair(src, self._bgr)
        measured, inliers, reason = self._measured(self._tracker.copy(src))
        if measured is not None:
            self._filter.follow(measured)
        self._settle()
        warning = f'the plate stays as in the frame before: {reason}' if measured is None else None
        return replace(self._result, inliers=inliers, warning=warning)

    def _measured(self, frame: np.ndarray) -> tuple[np.ndarray | None, int, str]:
        """Measure the corners' displacements in a frame's copy: ((4, 2) or None, inliers, why None)."""
        guess = self._homography()
        found, inliers, reason = self._tracker.find(frame, guess)
        if found is None:
            return None, inliers, reason
        measured = cv2.perspectiveTransform(self._corners[None], found)[0] - self._corners
        # Compared only far from the estimate: near it, noise alone decides which of the two differs less.
        if self._filter.is_far(measured) and self._tracker.misfit(frame, found) >= self._tracker.misfit(frame, guess):
            return None, inliers, 'aligned otherwise, it would differ no less from the picture'
        return measured, inliers, ''

    def _homography(self) -> np.ndarray:
        """Return the filter's estimate of the corners as a homography between copies."""
        return cv2.getPerspectiveTransform(self._corners, (self._corners + self._filter.corners).astype(np.float32))

    def _settle(self) -> None:
        """Bring the result to where the filter is, if that is far enough from where the result is."""
        corners = self._filter.corners / self._tracker.scale
        least = max(LEAST_MOVE, self._filter.noise / self._tracker.scale)
        resting = self._result.homography is None
        if _largest(corners) <= (least if resting else least / 2):
            self._result, self._result_corners = AlignmentResult(self._bgr, None, 0, None), np.zeros((4, 2))
        elif resting or _largest(corners - self._result_corners) > LEAST_STEP:
            homography = in_full(self._homography(), self._tracker.scale)
            self._result = AlignmentResult(warped(self._bgr, homography), homography, 0, None)
            self._result_corners = corners


def _size(displacements: np.ndarray) -> float:
    """Return the root mean square length of the corners' displacements."""
    return float(np.sqrt((displacements**2).sum(1).mean()))


def _largest(displacements: np.ndarray) -> float:
    return float(np.linalg.norm(displacements, axis=1).max())
