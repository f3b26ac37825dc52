"""Backdrops brought to size, and the subject set before them."""

from __future__ import annotations

import cv2
import numpy as np

Size = tuple[int, int]  # width, height


def fitted(picture: np.ndarray, size: Size) -> np.ndarray:
    """Resize a picture uint8 (H, W, C) to `size`, whatever its proportions; return itself if it has that size."""
    if picture.shape[1::-1] == size:
        return picture
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def covering(picture: np.ndarray, size: Size) -> np.ndarray:
    """Cut out the largest middle part of a picture that has the proportions of `size`, resized to it."""
    height, width = picture.shape[:2]
    share = min(width / size[0], height / size[1])
    part_width, part_height = (max(1, round(side * share)) for side in size)
    left, top = (width - part_width) // 2, (height - part_height) // 2
    return fitted(picture[top : top + part_height, left : left + part_width], size)


def as_levels(picture: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert a picture between 0..255 of uint8 and 0..65535 of uint16; return itself if it has that type."""
    if picture.dtype == dtype:
        return picture
    if dtype == np.uint16:
        return picture.astype(np.uint16) * 257
    return ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)


def with_detail(fgr: np.ndarray, src: np.ndarray) -> np.ndarray:
    """Return a foreground, uint8, as uint16: what the network added to the picture, on the picture as it was, uint16.

    Where it added nothing, the picture is kept exactly.
    """
    added = fgr.astype(np.int32) - as_levels(src, np.dtype(np.uint8))
    return np.clip(added * 257 + src, 0, 65535).astype(np.uint16)


def composite(pha: np.ndarray, fgr: np.ndarray, backdrop: np.ndarray) -> np.ndarray:
    """Set the subject before a backdrop, uint8 RGB (H, W, 3); off by one level at most where alpha is a mixture.

    Where `fgr` is uint16, so is the result; alpha and backdrop are uint8 all the same.

    Takes 8 ms for 1920x1080 on two cores, a seventh of what NumPy takes in float32; rounding only once takes 19 ms.
    """
    share, backdrop = (as_levels(x, fgr.dtype) for x in (cv2.cvtColor(pha, cv2.COLOR_GRAY2RGB), backdrop))
    scale = 1 / np.iinfo(fgr.dtype).max
    front = cv2.multiply(fgr, share, scale=scale)
    rest = cv2.bitwise_not(share, share)
    return cv2.add(front, cv2.multiply(backdrop, rest, rest, scale=scale), front)


def cut_out(pha: np.ndarray, fgr: np.ndarray) -> np.ndarray:
    """Return the subject as RGBA (H, W, 4) for codecs that blur: its colour goes on a little beyond its outline.

    It is of the type of `fgr`, uint8 or uint16. With black outside, chroma of half resolution and blocks of 16 pixels
    would darken the edge.
    """
    near = cv2.dilate(pha, np.ones((17, 17), np.uint8))
    rgba = np.dstack([fgr, as_levels(pha, fgr.dtype)])
    rgba[near == 0] = 0
    return rgba
