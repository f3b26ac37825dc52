"""The agreement of a plate with its picture.

The networks compare a picture with its plate pixel by pixel, so a plate of another scene, of another exposure, or from
a camera that was nudged spoils the matte without any error. `plate_agreement` measures the three on a small copy in a
few milliseconds. Pictures are uint8 RGB (H, W, 3), both of the same size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

COPY_SIDE = 320  # longer side of the copies that are compared
TRUNCATE = 40  # grey levels: what differs more is the subject, and counts alike however much it differs
LEAST_NEAR = 0.05  # 98 of 100 wrong plates stay below; right ones reach 18 % at least
LEAST_EXPOSURE = 0.17  # as a logarithm, of mid-grey: 19 % brighter, 16 % darker
LEAST_CAST = 0.1  # the same between channels, 10 %
LEAST_SHIFT = 0.006  # of the width; 2 pixels of the copy
CLEARLY = 0.6  # of the error of the second best reading, or of the unmoved plate, is that of the best one at most
LEAST_ERROR = 1.0  # levels by which the second best reading must be wrong
LEAST_MATCH = 0.5  # correlation of details from which on they are the background's
LEAST_DETAIL = 0.01  # of the picture; less tells nothing of where the plate lies
NOISE = 0.25  # of details, squared levels; fainter ones count less
MID_GREY = 0.5  # where gains are read off: another gamma alone changes dark scenes more, bright ones less
GAMMAS = (1.0, 0.85, 1.15)  # that are tried first


@dataclass(frozen=True)
class PlateAgreement:
    """The measured agreement of a plate with its picture; where gain or shift explain no more of it, they are none."""

    near: float  # share of the picture, 0..1, in regions that equal the plate within about 5 %
    near_corrected: float  # the same after the plate was exposed as the picture is, and moved by `shift`
    gain: tuple[float, float, float]  # picture / plate at mid-grey, per channel (R, G, B), or (1, 1, 1)
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
        if abs(logs.mean()) >= LEAST_EXPOSURE or np.ptp(logs) >= LEAST_CAST:
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
    """Measure how well a plate fits its picture. Both uint8 RGB (H, W, 3); about 15 ms for HD.

    Shifts up to 7 % of the longer side are found.
    """
    check_pair(src, bgr)
    src, bgr = _small(src), _small(bgr)
    near = _near(src, bgr)
    plates = [(bgr, (1.0, 1.0, 1.0)), *_exposed_alike(src, bgr)]
    measured = [(_moves(src, plate), plate, gain) for plate, gain in plates]
    # A plate that lies elsewhere may seem exposed otherwise as well: what explains most of the picture is true.
    (whole, *quarters), exposed, gain = max(measured, key=lambda found: _near(src, _moved(found[1], *found[0][0])))
    corrected = _near(src, _moved(exposed, *whole))
    # Leaves in the wind move one quarter; a turned camera moves at least two.
    second = sorted(quarters, key=lambda move: math.hypot(*move))[-2:-1]
    dx, dy = max([whole, *second], key=lambda move: math.hypot(*move))
    return PlateAgreement(near, corrected, gain, (dx / src.shape[1], dy / src.shape[0]))


def clearly_closest(readings: Sequence[np.ndarray], known: np.ndarray) -> int | None:
    """Return which reading of a picture's colours is a known picture's of the same scene; None if none clearly is.

    All are uint8 RGB (H, W, 3). They are compared where any reading agrees.
    """
    known = _small(known)
    read = [_small(reading) for reading in readings]
    alike = functools.reduce(cv2.bitwise_or, [_equal(reading, known) for reading in read])
    if cv2.countNonZero(alike) < LEAST_NEAR * alike.size:
        return None
    errors = [np.linalg.norm(cv2.mean(cv2.absdiff(reading, known), alike)[:3]) for reading in read]
    best, second = np.argsort(errors)[:2]
    clear = errors[best] < CLEARLY * errors[second] and errors[second] > LEAST_ERROR
    return int(best) if clear else None


def _small(picture: np.ndarray) -> np.ndarray:
    """Return the copy that is compared; blurred, so that noise and the grain of leaves count less."""
    return cv2.GaussianBlur(resized(picture, min(1.0, COPY_SIDE / max(picture.shape[:2]))), (0, 0), 1.0)


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    if scale >= 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _exposed_alike(src: np.ndarray, bgr: np.ndarray) -> list[tuple[np.ndarray, tuple[float, float, float]]]:
    """Return the plate exposed as the picture is, with the gain per channel that this took; nothing if it is."""
    offsets, gamma = _tone_curves(src[::4, ::4].reshape(-1, 3), bgr[::4, ::4].reshape(-1, 3))
    levels = 255 * np.exp(offsets) * np.linspace(0, 1, 256)[:, None] ** gamma
    exposed = cv2.LUT(bgr, np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None])
    red, green, blue = (float(gain) for gain in np.exp(offsets) * MID_GREY ** (gamma - 1))
    before, after = _equal(src, bgr), _equal(src, exposed)
    equal, found, kept = (cv2.countNonZero(region) for region in (before, after, before & after))
    follows = kept > 0.8 * equal and found > 1.05 * equal + 0.01 * before.size
    # A flat garment before a flat wall follows curves, too: such as leave the wall behind must explain far more than
    # equality does. And no camera changes its white balance so much that the channels drift apart by half: then the
    # plate is another scene's.
    explains = follows or found > 2 * equal + 0.05 * before.size
    drifts = max(red, green, blue) > 1.5 * min(red, green, blue)
    return [(exposed, (red, green, blue))] if explains and not drifts else []


def _tone_curves(src: np.ndarray, bgr: np.ndarray) -> tuple[np.ndarray, float]:
    """Find the curves, log picture = offset + gamma * log plate, that most pixels (N, 3) follow; 0 is white.

    With a gain alone a plate of another gamma stays brighter or darker in places, and seems to lie elsewhere wherever
    the background shades off.

    Returns:
        The offsets, one per channel (3,), and the gamma, which they share: few levels in a channel cannot tell it.
    """
    usable = (bgr > 20) & (bgr < 235) & (src > 20) & (src < 240)  # neither noise nor clipped
    x, y = (np.log(np.maximum(levels, 1) / np.float32(255)) for levels in (bgr, src))
    allowed = np.where(usable, 0.04 + 3 / np.maximum(bgr, np.float32(1)), -1)
    gamma = max(GAMMAS, key=lambda gamma: _peaks(y - gamma * x, usable)[0])
    _, offsets = _peaks(y - gamma * x, usable)
    for _ in range(4):
        agree = (np.abs(y - offsets - gamma * x) <= allowed).astype(np.float32)
        count = np.maximum(agree.sum(0), 1)
        spread = agree * (x - (agree * x).sum(0) / count)
        prior = 0.01 * agree.sum()  # keeps the gamma of a flat wall at 1
        gamma = float(np.clip(((spread * y).sum() + prior) / ((spread * x).sum() + prior + 1e-6), 0.75, 1.33))
        found = agree * (y - gamma * x)
        # A channel that is dark or clipped throughout goes with the others.
        offsets = np.where(agree.any(0), found.sum(0) / count, found.sum() / count.sum())
    return offsets, gamma


def _peaks(ratios: np.ndarray, usable: np.ndarray) -> tuple[float, np.ndarray]:
    """Return what most ratios (N, 3) of each channel are, within 0.025, and how many these are in all channels."""
    total, found = 0.0, []
    for channel in range(3):
        counts, edges = np.histogram(ratios[usable[:, channel], channel], bins=161, range=(-0.805, 0.805))
        smooth = np.convolve(counts, np.ones(5), 'same')
        total += smooth.max()
        found.append((edges[smooth.argmax()] + edges[smooth.argmax() + 1]) / 2)
    return total, np.array(found, np.float32)


def _near(src: np.ndarray, bgr: np.ndarray) -> float:
    """Return the share of pixels within 3 levels + 5 % of the plate."""
    equal = _equal(src, bgr)
    return cv2.countNonZero(equal) / equal.size


def _equal(src: np.ndarray, bgr: np.ndarray) -> np.ndarray:
    """Return where the picture is within 3 levels + 5 % of the plate; opened, so that stray pixels do not count."""
    allowed = cv2.convertScaleAbs(_brightest(bgr), alpha=0.05, beta=3)
    equal = cv2.compare(_brightest(cv2.absdiff(src, bgr)), allowed, cv2.CMP_LE)
    return cv2.morphologyEx(equal, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))


def _brightest(picture: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(picture)
    return cv2.max(cv2.max(red, green), blue)


def _moves(src: np.ndarray, bgr: np.ndarray) -> list[tuple[int, int]]:
    """Find how the plate has to move, in pixels: all of it, and each quarter, which shows a turn or a zoom."""

    def clearly_better(one: np.ndarray, other: np.ndarray, move: tuple[int, int]) -> tuple[int, int]:
        unmoved, moved = mismatches(one, other, _moved(other, *move))
        return move if moved < CLEARLY * unmoved else (0, 0)

    src_grey, bgr_grey = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (src, bgr))
    moves = [clearly_better(src_grey, bgr_grey, _common_shift(src_grey, bgr_grey))]
    middle_y, middle_x = src.shape[0] // 2, src.shape[1] // 2
    if min(middle_y, middle_x) < 8:  # such quarters tell nothing
        return moves
    for rows in (slice(0, middle_y), slice(middle_y, None)):
        for columns in (slice(0, middle_x), slice(middle_x, None)):
            quarters = src_grey[rows, columns], bgr_grey[rows, columns]
            moves.append(clearly_better(*quarters, _best_move(*quarters, *moves[0], reach=4)))
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


def mismatches(src: np.ndarray, *plates: np.ndarray) -> list[float]:
    """Return for each plate how badly the details of the background match: 1 - their mean correlation, 0..2.

    The background is where any of the plates matches. Where it has no details, neither light that changed nor the
    subject's shape can pass for a move: then all are 1. All are uint8 grey (H, W).
    """
    detail = _details(src)
    energy = _around(detail * detail)
    correlations = []
    for plate in map(_details, plates):
        scale = cv2.sqrt(energy * _around(plate * plate))
        correlations.append(_around(detail * plate) / np.maximum(scale, NOISE))
    background = np.maximum.reduce(correlations) > LEAST_MATCH
    if background.mean() < LEAST_DETAIL:
        return [1.0] * len(plates)
    return [1 - float(correlation[background].mean()) for correlation in correlations]


def _details(grey: np.ndarray) -> np.ndarray:
    levels = grey.astype(np.float32)
    return cv2.GaussianBlur(levels, (0, 0), 1) - cv2.GaussianBlur(levels, (0, 0), 4)


def _around(values: np.ndarray) -> np.ndarray:
    return cv2.blur(values, (15, 15))


def _moved(picture: np.ndarray, dx: int, dy: int) -> np.ndarray:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def check_pair(src: np.ndarray, bgr: np.ndarray) -> None:
    if src.shape != bgr.shape or src.ndim != 3 or src.shape[2] != 3:
        raise ValueError(f'picture and plate must both be (H, W, 3), but are {src.shape} and {bgr.shape}')
