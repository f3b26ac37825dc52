"""The refiner: recomputes the 4x4-pixel cells of the picture whose predicted error is largest (paper, section 4.2).

In sampling mode all shapes follow from the input's: top-k gives exactly k cells per picture, and those that
`prevent_oversampling` excludes are computed and then masked, so that the graph has no branch on data. Only in
evaluation on a CPU, outside of tracing, where such a branch costs nothing, are they not computed at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.network import REFINE_MODES


class Cells(NamedTuple):
    """Cells of 4x4 pixels of a batch of pictures: picture, and row and column in the grid of cells, each (n,)."""

    image: Tensor
    row: Tensor
    column: Tensor


class Pyramid(NamedTuple):
    """A batch of RGB pictures at the three sizes that the networks read."""

    full: Tensor  # (B, 3, H, W), sides multiples of 4; float 0..1, or uint8 0..255
    half: Tensor  # (B, 3, H / 2, W / 2), float 0..1
    small: Tensor  # (B, 3, h, w), the coarse network's size, float 0..1


def make_pyramid(full: Tensor, size_sm: Sequence[int], dtype: torch.dtype = torch.float32) -> Pyramid:
    """Resize pictures `full` to half and to `size_sm` (h, w); `dtype` is that of the results if `full` is uint8."""
    x = _unit(full, dtype)
    return Pyramid(full, _resize(x, full.shape[2] // 2, full.shape[3] // 2), _resize(x, *size_sm))


class Refiner(nn.Module):
    """Two stages of two convolutions, at half and at full resolution, on crops around the selected cells.

    Args:
        mode, sample_pixels, threshold: 'sampling' refines the `sample_pixels // 16` cells of largest error in each
            picture, at least one, 'thresholding' those whose error exceeds `threshold`, 0..1, 'full' every cell.
        kernel_size: 3 or 1.
        prevent_oversampling: in sampling mode, do not refine cells of error 0.

    Raises:
        ValueError: a value is not allowed.
    """

    def __init__(
        self,
        mode: str = 'sampling',
        sample_pixels: int = 80_000,
        threshold: float = 0.1,
        kernel_size: int = 3,
        prevent_oversampling: bool = True,
    ):
        super().__init__()
        if mode not in REFINE_MODES:
            raise ValueError(f'refine mode {mode!r} is not one of {", ".join(REFINE_MODES)}')
        if kernel_size not in (1, 3):
            raise ValueError(f'refine kernel size {kernel_size} is neither 1 nor 3')
        if sample_pixels < 16:
            raise ValueError(f'refine sample pixels {sample_pixels}: at least one cell of 16 is needed')
        self.mode, self.sample_pixels, self.threshold = mode, sample_pixels, threshold
        self.kernel_size, self.prevent_oversampling = kernel_size, prevent_oversampling
        self.conv1 = nn.Conv2d(32 + 4 + 6, 24, kernel_size, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 16, kernel_size, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16 + 6, 12, kernel_size, bias=False)
        self.bn3 = nn.BatchNorm2d(12)
        self.conv4 = nn.Conv2d(12, 4, kernel_size)

    def forward(
        self, src: Pyramid, bgr: Pyramid, pha: Tensor, fgr: Tensor, err: Tensor, hid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Refine what `MattingBase.coarse` returns for the small pictures.

        Returns:
            pha (B, 1, H, W) and residual fgr (B, 3, H, W), not clamped, and ref (B, 1, H / 4, W / 4), 1 = refined.
        """
        height, width = src.full.shape[2:]
        dtype = src.half.dtype
        coarse = torch.cat([hid, pha, fgr], 1)
        if self.mode == 'full':
            half = (x.half.to(coarse.dtype) for x in (src, bgr))
            full = (_unit(x.full, dtype).to(coarse.dtype) for x in (src, bgr))
            x = torch.cat([_resize(coarse, height // 2, width // 2), *half], 1)
            margin1, margin2 = self.margins
            out = self.convolve(F.pad(x, [margin1] * 4), F.pad(torch.cat([*full], 1), [margin2] * 4)).to(dtype)
            return out[:, :1], out[:, 1:], torch.ones_like(out[:, :1, ::4, ::4])
        cells, keep, ref = self._select(_resize(err, height // 4, width // 4))
        # In parts, except in training, where BatchNorm needs all at once: a third of the memory at 4K, and no slower.
        at_once = 2048 if not self.training and _may_branch_on(err) else len(cells.row)
        parts = (Cells(*part) for part in zip(*(x.split(at_once) for x in cells)))
        refined = torch.cat([self._refine_cells(coarse, (src, bgr), part) for part in parts])
        pha, fgr = (_resize(x.to(dtype), height, width) for x in (pha, fgr))
        return _put_cells(pha, refined[:, :1], cells, keep), _put_cells(fgr, refined[:, 1:], cells, keep), ref

    def _select(self, err: Tensor) -> tuple[Cells, Tensor, Tensor]:
        """Select cells by err (B, 1, h, w); return them, whether each is kept (n,), and ref (B, 1, h, w)."""
        batch, _, height, width = err.shape
        flat = err.flatten(1)
        if self.mode == 'sampling':
            k = min(self.sample_pixels // 16, flat.shape[1])
            top, index = flat.topk(k, dim=1, sorted=False)
            image = torch.arange(batch, device=err.device)[:, None].expand_as(index).flatten()
            index = index.flatten()
            keep = (top > 0).flatten() if self.prevent_oversampling else torch.ones_like(index, dtype=torch.bool)
            if not self.training and _may_branch_on(err):
                # Often fewer than k cells have any error, and dropping the others saves their time.
                image, index, keep = image[keep], index[keep], keep[keep]
        else:
            image, index = (flat > self.threshold).nonzero().unbind(1)
            keep = torch.ones_like(index, dtype=torch.bool)
        if len(index) == 0:
            # One masked cell instead of none: averaging gradients over GPUs needs every parameter in every step, and
            # BatchNorm cannot take an empty batch.
            image, index, keep = image.new_zeros(1), index.new_zeros(1), keep.new_zeros(1)
        ref = torch.zeros_like(flat).index_put((image, index), keep.to(flat.dtype))
        # Tables, so that nothing divides a cell's number by the grid's width.
        rows = torch.arange(height, device=err.device)[:, None].expand(height, width).flatten()
        columns = torch.arange(width, device=err.device).expand(height, width).flatten()
        return Cells(image, rows[index], columns[index]), keep, ref.view_as(err)

    def _refine_cells(self, coarse: Tensor, pictures: Sequence[Pyramid], cells: Cells) -> Tensor:
        """Return (n, 4, 4, 4): alpha and foreground residual of the 4x4 pixels of each cell."""
        margin1, margin2 = self.margins
        half, full = [x.half for x in pictures], [x.full for x in pictures]
        x = _enlarge_cells(coarse, cells, half[0].shape[2:], margin1)
        x = torch.cat([x, _crop_cells(half, cells, 2, margin1, x.dtype)], 1)
        return self.convolve(x, _crop_cells(full, cells, 4, margin2, x.dtype))

    def convolve(self, half: Tensor, full: Tensor) -> Tensor:
        """Apply the four convolutions to crops, or to whole padded pictures, at half and at full size."""
        x = F.relu(self.bn1(self.conv1(half)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.interpolate(x, scale_factor=2.0, mode='nearest')
        x = F.relu(self.bn3(self.conv3(torch.cat([x, full], 1))))
        return self.conv4(x)

    @property
    def margins(self) -> tuple[int, int]:
        """The margins that the convolutions take away from a cell's surroundings, at half and at full size."""
        return (3, 2) if self.kernel_size == 3 else (0, 0)


def _may_branch_on(x: Tensor) -> bool:
    """Return whether shapes may depend on the data: free on a CPU, wrong where a graph is recorded for other data."""
    return x.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def _unit(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return pictures as floats, 0..1; uint8 ones become `dtype`."""
    return x if x.is_floating_point() else x.to(dtype).div_(255)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)


def _crop_cells(pictures: Sequence[Tensor], cells: Cells, size: int, margin: int, dtype: torch.dtype) -> Tensor:
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
    crops = _unit(crops, torch.float32)
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


def _enlarge_cells(x: Tensor, cells: Cells, size: Sequence[int], margin: int) -> Tensor:
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


def _put_cells(x: Tensor, refined: Tensor, cells: Cells, keep: Tensor) -> Tensor:
    """Replace the kept cells of x (B, C, H, W) by `refined` (n, C, 4, 4), in place."""
    batch, channels, height, width = x.shape
    grid = x.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1)
    index = cells.image, cells.row, cells.column
    refined = refined.permute(0, 2, 3, 1).to(x.dtype)
    grid.index_put_(index, torch.where(keep[:, None, None, None], refined, grid[index]))
    return x
