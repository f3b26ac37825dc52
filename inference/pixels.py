"""Conversions between pictures, uint8 with channels last, and the tensors of a network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def as_batch(pictures: list[Tensor]) -> Tensor:
    """Join pictures uint8 (H, W, 3) to one batch uint8 (B, 3, H, W), in channels-last layout."""
    batch = torch.stack(pictures) if len(pictures) > 1 else pictures[0][None]
    return batch.permute(0, 3, 1, 2)


def to_float(batch: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert pictures uint8 0..255 to floats 0..1, in the same layout."""
    return batch.to(dtype).div_(255)


def to_bytes(x: Tensor) -> Tensor:
    """Round results (B, C, H, W), 0..1, to uint8 (B, H, W, 3), or (B, H, W) for one channel; may change `x`.

    Computes in float32: a 16-bit type would round twice.
    """
    levels = x.float().mul_(255).add_(0.5).to(torch.uint8)
    return levels[:, 0] if x.shape[1] == 1 else levels.permute(0, 2, 3, 1).contiguous()


def enlarged(x: Tensor, like: Tensor, mode: str) -> Tensor:
    """Enlarge `x` to the size of `like`, by way of the padded size that the refine network computed it for."""
    height, width = like.shape[2:]
    return F.interpolate(x.float(), (height + -height % 4, width + -width % 4), mode=mode)[..., :height, :width]
