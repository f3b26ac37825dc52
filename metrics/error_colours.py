"""The signed error of a matte in two colours, for pictures that people look at."""

from __future__ import annotations

import numpy as np

TOO_MUCH = (255, 140, 26)
TOO_LITTLE = (46, 140, 255)
"""Orange and blue differ for every common colour blindness, and as greys they differ in lightness."""

SUBJECT = 56
"""Grey level of the subject behind the error, so that one sees where an error lies."""


def error_colours(too_much: np.ndarray, too_little: np.ndarray, true_pha: np.ndarray) -> np.ndarray:
    """Draw where a matte has too much alpha and where too little, over the subject in dark grey.

    The colour's strength is the square root of the error: an error of 0.04 has a fifth of the full colour and can be
    seen. All are uint8 (H, W); the result is uint8 RGB (H, W, 3).
    """
    more, less = (np.sqrt(error[..., None] / np.float32(255)) for error in (too_much, too_little))
    subject = true_pha[..., None] * np.float32(SUBJECT / 255) * (1 - np.maximum(more, less))
    colours = subject + more * np.array(TOO_MUCH, np.float32) + less * np.array(TOO_LITTLE, np.float32)
    return np.minimum(colours + 0.5, 255).astype(np.uint8)
