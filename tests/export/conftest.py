"""Networks to export. Whole encoders take minutes to convert, so only slow tests do."""

import pytest
from support import small_encoder
from support.inference_case import save_networks


@pytest.fixture(scope='session')
def small_checkpoints(tmp_path_factory):
    """Weights of both networks with the small encoder."""
    with small_encoder.used():
        return save_networks(tmp_path_factory.mktemp('small'))


@pytest.fixture
def checkpoints(request, small_checkpoints, checkpoints):
    """Weights of both networks: whole ones in slow tests, otherwise small ones, and MobileNetV2 is then small, too."""
    if request.node.get_closest_marker('slow'):
        yield checkpoints
        return
    with small_encoder.used():
        yield small_checkpoints
