"""The metrics against packages, values worked out by hand, plain restatements, and what must not change them."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics import matting as metrics
from metrics.matting import SCALINGS, conn, dtssd, fg_mse, grad, mad, mse, sad

PACKAGES = json.loads((Path(__file__).parents[1] / 'data/metrics.json').read_text())
OF_ALPHA = [sad, mse, mad, grad, conn]


def alphas(seed, height, width):
    """Predicted and true alpha and a trimap, whole values of 0 to 255 that agree where the trimap knows the truth.

    Integer arithmetic alone, so that they are the same everywhere. No value is 153, of which the packages think
    differently: see `conn`.
    """
    rng = np.random.default_rng(seed)

    def blobs():
        coarse = rng.integers(-200, 456, (height // 8 + 3, width // 8 + 3))
        fine = coarse.repeat(8, 0).repeat(8, 1)
        shifted = [fine[y : y + height, x : x + width] for y, x in ((0, 0), (4, 3), (7, 5))]
        return sum(shifted) // 3

    true = blobs().clip(0, 255)
    pred = (true + (blobs() - 128) // 2 + rng.integers(-20, 21, true.shape)).clip(0, 255)
    trimap = np.where((true > 15) & (true < 245), 128, np.where(true > 128, 255, 0))
    for alpha in (pred, true):
        alpha[trimap != 128] = trimap[trimap != 128]
        alpha[alpha == 153] = 152
    return pred.astype(np.uint8), true.astype(np.uint8), trimap.astype(np.uint8)


def tensors(seed, height, width):
    """Predicted and true alpha, float64 (1, 1, H, W), and the unknown region."""
    pred, true, trimap = (torch.from_numpy(alpha)[None, None] for alpha in alphas(seed, height, width))
    return pred.double() / 255, true.double() / 255, trimap == 128


def rows(*values):
    """A picture of one alpha, (1, 1, H, W), from its rows."""
    return torch.tensor(values, dtype=torch.float64)[None, None]


@pytest.mark.parametrize('case', PACKAGES['cases'], ids=lambda case: f'{case["width"]}x{case["height"]}')
def test_values_are_those_of_packages(case):
    pred, true, unknown = tensors(case['seed'], case['height'], case['width'])
    # mmedit rounds to single precision on its way.
    bounds = {'mmeval': 1e-12, 'torchmetrics': 1e-12, 'mmedit': 1e-6}
    for region, found in ((unknown, case['unknown']), (None, case['whole'])):
        for package, values in found.items():
            for name, value in values.items():
                ours = getattr(metrics, name)(pred, true, region).item()
                assert ours == pytest.approx(value, rel=bounds[package]), (package, name)


def test_sums_and_means_by_hand():
    pred, true = rows([0.0, 0.5], [1.0, 0.75]), rows([0.0, 1.0], [1.0, 0.5])
    region = torch.tensor([[[[True, True], [True, False]]]])
    # Differences are 0, 0.5, 0 and 0.25; the region leaves the last one out.
    assert [sad(pred, true).item(), sad(pred, true, region).item()] == [0.75, 0.5]
    assert [mad(pred, true).item(), mad(pred, true, region).item()] == [0.75 / 4, 0.5 / 3]
    assert [mse(pred, true).item(), mse(pred, true, region).item()] == [(0.25 + 0.0625) / 4, 0.25 / 3]


def test_the_foreground_counts_where_true_alpha_is_above_0():
    pred, true = torch.zeros(1, 3, 1, 3), torch.zeros(1, 3, 1, 3)
    pred[0, :, 0, 0] = torch.tensor([0.5, 0.25, 0.0])
    pred[0, :, 0, 2] = 1
    # Pixel 0 has 0.25 + 0.0625 over its 3 channels, pixel 1 none, and pixel 2 is not of the subject.
    assert fg_mse(pred, true, rows([1.0, 1e-6, 0.0])).item() == pytest.approx(0.3125 / 6, rel=1e-12)


def test_the_gradient_of_an_edge_by_hand():
    true = torch.zeros(1, 1, 3, 20, dtype=torch.float64)
    true[..., 10:] = 1
    # Along the edge nothing changes: smoothing multiplies by the sum of its taps, and the gradient there is 0. Across
    # it, a pixel sees the taps that reach over: those of 1 to 4 pixels beside the edge, of 2 to 4 one further, ...
    gauss = [math.exp(-(k**2) / (2 * 1.4**2)) for k in range(5)]
    smooth = (gauss[0] + 2 * sum(gauss[1:])) / math.sqrt(gauss[0] ** 2 + 2 * sum(g**2 for g in gauss[1:]))
    norm = math.sqrt(2 * sum((k * gauss[k]) ** 2 for k in range(1, 5)))
    across = [smooth * sum(k * gauss[k] for k in range(beside, 5)) / norm for beside in (1, 2, 3, 4)]
    expected = 3 * 2 * sum(value**2 for value in across)
    assert grad(torch.zeros_like(true), true).item() == pytest.approx(expected, rel=1e-12)
    # Half of the contrast is stretched to all of it.
    assert grad(true / 2 + 0.25, true).item() < 1e-24
    assert grad(torch.full_like(true, 0.3), true).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ('pred', 'true', 'expected'),
    [
        # Something alone that is not there: all of it is disconnected, unless it is below 0.15.
        ([[1, 1, 1, 0, 0.6]], [[1, 1, 1, 0, 0]], 0.6),
        ([[1, 1, 1, 0, 0.14]], [[1, 1, 1, 0, 0]], 0),
        ([[1, 1, 1, 0, 0.15]], [[1, 1, 1, 0, 0]], 0.15),
        # An island in both: both are disconnected, by 0.9 and 0.5.
        ([[1, 1, 0, 0.9]], [[1, 1, 0, 0.5]], 0.4),
        # A tail that is connected up to 0.4: 0.02 above that is little, 0.24 is not.
        ([[1, 1, 0.64]], [[1, 1, 0.42]], 0.24),
        # A corner does not connect, so 0.4 and 0.3 are disconnected; else the level were 0.3.
        ([[1, 1, 0], [0, 0, 0.4]], [[1, 1, 0], [0, 0, 0.3]], 0.1),
        # Of two parts of one size the first counts, and 0.3 and 0.2 are disconnected.
        ([[1, 0, 0.2]], [[1, 0, 0.3]], 0.1),
        # Level 0.4 at the second pixel ends with the largest part, which is the right one from 0.5 on.
        ([[1, 0.45, 1, 1, 1]], [[1, 0.45, 1, 1, 0.5]], 0.5),
        # 153 / 255 is at the threshold 0.6, in single precision as well.
        ([[1, 1, 204 / 255]], [[1, 1, 153 / 255]], 0.2),
        # Nothing in common.
        ([[0.5, 0, 0]], [[0, 0, 0.7]], 1.2),
    ],
)
def test_connectivity_by_hand(pred, true, expected):
    pred, true = rows(*pred), rows(*true)
    assert conn(pred, true).item() == pytest.approx(expected, abs=1e-12)
    assert conn(true, pred).item() == pytest.approx(expected, abs=1e-12)
    assert conn(pred.float(), true.float()).item() == pytest.approx(expected, abs=1e-6)


def test_dtssd_by_hand():
    # One row of two pixels in three frames; between frames the prediction changes by (0.4, 0) and (-0.1, 0), the truth
    # by (0, 0) and (0.1, 0.2).
    pred = torch.tensor([[[[0.0, 0.5]]], [[[0.4, 0.5]]], [[[0.3, 0.5]]]], dtype=torch.float64)
    true = torch.tensor([[[[0.1, 0.5]]], [[[0.1, 0.5]]], [[[0.2, 0.7]]]], dtype=torch.float64)
    expected = torch.tensor([math.sqrt(0.16 / 2), math.sqrt((0.04 + 0.04) / 2)], dtype=torch.float64)
    torch.testing.assert_close(dtssd(pred, true), expected)
    # Each pair counts where its later frame does.
    region = torch.tensor([[[[True, True]]], [[[False, True]]], [[[False, True]]]])
    torch.testing.assert_close(dtssd(pred, true, region), torch.tensor([0.0, 0.2], dtype=torch.float64))
    pieces = torch.cat([dtssd(pred[:2], true[:2]), dtssd(pred[1:], true[1:])])
    assert torch.equal(pieces, dtssd(pred, true))


def test_what_is_undefined_is_nan():
    pred, true, region = tensors(1, 16, 16)
    nowhere = torch.zeros_like(region)
    for metric in OF_ALPHA:
        both = metric(torch.cat([pred, pred]), torch.cat([true, true]), torch.cat([region, nowhere]))
        assert both.isnan().tolist() == [False, True], metric
    colours = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    subject = torch.zeros(2, 1, 4, 4)
    subject[0, 0, 1, 1] = 0.5
    assert fg_mse(colours, colours / 2, subject).isnan().tolist() == [False, True]
    assert dtssd(pred, true).shape == (0,)
    assert dtssd(pred, true).mean().isnan()
    assert dtssd(torch.cat([pred, pred]), torch.cat([true, true]), torch.cat([region, nowhere])).isnan().all()


@pytest.mark.parametrize('metric', OF_ALPHA)
def test_a_prediction_that_is_not_a_number_is_never_good(metric):
    pred, true, _ = tensors(1, 16, 16)
    pred[0, 0, 3, 4] = math.nan
    assert metric(pred, true).isnan().all()


@pytest.mark.parametrize('metric', OF_ALPHA)
def test_what_must_not_change_a_value(metric):
    pred, true, region = tensors(3, 40, 31)
    value = metric(pred, true, region)
    assert value.dtype == torch.float64
    assert value.item() > 0
    assert metric(true, true).item() == 0
    everywhere = torch.ones_like(region)
    assert metric(pred, true, everywhere).item() == metric(pred, true).item()
    # Errors outside of the region count for nothing but what they do to what lies beside them.
    if metric in (sad, mse, mad):
        changed = torch.where(region, pred, 1 - pred)
        assert metric(changed, true, region).item() == value.item()
    # A picture's value does not depend on what else is in the batch.
    other_pred, other_true, other_region = tensors(4, 40, 31)
    batch = metric(torch.cat([pred, other_pred]), torch.cat([true, other_true]), torch.cat([region, other_region]))
    assert batch.tolist() == pytest.approx(
        [value.item(), metric(other_pred, other_true, other_region).item()], rel=1e-12
    )
    # Nor on where in a wide empty picture it lies, nor on left and right.
    places = [torch.nn.functional.pad(x, (9, 12, 10, 8)) for x in (pred, true, region)]
    further = [torch.roll(x, (3, -2), (2, 3)) for x in places]
    assert metric(*places).item() == pytest.approx(metric(*further).item(), rel=1e-12)
    assert metric(*(x.flip(3) for x in (pred, true, region))).item() == pytest.approx(value.item(), rel=1e-12)
    # Nor on the kind of number, but for its rounding.
    assert metric(pred.float(), true.float(), region).item() == pytest.approx(value.item(), rel=1e-4)


def gradient_plainly(alpha):
    """The magnitude of the Gaussian gradient, pixel by pixel and tap by tap of the kernel in two dimensions."""
    height, width = alpha.shape
    alpha = (alpha - alpha.min()) / (alpha.max() - alpha.min())
    kernel = {(y, x): x * math.exp(-(x * x + y * y) / (2 * 1.4**2)) for y in range(-4, 5) for x in range(-4, 5)}
    norm = math.sqrt(sum(tap**2 for tap in kernel.values()))
    result = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            across = down = 0.0
            for (y, x), tap in kernel.items():
                here = alpha[min(max(row + y, 0), height - 1), min(max(column + x, 0), width - 1)]
                turned = alpha[min(max(row + x, 0), height - 1), min(max(column + y, 0), width - 1)]
                across += here * tap / norm
                down += turned * tap / norm
            result[row, column] = math.sqrt(across**2 + down**2)
    return result


def largest_part_plainly(mask):
    """Pixels of the largest part by flooding from each pixel in turn."""
    todo, largest = {(int(y), int(x)) for y, x in np.argwhere(mask)}, set()
    for start in sorted(todo):
        part, edge = set(), [start] if start in todo else []
        while edge:
            y, x = edge.pop()
            if (y, x) in todo:
                todo.remove((y, x))
                part.add((y, x))
                edge += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if len(part) > len(largest):
            largest = part
    return largest


def connectivity_plainly(pred, true, region):
    parts = [largest_part_plainly((pred >= step / 10) & (true >= step / 10)) for step in range(1, 11)]
    total = 0.0
    for y, x in np.argwhere(region):
        outside = [step for step in range(1, 11) if (y, x) not in parts[step - 1]]
        level = (outside[0] - 1) / 10 if outside else 1.0
        disconnected = [alpha[y, x] - level if alpha[y, x] - level >= 0.15 else 0.0 for alpha in (pred, true)]
        total += abs(disconnected[0] - disconnected[1])
    return total


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (2, 9), (17, 12), (30, 41)])
def test_plain_restatements(height, width):
    rng = np.random.default_rng(height)
    # Sparse noise has many small parts of one size, which blobs do not.
    for quiet in (0.0, 0.5):
        pred, true = (rng.random((height, width)) * (rng.random((height, width)) >= quiet) for _ in range(2))
        region = rng.random((height, width)) < 0.7
        region[0, 0] = True
        pair = torch.from_numpy(pred)[None, None], torch.from_numpy(true)[None, None]
        weight = torch.from_numpy(region)[None, None]
        assert conn(*pair, weight).item() == pytest.approx(connectivity_plainly(pred, true, region), rel=1e-12)
        if height * width > 1:
            difference = gradient_plainly(pred) - gradient_plainly(true)
            assert grad(*pair, weight).item() == pytest.approx((difference**2)[region].sum(), rel=1e-12)


def test_a_device_is_never_waited_for():
    # A tensor on meta has no values: what looks at one, to branch or to choose pixels, fails.
    pred, colours = torch.rand(2, 1, 8, 8, device='meta'), torch.rand(2, 3, 8, 8, device='meta')
    region = torch.ones(2, 1, 8, 8, dtype=torch.bool, device='meta')
    for metric in (sad, mse, mad, grad):
        assert metric(pred, pred, region).shape == (2,)
    assert fg_mse(colours, colours, pred).shape == (2,)
    assert dtssd(pred, pred, region).shape == (1,)


def test_every_scaling_has_every_metric():
    names = {'sad', 'mse', 'grad', 'conn', 'fg_mse', 'fg_mse_bmv2', 'mad', 'dtssd'}
    assert set(SCALINGS) == {'bmv2', 'dim', 'rvm', 'raw'}
    for scaling in SCALINGS.values():
        assert scaling.keys() == names
    assert all(callable(getattr(metrics, name)) for name in names)
    assert set(SCALINGS['raw'].values()) == {1}


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda a: sad(a, a[..., :3]), 'prediction of shape (2, 1, 4, 5) and truth of (2, 1, 4, 3)'),
        (lambda a: conn(a[0], a[0]), 'prediction of shape (1, 4, 5)'),
        (lambda a: grad(a, a, a), 'region of shape (2, 1, 4, 5) and type torch.float32'),
        (lambda a: mse(a, a, a[:1] > 0), 'region of shape (1, 1, 4, 5)'),
        (lambda a: fg_mse(a.expand(2, 3, 4, 5), a.expand(2, 3, 4, 5), a[:1]), 'foreground of shape (2, 3, 4, 5)'),
        (lambda a: dtssd(a, a[:1]), 'truth of (1, 1, 4, 5)'),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(torch.rand(2, 1, 4, 5))
