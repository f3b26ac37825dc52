"""Cells of a picture: taken out for the refiner with their surroundings, and put back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Cells(NamedTuple):
    """Cells of 4x4 pixels of a batch of pictures: picture, and row and column in the grid of cells, each (n,)."""

    image: Tensor
    row: Tensor
    column: Tensor


class CellOps(NamedTuple):
    """The operations of the refiner on cells; `EAGER` has what others must do, too."""

    first_crops: Callable[[Tensor, Sequence[Tensor], Cells, int], Tensor]
    second_crops: Callable[[Sequence[Tensor], Cells, int, Tensor], Tensor]
    put_back: Callable[[Tensor, Tensor, Tensor, Cells, Tensor], None]


def first_crops(coarse: Tensor, pictures: Sequence[Tensor], cells: Cells, margin: int) -> Tensor:
    """Crop the cells at half size, 2x2 pixels, with their margins; outside of a picture is 0.

    Args:
        coarse: results of the coarse network (B, C, h, w), which are enlarged bilinearly.
        pictures: src and bgr at half size, each (B, 3, H / 2, W / 2), float 0..1 or uint8 0..255.
        cells, margin: where the cells are, and their margin in pixels.

    Returns:
        (n, C + 6, side, side), channels-last, in the dtype of `coarse`.
    """
    x = _enlarge(coarse, cells, pictures[0].shape[2:], margin)
    return torch.cat([x, _crop(pictures, cells, 2, margin, x.dtype)], 1)


def second_crops(pictures: Sequence[Tensor], cells: Cells, margin: int, like: Tensor) -> Tensor:
    """Crop the cells at full size, 4x4 pixels, out of src and bgr; otherwise like `first_crops`.

    Returns:
        (n, 6, side, side), channels-last, in the dtype of `like`.
    """
    return _crop(pictures, cells, 4, margin, like.dtype)


def put_back(pha: Tensor, fgr: Tensor, refined: Tensor, cells: Cells, keep: Tensor) -> None:
    """Replace the cells of pha (B, 1, H, W) and fgr (B, 3, H, W) where `keep` (n,), by refined (n, 4, 4, 4)."""
    _put(pha, refined[:, :1], cells, keep)
    _put(fgr, refined[:, 1:], cells, keep)


EAGER = CellOps(first_crops, second_crops, put_back)


def unit(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return pictures as floats, 0..1; uint8 ones become `dtype`."""
    return x if x.is_floating_point() else x.to(dtype).div_(255)


def _crop(pictures: Sequence[Tensor], cells: Cells, size: int, margin: int, dtype: torch.dtype) -> Tensor:
    """Crop the cells with their margins out of pictures; outside of a picture is 0.

    Args:
        pictures: each (B, C, H, W), float 0..1 or uint8 0..255; fastest in channels-last layout, since whole pixels are
            gathered.
        cells, size, margin: where the cells are, and their side and margin in pixels of these pictures.
        dtype: of the result: (n, sum of C, size + 2 margin, size + 2 margin), channels-last, 0..1.
    """
    height, width = pictures[0].shape[2:]
    window = torch.arange(size + 2 * margin, device=cells.row.device) - margin
    y, x = cells.row[:, None] * size + window, cells.column[:, None] * size + window
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    crops = torch.cat([_gather(picture, cells.image, y, x) for picture in pictures], -1)
    crops = unit(crops, torch.float32)
    return (crops * inside[..., None].to(crops.dtype)).to(dtype).permute(0, 3, 1, 2)


def _gather(x: Tensor, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the pixels (n, p, q, C) of x (B, C, H, W) in rows (n, p) and columns (n, q) of pictures (n,).

    Since whole pixels are gathered, the backward pass is one scatter into a buffer of the size of x.
    """
    channels, height, width = x.shape[1:]
    if x.stride(0) == 0:  # one plate for the whole batch
        x, image = x[:1], torch.zeros_like(image)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    numbers = ((image * height)[:, None] + row)[:, :, None] * width + column[:, None, :]
    return pixels.index_select(0, numbers.flatten()).view(*numbers.shape, channels)


def _enlarge(x: Tensor, cells: Cells, size: Sequence[int], margin: int) -> Tensor:
    """Return what enlarging x (B, C, h, w) to `size` (H, W) and cropping cells of 2x2 pixels with margins would give.

    Only the few pixels that each crop needs are enlarged; the whole would have 16 times the size of x.
    """
    channels, height, width = x.shape[1:]
    row, weights_row = _bilinear(cells.row * 2 - margin, height, size[0], 2 + 2 * margin)
    column, weights_column = _bilinear(cells.column * 2 - margin, width, size[1], 2 + 2 * margin)
    patches = _gather(x, cells.image, row, column)
    rows = torch.bmm(weights_row.to(x.dtype), patches.flatten(2)).view(len(row), -1, column.shape[1], channels)
    return torch.matmul(weights_column.to(x.dtype)[:, None], rows).permute(0, 3, 1, 2)


def _bilinear(first: Tensor, size_in: int, size_out: int, count: int) -> tuple[Tensor, Tensor]:
    """Return a bilinear enlargement of an axis from `size_in` to `size_out` as weighted sums.

    Returns:
        For windows of `count` pixels on the enlarged axis that begin at `first` (n,), maybe outside of it: the pixels
        that each window needs (n, p), and their weights in each pixel of the window (n, count, p).
    """
    scale = size_in / size_out
    pixel = first[:, None] + torch.arange(count, device=first.device)
    position = ((pixel + 0.5) * scale - 0.5).clamp(0, size_in - 1)
    needed = math.ceil((count - 1) * scale) + 2
    lowest = position[:, :1].floor()
    neighbours = lowest + torch.arange(needed, device=first.device)
    # A triangle around each position: 1 at the position itself, 0 from a distance of one pixel on.
    weights = (1 - (position[:, :, None] - neighbours[:, None, :]).abs()).clamp(min=0)
    inside = (pixel >= 0) & (pixel < size_out)
    return neighbours.long().clamp(max=size_in - 1), weights * inside[:, :, None]


def _put(x: Tensor, refined: Tensor, cells: Cells, keep: Tensor) -> None:
    """Replace the kept cells of x (B, C, H, W) by `refined` (n, C, 4, 4), in place."""
    batch, channels, height, width = x.shape
    grid = x.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1)
    index = cells.image, cells.row, cells.column
    refined = refined.permute(0, 2, 3, 1).to(x.dtype)
    grid.index_put_(index, torch.where(keep[:, None, None, None], refined, grid[index]))
