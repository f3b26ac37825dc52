"""Networks to export. Whole encoders take minutes to convert, so only slow tests do."""

import pytest
import torch
from support import small_encoder
from support.inference_case import spread_out

from model import MattingBase, MattingRefine


@pytest.fixture(scope='session')
def small_checkpoints(tmp_path_factory):
    """Weights of both networks with the small encoder; alpha, error and the refined cells vary over each picture."""
    folder = tmp_path_factory.mktemp('small')
    torch.manual_seed(3)
    paths = {}
    with small_encoder.used():
        for name, model in (
            ('mattingbase', MattingBase('mobilenetv2')),
            ('mattingrefine', MattingRefine('mobilenetv2', refine_sample_pixels=800)),
        ):
            spread_out(model.eval())
            paths[name] = folder / f'{name}.pth'
            torch.save(model.state_dict(), paths[name])
    return paths


@pytest.fixture
def checkpoints(request, small_checkpoints, checkpoints):
    """Weights of both networks: whole ones in slow tests, otherwise small ones, and MobileNetV2 is then small, too."""
    if request.node.get_closest_marker('slow'):
        yield checkpoints
        return
    with small_encoder.used():
        yield small_checkpoints
