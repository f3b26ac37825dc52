"""`MattingBase`: the coarse network (paper, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from common.network import MIN_SIDE

from .backbone import make_backbone
from .decoder import Decoder


class MattingBase(nn.Module):
    """Encoder, one of `common.network.BACKBONES`, atrous spatial pyramid pooling and decoder."""

    def __init__(self, backbone: str):
        super().__init__()
        self.backbone_name = backbone
        self.backbone = make_backbone(backbone)
        channels = self.backbone.CHANNELS
        self.aspp = ASPP(channels[-1], [3, 6, 9])
        self.decoder = Decoder([256, *reversed(channels[:-1])])

    def coarse(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the network in the precision of its weights: `forward` without checks, and with fgr left a residual.

        The residual, not clamped, is to be added to `src`.
        """
        dtype = self.decoder.conv4.weight.dtype
        taps = self.backbone(torch.cat([src, bgr], 1).to(dtype))
        x = self.decoder(self.aspp(taps[4]), taps)
        pha, fgr, err, hid = x.split([1, 3, 1, 32], 1)
        return self.clamp(pha), fgr.clone(), self.clamp(err), hid.relu()  # no view, which would hold all of x

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict the coarse matte.

        Args:
            src: the picture with the subject, (B, 3, H, W), RGB, 0..1, sides of at least 16 pixels.
            bgr: the picture without it, of the same shape.

        Returns:
            pha (B, 1, H, W), fgr (B, 3, H, W) and err (B, 1, H, W), 0..1; hid (B, 32, H, W), at least 0.

        Raises:
            ValueError: the shapes differ or are too small.
        """
        check_pair(src, bgr)
        pha, fgr, err, hid = self.coarse(src, bgr)
        return pha, self.clamp(fgr + src), err, hid

    def clamp(self, x: Tensor) -> Tensor:
        """Clamp to 0..1, in training without cutting off the gradient.

        With an ordinary clamp, alpha below 0 has no gradient and never rises again: where the first steps of a new
        decoder push the background down, the subject goes along and alpha stays at 0 for good. Values do not drift
        away outside, since the L1 loss is flat where the clamped value is right.
        """
        clamped = x.clamp(0, 1)
        return clamped.detach() + (x - x.detach()) if self.training else clamped


def check_pair(src: Tensor, bgr: Tensor) -> None:
    """Raise ValueError unless `src` and `bgr` are (B, 3, H, W), of one shape, with sides of at least 16 pixels."""
    if src.ndim != 4 or src.shape[1] != 3:
        raise ValueError(f'src must be (B, 3, H, W), not {tuple(src.shape)}')
    if src.shape != bgr.shape:
        raise ValueError(f'src {tuple(src.shape)} and bgr {tuple(bgr.shape)} must have one shape')
    if min(src.shape[2:]) < MIN_SIDE:
        raise ValueError(f'pictures of at least {MIN_SIDE} x {MIN_SIDE} are needed, not {tuple(src.shape[2:])}')
