"""`MattingBase`: the coarse network (paper, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from common.network import MIN_SIDE

from .backbone import make_backbone
from .decoder import Decoder

# Below this side the encoder's last stage has nothing left to look at.


class MattingBase(nn.Module):
    """Encoder, atrous spatial pyramid pooling and decoder: alpha, foreground and error at the input's size.

    Args:
        backbone: 'resnet101', 'resnet50' or 'mobilenetv2'.
    """

    def __init__(self, backbone: str):
        super().__init__()
        self.backbone_name = backbone
        self.backbone = make_backbone(backbone)
        channels = self.backbone.CHANNELS
        self.aspp = ASPP(channels[-1], [3, 6, 9])
        self.decoder = Decoder([256, *reversed(channels[:-1])])

    def coarse(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Runs the network, in its weights' precision; the foreground is still the residual to be added to `src`.

        Args:
            src: (B, 3, H, W), RGB, 0..1.
            bgr: the same shape.

        Returns:
            pha (B, 1, H, W) in 0..1, residual fgr (B, 3, H, W), err (B, 1, H, W) in 0..1, hid (B, 32, H, W) >= 0.
        """
        dtype = self.decoder.conv4.weight.dtype
        taps = self.backbone(torch.cat([src, bgr], 1).to(dtype))
        x = self.decoder(self.aspp(taps[4]), taps)
        pha, fgr, err, hid = x.split([1, 3, 1, 32], 1)
        return self.clamp(pha), fgr, self.clamp(err), hid.relu()

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicts the coarse matte.

        Args:
            src: the picture with the subject, (B, 3, H, W), RGB, 0..1, sides of at least 16.
            bgr: the picture without, the same shape.

        Returns:
            pha (B, 1, H, W), fgr (B, 3, H, W) and err (B, 1, H, W) in 0..1, hid (B, 32, H, W).

        Raises:
            ValueError: shapes that differ or are too small.
        """
        check_pair(src, bgr)
        pha, fgr, err, hid = self.coarse(src, bgr)
        return pha, self.clamp(fgr + src), err, hid

    def clamp(self, x: Tensor) -> Tensor:
        """Clamps to 0..1; in training the gradient passes as if it had not.

        Where a clamp cuts the gradient off, alpha below 0 can never rise again: a new decoder whose first steps
        push the background down takes the subject along and stays at 0 for good. The L1 loss is flat where the
        clamped value is right, so nothing drifts further outside.
        """
        clamped = x.clamp(0, 1)
        return clamped.detach() + (x - x.detach()) if self.training else clamped


def check_pair(src: Tensor, bgr: Tensor) -> None:
    """Raises ValueError unless `src` and `bgr` are (B, 3, H, W) of one shape and of at least 16 x 16."""
    if src.ndim != 4 or src.shape[1] != 3:
        raise ValueError(f'src must be (B, 3, H, W), not {tuple(src.shape)}')
    if src.shape != bgr.shape:
        raise ValueError(f'src {tuple(src.shape)} and bgr {tuple(bgr.shape)} must have one shape')
    if min(src.shape[2:]) < MIN_SIDE:
        raise ValueError(f'pictures of at least {MIN_SIDE} x {MIN_SIDE} are needed, not {tuple(src.shape[2:])}')
