"""Trimaps from true alphas: where a picture is surely background, surely subject, and where the two meet.

Errors of alpha are counted in the unknown region alone; elsewhere any method is right, which would hide differences.
"""

from __future__ import annotations

import cv2
import numpy as np

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255

_LOW, _HIGH = 0.06, 0.96
_UNKNOWN_FROM, _UNKNOWN_TO = 64, 191
_STEPS = 10
_CROSS = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))  # the four neighbours; ten times: a diamond


def trimap(pha: np.ndarray) -> np.ndarray:
    """Make the paper's trimap of a true alpha (appendix D.2).

    Unknown is where 0.06 <= alpha <= 0.96, grown by ten dilations and shrunk again by ten erosions with a circle of
    3x3 pixels, the centre and its four neighbours. So the soft edge is not widened, but gaps of up to 20 pixels in it
    are closed, hair by hair. Of 8 bits the levels 16..244 count: none is on a threshold, so whether these are
    inclusive matters for floats alone. Pixels outside the picture neither grow nor shrink the region, as in
    OpenCV: an edge within 10 pixels of the picture's border, and along it, is joined with the border.

    A subject that is hard-edged everywhere has no unknown region.

    Args:
        pha: uint8 (H, W), 255 = subject, or float (H, W), 0..1.

    Returns:
        uint8 (H, W): 0 background, 128 unknown, 255 foreground, which is alpha above 0.96 outside the unknown region.

    Raises:
        ValueError: another shape or type.
    """
    if pha.ndim != 2 or not (pha.dtype == np.uint8 or np.issubdtype(pha.dtype, np.floating)):
        raise ValueError(f'pha must be (H, W) of uint8 or float; it is {pha.shape} of {pha.dtype}')
    low, high = (_LOW * 255, _HIGH * 255) if pha.dtype == np.uint8 else (_LOW, _HIGH)
    soft = ((pha >= low) & (pha <= high)).astype(np.uint8)
    region = cv2.erode(cv2.dilate(soft, _CROSS, iterations=_STEPS), _CROSS, iterations=_STEPS)
    return np.where(region > 0, UNKNOWN, np.where(pha > high, FOREGROUND, BACKGROUND)).astype(np.uint8)


def unknown(picture: np.ndarray) -> np.ndarray:
    """Return the unknown region of a trimap, bool (H, W): levels that are nearer to 128 than to 0 and 255.

    Most tools write 128, some 127, and lossy files hold levels near each of the three along edges.
    """
    return (picture >= _UNKNOWN_FROM) & (picture <= _UNKNOWN_TO)
