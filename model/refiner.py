"""The refiner: recomputes the 4x4-pixel cells of the picture whose predicted error is largest (paper, section 4.2).

In sampling mode all shapes follow from the input's: top-k gives exactly k cells per picture, and those that
`prevent_oversampling` excludes are computed and then masked, so that the graph has no branch on data. Only in
evaluation on a CPU, outside of tracing, where such a branch costs nothing, are they not computed at all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.console import say
from common.network import REFINE_MODES

from .cells import EAGER, CellOps, Cells, unit


class Pyramid(NamedTuple):
    """A batch of RGB pictures at the three sizes that the networks read."""

    full: Tensor  # (B, 3, H, W), sides multiples of 4; float 0..1, or uint8 0..255
    half: Tensor  # (B, 3, H / 2, W / 2), float 0..1
    small: Tensor  # (B, 3, h, w), the coarse network's size, float 0..1


def make_pyramid(full: Tensor, size_sm: Sequence[int], dtype: torch.dtype = torch.float32) -> Pyramid:
    """Resize pictures `full` to half and to `size_sm` (h, w); `dtype` is that of the results if `full` is uint8."""
    x = unit(full, dtype)
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

    ops: CellOps = EAGER  # others that do the same may be set

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
            full = (unit(x.full, dtype).to(coarse.dtype) for x in (src, bgr))
            x = torch.cat([_resize(coarse, height // 2, width // 2), *half], 1)
            margin1, margin2 = self.margins
            out = self.convolve(F.pad(x, [margin1] * 4), F.pad(torch.cat([*full], 1), [margin2] * 4)).to(dtype)
            return out[:, :1], out[:, 1:], torch.ones_like(out[:, :1, ::4, ::4])
        cells, keep, ref = self._select(_resize(err, height // 4, width // 4))
        # In parts, except in training, where BatchNorm needs all at once: a third of the memory at 4K, and no slower.
        at_once = 1024 if not self.training and _may_branch_on(err) else len(cells.row)
        parts = (Cells(*part) for part in zip(*(x.split(at_once) for x in cells)))
        refined = torch.cat([self._refine_cells(coarse, (src, bgr), part) for part in parts])
        del coarse  # 19 MB of HD
        pha, fgr = (_resize(x.to(dtype), height, width) for x in (pha, fgr))
        _ops_of(self).put_back(pha, fgr, refined, cells, keep)
        return pha, fgr, ref

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
        return Cells(image.contiguous(), rows[index], columns[index]), keep, ref.view_as(err)

    def _refine_cells(self, coarse: Tensor, pictures: Sequence[Pyramid], cells: Cells) -> Tensor:
        """Return (n, 4, 4, 4): alpha and foreground residual of the 4x4 pixels of each cell."""
        margin1, margin2 = self.margins
        x = _ops_of(self).first_crops(coarse, [x.half for x in pictures], cells, margin1)
        return self.convolve(x, _ops_of(self).second_crops([x.full for x in pictures], cells, margin2, x))

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


def _ops_of(refiner: Refiner) -> CellOps:
    """Return the operations on cells; a trace takes those of torch, since it would leave out any other kernel."""
    return EAGER if torch.jit.is_tracing() else refiner.ops


def _may_branch_on(x: Tensor) -> bool:
    """Return whether shapes may depend on the data: free on a CPU, wrong where a graph is recorded for other data."""
    return x.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)


@functools.cache
def fastest_ops(device: torch.device, picture: torch.dtype, dtype: torch.dtype) -> CellOps:
    """Return the operations for a GPU, which must be the current one, in evaluation.

    Triton's kernels, if they do on a small example what they should, which takes seconds when it is new to a machine.

    Args:
        device: the GPU.
        picture: the dtype of smaller copies of pictures.
        dtype: that of the network.
    """
    try:
        from .cell_kernels import OPS

        # The CPU says what is right: TF32 and the like may be on for the GPU.
        found, expected = _example(OPS, device, picture, dtype), _example(EAGER, torch.device('cpu'), picture, dtype)
        for one, other in zip(found, expected):
            torch.testing.assert_close(one.cpu(), other, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    except ImportError:  # torch brings Triton along on Linux alone
        return EAGER
    except Exception as error:  # Triton's, the compiler's and the driver's have no type in common
        reason = str(error).strip().partition('\n')[0]
        say(f'note: Triton cannot be used here, so some of the refining takes longer: {reason}')
        return EAGER
    return OPS


def _example(ops: CellOps, device: torch.device, picture: torch.dtype, dtype: torch.dtype) -> list[Tensor]:
    """Return what operations make of every cell of two small pictures and one plate."""
    random = torch.Generator().manual_seed(0)
    full = [torch.randint(256, (n, 3, 12, 20), generator=random).to(device, torch.uint8) for n in (2, 1)]
    half = [torch.rand(n, 3, 6, 10, generator=random).to(device, picture).expand(2, -1, -1, -1) for n in (2, 1)]
    coarse, refined = (torch.rand(n, 4, 4, 4, generator=random).to(device, dtype) for n in (2, 30))
    numbers = torch.arange(30, device=device)
    cells, keep = Cells(numbers // 15, numbers % 15 // 5, numbers % 5), numbers % 3 > 0
    pha, fgr = (torch.zeros(2, channels, 12, 20, dtype=picture, device=device) for channels in (1, 3))
    ops.put_back(pha, fgr, refined, cells, keep)
    full = [x.expand(2, -1, -1, -1) for x in full]
    return [ops.first_crops(coarse, half, cells, 3), ops.second_crops(full, cells, 2, coarse), pha, fgr]
