"""BatchNorm folded into convolutions."""

import copy

import pytest
import torch
from torch import nn

from model import MattingBase, MattingRefine
from model.folding import fold_batch_norm


def lively(model):
    """Statistics and weights as after a training, so that leaving one out shows."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


@pytest.mark.parametrize(
    'make',
    [lambda: MattingBase('mobilenetv2'),
     pytest.param(lambda: MattingRefine('resnet50'), marks=pytest.mark.slow),
     lambda: MattingRefine('mobilenetv2', refine_mode='thresholding', refine_kernel_size=1)],
    ids=['base mobilenetv2', 'refine resnet50', 'thresholding'],
)  # fmt: skip
def test_the_same_numbers_without_batchnorm(make):
    model = lively(make())
    folded, example = copy.deepcopy(model), torch.rand(1, 3, 64, 64)
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert fold_batch_norm(folded, example, example) == layers
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        src, bgr = torch.rand(2, 2, 3, 96, 64)
        for a, b in zip(model(src, bgr), folded(src, bgr)):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_norm_of_something_else_stays():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.second(self.first(self.conv(x)).relu())

    odd = lively(Odd())
    folded, x = copy.deepcopy(odd), torch.rand(1, 3, 8, 8)
    assert fold_batch_norm(folded, x) == 1
    assert isinstance(folded.second, nn.BatchNorm2d)
    torch.testing.assert_close(odd(x), folded(x))


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match='evaluation mode only'):
        fold_batch_norm(MattingBase('mobilenetv2'), torch.rand(1, 3, 64, 64))
