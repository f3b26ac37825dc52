"""The networks in the form that is exported: same weights, same results, only operations that all runtimes have.

The refiner has no branch on data, changes nothing in place, never computes an index in floating point or by division,
and keeps all tensors at rank 5 or less, since one runtime or another cannot do these. It compiles as TorchScript, with
settings that can be set after loading, and with `torch.export`, with fixed or dynamic sides and batch.

A cell and its surroundings are cropped in runs: with channels last, as many neighbouring pixels of a line as a cell is
wide make one row of a matrix, and a crop is a selection of rows. The refined cells are put back in runs as well, one
channel after the other. The eager refiner crops in another way, which is faster there; a test holds both equal.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.base import MattingBase
from model.refine import MattingRefine
from model.refiner import Refiner

FORMS = ('gather', 'masked')


class PortableBase(MattingBase):
    """`MattingBase` for export, in evaluation mode; shares its weights."""

    def __init__(self, network: MattingBase):
        with torch.device('meta'):
            super().__init__(network.backbone_name)
        self.backbone, self.aspp, self.decoder = network.backbone, network.aspp, network.decoder
        self.eval()

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `MattingBase.forward` returns, without checking the input."""
        pha, fgr, err, hid = self.coarse(src, bgr)
        return pha, (fgr + src).clamp(0, 1), err, hid


class PortableRefine(PortableBase):
    """`MattingRefine` for export, in evaluation mode; shares its weights. Cells of error 0 are never refined.

    Args:
        network: whose weights are shared and whose settings are taken.
        form: 'gather' computes the selected cells only; in thresholding mode their number, and so the shapes, depend
            on the picture. 'masked' computes all cells and keeps the selected ones, without top-k and gathering: about
            three times the work, for runtimes that are slow at these or lack them.

    Attributes:
        backbone_scale, refine_mode, refine_sample_pixels, refine_threshold, refine_form: can be set in a TorchScript
            module; not checked.

    Raises:
        ValueError: there is no such form.
    """

    def __init__(self, network: MattingRefine, form: str = 'gather'):
        if form not in FORMS:
            raise ValueError(f'refine form {form!r} is not one of {", ".join(FORMS)}')
        super().__init__(network)
        self.backbone_scale = float(network.backbone_scale)
        self.refine_mode = network.refiner.mode
        self.refine_sample_pixels = network.refiner.sample_pixels
        self.refine_threshold = float(network.refiner.threshold)
        self.refine_form = form
        self.refiner = PortableRefiner(network.refiner)
        self.eval()

    def forward(  # type: ignore[override]
        self, src: Tensor, bgr: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what `MattingRefine.forward` returns, without checking the input."""
        height, width = src.shape[2], src.shape[3]
        right, below = -width % 4, -height % 4
        if right + below > 0:
            src = F.pad(src, [0, right, 0, below], mode='replicate')
            bgr = F.pad(bgr, [0, right, 0, below], mode='replicate')
        size_sm = [_scaled(src.shape[2], self.backbone_scale), _scaled(src.shape[3], self.backbone_scale)]
        src_sm, bgr_sm = _resize(src, size_sm[0], size_sm[1]), _resize(bgr, size_sm[0], size_sm[1])
        pha_sm, fgr_sm, err_sm, hid = self.coarse(src_sm, bgr_sm)
        pixels = torch.cat([pha_sm, fgr_sm], 1).to(src.dtype)
        pixels = _resize(pixels, src.shape[2], src.shape[3])
        refined, ref = self.refiner(
            src, bgr, pixels, torch.cat([hid, pha_sm, fgr_sm], 1), err_sm,
            self.refine_mode, self.refine_form, self.refine_sample_pixels, self.refine_threshold,
        )  # fmt: skip
        pha, fgr = refined[:, :1].clamp(0, 1), (refined[:, 1:] + src).clamp(0, 1)
        if right + below > 0:
            pha, fgr = pha[:, :, :height, :width], fgr[:, :, :height, :width]
        return pha, fgr, pha_sm, (fgr_sm + src_sm).clamp(0, 1), err_sm, ref


class PortableRefiner(Refiner):
    """`Refiner` for export; shares its weights. Its own settings are not read: they are arguments."""

    def __init__(self, refiner: Refiner):
        with torch.device('meta'):
            super().__init__(kernel_size=refiner.kernel_size)
        for name, layer in refiner.named_children():
            setattr(self, name, layer)

    def forward(  # type: ignore[override]
        self, src: Tensor, bgr: Tensor, pixels: Tensor, coarse: Tensor, err: Tensor,
        mode: str, form: str, sample_pixels: int, threshold: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Refine the coarse result.

        Args:
            src, bgr: the pictures (B, 3, H, W), float 0..1, sides multiples of 4.
            pixels: coarse alpha and foreground residual at full size (B, 4, H, W).
            coarse: the coarse network's hidden features, alpha and foreground residual (B, 36, h, w).
            err: its predicted error (B, 1, h, w), 0..1.
            mode, form, sample_pixels, threshold: as in `PortableRefine`.

        Returns:
            `pixels` with the selected cells recomputed, and ref (B, 1, H / 4, W / 4), 1 = refined.
        """
        height, width = src.shape[2], src.shape[3]
        full = torch.cat([src, bgr], 1)
        half = _resize(full, height // 2, width // 2).to(coarse.dtype)
        margin1, margin2 = self.margins
        half = F.pad(torch.cat([_resize(coarse, height // 2, width // 2), half], 1), [margin1] * 4)
        full = F.pad(full.to(coarse.dtype), [margin2] * 4)
        err = _resize(err, height // 4, width // 4)
        if mode == 'full':
            return self.convolve(half, full).to(src.dtype), torch.ones_like(err)
        if form == 'masked':
            flat = err.flatten(1)
            least = torch.full_like(flat[:, :1], threshold)
            if mode == 'sampling':
                least = exceeded_by(flat, sample_pixels // 16)
            ref = (flat > least).view_as(err)
            selected = F.interpolate(ref.to(err.dtype), scale_factor=4.0, mode='nearest') > 0.5
            return torch.where(selected, self.convolve(half, full).to(src.dtype), pixels), ref.to(err.dtype)
        return self.refine_cells(half, full, pixels, err, mode, sample_pixels, threshold)

    def refine_cells(
        self, half: Tensor, full: Tensor, pixels: Tensor, err: Tensor, mode: str, sample_pixels: int, threshold: float
    ) -> tuple[Tensor, Tensor]:
        """Do the same for padded pictures, with err (B, 1, H / 4, W / 4), by gathering the selected cells."""
        batch, height, width = err.shape[0], err.shape[2], err.shape[3]
        flat = err.flatten(1)
        if mode == 'sampling':
            # Sorted although the order does not matter: Core ML has unsorted top-k from iOS 17 on only.
            top, index = flat.topk(min(sample_pixels // 16, height * width), dim=1)
            image = torch.arange(batch, device=err.device).unsqueeze(1).expand_as(index).flatten()
            index, keep = index.flatten(), top.flatten() > 0
        else:
            selected = (flat > threshold).nonzero()
            image, index = selected[:, 0], selected[:, 1]
            keep = torch.ones_like(index, dtype=torch.bool)
        x = self.convolve(
            _crop_cells(half, image, index, height, width, 2), _crop_cells(full, image, index, height, width, 4)
        )
        # Rows of four pixels as they lie in memory, so that no whole picture is transposed.
        channels, plane = pixels.shape[1], 4 * height * width
        row = _runs(index, height, width, 4, 4, width).flatten(1) + (image * (channels * plane)).unsqueeze(1)
        row = row.unsqueeze(1) + (torch.arange(channels, device=err.device) * plane).unsqueeze(1)
        rows = pixels.reshape(-1, 4)
        x = torch.where(keep[:, None, None, None], x.to(rows.dtype), rows[row])
        ref = torch.zeros_like(err.flatten()).index_put([image * (height * width) + index], keep.to(err.dtype))
        return rows.index_put([row], x).view(pixels.shape), ref.view(batch, 1, height, width)


def exceeded_by(x: Tensor, count: int, halvings: int = 24) -> Tensor:
    """Return, by bisection, a threshold (B, 1) that the `count` largest values of x (B, n), 0..1, exceed, except zeros.

    All values equal to the least of these within 2^-24, the resolution of float32 near 1, exceed it as well.
    """
    low, high = torch.zeros_like(x[:, :1]), torch.ones_like(x[:, :1])
    for _ in range(halvings):
        middle = (low + high) / 2
        few = _count_above(x, middle) <= count
        low, high = torch.where(few, low, middle), torch.where(few, middle, high)
    return torch.where(_count_above(x, high) == count, high, low)


def _count_above(x: Tensor, threshold: Tensor) -> Tensor:
    # In integers, since float16 cannot count beyond 2,048.
    return (x > threshold).to(torch.int32).sum(1, keepdim=True)


def _scaled(side: int, scale: float) -> int:
    """Return `side * scale`, rounded down, for scales of 1/2, 1/4 and so on without floating point.

    Each layer's size is a formula of these sides. In integers a conversion with dynamic sides takes a third less time,
    and runtimes that compute sizes in float32 cannot be off by one.
    """
    for divisor in (2, 4, 8, 16):
        if scale * divisor == 1.0:
            return side // divisor
    return math.floor(side * scale)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, [height, width], mode='bilinear', align_corners=False)


def _crop_cells(x: Tensor, image: Tensor, index: Tensor, height: int, width: int, size: int) -> Tensor:
    """Crop cells with their margins out of padded pictures: (n, C, size + 2 * margin, size + 2 * margin).

    Args:
        x: (B, C, height * size + 2 * margin, width * size + 2 * margin), sides multiples of `size`.
        image, index: picture (n,) of each cell, and its number (n,) in that picture's grid.
        height, width: of the grid of cells.
        size: side of a cell in pixels of x.
    """
    count, channels, high, wide = index.shape[0], x.shape[1], x.shape[2], x.shape[3] // size
    side = high - (height - 1) * size
    run = _runs(index, height, width, size, side, wide) + (image * (high * wide))[:, None, None]
    x = x.permute(0, 2, 3, 1).reshape(-1, size * channels).index_select(0, run.flatten())
    return x.view(count, side * side, channels).transpose(1, 2).reshape(count, channels, side, side)


def _runs(index: Tensor, height: int, width: int, size: int, lines: int, wide: int) -> Tensor:
    """Return where cells with their margins lie in a picture, as numbers of runs: (n, lines, wide - width + 1).

    Arguments are those of `_crop_cells`; a cell with its margins has `lines`, a line of the picture `wide` runs.
    """
    # A table of each cell's first run, so that nothing divides a cell's number by the grid's width.
    row, column = torch.arange(height, device=index.device), torch.arange(width, device=index.device)
    first = (row.unsqueeze(1) * (size * wide) + column).flatten().index_select(0, index)
    line, across = torch.arange(lines, device=index.device), torch.arange(wide - width + 1, device=index.device)
    return first[:, None, None] + (line.unsqueeze(1) * wide + across)
