"""The refiner: recomputes the 4x4-pixel cells of the full image whose predicted error is largest (paper, section 4.2).

In sampling mode every shape is fixed by the input's: top-k gives exactly k cells an image, and cells that
`prevent_oversampling` leaves out are computed and then masked. So the graph has no branch on data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REFINE_MODES = ('full', 'sampling', 'thresholding')


class Refiner(nn.Module):
    """Two small convolution stages, at 1/2 and at full resolution, on crops around the selected cells.

    Args:
        mode: 'sampling' (the `sample_pixels // 16` cells of largest error), 'thresholding' (cells whose error
            exceeds `threshold`) or 'full' (every cell).
        sample_pixels: pixels refined per image in sampling mode.
        threshold: error above which a cell is refined in thresholding mode, 0..1.
        kernel_size: 3 or 1.
        prevent_oversampling: in sampling mode, leave cells alone whose error is 0.
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
        self.mode = mode
        self.sample_pixels = sample_pixels
        self.threshold = threshold
        self.kernel_size = kernel_size
        self.prevent_oversampling = prevent_oversampling
        self.conv1 = nn.Conv2d(32 + 4 + 6, 24, kernel_size, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 16, kernel_size, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16 + 6, 12, kernel_size, bias=False)
        self.bn3 = nn.BatchNorm2d(12)
        self.conv4 = nn.Conv2d(12, 4, kernel_size)

    def forward(
        self, src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, err: Tensor, hid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Refines the coarse result.

        Args:
            src, bgr: (B, 3, H, W), 0..1, H and W multiples of 4.
            pha: coarse alpha (B, 1, h, w). fgr: coarse residual (B, 3, h, w). err: (B, 1, h, w). hid: (B, 32, h, w).

        Returns:
            pha (B, 1, H, W), residual fgr (B, 3, H, W), not clamped, and ref (B, 1, H / 4, W / 4), 1 = refined.
        """
        height, width = src.shape[2:]
        src_bgr = torch.cat([src, bgr], 1)
        coarse = torch.cat([hid, pha, fgr], 1)
        half = torch.cat([_resize(coarse, height // 2, width // 2), _resize(src_bgr, height // 2, width // 2)], 1)
        if self.mode == 'full':
            out = self._refine_all(half, src_bgr)
            ref = torch.ones_like(out[:, :1, ::4, ::4])
        else:
            cells, keep, ref = self._select(_resize(err, height // 4, width // 4))
            refined = self._refine_cells(half, src_bgr, cells)
            out = _put_cells(_resize(torch.cat([pha, fgr], 1), height, width), refined, cells, keep)
        return out[:, :1], out[:, 1:], ref

    def _select(self, err: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Picks the cells of err (B, 1, h, w): flat indices (n,) into B * h * w, keep (n,) bool, ref (B, 1, h, w)."""
        flat = err.flatten(1)
        if self.mode == 'sampling':
            k = min(self.sample_pixels // 16, flat.shape[1])
            top, index = flat.topk(k, dim=1, sorted=False)
            first = torch.arange(len(flat), device=err.device)[:, None] * flat.shape[1]
            cells = (index + first).flatten()
            keep = (top > 0).flatten() if self.prevent_oversampling else torch.ones_like(cells, dtype=torch.bool)
        else:
            cells = (flat > self.threshold).flatten().nonzero().squeeze(1)
            keep = torch.ones_like(cells, dtype=torch.bool)
            if len(cells) == 0:
                # One masked cell instead of none: every parameter takes part in every step, which
                # gradient averaging over GPUs relies on, and BatchNorm never sees an empty batch.
                cells, keep = cells.new_zeros(1), keep.new_zeros(1)
        ref = torch.zeros_like(flat).flatten().index_put((cells,), keep.to(flat.dtype))
        return cells, keep, ref.view_as(err)

    def _refine_cells(self, half: Tensor, full: Tensor, cells: Tensor) -> Tensor:
        """Returns (n, 4, 4, 4): alpha and residual of the 4x4 pixels of each cell."""
        margin1, margin2 = (3, 2) if self.kernel_size == 3 else (0, 0)
        x = _crop_cells(half, cells, 2, margin1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.interpolate(x, scale_factor=2.0, mode='nearest')
        x = torch.cat([x, _crop_cells(full, cells, 4, margin2)], 1)
        x = F.relu(self.bn3(self.conv3(x)))
        return self.conv4(x)

    def _refine_all(self, half: Tensor, full: Tensor) -> Tensor:
        """The same numbers for every cell, by whole-image convolutions over the padded image."""
        margin1, margin2 = (3, 2) if self.kernel_size == 3 else (0, 0)
        x = F.pad(half, [margin1] * 4)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.interpolate(x, scale_factor=2.0, mode='nearest')
        x = torch.cat([x, F.pad(full, [margin2] * 4)], 1)
        x = F.relu(self.bn3(self.conv3(x)))
        return self.conv4(x)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)


def _pixel_rows(x: Tensor, cells: Tensor, size: int, window: int) -> Tensor:
    """Row numbers (n, window * window) of the pixels in each cell's window, in the (B * H * W, C) view of x.

    Cell (i, j) of an image starts at pixel (i * size, j * size); x may be larger than the grid by the window's margin.
    A table of first pixels replaces dividing the cell's number by the grid's width.
    """
    batch, _, height, width = x.shape
    rows = torch.arange(height, device=x.device)[: height - window + 1 : size] * width
    columns = torch.arange(width, device=x.device)[: width - window + 1 : size]
    images = torch.arange(batch, device=x.device) * (height * width)
    first = (images[:, None, None] + rows[:, None] + columns).flatten()
    offsets = (torch.arange(window, device=x.device)[:, None] * width + torch.arange(window, device=x.device)).flatten()
    return first[cells][:, None] + offsets


def _crop_cells(x: Tensor, cells: Tensor, size: int, margin: int) -> Tensor:
    """Cuts (n, C, size + 2 margin, size + 2 margin) around the cells out of x (B, C, H, W); outside reads 0.

    Whole pixels are gathered from the channels-last view: its backward pass is one scatter into a picture-sized
    buffer, where that of a strided window view is 16 times as large.
    """
    window = size + 2 * margin
    x = F.pad(x, [margin] * 4)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    crops = pixels.index_select(0, _pixel_rows(x, cells, size, window).flatten())
    return crops.view(-1, window, window, x.shape[1]).permute(0, 3, 1, 2)


def _put_cells(out: Tensor, refined: Tensor, cells: Tensor, keep: Tensor) -> Tensor:
    """Replaces the kept cells of out (B, 4, H, W) by refined (n, 4, 4, 4)."""
    batch, channels, height, width = out.shape
    rows = _pixel_rows(out, cells, 4, 4).flatten()
    pixels = out.permute(0, 2, 3, 1).reshape(-1, channels)
    refined = refined.permute(0, 2, 3, 1).reshape(-1, channels).to(out.dtype)
    refined = torch.where(keep.repeat_interleave(16)[:, None], refined, pixels.index_select(0, rows))
    pixels = pixels.index_copy(0, rows, refined)
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)
