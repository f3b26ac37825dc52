"""The decoder: four bilinear enlargements, each concatenated with the encoder's tap of that size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decoder(nn.Module):
    """The base network's upsampling decoder (paper, section 4.1).

    Args:
        in_channels: of the input, then of the taps at 1/8, 1/4, 1/2 and 1/1.
        channels: of the four convolutions' outputs.
    """

    def __init__(self, in_channels: Sequence[int], channels: Sequence[int] = (128, 64, 48, 37)):
        super().__init__()
        c = channels
        self.conv1 = nn.Conv2d(in_channels[0] + in_channels[1], c[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c[0])
        self.conv2 = nn.Conv2d(c[0] + in_channels[2], c[1], 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c[1])
        self.conv3 = nn.Conv2d(c[1] + in_channels[3], c[2], 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(c[2])
        self.conv4 = nn.Conv2d(c[2] + in_channels[4], c[3], 3, padding=1)

    def forward(self, x: Tensor, taps: list[Tensor]) -> Tensor:
        """Return (B, 37, H, W), of the first tap's size, from x (B, C, h, w) and the encoder's taps, largest first."""
        x1, x2, x4, x8 = taps[0], taps[1], taps[2], taps[3]
        x = F.relu(self.bn1(self.conv1(_join(x, x8))))
        x = F.relu(self.bn2(self.conv2(_join(x, x4))))
        x = F.relu(self.bn3(self.conv3(_join(x, x2))))
        return self.conv4(_join(x, x1))


def _join(x: Tensor, tap: Tensor) -> Tensor:
    x = F.interpolate(x, [tap.shape[2], tap.shape[3]], mode='bilinear', align_corners=False)
    return torch.cat([x, tap], 1)
