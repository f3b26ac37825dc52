"""What the speed test is made of: random and traced networks, counting, timing and memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.devices import keep_memory
from common.network import PUBLISHED as PUBLISHED_SETTINGS
from common.network import SIZES, NetworkSettings, RefinerSettings
from inference import Matting, backends, networks
from inference.speed import measure as speed
from inference.speed.sweep import SpeedRow
from model import MattingBase, MattingRefine

pytestmark = pytest.mark.usefixtures('one_thread')
CPU = torch.device('cpu')
REFINE = NetworkSettings('mattingrefine', 'mobilenetv2', RefinerSettings(refine_sample_pixels=800))


def refining(**settings: Any) -> NetworkSettings:
    assert REFINE.refiner is not None
    return replace(REFINE, refiner=replace(REFINE.refiner, **settings))


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, 'WARM_UP_SECONDS', 0)


def test_a_trace_gives_what_the_network_gives() -> None:
    matting = backends.load_matting(None, REFINE, 'torchscript', CPU)
    pictures = torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64)
    expected = matting.predict(*pictures)
    backends.trace(matting, *(torch.rand_like(x) for x in pictures))
    assert isinstance(matting.model, torch.jit.ScriptModule)
    for name, found in matting.predict(*pictures).items():
        torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=0)


def test_a_batch_is_made_as_the_pipeline_makes_it() -> None:
    src = np.zeros((20, 30, 3), np.uint8)
    matting = Matting(MattingBase('mobilenetv2'), CPU)
    made = speed._inputs(SpeedRow(None, REFINE, (30, 20), batch_size=3), matting, (src + 255, src))
    assert [x.shape for x in made] == [(3, 3, 20, 30)] * 2
    assert made[0].min() == 1
    assert made[1].max() == 0


class Adjustable(nn.Module):
    """Stands for a published TorchScript archive: named like a network, with settings that can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone_scale, self.refine_mode = 0.5, 'full'
        self.refine_sample_pixels, self.refine_threshold = 1, 0.1
        self.decoder = nn.ModuleDict({'conv4': nn.Conv2d(3, 1, 1)})
        self.refiner = nn.ModuleDict({'conv1': nn.Conv2d(1, 1, 1)})
        self.backbone = nn.ModuleDict({'features': nn.Sequential(nn.Sequential(nn.Conv2d(3, 1, 1)))})

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor]:
        return src[:, :1] * self.backbone_scale + self.refine_sample_pixels + len(self.refine_mode), src


@pytest.mark.filterwarnings('ignore:`torch.jit')
def test_an_archive_gets_its_settings_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'archive.pt'
    torch.jit.script(Adjustable()).save(path)
    src = torch.rand(1, 3, 4, 4)
    matting = backends.load_matting(path, REFINE, 'torchscript', CPU, 'float32')
    torch.testing.assert_close(matting.predict(src, src)['pha'], src[:, :1] * 0.25 + 800 + len('sampling'))
    half = backends.load_matting(path, REFINE, 'torchscript', CPU, 'bfloat16')
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match='holds mattingrefine mobilenetv2, not mattingrefine resnet50'):
        backends.load_matting(path, replace(REFINE, backbone='resnet50'), 'torchscript', CPU)
    fixed = Matting(MattingRefine('mobilenetv2'), CPU)
    backends.trace(fixed, torch.rand(1, 3, 48, 64), torch.rand(1, 3, 48, 64))
    torch.jit.save(fixed.model, path)
    with pytest.raises(ValueError, match='has no backbone_scale to set'):
        backends.load_matting(path, REFINE, 'torchscript', CPU)


PUBLISHED = {'resnet50': (34.3, 41.5), 'resnet101': (44.0, 51.2), 'mobilenetv2': (9.9, 17.0)}
COUNTED = {'resnet50': (34.210, 41.325), 'resnet101': (43.870, 50.985), 'mobilenetv2': (9.763, 16.878)}


@pytest.mark.parametrize(
    'backbone', ['mobilenetv2', *(pytest.param(name, marks=pytest.mark.slow) for name in ('resnet50', 'resnet101'))]
)
def test_gmac_is_what_was_published_less_batch_norm(backbone: str) -> None:
    for name, published, expected in zip(('hd', '4k'), PUBLISHED[backbone], COUNTED[backbone]):
        scale, pixels = PUBLISHED_SETTINGS[name]
        refiner = RefinerSettings(backbone_scale=scale, refine_sample_pixels=pixels)
        with torch.device('meta'):
            network = networks.make_network(NetworkSettings('mattingrefine', backbone, refiner)).eval()
            picture = torch.empty(1, 3, *reversed(SIZES[name]))
        assert speed.count_gmac(network, picture, picture) == pytest.approx(expected, abs=0.001)
        assert expected + 2 * normalised_values(network, picture) / 1e9 == pytest.approx(published, rel=0.01)


def normalised_values(network: nn.Module, picture: Tensor) -> int:
    """How many values pass through BatchNorm."""
    counts: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, output: counts.append(output.numel()))
    network(picture, picture)
    return sum(counts)


@pytest.mark.slow
def test_gmac_of_thresholding_counts_the_cells_that_exceed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, 'MOST_WARM_UPS', 1)

    def gmac(**settings: Any) -> float:
        return speed.measure(SpeedRow(None, refining(**settings), (64, 48)), CPU, repeats=1).gmac

    every_cell = gmac(refine_sample_pixels=64 * 48)
    assert gmac(refine_mode='thresholding') == every_cell  # of random weights: all
    assert gmac(refine_sample_pixels=16) < every_cell


@pytest.mark.parametrize('mode', ['sampling', 'thresholding'])
def test_random_weights_refine_every_cell_of_any_picture(mode: str) -> None:
    network = networks.random_network(refining(refine_mode=mode, refine_sample_pixels=64 * 48))
    noise = torch.rand(1, 3, 48, 64)
    with torch.inference_mode():
        for src, bgr in ((noise, noise.flip(3)), (noise * 0, noise * 0 + 1), (noise * 0 + 1, noise * 0)):
            *_, err, ref = network(src, bgr)
            assert err.min() > (0.7 if mode == 'thresholding' else 0)
            assert err.max() < 1
            assert ref.min() == 1
        if mode == 'sampling':
            assert network(noise, noise.flip(3))[4].std() > 0.01  # cells are picked from all over the picture


def test_random_weights_fit_into_float16() -> None:
    largest: list[float] = []
    network = networks.random_network(NetworkSettings('mattingbase', 'resnet101'))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: largest.append(output.abs().max().item()))
    with torch.inference_mode():
        network(torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))
    assert max(largest) < 100
    assert isinstance(network, MattingBase)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The seconds that the next runs take."""
    seconds: list[float] = []
    monkeypatch.setattr(speed, '_seconds', lambda work, device: seconds.pop(0))
    monkeypatch.setattr(backends, 'load_matting', lambda *_, **__: Matting(MattingBase('mobilenetv2'), CPU))
    yield seconds
    assert not seconds, 'fewer runs than expected'


def test_runs_are_timed_once_three_are_alike(clock: list[float]) -> None:
    clock += [9, 5, 1, 1.05, 1.02] + [0.001 * i for i in range(11, 0, -1)]
    found = speed.measure(SpeedRow(None, REFINE, (64, 48), batch_size=3), CPU, repeats=11)
    times = found.median_ms, found.p10_ms, found.p90_ms, found.fps
    assert times == pytest.approx((6, 2, 10, 500))
    assert (found.warm_ups, found.runs) == (5, 11)


def test_times_that_never_settle_and_a_limit_in_seconds_end(clock: list[float]) -> None:
    clock += [1, 2] * 5 + [3]
    found = speed.measure(SpeedRow(None, REFINE, (64, 48)), CPU, repeats=30, seconds=1e-9)
    assert (found.warm_ups, found.runs, found.median_ms) == (10, 1, 3000)


def test_each_row_has_its_own_peak_of_memory() -> None:
    keep_memory()
    if not speed.reset_peak(CPU):
        pytest.skip('this system cannot reset it')
    before = speed.peak_mib(CPU)
    held = [torch.ones(2**18) for _ in range(200)]  # 200 MiB
    during = speed.peak_mib(CPU)
    del held
    assert speed.peak_mib(CPU) == pytest.approx(during, abs=1)
    assert speed.reset_peak(CPU)
    after = speed.peak_mib(CPU)
    assert before is not None
    assert during is not None
    assert during - before == pytest.approx(200, abs=10)
    assert after == pytest.approx(before, abs=10)
