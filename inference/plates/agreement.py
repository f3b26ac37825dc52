"""The agreement of a plate with its picture.

The networks compare a picture with its plate pixel by pixel, so a plate of another scene, of another exposure, or from
a camera that was nudged spoils the matte without any error. `plate_agreement` measures the three on a small copy in a
few milliseconds. Pictures are uint8 RGB (H, W, 3), both of the same size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

COPY_SIDE = 320  # longer side of the copies that are compared
TRUNCATE = 40  # grey levels: what differs more is the subject, and counts alike however much it differs
LEAST_NEAR = 0.05  # wrong plates reach 3 %, a subject that fills 70 % of the picture leaves more than 30 %
LEAST_EXPOSURE = 0.12  # as a logarithm: 13 % brighter, 11 % darker; training disturbs plates by as much
LEAST_SHIFT = 0.006  # of the width; 2 pixels of the copy


@dataclass(frozen=True)
class PlateAgreement:
    """The measured agreement of a plate with its picture; where gain or shift explain no more of it, they are none."""

    near: float  # share of the picture, 0..1, in regions that equal the plate within about 5 %
    near_corrected: float  # the same after the plate took on `gain` and `shift`
    gain: tuple[float, float, float]  # picture / plate per channel (R, G, B) over those regions, or (1, 1, 1)
    shift: tuple[float, float]  # (x, y) by which the plate has to move, as shares of width and height, or (0, 0)

    def warnings(self) -> list[str]:
        """Return what is wrong, with the measured difference, one sentence each; nothing where the plate fits."""
        if self.near_corrected < LEAST_NEAR:
            return [
                f'only {self.near_corrected:.1%} of the picture is like the plate ({LEAST_NEAR:.0%} is the least '
                'expected): is it the plate of this camera and scene?'
            ]
        found = []
        logs = np.log(self.gain)
        if max(abs(logs.mean()), np.ptp(logs)) >= LEAST_EXPOSURE:
            red, green, blue = (f'{gain - 1:+.0%}' for gain in self.gain)
            found.append(
                f'the background is exposed otherwise than the plate (red {red}, green {green}, blue {blue}): '
                'lock exposure and white balance for both'
            )
        if max(abs(part) for part in self.shift) >= LEAST_SHIFT:
            found.append(
                f'the background lies {self.shift[0]:+.1%} of the width and {self.shift[1]:+.1%} of the height from '
                'where the plate has it: fix the camera, or try --preprocess-alignment'
            )
        return found


def plate_agreement(src: np.ndarray, bgr: np.ndarray) -> PlateAgreement:
    """Measure how well a plate fits its picture. Both uint8 RGB (H, W, 3); about 10 ms for HD.

    Shifts up to 7 % of the longer side are found.
    """
    check_pair(src, bgr)
    src, bgr = _small(src), _small(bgr)
    near = _near(src, bgr)
    red, green, blue = (_common_ratio(src[::2, ::2, c], bgr[::2, ::2, c]) for c in range(3))
    gain = red, green, blue
    exposed = cv2.merge([cv2.convertScaleAbs(plane, alpha=g) for plane, g in zip(cv2.split(bgr), gain)])
    corrected = _near(src, exposed)
    # A flat garment before a flat wall has one gain too: it must explain far more than equality does. And no camera
    # changes its white balance so much that the channels drift apart by half: then the plate is another scene's.
    if corrected <= 2 * near + 0.05 or max(gain) > 1.5 * min(gain):
        gain, exposed, corrected = (1.0, 1.0, 1.0), bgr, near
    whole, *quarters = _moves(src, exposed)
    corrected = max(corrected, _near(src, _moved(exposed, *whole)))
    # Leaves in the wind move one quarter; a turned camera moves at least two.
    second = sorted(quarters, key=lambda move: math.hypot(*move))[-2:-1]
    dx, dy = max([whole, *second], key=lambda move: math.hypot(*move))
    return PlateAgreement(near, corrected, gain, (dx / src.shape[1], dy / src.shape[0]))


def _small(picture: np.ndarray) -> np.ndarray:
    """Return the copy that is compared; blurred, so that noise and the grain of leaves count less."""
    return cv2.GaussianBlur(resized(picture, min(1.0, COPY_SIDE / max(picture.shape[:2]))), (0, 0), 1.0)


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    if scale >= 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _near(src: np.ndarray, bgr: np.ndarray) -> float:
    """Return the share of pixels within 3 levels + 5 % of the plate; opened, so that stray pixels do not count."""
    allowed = cv2.convertScaleAbs(_brightest(bgr), alpha=0.05, beta=3)
    equal = cv2.compare(_brightest(cv2.absdiff(src, bgr)), allowed, cv2.CMP_LE)
    region = cv2.morphologyEx(equal, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return cv2.countNonZero(region) / region.size


def _brightest(picture: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(picture)
    return cv2.max(cv2.max(red, green), blue)


def _common_ratio(src: np.ndarray, bgr: np.ndarray) -> float:
    """Return the ratio picture / plate that most pixels of a channel share, 0.55..1.83."""
    usable = (bgr > 20) & (bgr < 235) & (src > 20) & (src < 240)  # neither noise nor clipped
    ratios = np.log(src[usable] / bgr[usable].astype(np.float32))
    counts, edges = np.histogram(ratios, bins=121, range=(-0.605, 0.605))
    peak = int(np.convolve(counts, np.ones(5), 'same').argmax())
    around = ratios[np.abs(ratios - (edges[peak] + edges[peak + 1]) / 2) <= 0.05]
    return float(np.exp(np.median(around))) if around.size else 1.0


def _moves(src: np.ndarray, bgr: np.ndarray) -> list[tuple[int, int]]:
    """Find how the plate has to move, in pixels: all of it, and each quarter, which shows a turn or a zoom."""

    def worthwhile(one: np.ndarray, other: np.ndarray, move: tuple[int, int]) -> tuple[int, int]:
        return move if _near(one, _moved(other, *move)) > 1.06 * _near(one, other) + 0.005 else (0, 0)

    src_grey, bgr_grey = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (src, bgr))
    moves = [worthwhile(src, bgr, _common_shift(src_grey, bgr_grey))]
    middle_y, middle_x = src.shape[0] // 2, src.shape[1] // 2
    if min(middle_y, middle_x) < 8:  # such quarters tell nothing
        return moves
    for rows in (slice(0, middle_y), slice(middle_y, None)):
        for columns in (slice(0, middle_x), slice(middle_x, None)):
            found = _best_move(src_grey[rows, columns], bgr_grey[rows, columns], *moves[0], reach=4)
            moves.append(worthwhile(src[rows, columns], bgr[rows, columns], found))
    return moves


def _best_move(src: np.ndarray, bgr: np.ndarray, dx: int, dy: int, reach: int) -> tuple[int, int]:
    """Find the move around (dx, dy), or none at all, after which the plate differs least."""
    around = range(-reach, reach + 1)
    tried = [(0, 0), *((dx + x, dy + y) for x in around for y in around)]
    return min(tried, key=lambda move: _difference_moved(src, bgr, *move))


def _common_shift(src: np.ndarray, bgr: np.ndarray) -> tuple[int, int]:
    """Find the whole-pixel move of the plate that makes most of it equal; coarse to fine, by trying all.

    Phase correlation is no faster and follows the subject's outline where the background is smooth.
    """
    levels = [side for side in (80, 160) if side < max(src.shape[:2])] + [max(src.shape[:2])]
    dx = dy = 0
    for i, side in enumerate(levels):
        scale = side / max(src.shape[:2])
        one, other = resized(src, scale), resized(bgr, scale)
        grow = side / levels[i - 1] if i else 1
        reach = 2 if i else max(1, round(0.075 * side))
        dx, dy = _best_move(one, other, round(dx * grow), round(dy * grow), reach)
    return dx, dy


def _difference_moved(src: np.ndarray, bgr: np.ndarray, dx: int, dy: int) -> float:
    height, width = src.shape[:2]
    if abs(dx) >= width or abs(dy) >= height:
        return float('inf')
    here = src[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    there = bgr[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    return difference(here, there)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean difference of two grey pictures in levels, each pixel's at most TRUNCATE."""
    return cv2.mean(cv2.threshold(cv2.absdiff(one, other), TRUNCATE, 0, cv2.THRESH_TRUNC)[1])[0]


def _moved(picture: np.ndarray, dx: int, dy: int) -> np.ndarray:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def check_pair(src: np.ndarray, bgr: np.ndarray) -> None:
    if src.shape != bgr.shape or src.ndim != 3 or src.shape[2] != 3:
        raise ValueError(f'picture and plate must both be (H, W, 3), but are {src.shape} and {bgr.shape}')
