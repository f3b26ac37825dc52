"""Pictures of a report: small copies, the signed error in two colours, and both as data URIs."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from metrics.error_colours import error_colours

SIDE = 640
"""Longest side of a picture in the page, pixels. Four of them stand in a row, so more shows only when enlarged."""

LOSSLESS_BYTES = 48 * 1024
"""A matte that takes more is stored with a loss. A page of three models then stays below about 5 MB."""


def small(picture: np.ndarray) -> np.ndarray:
    """Return a copy, uint8, whose longest side is at most `SIDE`, averaged over areas; a smaller picture as it is."""
    height, width = picture.shape[:2]
    if max(height, width) <= SIDE:
        return picture
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def error_picture(pred_pha: np.ndarray, true_pha: np.ndarray) -> np.ndarray:
    """Draw, small, where a matte has too much alpha and where too little.

    The two are averaged separately, since a thin line of one beside a thin line of the other would cancel out.
    Mattes are uint8 (H, W); the result is uint8 RGB, of the size that `small` gives.
    """
    too_much = small(cv2.subtract(pred_pha, true_pha))  # saturates at 0
    too_little = small(cv2.subtract(true_pha, pred_pha))
    return error_colours(too_much, too_little, small(true_pha))


def error_scale() -> np.ndarray:
    """Draw the legend of `error_picture`: errors from -1 to 1, without a subject; uint8 RGB (1, 511, 3)."""
    error = np.arange(-255, 256, dtype=np.int16)[None]
    return error_colours(
        np.maximum(error, 0).astype(np.uint8), np.maximum(-error, 0).astype(np.uint8), np.zeros_like(error, np.uint8)
    )


def photo_uri(picture: np.ndarray) -> str:
    """Encode a photograph, uint8 RGB (H, W, 3), as a data URI: lossy WebP of its small copy."""
    return _uri(_webp(small(picture), quality=82))


def matte_uri(picture: np.ndarray) -> str:
    """Encode a small matte or error, uint8, as a data URI: WebP, lossless unless that takes much, as noise does."""
    data = _webp(picture, quality=101)  # above 100 is OpenCV's word for lossless
    return _uri(data if len(data) <= LOSSLESS_BYTES else _webp(picture, quality=90))


def _webp(picture: np.ndarray, quality: int) -> bytes:
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    fine, data = cv2.imencode('.webp', picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not fine:
        raise OSError(f'OpenCV cannot encode a picture of {picture.shape[1]}x{picture.shape[0]} as WebP')
    return data.tobytes()


def _uri(webp: bytes) -> str:
    return 'data:image/webp;base64,' + base64.b64encode(webp).decode('ascii')
