"""Errors of alpha and foreground with the field's definitions, and the factors by which papers print them.

Rhemann et al. (CVPR 2009) define SAD, MSE, Grad and Conn; the evaluation code of Deep Image Matting (Xu et al., CVPR
2017) settles their details, and Background Matting V2 is scored with it: over the unknown region of a trimap, with the
prediction left as it is. Packages that first set it to the truth outside of that region get other values of Grad and
Conn.

Every function returns the raw value of its definition for each picture, in float64 (float32 on mps, which has no
float64); undefined values are NaN. Multiply by a row of SCALINGS to compare with a published table. All functions but
`conn` run on the device of their arguments and never wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# What a raw value is multiplied by. The papers do not print every metric: Background Matting V2 has no MAD and no
# dtSSD, Deep Image Matting neither of these nor FG-MSE, Robust Video Matting no SAD. There the closest habit stands.
SCALINGS: dict[str, dict[str, float]] = {
    'bmv2': {'sad': 1e-3, 'mse': 1e3, 'grad': 1, 'conn': 1, 'fg_mse': 1e3, 'mad': 1e3, 'dtssd': 1e2},
    'dim': {'sad': 1e-3, 'mse': 1, 'grad': 1e-3, 'conn': 1e-3, 'fg_mse': 1, 'mad': 1, 'dtssd': 1},
    'rvm': {'sad': 1e-3, 'mse': 1e3, 'grad': 1e-3, 'conn': 1e-3, 'fg_mse': 1e3, 'mad': 1e3, 'dtssd': 1e2},
    'raw': {'sad': 1, 'mse': 1, 'grad': 1, 'conn': 1, 'fg_mse': 1, 'mad': 1, 'dtssd': 1},
}
for _factors in SCALINGS.values():
    _factors['fg_mse_bmv2'] = _factors['fg_mse']


def _unit(taps: list[float]) -> list[float]:
    norm = math.hypot(*taps)
    return [tap / norm for tap in taps]


SIGMA = 1.4
# The kernel ends where the Gaussian falls below 0.01: 9 taps.
RADIUS = math.ceil(SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * SIGMA * 0.01)))
# Of unit norm each, and so is their product, the kernel in two dimensions.
SMOOTH = _unit([math.exp(-(x**2) / (2 * SIGMA**2)) for x in range(-RADIUS, RADIUS + 1)])
DERIVE = _unit([x * math.exp(-(x**2) / (2 * SIGMA**2)) for x in range(-RADIUS, RADIUS + 1)])
CONN_STEPS = 10
CONN_TOLERANCE = 0.15


def sad(pred_pha: Tensor, true_pha: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the sum of absolute differences, which grows with the picture's area.

    Args:
        pred_pha, true_pha: (B, 1, H, W), 0..1.
        region: bool (B, 1, H, W), the pixels that count, such as a trimap's unknown ones; None counts all.

    Returns:
        (B,); NaN where the region is empty.

    Raises:
        ValueError: shapes differ, or the region is not bool.
    """
    pred, true, weight = _prepare(pred_pha, true_pha, region)
    return _sum((pred - true).abs(), weight)


def mad(pred_pha: Tensor, true_pha: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the mean absolute difference; arguments, result and errors are those of `sad`."""
    pred, true, weight = _prepare(pred_pha, true_pha, region)
    return _mean((pred - true).abs(), weight)


def mse(pred_pha: Tensor, true_pha: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the mean squared difference; arguments, result and errors are those of `sad`."""
    pred, true, weight = _prepare(pred_pha, true_pha, region)
    return _mean((pred - true).square(), weight)


def fg_mse(pred_fgr: Tensor, true_fgr: Tensor, true_pha: Tensor) -> Tensor:
    """Return the mean squared difference of foreground colours over pixels of true alpha above 0, and over channels.

    This is what the evaluation code of Robust Video Matting computes; for another see `fg_mse_bmv2`.

    Args:
        pred_fgr, true_fgr: (B, 3, H, W), 0..1.
        true_pha: (B, 1, H, W), 0..1.

    Returns:
        (B,); NaN where alpha is 0 everywhere.

    Raises:
        ValueError: shapes differ.
    """
    error, subject = _colour_error(pred_fgr, true_fgr, true_pha)
    return _mean(error, subject)


def fg_mse_bmv2(pred_fgr: Tensor, true_fgr: Tensor, true_pha: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of foreground colours as the evaluation code of Background Matting V2 does.

    It is over the trimap's unknown region, whose pixels of alpha 0 count as free of error.

    Args:
        pred_fgr, true_fgr: (B, 3, H, W), 0..1.
        true_pha: (B, 1, H, W), 0..1.
        region: bool (B, 1, H, W), the pixels that count; None counts all.

    Returns:
        (B,); NaN where the region is empty.

    Raises:
        ValueError: shapes differ.
    """
    error, subject = _colour_error(pred_fgr, true_fgr, true_pha)
    return _mean(error * subject, _prepare(true_pha, true_pha, region)[2].expand_as(error))


def _colour_error(pred_fgr: Tensor, true_fgr: Tensor, true_pha: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared differences of colours, and weights of 1 where alpha is above 0, both (B, 3, H, W)."""
    if true_pha.shape != true_fgr[:, :1].shape:
        shapes = f'foreground of shape {tuple(true_fgr.shape)} and alpha of {tuple(true_pha.shape)}'
        raise ValueError(f'{shapes}: must be of one size')
    pred, true, subject = _prepare(pred_fgr, true_fgr, (true_pha > 0).expand_as(true_fgr))
    return (pred - true).square(), subject


def grad(pred_pha: Tensor, true_pha: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the sum of squared differences of gradient magnitudes (Rhemann et al.).

    Gradients are taken with the derivative of a Gaussian of sigma 1.4, cut after 4 pixels and scaled to unit norm, with
    borders repeated. Each alpha is first stretched to 0..1 over the whole picture, as the original evaluation code
    does: a prediction of half the true alpha has no error here. Code derived from GCA Matting, and that of Robust Video
    Matting for HD, skip this; values agree wherever both alphas reach 0 and 1.

    Arguments, result and errors are those of `sad`.
    """
    pred, true, weight = _prepare(pred_pha, true_pha, region)
    return _sum((_slope(pred) - _slope(true)).square(), weight)


def conn(pred_pha: Tensor, true_pha: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the connectivity error (Rhemann et al.), computed on the CPU: about 0.2 s for an HD picture.

    A pixel's level is the last of 0, 0.1, ... 1 up to which it was in the largest 4-connected part of what both alphas
    have at or above the threshold. An alpha that exceeds the level by 0.15 or more is disconnected by that much, and
    the error is the sum of differences between the two alphas' disconnection.

    Implementations differ. Thresholds here are the doubles nearest to tenths, so that 153 / 255 reaches 0.6, as it does
    in the original's single precision and in mmedit. In mmeval, with multiples of 0.1 in float64, it does not: values
    of real pictures differ by 0.1 %.
    Of several largest parts the one with the first pixel in reading order counts; MATLAB takes the one with the first
    pixel by columns. Code derived from GCA Matting counts the rest of the picture as a part, too, and gives less.

    Arguments, result and errors are those of `sad`.
    """
    pred, true, weight = _prepare(pred_pha.cpu(), true_pha.cpu(), None if region is None else region.cpu())
    levels = [_level(both) for both in torch.minimum(pred, true).squeeze(1).numpy()]
    level = torch.from_numpy(np.stack(levels)).unsqueeze(1)
    disconnected = [excess * (excess >= CONN_TOLERANCE) for excess in (pred - level, true - level)]
    error = _sum((disconnected[0] - disconnected[1]).abs(), weight)
    return error.to(pred_pha.device, _precision(pred_pha))


def dtssd(pred_pha: Tensor, true_pha: Tensor, region: Tensor | None = None) -> Tensor:
    """Return the root mean square of how far the change from frame to frame is from the true change.

    After Erofeev et al. (BMVC 2015) with the mean of Robust Video Matting. Papers print the mean over pairs of frames
    x 100; the code of Robust Video Matting averages a 0 for the first frame in, and so prints (T - 1) / T of that.

    Args:
        pred_pha, true_pha: (T, 1, H, W), 0..1, the frames of one clip in order.
        region: bool (T, 1, H, W), the pixels that count; for a pair of frames the later one's. None counts all.

    Returns:
        (T - 1,), one for each frame but the first: a long clip can be given in pieces that share a frame. NaN where a
        region is empty; the mean over the result for a single frame, which has no change, is NaN, too.

    Raises:
        ValueError: shapes differ, or the region is not bool.
    """
    pred, true, weight = _prepare(pred_pha, true_pha, region)
    return _mean((pred.diff(dim=0) - true.diff(dim=0)).square(), weight[1:]).sqrt()


def _prepare(pred: Tensor, true: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return both pictures in high precision, and the region as weights of 0 and 1."""
    shape = tuple(true.shape)
    if pred.dim() != 4 or pred.shape != true.shape:
        raise ValueError(f'prediction of shape {tuple(pred.shape)} and truth of {shape}: must be equal and of 4 sides')
    if region is not None and (region.dtype != torch.bool or region.shape != true.shape):
        given = f'{tuple(region.shape)} and type {region.dtype}'
        raise ValueError(f'region of shape {given}: must be of {shape} and torch.bool')
    dtype = _precision(true)
    pred, true = pred.detach().to(dtype), true.detach().to(dtype)
    return pred, true, torch.ones_like(true) if region is None else region.to(dtype)


def _precision(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == 'mps' else torch.float64


def _sum(error: Tensor, weight: Tensor) -> Tensor:
    """Return sums (B,); NaN for an empty region, whose sum of 0 would read as a perfect picture."""
    return (error * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) > 0)


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    return (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))


def _slope(pha: Tensor) -> Tensor:
    """Return the magnitude of the Gaussian gradient of stretched alphas, (B, 1, H, W); 0 for a flat one."""
    low, high = pha.amin((1, 2, 3), keepdim=True), pha.amax((1, 2, 3), keepdim=True)
    pha = (pha - low) / torch.where(high > low, high - low, 1)
    pha = F.pad(pha, (RADIUS,) * 4, mode='replicate')
    across = _filter(_filter(pha, SMOOTH, 2), DERIVE, 3)
    down = _filter(_filter(pha, DERIVE, 2), SMOOTH, 3)
    return torch.hypot(across, down)


def _filter(picture: Tensor, taps: Sequence[float], side: int) -> Tensor:
    """Filter along dimension `side` by summing shifted pictures: a fifth of the time of conv2d in float64 on a CPU.

    That dimension becomes len(taps) - 1 shorter.
    """
    size = picture.shape[side] - len(taps) + 1
    result = torch.zeros_like(picture.narrow(side, 0, size))
    for start, tap in enumerate(taps):
        result.add_(picture.narrow(side, start, size), alpha=tap)
    return result


def _level(both: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the last threshold up to which each pixel belongs to the largest part, (H, W)."""
    level = np.zeros_like(both)
    inside = np.ones(both.shape, bool)
    for step in range(1, CONN_STEPS + 1):
        inside &= _largest_part(both >= step / CONN_STEPS)
        level[inside] = step / CONN_STEPS
    return level


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return labels == 1 + areas.argmax() if areas.size else np.zeros_like(mask)
