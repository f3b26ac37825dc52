"""The networks against golden numbers, and the refiner against a plain reading of its definition."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import golden
from torch.profiler import profile

from common.network import NetworkSettings, RefinerSettings
from inference.networks import random_network
from model import MattingBase, MattingRefine
from model.folding import folded
from model.refiner import make_pyramid

DATA = Path(__file__).parents[1] / 'data'
BACKBONES = ('resnet101', 'resnet50', 'mobilenetv2')
PARAMETERS = {'resnet50': 40_247_703, 'resnet101': 59_239_831, 'mobilenetv2': 5_006_839}
BASE_NAMES = ('pha', 'fgr', 'err', 'hid')
REFINE_NAMES = ('pha', 'fgr', 'pha_sm', 'fgr_sm', 'err_sm', 'ref_sm')


def stored(case):
    with np.load(DATA / 'golden.npz') as numbers:
        return {k.split('/')[1]: numbers[k] for k in numbers if k.startswith(f'{case}/')}


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('kind', [MattingBase, MattingRefine])
def test_layout(kind, backbone):
    with torch.device('meta'):
        model = kind(backbone)
    count, digest = json.loads((DATA / 'layouts.json').read_text())[f'{kind.__name__} {backbone}']
    lines = [f'{name} {tuple(tensor.shape)}' for name, tensor in sorted(model.state_dict().items())]
    assert len(lines) == count
    assert hashlib.sha256('\n'.join(lines).encode()).hexdigest() == digest
    if kind is MattingRefine:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[backbone]


@pytest.mark.parametrize('backbone', ['mobilenetv2', 'resnet50'])
@torch.inference_mode()
def test_golden_base(backbone):
    expected = stored(f'base-{backbone}')
    shape = expected.pop('shape')
    outputs = golden.fill(MattingBase(backbone))(golden.image('src', *shape), golden.image('bgr', *shape))
    outputs = dict(zip(BASE_NAMES, outputs))
    outputs['hid'] = outputs['hid'][:, ::4, ::16, ::16]
    for name in ('pha', 'fgr', 'err'):
        outputs[name] = outputs[name][..., ::4, ::4]
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    'case',
    [
        'refine-mobilenetv2-full',
        'refine-mobilenetv2-sampling',
        'refine-mobilenetv2-thresholding',
        pytest.param('refine-resnet50-sampling', marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_golden_refine(case):
    expected = stored(case)
    settings = {k: expected.pop(k).item() for k in list(expected) if k.startswith('refine_')}
    shape, scale = expected.pop('shape'), expected.pop('scale').item()
    model = golden.fill(MattingRefine(case.split('-')[1], scale, **settings))
    outputs = dict(zip(REFINE_NAMES, model(golden.image('src', *shape), golden.image('bgr', *shape))))
    np.testing.assert_array_equal(np.packbits(outputs.pop('ref_sm').numpy().astype(bool)), expected.pop('ref_sm'))
    for name, values in expected.items():
        stride = 8 if name in ('pha', 'fgr') else 4
        np.testing.assert_allclose(outputs[name][..., ::stride, ::stride], values, atol=1e-4, rtol=0, err_msg=name)


def refine(refiner, src, bgr, *coarse):
    return refiner(*(make_pyramid(x, coarse[0].shape[2:]) for x in (src, bgr)), *coarse)


def refine_one_cell_at_a_time(refiner, src, bgr, pha, fgr, err, hid):
    """The definition, read plainly: for each chosen cell cut the crops, convolve, put 4x4 pixels back."""
    height, width = src.shape[2:]

    def resize(x, divisor):
        return F.interpolate(x, (height // divisor, width // divisor), mode='bilinear', align_corners=False)

    err = resize(err, 4)
    ref = torch.zeros_like(err)
    for b in range(len(err)):
        flat = err[b].flatten()
        if refiner.mode == 'sampling':
            chosen = flat.topk(min(refiner.sample_pixels // 16, len(flat)), sorted=False).indices
            if refiner.prevent_oversampling:
                chosen = chosen[flat[chosen] > 0]
        else:
            chosen = (flat > refiner.threshold).nonzero().flatten()
        ref[b].view(-1)[chosen] = 1
    edge_half, edge_full = (3, 2) if refiner.kernel_size == 3 else (0, 0)
    full = torch.cat([src, bgr], 1)
    half = F.pad(torch.cat([resize(torch.cat([hid, pha, fgr], 1), 2), resize(full, 2)], 1), [edge_half] * 4)
    full = F.pad(full, [edge_full] * 4)
    out = F.interpolate(torch.cat([pha, fgr], 1), (height, width), mode='bilinear', align_corners=False)
    for b, _, i, j in ref.nonzero().tolist():
        x = half[b : b + 1, :, 2 * i : 2 * i + 2 + 2 * edge_half, 2 * j : 2 * j + 2 + 2 * edge_half]
        x = refiner.bn2(refiner.conv2(refiner.bn1(refiner.conv1(x)).relu())).relu()
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = full[b : b + 1, :, 4 * i : 4 * i + 4 + 2 * edge_full, 4 * j : 4 * j + 4 + 2 * edge_full]
        x = refiner.conv4(refiner.bn3(refiner.conv3(torch.cat([x, y], 1))).relu())
        out[b, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = x[0]
    return out[:, :1], out[:, 1:], ref


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize(
    ('mode', 'extra'),
    [
        ('sampling', {'sample_pixels': 800}),
        ('sampling', {'sample_pixels': 800, 'prevent_oversampling': False}),
        ('sampling', {'sample_pixels': 10**9}),
        ('thresholding', {'threshold': 0.5}),
        ('thresholding', {'threshold': 2.0}),
    ],
)
@torch.inference_mode()
def test_refiner_follows_its_definition(mode, extra, kernel_size):
    height, width, scale = 36, 52, 3
    refiner = MattingRefine('mobilenetv2', refine_kernel_size=kernel_size).refiner
    golden.fill(refiner)
    refiner.mode = mode
    for name, value in extra.items():
        setattr(refiner, name, value)
    g = torch.Generator().manual_seed(3)

    def draw(channels, h=height // scale, w=width // scale):
        return torch.rand(2, channels, h, w, generator=g)

    # Some cells of error 0, and another number of them in each image.
    err = (draw(1) - 0.3).clamp(0, 1)
    err[0, :, :8] = 0
    inputs = (draw(3, height, width), draw(3, height, width), draw(1), draw(3) - 0.5, err, draw(32))
    expected = refine_one_cell_at_a_time(refiner, *inputs)
    for got, want in zip(refine(refiner, *inputs), expected):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert (expected[2].sum() > 0) == (extra.get('threshold') != 2.0)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
@torch.no_grad()
def test_cells_without_error_are_left_out_where_shapes_may_vary_and_masked_elsewhere():
    refiner = golden.fill(MattingRefine('mobilenetv2', refine_sample_pixels=640)).refiner.requires_grad_(False)
    g = torch.Generator().manual_seed(4)
    err = torch.zeros(1, 1, 16, 20)
    err[..., 3:5, 7:10] = torch.rand(2, 3, generator=g) + 0.1
    pictures = [torch.rand(1, 3, 64, 80, generator=g) for _ in range(2)]
    pha, fgr, hid = (torch.rand(1, channels, 16, 20, generator=g) for channels in (1, 3, 32))
    inputs = (*pictures, pha, fgr, err, hid)
    computed = []
    handle = refiner.conv1.register_forward_pre_hook(lambda _, x: computed.append(int(x[0].shape[0])))
    eager = refine(refiner, *inputs)
    traced = torch.jit.trace(lambda *x: refine(refiner, *x), inputs, check_trace=False)
    assert computed[0] == 6
    assert set(computed[1:]) == {640 // 16}
    handle.remove()
    for got, want in zip(traced(*inputs), eager):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize('kernel_size', [1, 3])
@torch.inference_mode()
def test_refining_every_cell_equals_full(kernel_size):
    src, bgr = golden.image('src', 2, 3, 40, 56), golden.image('bgr', 2, 3, 40, 56)
    settings = {'refine_kernel_size': kernel_size, 'refine_sample_pixels': 10**9, 'refine_prevent_oversampling': False}
    cells = golden.fill(MattingRefine('mobilenetv2', 0.5, 'sampling', **settings))(src, bgr)
    full = golden.fill(MattingRefine('mobilenetv2', 0.5, 'full', **settings))(src, bgr)
    for got, want in zip(cells, full):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize('mode', ['sampling', 'thresholding', 'full'])
@pytest.mark.parametrize(('height', 'width', 'scale'), [(16, 16, 0.125), (17, 33, 0.25), (63, 50, 0.5)])
@torch.inference_mode()
def test_any_size(mode, height, width, scale):
    model = golden.fill(MattingRefine('mobilenetv2', scale, mode, refine_threshold=0.2))
    pha, fgr, *_, ref = model(golden.image('src', 2, 3, height, width), golden.image('bgr', 2, 3, height, width))
    assert pha.shape == (2, 1, height, width)
    assert fgr.shape == (2, 3, height, width)
    assert ref.shape == (2, 1, -(-height // 4), -(-width // 4))
    assert ((pha >= 0) & (pha <= 1)).all()
    assert ((fgr >= 0) & (fgr <= 1)).all()


@pytest.mark.parametrize('mode', ['sampling', 'full'])
@torch.inference_mode()
def test_pictures_may_be_bytes(mode):
    model = golden.fill(MattingRefine('mobilenetv2', refine_mode=mode, refine_sample_pixels=640))
    pictures = [golden.image(name, 2, 3, 50, 66).mul(255).round() for name in ('src', 'bgr')]
    floats = model(*(x / 255 for x in pictures))
    for got, want in zip(model(*(x.to(torch.uint8) for x in pictures)), floats):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_samples_of_a_batch_do_not_mix():
    model = golden.fill(MattingRefine('mobilenetv2', refine_sample_pixels=640))
    src, bgr = golden.image('src', 3, 3, 64, 80), golden.image('bgr', 3, 3, 64, 80)
    together = model(src, bgr)
    for i in range(3):
        for got, want in zip(together, model(src[i : i + 1], bgr[i : i + 1])):
            torch.testing.assert_close(got[i : i + 1], want, atol=1e-5, rtol=0)


def test_every_parameter_learns_even_when_no_cell_is_above_the_threshold():
    model = MattingRefine('mobilenetv2', refine_mode='thresholding', refine_threshold=2.0).train()
    pha, fgr, *_ = model(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    (pha.mean() + fgr.mean()).backward()
    assert all(p.grad is not None for p in model.refiner.parameters())


@pytest.mark.parametrize(
    ('src', 'bgr', 'message'),
    [
        ((1, 4, 32, 32), (1, 4, 32, 32), r'\(B, 3, H, W\)'),
        ((1, 3, 32, 32), (1, 3, 32, 36), 'one shape'),
        ((1, 3, 8, 32), (1, 3, 8, 32), 'at least 16'),
    ],
)
def test_wrong_shapes_are_named(src, bgr, message):
    model = MattingRefine('mobilenetv2')
    with pytest.raises(ValueError, match=message):
        model(torch.rand(src), torch.rand(bgr))


def test_wrong_settings_are_named():
    for arguments in ({'backbone_scale': 0.75}, {'refine_mode': 'some'}, {'refine_kernel_size': 5}):
        with pytest.raises(ValueError, match=r'must be|not one of|neither'):
            MattingRefine('mobilenetv2', **arguments)
    with pytest.raises(ValueError, match='resnet18'):
        MattingBase('resnet18')


def test_alpha_that_fell_below_zero_can_rise_again():
    model = MattingBase('mobilenetv2').train()
    x = torch.tensor([-0.5, 0.25, 1.5], requires_grad=True)
    clamped = model.clamp(x)
    assert clamped.tolist() == [0, 0.25, 1]
    (clamped - torch.tensor([1.0, 1.0, 1.0])).abs().sum().backward()
    assert x.grad.tolist() == [-1, -1, 0]
    assert torch.equal(model.eval().clamp(x), x.clamp(0, 1))


@torch.inference_mode()
def test_refining_hd_holds_little_more_than_its_results_and_decoder():
    """In pictures of HD in float32, 24 MB each, whatever else a first pass keeps."""
    settings = NetworkSettings('mattingrefine', 'mobilenetv2', RefinerSettings(backbone_scale=0.25))
    network = folded(random_network(settings)).to(memory_format=torch.channels_last)
    src, bgr = (torch.randint(256, (1, 1080, 1920, 3), dtype=torch.uint8).permute(0, 3, 1, 2) for _ in range(2))
    plate = network.pyramid(bgr)
    with profile(profile_memory=True) as profiler:
        network.matte(network.pyramid(src), plate, src.shape[2:])
    changes = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    assert max(itertools.accumulate(changes)) < 3.15 * src.numel() * 4
