"""Encoders with a 6-channel stem (`src` and `bgr` concatenated) and output stride 16, from torchvision's classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, ResNet
from torchvision.models.resnet import Bottleneck

from common.network import BACKBONES

RESNET_LAYERS = {'resnet50': [3, 4, 6, 3], 'resnet101': [3, 4, 23, 3]}


class ResNetEncoder(ResNet):
    """ResNet-50 or ResNet-101 without classification head, its last stage dilated instead of strided."""

    # Of the taps at 1/1, 1/2, 1/4, 1/8 and 1/16 of the input's sides.
    CHANNELS = (6, 64, 256, 512, 2048)

    def __init__(self, variant: str):
        super().__init__(Bottleneck, RESNET_LAYERS[variant], replace_stride_with_dilation=[False, False, True])
        del self.avgpool, self.fc
        self.conv1 = _widen(self.conv1)  # type: ignore[has-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the five taps of x (B, 6, H, W), largest first."""
        x1 = self.relu(self.bn1(self.conv1(x)))
        x2 = self.layer1(self.maxpool(x1))
        x3 = self.layer2(x2)
        x4 = self.layer4(self.layer3(x3))
        return [x, x1, x2, x3, x4]


class MobileNetV2Encoder(MobileNetV2):
    """MobileNetV2 without its last 1x1 block and classifier, its last stage dilated instead of strided."""

    CHANNELS = (6, 16, 24, 32, 320)

    def __init__(self) -> None:
        super().__init__()
        del self.classifier
        features = self.features[:-1]  # type: ignore[has-type]
        features[0][0] = _widen(features[0][0])
        features[14].conv[1][0].stride = (1, 1)
        for block in features[15:]:
            depthwise = block.conv[1][0]
            depthwise.dilation = depthwise.padding = (2, 2)
        self.features = features

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the five taps of x (B, 6, H, W), largest first."""
        taps = [x]
        for i, block in enumerate(self.features):
            x = block(x)
            if i in (1, 3, 6, 17):
                taps.append(x)
        return taps


def widen_stem(weight: Tensor) -> Tensor:
    """Widen the filters of an RGB stem to 6 channels: `src` gets the filters, `bgr` their negatives.

    The first features are then those of the difference, nearly 0 wherever the two pictures agree, which is the cue that
    the task depends on; the picture itself still reaches the decoder's last convolution. Compared with zeros for `bgr`
    the error after the first 100 steps is half (docs/experiments.md). The same filters for both, which blend the
    subject with what is behind it, are worse than either. A stem of 6 channels is returned as it is.
    """
    return weight if weight.shape[1] == 6 else torch.cat([weight, -weight], 1)


def _widen(stem: nn.Conv2d) -> nn.Conv2d:
    wide = nn.Conv2d(6, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=False)  # type: ignore[arg-type]
    wide.weight = nn.Parameter(widen_stem(stem.weight.detach()))
    return wide


def make_backbone(name: str) -> ResNetEncoder | MobileNetV2Encoder:
    """Build an encoder with random weights; `name` is one of `BACKBONES`, or raises ValueError."""
    if name == 'mobilenetv2':
        return MobileNetV2Encoder()
    if name in RESNET_LAYERS:
        return ResNetEncoder(name)
    raise ValueError(f'backbone {name!r} is not one of {", ".join(BACKBONES)}')
