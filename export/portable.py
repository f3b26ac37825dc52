"""The networks in the form in which they are exported: the same weights and results, written for other runtimes.

The refiner here has no branch on data, changes nothing in place, never computes an index in floating point or by
dividing, and keeps every tensor at rank 5 or less: what one runtime or the other cannot do. It compiles as TorchScript,
with settings that can be set after loading, and by `torch.export` with fixed or with dynamic sides and batch.

A cell's surroundings are cut out in runs: with channels last, as many neighbouring pixels of a line as a cell is wide
are a row of a matrix, and a crop is some rows of it. The refined cells go back in runs, too, channel by channel. The
eager refiner crops otherwise, which is faster there; a test holds both equal.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.base import MattingBase
from model.refine import MattingRefine
from model.refiner import Refiner

FORMS = ('gather', 'masked')


class PortableBase(MattingBase):
    """`MattingBase` for export, in evaluation mode; shares its weights.

    Args:
        network: whose weights it takes.
    """

    def __init__(self, network: MattingBase):
        with torch.device('meta'):
            super().__init__(network.backbone_name)
        self.backbone, self.aspp, self.decoder = network.backbone, network.aspp, network.decoder
        self.eval()

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `MattingBase.forward`, without its checks."""
        pha, fgr, err, hid = self.coarse(src, bgr)
        return pha, (fgr + src).clamp(0, 1), err, hid


class PortableRefine(PortableBase):
    """`MattingRefine` for export, in evaluation mode; shares its weights. Cells of error 0 are never refined.

    Args:
        network: whose weights and settings it takes.
        form: 'gather' computes the selected cells alone; in thresholding mode their number, and so shapes, depend on
            the picture. 'masked' computes every cell and keeps the selected ones, without top-k and without gathering:
            about three times the work, for runtimes that are slow at these or have none.

    Attributes:
        backbone_scale, refine_mode, refine_sample_pixels, refine_threshold, refine_form: as in `MattingRefine`; a
            TorchScript module's can be set.

    Raises:
        ValueError: another form.
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
        """As `MattingRefine.forward`, without its checks."""
        height, width = src.shape[2], src.shape[3]
        right, below = -width % 4, -height % 4
        if right + below > 0:
            src = F.pad(src, [0, right, 0, below], mode='replicate')
            bgr = F.pad(bgr, [0, right, 0, below], mode='replicate')
        size_sm = [math.floor(src.shape[2] * self.backbone_scale), math.floor(src.shape[3] * self.backbone_scale)]
        src_sm, bgr_sm = _resize(src, size_sm[0], size_sm[1]), _resize(bgr, size_sm[0], size_sm[1])
        pha_sm, fgr_sm, err_sm, hid = self.coarse(src_sm, bgr_sm)
        pixels = torch.cat([pha_sm, fgr_sm], 1).to(src.dtype)
        refined, ref = self.refiner(
            src,
            bgr,
            _resize(pixels, src.shape[2], src.shape[3]),
            torch.cat([hid, pha_sm, fgr_sm], 1),
            err_sm,
            self.refine_mode,
            self.refine_form,
            self.refine_sample_pixels,
            self.refine_threshold,
        )
        pha, fgr = refined[:, :1].clamp(0, 1), (refined[:, 1:] + src).clamp(0, 1)
        if right + below > 0:
            pha, fgr = pha[:, :, :height, :width], fgr[:, :, :height, :width]
        return pha, fgr, pha_sm, (fgr_sm + src_sm).clamp(0, 1), err_sm, ref


class PortableRefiner(nn.Module):
    """`Refiner` for export; shares its weights."""

    def __init__(self, refiner: Refiner):
        super().__init__()
        self.margin1, self.margin2 = (3, 2) if refiner.kernel_size == 3 else (0, 0)
        self.conv1, self.bn1 = refiner.conv1, refiner.bn1
        self.conv2, self.bn2 = refiner.conv2, refiner.bn2
        self.conv3, self.bn3 = refiner.conv3, refiner.bn3
        self.conv4 = refiner.conv4

    def forward(
        self,
        src: Tensor,
        bgr: Tensor,
        pixels: Tensor,
        coarse: Tensor,
        err: Tensor,
        mode: str,
        form: str,
        sample_pixels: int,
        threshold: float,
    ) -> tuple[Tensor, Tensor]:
        """Refines the coarse result.

        Args:
            src, bgr: the pictures (B, 3, H, W), sides multiples of 4.
            pixels: coarse alpha and residual at full size (B, 4, H, W).
            coarse: what the coarse network gives, (B, 36, h, w): hidden features, alpha, residual.
            err: its error (B, 1, h, w).
            mode, form, sample_pixels, threshold: as in `PortableRefine`.

        Returns:
            `pixels` with the selected cells recomputed, and ref (B, 1, H / 4, W / 4), 1 = refined.
        """
        height, width = src.shape[2], src.shape[3]
        full = torch.cat([src, bgr], 1)
        half = _resize(full, height // 2, width // 2).to(coarse.dtype)
        half = F.pad(torch.cat([_resize(coarse, height // 2, width // 2), half], 1), [self.margin1] * 4)
        full = F.pad(full.to(coarse.dtype), [self.margin2] * 4)
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
        """`forward`, for padded pictures and err at the cells' size, by gathering the selected cells."""
        batch, height, width = err.shape[0], err.shape[2], err.shape[3]
        flat = err.flatten(1)
        if mode == 'sampling':
            # Sorted although the order does not matter: Core ML has the unsorted one from iOS 17 on only.
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
        # Rows of four pixels as they lie in memory: no picture is turned around, only the cells' rows are touched.
        channels, plane = pixels.shape[1], 4 * height * width
        row = _runs(index, height, width, 4, 4, width).flatten(1) + (image * (channels * plane)).unsqueeze(1)
        row = row.unsqueeze(1) + (torch.arange(channels, device=err.device) * plane).unsqueeze(1)
        rows = pixels.reshape(-1, 4)
        x = torch.where(keep[:, None, None, None], x.to(rows.dtype), rows[row])
        ref = torch.zeros_like(err.flatten()).index_put([image * (height * width) + index], keep.to(err.dtype))
        return rows.index_put([row], x).view(pixels.shape), ref.view(batch, 1, height, width)

    def convolve(self, half: Tensor, full: Tensor) -> Tensor:
        """The four convolutions on crops or on whole pictures, with their margins."""
        x = F.relu(self.bn1(self.conv1(half)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.interpolate(x, scale_factor=2.0, mode='nearest')
        x = F.relu(self.bn3(self.conv3(torch.cat([x, full], 1))))
        return self.conv4(x)


def exceeded_by(x: Tensor, count: int, halvings: int = 24) -> Tensor:
    """A threshold (B, 1) that the `count` largest values of x (B, n), 0..1, exceed, but for zeros; by bisection.

    So do all that are equal to the least of them, within 2^-24: float32 tells values near 1 no further apart.
    """
    low, high = torch.zeros_like(x[:, :1]), torch.ones_like(x[:, :1])
    for _ in range(halvings):
        middle = (low + high) / 2
        few = _count_above(x, middle) <= count
        low, high = torch.where(few, low, middle), torch.where(few, middle, high)
    return torch.where(_count_above(x, high) == count, high, low)


def _count_above(x: Tensor, threshold: Tensor) -> Tensor:
    # In integers: sums of ones end at 2,048 in float16.
    return (x > threshold).to(torch.int32).sum(1, keepdim=True)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, [height, width], mode='bilinear', align_corners=False)


def _crop_cells(x: Tensor, image: Tensor, index: Tensor, height: int, width: int, size: int) -> Tensor:
    """Cuts cells with their margins out of padded pictures.

    Args:
        x: (B, C, height * size + 2 * margin, width * size + 2 * margin), sides multiples of `size`.
        image: picture (n,) of each cell.
        index: number (n,) of each cell in its picture's grid.
        height, width: of the grid of cells.
        size: a cell's side in pixels of x.

    Returns:
        (n, C, size + 2 * margin, size + 2 * margin).
    """
    count, channels, high, wide = index.shape[0], x.shape[1], x.shape[2], x.shape[3] // size
    side = high - (height - 1) * size
    run = _runs(index, height, width, size, side, wide) + (image * (high * wide))[:, None, None]
    x = x.permute(0, 2, 3, 1).reshape(-1, size * channels).index_select(0, run.flatten())
    return x.view(count, side * side, channels).transpose(1, 2).reshape(count, channels, side, side)


def _runs(index: Tensor, height: int, width: int, size: int, lines: int, wide: int) -> Tensor:
    """Where cells and their surroundings lie in a picture: runs of `size` pixels, counted from its beginning.

    Args:
        index: number (n,) of each cell in the picture's grid.
        height, width: of the grid of cells.
        size: a cell's side.
        lines: of a cell and its surroundings.
        wide: runs in a line of the picture.

    Returns:
        (n, lines, wide - width + 1).
    """
    # Tables of first runs and of steps to the others, instead of dividing a cell's number by the grid's width.
    row, column = torch.arange(height, device=index.device), torch.arange(width, device=index.device)
    first = (row.unsqueeze(1) * (size * wide) + column).flatten().index_select(0, index)
    line, across = torch.arange(lines, device=index.device), torch.arange(wide - width + 1, device=index.device)
    return first[:, None, None] + (line.unsqueeze(1) * wide + across)
