"""Errors of alpha, with the field's definitions (Rhemann et al., CVPR 2009) and the scalings that papers print."""

from __future__ import annotations

from torch import Tensor


def sad(pred_pha: Tensor, true_pha: Tensor) -> Tensor:
    """Sum of absolute differences / 1000, per picture.

    Args:
        pred_pha, true_pha: (B, 1, H, W), 0..1.

    Returns:
        (B,); grows with the picture's area.
    """
    return (pred_pha - true_pha).abs().sum((1, 2, 3)) / 1000


def mse(pred_pha: Tensor, true_pha: Tensor) -> Tensor:
    """Mean squared error x 1000, per picture. Arguments are those of `sad`; returns (B,)."""
    return (pred_pha - true_pha).square().mean((1, 2, 3)) * 1000
