"""The alignment of a plate with a picture, for a camera that moved a little after the plate was taken.

`align_plate` warps a plate onto its picture by a homography between features of the background. Its parts serve
videos too, where one plate is compared with many frames. Pictures are uint8 RGB (H, W, 3), a picture and its plate of
the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .agreement import CLEARLY, check_pair, mismatches, resized

ALIGN_SIDE = 1280  # longer side of the copies that features are found on
MOST_FEATURES = 4000
LEAST_MATCHES = 12
LEAST_INLIER_SHARE = 0.25
LARGEST_MOVE = 0.1  # of the longer side, for matches and for corners


@dataclass(frozen=True)
class AlignmentResult:
    """The result of `align_plate`."""

    bgr: np.ndarray  # the plate to use, uint8 RGB (H, W, 3): warped, or the given one
    homography: np.ndarray | None  # (3, 3) from the plate's pixels to the picture's; None where it stayed as it was
    inliers: int  # matching points that agree with it
    warning: str | None  # why the plate stayed as it was although it may need aligning; None if all is well


def align_plate(src: np.ndarray, bgr: np.ndarray) -> AlignmentResult:
    """Warp a plate onto its picture, if a trustworthy homography between the two exists.

    Both uint8 RGB (H, W, 3). Moves below half a pixel are left alone: resampling would cost more sharpness than
    they do. Where the warped plate has no pixels, its border is repeated.
    """
    check_pair(src, bgr)
    (src_grey, scale), (bgr_grey, _) = grey_copy(src), grey_copy(bgr)
    found, inliers, reason = homography_between(features(bgr_grey), features(src_grey))
    if found is None:
        return AlignmentResult(bgr, None, inliers, f'the plate is used unaligned: {reason}')
    homography = in_full(found, scale)
    height, width = src.shape[:2]
    if largest_move(homography, width, height) < 0.5:
        return AlignmentResult(bgr, None, inliers, None)
    before, after = mismatches(src_grey, bgr_grey, warped(bgr_grey, found))
    if after >= CLEARLY * before:
        reason = (
            f'aligned, it would fit hardly better (details of the background differ by {after:.0%}, now {before:.0%})'
        )
        return AlignmentResult(bgr, None, inliers, f'the plate is used unaligned: {reason}')
    return AlignmentResult(warped(bgr, homography), homography, inliers, None)


def grey_copy(picture: np.ndarray, side: int = ALIGN_SIDE) -> tuple[np.ndarray, float]:
    """Make a grey copy, uint8 (h, w), whose longer side is `side` at most; return it and its scale, copy / picture."""
    scale = min(1.0, side / max(picture.shape[:2]))
    return cv2.cvtColor(resized(picture, scale), cv2.COLOR_RGB2GRAY), scale


def in_full(matrix: np.ndarray, scale: float) -> np.ndarray:
    """Turn a homography between copies into one between the pictures that they were made of."""
    to_copy = np.diag([scale, scale, 1])  # the offset of pixel centres cancels, where a matrix is near the identity
    homography = np.linalg.inv(to_copy) @ matrix @ to_copy
    return homography / homography[2, 2]


@dataclass(frozen=True)
class Features:
    """The features of a grey picture."""

    points: np.ndarray  # (N, 2) float32, in pixels
    descriptors: np.ndarray  # (N, 128) float32
    size: tuple[int, int]  # (height, width) of the picture


def features(grey: np.ndarray, most: int = MOST_FEATURES) -> Features:
    """Find the `most` strongest features of a grey picture, uint8 (h, w), or fewer."""
    keys, descriptors = cv2.SIFT.create(nfeatures=most).detectAndCompute(grey, None)
    if not keys:  # then OpenCV gives None
        descriptors = np.zeros((0, 128), np.float32)
    points = np.array([key.pt for key in keys], np.float32).reshape(-1, 2)
    return Features(points, descriptors, (grey.shape[0], grey.shape[1]))


def homography_between(plate: Features, picture: Features) -> tuple[np.ndarray | None, int, str]:
    """Find the homography from plate to picture, of one size: (matrix (3, 3) or None, inliers, why None)."""
    return trusted_homography(*_matches(plate, picture), picture.size)


def trusted_homography(
    from_points: np.ndarray, to_points: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray | None, int, str]:
    """Find the homography that enough of the points (N, 2) agree on: (matrix (3, 3) or None, inliers, why None).

    `size` is (height, width) of both pictures.
    """
    height, width = size
    if len(from_points) < LEAST_MATCHES:
        return None, 0, f'only {len(from_points)} points match, {LEAST_MATCHES} are needed (a flat wall has none)'
    matrix, mask = cv2.findHomography(from_points, to_points, cv2.RANSAC, 2.0, maxIters=5000, confidence=0.999)
    if matrix is None:
        return None, 0, f'no homography agrees with the {len(from_points)} points that match'
    agreeing, aims = from_points[mask.ravel() > 0], to_points[mask.ravel() > 0]
    inliers = len(agreeing)
    if inliers < LEAST_MATCHES or inliers < LEAST_INLIER_SHARE * len(from_points):
        return None, inliers, f'only {inliers} of {len(from_points)} points that match agree on a homography'
    extent = np.ptp(agreeing, axis=0) / (width, height)
    cells = {(int(4 * x / width), int(4 * y / height)) for x, y in agreeing}
    if len(cells) < 4 or extent.min() < 0.3:
        return None, inliers, f'the {inliers} points that agree cover too little of the picture'
    # Two estimates from half of the points each tell how far the corners can be trusted, where no points lie.
    halves = [cv2.findHomography(agreeing[i::2], aims[i::2])[0] for i in (0, 1)]
    if any(half is None for half in halves) or largest_move(halves[0], width, height, halves[1]) > 0.01 * width:
        return None, inliers, f'the {inliers} points that agree leave the corners uncertain'
    if not _is_gentle(matrix, width, height):
        return None, inliers, f'the homography moves a corner by more than {LARGEST_MOVE:.0%}, or folds the plate'
    return matrix, inliers, ''


def _matches(one: Features, other: Features) -> tuple[np.ndarray, np.ndarray]:
    """Match points (N, 2) of `one` with those of `other`, no farther apart than a nudged camera explains."""
    if min(len(one.points), len(other.points)) < 2:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    pairs = cv2.BFMatcher().knnMatch(one.descriptors, other.descriptors, k=2)
    distinct = [first for first, second in pairs if first.distance < 0.75 * second.distance]
    points = one.points[[match.queryIdx for match in distinct]]
    targets = other.points[[match.trainIdx for match in distinct]]
    near = np.linalg.norm(targets - points, axis=1) <= LARGEST_MOVE * max(one.size)
    return points[near], targets[near]


def _is_gentle(matrix: np.ndarray, width: int, height: int) -> bool:
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    # The determinant of a homography's derivative is det / w**3: the same sign everywhere if no w changes sign.
    upright = np.linalg.det(matrix) > 0 and bool((corners @ matrix[2] > 0).all())
    return upright and largest_move(matrix, width, height) <= LARGEST_MOVE * max(width, height)


def largest_move(matrix: np.ndarray, width: int, height: int, other: np.ndarray | None = None) -> float:
    """Return how many pixels the corner moves that moves most, from its place or from where `other` puts it."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)[None]
    places = corners if other is None else cv2.perspectiveTransform(corners, other)
    return float(np.linalg.norm(cv2.perspectiveTransform(corners, matrix) - places, axis=2).max())


def warped(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    size = picture.shape[1::-1]
    return cv2.warpPerspective(picture, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
