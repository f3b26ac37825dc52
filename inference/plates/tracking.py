"""The place of one plate in the frames of a video, measured from where it lay before.

Points of the plate are tracked into each frame by optical flow (Lucas and Kanade 1981, on pyramids). With 30 % of a
frame covered by a moving subject that is three times as exact as comparing features, also before blurred backgrounds,
where features fail in half of the frames, and takes about half the time. Features are the second way, where tracking
fails.
"""

from __future__ import annotations

import cv2
import numpy as np

from .agreement import difference
from .alignment import features, grey_copy, homography_between, trusted_homography, warped

SIDE = 640  # longer side of the copies; for features, 1280 is no more exact but costs three times as much
MOST_FEATURES = 800  # twice as many match four times as slowly, and no better
MOST_POINTS = 500
APART = 8  # pixels between points
WINDOW = 21  # pixels, both of a tracked patch and, times 1.5, of the neighbourhood that sets a pixel's contrast
THERE_AND_BACK = 0.5  # pixels between a point and where it is tracked back to; the subject's are farther off


class PlateTracker:
    """A plate, uint8 RGB (H, W, 3), prepared for being found in many frames of its size, all as grey copies."""

    def __init__(self, bgr: np.ndarray) -> None:
        self._grey, self.scale = grey_copy(bgr, SIDE)  # copy / plate
        self.size = self._grey.shape[0], self._grey.shape[1]  # (height, width) of the copies
        self._features = features(self._grey, MOST_FEATURES)
        self._even = _evened(self._grey)
        points = cv2.goodFeaturesToTrack(self._even, MOST_POINTS, qualityLevel=0.005, minDistance=APART)
        self._points = np.zeros((0, 1, 2), np.float32) if points is None else points

    def copy(self, src: np.ndarray) -> np.ndarray:
        """Return a frame, uint8 RGB (H, W, 3), as the other methods take it."""
        return grey_copy(src, SIDE)[0]

    def find(self, frame: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray | None, int, str]:
        """Find the homography from the plate to a frame, near a guess: (matrix (3, 3) or None, inliers, why None)."""
        found, inliers, reason = trusted_homography(*self._tracked(_evened(frame), guess), self.size)
        if found is None:
            return homography_between(self._features, features(frame, MOST_FEATURES))
        return found, inliers, reason

    def misfit(self, frame: np.ndarray, matrix: np.ndarray) -> float:
        """Return by how many grey levels, in the mean, a frame differs from the plate moved by a homography."""
        return difference(frame, warped(self._grey, matrix))

    def _tracked(self, frame: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Track the plate's points into an evened frame: points (N, 2) of the plate, and where the frame has them."""
        points = self._points
        if not len(points):
            return points[:, 0], points[:, 0]
        start = cv2.perspectiveTransform(points, guess)
        there, found, _ = _flow(self._even, frame, points, start)
        back, found_back, _ = _flow(frame, self._even, there, there - (start - points))
        returned = np.linalg.norm(back - points, axis=2) < THERE_AND_BACK
        kept = (returned & (found > 0) & (found_back > 0))[:, 0]
        return points[kept, 0], there[kept, 0]


def _flow(one: np.ndarray, other: np.ndarray, points: np.ndarray, start: np.ndarray) -> tuple:
    flags = cv2.OPTFLOW_USE_INITIAL_FLOW
    return cv2.calcOpticalFlowPyrLK(one, other, points, start.copy(), winSize=(WINDOW, WINDOW), flags=flags)


def _evened(grey: np.ndarray) -> np.ndarray:
    """Give a grey picture the same mean and contrast everywhere: tracking takes another exposure for movement."""
    levels = grey.astype(np.float32)
    around = (3 * WINDOW // 2, 3 * WINDOW // 2)
    mean = cv2.blur(levels, around)
    variance = np.maximum(cv2.blur(levels * levels, around) - mean * mean, 0)
    return cv2.convertScaleAbs((levels - mean) / np.sqrt(variance + 4) * 40 + 128)
