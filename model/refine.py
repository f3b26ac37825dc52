"""`MattingRefine`: the coarse network on a smaller copy of the picture, then the refiner (paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.network import MIN_SIDE, PATCH_CROP_METHODS, PATCH_REPLACE_METHODS

from .base import MattingBase, check_pair
from .refiner import Pyramid, Refiner, make_pyramid


class MattingRefine(MattingBase):
    """The network for alpha and foreground at full resolution.

    Args:
        backbone: one of `common.network.BACKBONES`.
        backbone_scale: sides of what the coarse network sees, as a fraction of the picture's; above 0, at most 1/2.
        refine_mode, refine_sample_pixels, refine_threshold, refine_kernel_size, refine_prevent_oversampling: those of
            `Refiner`.
        refine_patch_crop_method, refine_patch_replace_method: taken for code that gives the published class all nine;
            cells are gathered and put back one way, and results never depended on it.

    Raises:
        ValueError: a value is not allowed.
    """

    def __init__(
        self,
        backbone: str,
        backbone_scale: float = 1 / 4,
        refine_mode: str = 'sampling',
        refine_sample_pixels: int = 80_000,
        refine_threshold: float = 0.1,
        refine_kernel_size: int = 3,
        refine_prevent_oversampling: bool = True,
        refine_patch_crop_method: str = 'unfold',
        refine_patch_replace_method: str = 'scatter_nd',
    ):
        if refine_patch_crop_method not in PATCH_CROP_METHODS:
            raise ValueError(f'patch crop method {refine_patch_crop_method!r} is not one of {PATCH_CROP_METHODS}')
        if refine_patch_replace_method not in PATCH_REPLACE_METHODS:
            raise ValueError(f'patch replace method {refine_patch_replace_method!r} is not in {PATCH_REPLACE_METHODS}')
        if not 0 < backbone_scale <= 1 / 2:
            raise ValueError(f'backbone scale {backbone_scale} must be above 0 and at most 1/2')
        super().__init__(backbone)
        self.backbone_scale = backbone_scale
        self.refiner = Refiner(
            refine_mode, refine_sample_pixels, refine_threshold, refine_kernel_size, refine_prevent_oversampling
        )

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Predict the matte.

        Sides that are not multiples of 4 are padded to the next one by repeating the border, and the full-size
        results are cropped back; the `_sm` results keep the padded picture's size.

        Args:
            src, bgr: as for `MattingBase`, and large enough that the coarse network sees at least one pixel.

        Returns:
            pha (B, 1, H, W), fgr (B, 3, H, W), pha_sm (B, 1, h, w), fgr_sm (B, 3, h, w), err_sm (B, 1, h, w), all
            0..1, and ref_sm (B, 1, ceil(H / 4), ceil(W / 4)), 1 = refined; h = floor(H * backbone_scale).

        Raises:
            ValueError: the shapes differ or are too small.
        """
        check_pair(src, bgr)
        return self.matte(self.pyramid(src), self.pyramid(bgr), src.shape[2:])

    def pyramid(self, picture: Tensor, dtype: torch.dtype = torch.float32) -> Pyramid:
        """Return a picture in all sizes that `matte` reads; a plate's pyramid serves all pictures taken before it.

        Args:
            picture: (B, 3, H, W), RGB, float 0..1 or uint8 0..255; copied if it is not channels-last.
            dtype: of the smaller sizes of a uint8 picture.

        Raises:
            ValueError: the picture is too small.
        """
        height, width = picture.shape[2:]
        pad = (0, -width % 4, 0, -height % 4)
        if any(pad):
            picture = F.pad(picture.to(dtype), pad, mode='replicate').to(picture.dtype)
        size_sm = [math.floor(side * self.backbone_scale) for side in picture.shape[2:]]
        if min(size_sm) < 1:
            least = max(MIN_SIDE, math.ceil(1 / self.backbone_scale))
            raise ValueError(f'at backbone scale {self.backbone_scale} the sides must be at least {least}')
        return make_pyramid(picture.contiguous(memory_format=torch.channels_last), size_sm, dtype)

    def matte(
        self, src: Pyramid, bgr: Pyramid, size: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Predict the matte from the pyramids of pictures of `size` (H, W); return what `forward` returns."""
        pha_sm, fgr_sm, err_sm, hid = self.coarse(src.small, bgr.small)
        pha, fgr, ref_sm = self.refiner(src, bgr, pha_sm, fgr_sm, err_sm, hid)
        del hid  # 17 MB of HD
        fgr = fgr.add_(src.full, alpha=1 if src.full.is_floating_point() else 1 / 255)
        # In place if no gradient needs the former values: at 4K a copy takes 130 MB.
        pha, fgr = (self.clamp(x) if self.training else x.clamp_(0, 1) for x in (pha, fgr))
        pha, fgr = (x[..., : size[0], : size[1]] for x in (pha, fgr))
        return pha, fgr, pha_sm, self.clamp(fgr_sm + src.small), err_sm, ref_sm
