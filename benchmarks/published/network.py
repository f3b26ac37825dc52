"""The published network's data flow: whole pictures are enlarged, joined and padded, then crops are taken from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model import MattingRefine

Index = tuple[Tensor, ...]


class Published(MattingRefine):
    """The weights and results of `MattingRefine`, computed the published way, in sampling mode alone.

    Nothing is folded and tensors stay NCHW. Arguments are those of `MattingRefine`. It can do only what is timed:
    float32, crops around sampled cells, kernels of 3, sides that are multiples of 4. Unlike the original, it accepts
    pictures of fewer cells than are to be refined.
    """

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Return what `MattingRefine` does."""
        refiner = self.refiner
        assert (refiner.mode, refiner.kernel_size, refiner.prevent_oversampling) == ('sampling', 3, True)
        src_sm, bgr_sm = (
            F.interpolate(
                x, scale_factor=self.backbone_scale, mode='bilinear', align_corners=False, recompute_scale_factor=True
            )
            for x in (src, bgr)
        )
        pha_sm, fgr_sm, err_sm, hid = self.coarse(src_sm, bgr_sm)
        pha, fgr, ref_sm = self._refined(src, bgr, pha_sm, fgr_sm, err_sm, hid)
        pha = pha.clamp_(0, 1)
        fgr = fgr.add_(src).clamp_(0, 1)
        return pha, fgr, pha_sm, (fgr_sm + src_sm).clamp_(0, 1), err_sm, ref_sm

    def _refined(
        self, src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, err: Tensor, hid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `Refiner` does."""
        refiner = self.refiner
        height, width = src.shape[2:]
        ref = select(_resized(err, height // 4, width // 4), refiner.sample_pixels)
        # On a GPU this waits for the device, which alone knows the number of cells.
        index = ref.squeeze(1).nonzero().unbind(1)

        coarse = _resized(torch.cat([hid, pha, fgr], 1), height // 2, width // 2)
        pictures = torch.cat([src, bgr], 1)
        x = torch.cat([coarse, _resized(pictures, height // 2, width // 2)], 1)
        x = crop(x, index, 2, 3)
        x = F.relu(refiner.bn1(refiner.conv1(x)))
        x = F.relu(refiner.bn2(refiner.conv2(x)))
        x = F.interpolate(x, 8, mode='nearest')
        x = torch.cat([x, crop(pictures, index, 4, 2)], 1)
        x = F.relu(refiner.bn3(refiner.conv3(x)))
        x = refiner.conv4(x)

        out = put_back(_resized(torch.cat([pha, fgr], 1), height, width), x, index)
        return out[:, :1], out[:, 1:], ref


def select(err: Tensor, pixels: int) -> Tensor:
    """Return 1 for the `pixels // 16` cells of largest error if that is above 0, else 0; all (B, 1, H / 4, W / 4)."""
    flat = err.flatten(1)
    top = flat.topk(min(pixels // 16, flat.shape[1]), dim=1, sorted=False).indices
    ref = torch.zeros_like(flat).scatter_(1, top, 1.0)
    return ref.mul_(flat.gt(0).float()).view_as(err)


def crop(x: Tensor, index: Index, size: int, margin: int) -> Tensor:
    """Crop squares around cells of `size` pixels from x (B, C, H, W), as views of a padded copy of all of it.

    Args:
        x: whole pictures.
        index: picture, row and column of n cells.
        size: pixels along a cell.
        margin: pixels around it, 0 outside the picture.

    Returns:
        (n, C, size + 2 margin, size + 2 margin).
    """
    side = size + 2 * margin
    padded = F.pad(x, (margin,) * 4)
    windows = padded.permute(0, 2, 3, 1).unfold(1, side, size).unfold(2, side, size)
    return windows[index]


def put_back(out: Tensor, refined: Tensor, index: Index) -> Tensor:
    """Replace cells of out (B, C, H, W) by refined (n, C, 4, 4), through a view by cells and a copy back."""
    batch, channels, height, width = out.shape
    cells = out.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 1, 3, 5)
    cells[index] = refined.to(out.dtype)  # under autocast they can differ
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)
