"""MobileNetV2 with four blocks instead of seventeen, which converts several times as fast.

Its weights have MobileNetV2's names, so that the scripts take them for those of mobilenetv2.
"""

import contextlib

import pytest
from torchvision.models import MobileNetV2

import model.base
from model.backbone import widen_stem

# Expansion, channels, blocks, stride; the second block of equal shape adds its input.
BLOCKS = [[1, 32, 1, 1], [1, 24, 1, 2], [1, 32, 1, 2], [2, 48, 1, 2]]


class SmallEncoder(MobileNetV2):
    CHANNELS = (6, 32, 24, 32, 48)

    def __init__(self, name='mobilenetv2'):
        super().__init__(inverted_residual_setting=BLOCKS)
        del self.classifier
        self.features = self.features[:-1]
        stem = self.features[0][0]
        stem.weight = type(stem.weight)(widen_stem(stem.weight.detach()))
        stem.in_channels = 6
        depthwise = self.features[-1].conv[1][0]
        depthwise.dilation = depthwise.padding = (2, 2)

    def forward(self, x):
        taps = [x]
        for i, block in enumerate(self.features):
            x = block(x)
            if i > 0:
                taps.append(x)
        return taps


@contextlib.contextmanager
def used():
    """Give this encoder to the networks that are made inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.base, 'make_backbone', SmallEncoder)
        yield
