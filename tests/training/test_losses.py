"""The losses against golden numbers, and the gradient of the error's target."""

import json
from pathlib import Path

import kornia
import pytest
import torch
from support import golden

from training.losses import _sobel, _sobel_kernels, base_loss, refine_loss

CASES = json.loads((Path(__file__).parents[1] / 'data/losses.json').read_text())


def tensors(case):
    size = CASES[case]['batch'], CASES[case]['height'], CASES[case]['width']

    def draw(name, channels, divisor=1):
        return golden.image(name + case, size[0], channels, size[1] // divisor, size[2] // divisor)

    true_pha = ((draw('true_pha', 1) - 0.3) * 2).clamp(0, 1)
    return draw, true_pha, draw('true_fgr', 3)


@pytest.mark.parametrize('case', CASES)
def test_golden_base_loss(case):
    draw, true_pha, true_fgr = tensors(case)
    terms = base_loss(draw('pred_pha', 1), draw('pred_fgr', 3), draw('pred_err', 1), true_pha, true_fgr)
    assert terms['total'].item() == pytest.approx(CASES[case]['base'], abs=1e-5)
    assert terms['total'].item() == pytest.approx(sum(v.item() for k, v in terms.items() if k != 'total'))


@pytest.mark.parametrize('case', CASES)
def test_golden_refine_loss(case):
    draw, true_pha, true_fgr = tensors(case)
    coarse = draw('pred_pha_sm', 1, 4), draw('pred_fgr_sm', 3, 4), draw('pred_err_sm', 1, 4)
    terms = refine_loss(draw('pred_pha', 1), draw('pred_fgr', 3), *coarse, true_pha, true_fgr)
    assert terms['total'].item() == pytest.approx(CASES[case]['refine'], abs=1e-5)
    assert terms['total'].item() == pytest.approx(sum(v.item() for k, v in terms.items() if k != 'total'))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_sobel_magnitude_and_its_gradient_are_kornias(dtype):
    x, weight = (golden.image(name, 2, c, 33, 40).to(dtype) for name, c in (('x', 5), ('weight', 1)))
    x = x.contiguous(memory_format=torch.channels_last)  # as the network gives alpha, one channel of several
    ours, kornias = x.clone().requires_grad_(), x.clone().requires_grad_()
    values, expected = _sobel(ours[:, :1], _sobel_kernels(x)), kornia.filters.sobel(kornias[:, :1])
    assert torch.equal(values, expected)
    (values * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(ours.grad, kornias.grad)


def test_the_errors_target_is_detached():
    draw, true_pha, true_fgr = tensors('a')
    pred_pha, pred_err = draw('pred_pha', 1).requires_grad_(), draw('pred_err', 1).requires_grad_()
    err = base_loss(pred_pha, draw('pred_fgr', 3), pred_err, true_pha, true_fgr)['err']
    err.backward()
    assert pred_err.grad.abs().sum() > 0
    assert pred_pha.grad is None

    pred_pha_sm = draw('pred_pha_sm', 1, 4).requires_grad_()
    pred_err_sm = draw('pred_err_sm', 1, 4).requires_grad_()
    predictions = draw('pred_pha', 1), draw('pred_fgr', 3), pred_pha_sm, draw('pred_fgr_sm', 3, 4), pred_err_sm
    refine_loss(*predictions, true_pha, true_fgr)['err_sm'].backward()
    assert pred_err_sm.grad.abs().sum() > 0
    assert pred_pha_sm.grad is None
