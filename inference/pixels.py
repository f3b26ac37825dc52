"""Conversions between pictures, uint8 with channels last, and the tensors of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset.readers import read_tagged, rgb_pixels
from dataset.tags import Profile, Tags, converted, kept_exif

Picture = str | Path | Image.Image | np.ndarray | Tensor


def as_pixels(picture: Picture, profile: Profile = None) -> np.ndarray:
    """Return a picture of any kind that `Matting` takes as uint8 RGB (H, W, 3) in a profile; see `as_tagged`."""
    pixels, tags = as_tagged(picture)
    return converted(pixels, tags.profile, profile)


def as_tagged(picture: Picture) -> tuple[np.ndarray, Tags]:
    """Return a picture of any kind that `Matting` takes as uint8 RGB (H, W, 3) in its own colours, and its tags.

    An array is not copied; like a tensor, it is in sRGB.

    Raises:
        ValueError: it is none of them; `dataset.readers.ImageError` if a file cannot be read.
        FileNotFoundError: no such file.
    """
    if isinstance(picture, (str, Path)):
        return read_tagged(Path(picture))
    if isinstance(picture, Image.Image):
        pixels, profile = rgb_pixels(picture, 'a PIL image')
        return pixels, Tags(profile, kept_exif(picture))
    return _untagged(picture), Tags()


def _untagged(picture: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(picture, Tensor):
        floats = picture.is_floating_point()
        if picture.ndim != 3 or len(picture) != 3 or not (floats or picture.dtype == torch.uint8):
            what = f'{picture.dtype} {tuple(picture.shape)}'
            raise ValueError(
                f'a tensor must be RGB (3, H, W), float 0..1 or uint8, not {what}; `predict` takes batches'
            )
        picture = picture.detach().cpu()
        if floats and not bool(((picture >= 0) & (picture <= 1)).all()):
            raise ValueError(f'a float tensor must be in 0..1, not in {picture.min():g}..{picture.max():g}')
        pixels = to_bytes(picture[None].clone())[0] if floats else picture.permute(1, 2, 0).contiguous()
        return pixels.numpy()
    if not isinstance(picture, np.ndarray):
        raise ValueError(f'a picture must be a path, a PIL image, an array or a tensor, not {type(picture).__name__}')
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f'an array must be uint8 RGB (H, W, 3), not {picture.dtype} {picture.shape}')
    return picture


def channels_first(batch: Tensor) -> Tensor:
    """View pictures (B, H, W, 3) as (B, 3, H, W), in channels-last layout."""
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
