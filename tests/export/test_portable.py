"""The exported form of the networks gives what the eager one gives: every mode, form, size and border case."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from support import small_encoder
from support.inference_case import photo, rescale, room, spread_out
from torch import Tensor

import model.base
from common.network import NetworkSettings, RefinerSettings
from export.portable import FORMS, PortableBase, PortableRefine, exceeded_by
from inference.networks import random_network
from model import MattingBase, MattingRefine
from model.backbone import make_backbone

pytestmark = [pytest.mark.usefixtures('one_thread', 'encoder'), pytest.mark.filterwarnings('ignore:`torch.jit')]
MODES = ('sampling', 'thresholding', 'full')
# Batch, width, height, backbone scale: multiples of 4 and not, wide and tall, a coarse picture of odd sides.
PICTURES = (
    (1, 96, 64, 0.25),
    (2, 97, 61, 0.25),
    (3, 66, 83, 0.5),
    (1, 141, 130, 0.125),
    (2, 93, 122, 0.3),
)


def refine_settings(pixels: int) -> NetworkSettings:
    refiner = RefinerSettings(refine_threshold=0.5, refine_sample_pixels=pixels)
    return NetworkSettings('mattingrefine', 'mobilenetv2', refiner)


@pytest.fixture(scope='module')
def encoder() -> Iterator[None]:
    with small_encoder.used():
        yield


@pytest.fixture
def whole_encoder(encoder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.base, 'make_backbone', make_backbone)


def spread(seed: int, kernel: int = 3) -> MattingRefine:
    """With alpha and error that vary over a picture, the latter within 0.1..0.5 or so."""
    torch.manual_seed(seed)
    network = MattingRefine('mobilenetv2', refine_sample_pixels=800, refine_kernel_size=kernel).eval()
    spread_out(network)
    return network


@pytest.fixture(scope='module')
def networks(encoder: None) -> dict[int, MattingRefine]:
    """By kernel size."""
    return {kernel: spread(kernel, kernel) for kernel in (1, 3)}


@pytest.fixture
def network(networks: dict[int, MattingRefine]) -> MattingRefine:
    return configured(networks[3], 'sampling', 0.25)


def configured(
    network: MattingRefine, mode: str, scale: float, pixels: int = 800, threshold: float = 0.3
) -> MattingRefine:
    network.backbone_scale = scale
    network.refiner.mode, network.refiner.sample_pixels, network.refiner.threshold = mode, pixels, threshold
    return network


def pictures(batch: int = 1, width: int = 96, height: int = 64) -> tuple[Tensor, Tensor]:
    """Different ones of one size, as (B, 3, H, W)."""
    plates = [room(seed, width, height) for seed in range(batch)]
    src, bgr = (
        torch.stack([torch.from_numpy(x).permute(2, 0, 1) / 255 for x in shots])
        for shots in ([photo(plate, seed) for seed, plate in enumerate(plates)], plates)
    )
    return src, bgr


@torch.no_grad()
def assert_equal(found: Callable[..., tuple[Tensor, ...]], network: MattingBase, src: Tensor, bgr: Tensor) -> Tensor:
    """All results, and the very same cells; returns the original's last result, which are these cells."""
    expected, results = network(src, bgr), found(src, bgr)
    assert len(results) == len(expected)
    if isinstance(network, MattingRefine):
        assert torch.equal(results[-1], expected[-1])
    for result, original in zip(results, expected):
        torch.testing.assert_close(result, original, atol=2e-6, rtol=0)
    return expected[-1]


@pytest.mark.parametrize(('batch', 'width', 'height', 'scale'), PICTURES)
@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('mode', MODES)
def test_equal_in_every_mode_and_form(
    networks: dict[int, MattingRefine], mode: str, kernel: int, batch: int, width: int, height: int, scale: float
) -> None:
    network = configured(networks[kernel], mode, scale)
    src, bgr = pictures(batch, width, height)
    for form in FORMS:
        ref = assert_equal(PortableRefine(network, form), network, src, bgr)
        if mode == 'full':
            assert ref.min() == 1
        else:
            assert ((ref.mean((1, 2, 3)) > 0.01) & (ref.mean((1, 2, 3)) < 0.99)).all(), 'of every picture, some cells'


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.usefixtures('whole_encoder')
def test_equal_with_random_weights(form: str) -> None:
    network = random_network(refine_settings(1600))
    assert isinstance(network, MattingRefine)
    src, bgr = torch.rand(2, 3, 80, 96), torch.rand(2, 3, 80, 96)
    assert assert_equal(PortableRefine(network, form), network, src, bgr).sum((1, 2, 3)).tolist() == [100, 100]
    network.refiner.mode = 'thresholding'
    assert 0 < assert_equal(PortableRefine(network, form), network, src, bgr).mean() < 1


@pytest.mark.parametrize('form', FORMS)
def test_more_pixels_than_there_are(form: str) -> None:
    network = spread(9)
    src, bgr = pictures(2)
    with torch.no_grad():
        rescale(network, network.decoder.conv4, {4: (0.5, 0.05)}, [src, bgr])
    configured(network, 'sampling', 0.25, pixels=10**6)
    assert assert_equal(PortableRefine(network, form), network, src, bgr).min() == 1


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('batch', [1, 2])
def test_cells_without_error_are_left_alone(form: str, batch: int) -> None:
    network = configured(spread(5), 'sampling', 0.25, pixels=96 * 64 // 2)
    src, bgr = pictures(batch)
    with torch.no_grad():
        rescale(network, network.decoder.conv4, {4: (-0.1, 0.1)}, [src, bgr])  # negative errors become 0
    ref = assert_equal(PortableRefine(network, form), network, src, bgr)
    assert 0 < ref.mean() < 0.5, 'fewer than were asked for'
    with torch.no_grad():
        assert network.decoder.conv4.bias is not None
        network.decoder.conv4.bias[4] = -10
    assert assert_equal(PortableRefine(network, form), network, src, bgr).max() == 0


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(('threshold', 'err', 'refined'), [(1.0, 0.5, 0), (1.0, 3, 0), (0.0, 0.5, 1), (0.0, -3, 0)])
def test_thresholds_that_no_cell_or_every_cell_exceeds(form: str, threshold: float, err: float, refined: float) -> None:
    network = spread(6)
    src, bgr = pictures(2)
    with torch.no_grad():
        rescale(network, network.decoder.conv4, {4: (err, 0.05)}, [src, bgr])
    configured(network, 'thresholding', 0.25, threshold=threshold)
    assert assert_equal(PortableRefine(network, form), network, src, bgr).unique().tolist() == [refined]


@pytest.mark.parametrize('backbone', ['mobilenetv2', pytest.param('resnet50', marks=pytest.mark.slow)])
@pytest.mark.usefixtures('whole_encoder')
def test_the_base_network_is_equal(backbone: str) -> None:
    torch.manual_seed(7)
    network = MattingBase(backbone).eval()
    spread_out(network)
    for size in ((1, 96, 64), (3, 61, 50)):
        assert_equal(PortableBase(network), network, *pictures(*size))


def test_weights_and_their_names_are_the_networks_own(network: MattingRefine) -> None:
    own, portable = network.state_dict(), PortableRefine(network).state_dict()
    assert list(portable) == list(own)
    assert all(portable[name].data_ptr() == own[name].data_ptr() for name in own)


def test_another_form_is_refused(network: MattingRefine) -> None:
    with pytest.raises(ValueError, match="'mask' is not one of gather, masked"):
        PortableRefine(network, 'mask')


@pytest.mark.parametrize('kernel', [1, 3])
def test_settings_of_a_loaded_script_can_be_set(networks: dict[int, MattingRefine], kernel: int) -> None:
    network = configured(networks[kernel], 'sampling', 0.25)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(PortableRefine(network)), file)
    script = torch.jit.load(io.BytesIO(file.getvalue()))
    seen = set()
    for (batch, width, height, scale), mode, form in itertools.product(PICTURES[1:3], MODES, FORMS):
        configured(network, mode, scale, pixels=400, threshold=0.35)
        script.backbone_scale, script.refine_mode, script.refine_form = scale, mode, form
        script.refine_sample_pixels, script.refine_threshold = 400, 0.35
        seen.add(float(assert_equal(script, network, *pictures(batch, width, height)).sum()))
    assert len(seen) == 6, 'as many results as combinations of pictures and mode'


def test_the_scripted_base_network_is_equal() -> None:
    torch.manual_seed(8)
    network = MattingBase('mobilenetv2').eval()
    assert_equal(torch.jit.script(PortableBase(network)), network, *pictures(2, 61, 50))


@pytest.mark.parametrize('form', FORMS)
def test_nothing_that_other_runtimes_cannot_do(network: MattingRefine, form: str) -> None:
    example = torch.zeros(1, 3, 64, 96), torch.zeros(1, 3, 64, 96)
    nodes = torch.export.export(PortableRefine(network, form), example, strict=False).graph.nodes
    calls = [(node.target.name(), node) for node in nodes if isinstance(node.target, torch._ops.OpOverload)]
    names = {name.removeprefix('aten::').split('.')[0] for name, _ in calls}
    assert names & {'topk', 'index_put', 'index_select'} == (
        {'topk', 'index_put', 'index_select'} if form == 'gather' else set()
    )
    assert 'nonzero' not in names
    assert {name for name in names if name.endswith('_')} <= {'hardtanh_'}, "in place, but for the encoder's"
    values = [node.meta['val'] for _, node in calls if isinstance(node.meta['val'], Tensor)]
    assert max(value.ndim for value in values) <= 5
    for name, node in calls:
        inputs = [x.meta['val'] for x in node.all_input_nodes if isinstance(x.meta['val'], Tensor)]
        value, floating = node.meta['val'], [x.is_floating_point() for x in inputs]
        if isinstance(value, Tensor) and value.dtype == torch.int64:
            assert not any(floating), f'{name} makes indices of floats'
            assert not any(word in name for word in ('div', 'remainder', 'fmod')), name


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('count', [1, 50, 3_000, 9_999])
def test_the_largest_values_exceed_the_threshold(count: int, dtype: torch.dtype) -> None:
    x = torch.rand(2, 10_000, generator=torch.Generator().manual_seed(count)).to(dtype)
    chosen = x > exceeded_by(x, count)
    assert torch.equal(chosen, x >= x.topk(count).values[:, -1:])
    assert (chosen.sum(1) >= count).all()
    if dtype == torch.float32:  # of which there are few equal ones; float16 has only 15,361 between 0 and 1
        assert (chosen.sum(1) <= count + 1).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('levels', [1, 8, 256])
def test_all_that_are_equal_to_the_least_exceed_it(levels: int, dtype: torch.dtype) -> None:
    x = (torch.rand(3, 10_000, generator=torch.Generator().manual_seed(levels)) * levels).round() / levels
    x[2] = 1  # all equal
    x = x.to(dtype)
    for count in (1, 2_500, 5_000, 9_000):
        chosen = x > exceeded_by(x, count)
        assert torch.equal(chosen, (x >= x.topk(count).values[:, -1:]) & (x > 0)), 'whole levels'


def test_with_few_values_all_but_zeros_exceed_it() -> None:
    x = torch.tensor([[0, 1e-3, 0, 0.5, 1]])
    for count in (5, 1000):
        assert (x > exceeded_by(x, count)).tolist() == [[False, True, False, True, True]]


@pytest.mark.parametrize('form', FORMS)
def test_float16_selects_the_cells_asked_for_and_their_equals(form: str) -> None:
    network = random_network(refine_settings(16 * 2_100)).half()
    assert isinstance(network, MattingRefine)
    src, bgr = (torch.rand(1, 3, 200, 240, generator=torch.Generator().manual_seed(i)).half() for i in (1, 2))
    with torch.no_grad():
        *_, err, ref = PortableRefine(network, form)(src, bgr)
    assert err.dtype == torch.float16
    assert err.unique().numel() < 2_500, 'many equal ones'
    cells = int(ref.float().sum())
    assert cells == 2_100 if form == 'gather' else 2_100 <= cells < 2_200
