"""Drawn files to measure with: a training sample, photographs with their plate, weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

if TYPE_CHECKING:
    from torch import Tensor

SEED = 0


def training_files(folder: Path) -> tuple[Path, Path, Path]:
    """Write a 1920x1080 foreground, its alpha and a 2400x1600 background as JPEG of OpenCV's quality, 95."""
    matte, back = _matte(3, 1920, 1080), _background(3, 2400, 1600)
    files = folder / 'fgr.jpg', folder / 'pha.jpg', folder / 'bgr.jpg'
    for file, picture in zip(files, (matte[..., :3], matte[..., 3], back)):
        _save(file, picture)
    return files


def photographs(folder: Path, count: int, width: int, height: int) -> tuple[list[Path], Path]:
    """Write subjects in front of one dim background, and the background alone, as JPEG of quality 95.

    Each has its own grain, like a sensor's: smooth drawings would be decoded and encoded faster than photographs.
    """
    rng = np.random.default_rng(SEED)
    back = _background(3, width, height) // 3
    files = []
    for i in range(count):
        matte = _matte(i, width, height)
        alpha = matte[..., 3].astype(np.float32) / 255
        picture = cv2.blendLinear(np.ascontiguousarray(matte[..., :3]), back, alpha, 1 - alpha)
        files.append(_save(folder / f'{i:04}.jpg', _grainy(picture, rng)))
    return files, _save(folder / 'plate.jpg', _grainy(back, rng))


def cut_out(width: int, height: int) -> np.ndarray:
    """Draw a subject as it is saved: RGBA (H, W, 4), with grain, 0 where alpha is 0."""
    matte = _matte(3, width, height)
    matte[..., :3] = _grainy(matte[..., :3], np.random.default_rng(SEED))
    return cv2.bitwise_and(matte, matte, mask=matte[..., 3])


def random_weights(backbone: str) -> dict[str, Tensor]:
    """Return the state_dict of a `MattingRefine` whose weights are random, but make as much work as trained ones.

    The predicted error is above 0 everywhere, since cells without error are skipped. Alpha is above 0 where the picture
    is brighter than its plate: cut-outs that are empty, or noise, would be encoded faster or slower.
    """
    import torch

    from model import MattingRefine

    torch.manual_seed(SEED)
    state = MattingRefine(backbone).state_dict()
    weight, bias = state['decoder.conv4.weight'], state['decoder.conv4.bias']
    weight[:5] *= 0.1
    bias[4] = 0.5
    weight[0], bias[0] = 0, -0.2
    weight[0, -6:-3, 1, 1], weight[0, -3:, 1, 1] = 4, -4  # the last input channels are src and bgr
    return state


def _matte(index: int, width: int, height: int) -> np.ndarray:
    drawn = SyntheticMattes(index + 1, SEED).read(index)
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_CUBIC)


def _background(index: int, width: int, height: int) -> np.ndarray:
    drawn = SyntheticBackgrounds(index + 1, SEED).read(index)
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_CUBIC)


def _grainy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    return cv2.add(picture, grain * np.float32(1.5), dtype=cv2.CV_8U)


def _save(file: Path, picture: np.ndarray) -> Path:
    if not cv2.imwrite(str(file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture):
        raise OSError(f'{file}: cannot be written')
    return file
