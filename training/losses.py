"""The two losses, as pure functions that return named terms and their `total` (paper, section 4.3)."""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipes import PUBLISHED, Recipe


def base_loss(
    pred_pha: Tensor, pred_fgr: Tensor, pred_err: Tensor, true_pha: Tensor, true_fgr: Tensor, recipe: Recipe = PUBLISHED
) -> dict[str, Tensor]:
    """Compute the loss of the coarse network.

    All tensors are float in 0..1: alpha and error (B, 1, H, W), foreground (B, 3, H, W).

    The error's target is detached: it teaches the network to know its errors, not to make them.
    """
    terms = _matte_terms(pred_pha, pred_fgr, true_pha, true_fgr, recipe)
    terms['err'] = F.mse_loss(pred_err, (pred_pha.detach() - true_pha).abs())
    terms['total'] = reduce(torch.add, terms.values())
    return terms


def refine_loss(
    pred_pha: Tensor,
    pred_fgr: Tensor,
    pred_pha_sm: Tensor,
    pred_fgr_sm: Tensor,
    pred_err_sm: Tensor,
    true_pha: Tensor,
    true_fgr: Tensor,
    recipe: Recipe = PUBLISHED,
) -> dict[str, Tensor]:
    """Compute the loss of the whole network: mattes at full and backbone resolution, and predicted error.

    Full-size tensors are (B, C, H, W), those of backbone resolution (B, C, h, w), all float in 0..1. The published
    script leaves the error's target attached (its issue 196); here it is detached, which changes the gradient only.
    """
    size_sm, size = pred_pha_sm.shape[2:], true_pha.shape[2:]
    terms = _matte_terms(pred_pha, pred_fgr, true_pha, true_fgr, recipe)
    coarse = _matte_terms(pred_pha_sm, pred_fgr_sm, _resize(true_pha, size_sm), _resize(true_fgr, size_sm), recipe)
    terms.update({f'{name}_sm': term for name, term in coarse.items()})
    true_err = (_resize(pred_pha_sm.detach(), size) - true_pha).abs()
    terms['err_sm'] = F.mse_loss(_resize(pred_err_sm, size), true_err)
    terms['total'] = torch.stack(list(terms.values())).sum()
    return terms


def _matte_terms(
    pred_pha: Tensor, pred_fgr: Tensor, true_pha: Tensor, true_fgr: Tensor, recipe: Recipe
) -> dict[str, Tensor]:
    kernels = _sobel_kernels(true_pha)
    # Opaque pixels outnumber those of the soft edge, and there the source already is the foreground: of equal weight,
    # they hold the predicted residual at 0 everywhere.
    soft = (true_pha > 0) & (true_pha < 1)
    fgr_weight = (true_pha > 0) * (1 + recipe.fgr_edge * soft)
    apart = (pred_pha - true_pha).abs()
    if recipe.pha_edge:
        apart = apart * (1 + recipe.pha_edge * F.max_pool2d(soft.to(apart), 5, stride=1, padding=2))
    return {
        'pha': apart.mean(),
        'pha_sobel': F.l1_loss(_sobel(pred_pha, kernels), _sobel(true_pha, kernels)),
        'fgr': recipe.fgr * F.l1_loss(pred_fgr * fgr_weight, true_fgr * fgr_weight),
    }


def _sobel(x: Tensor, kernels: Tensor) -> Tensor:
    """Return the magnitude of the Sobel gradient of x (B, 1, H, W).

    It is kornia's, bit for bit, which copies its kernels from the host in every call and so waits for a GPU.
    """
    x = x.reshape(-1, 1, *x.shape[2:])  # a channel of a channels-last tensor comes in another layout
    across, down = F.conv2d(F.pad(x, (1, 1, 1, 1), 'replicate'), kernels).split(1, dim=1)
    return torch.sqrt(across * across + down * down + 1e-6)


def _sobel_kernels(like: Tensor) -> Tensor:
    """Return the kernels across and down (2, 1, 3, 3), made on the device without a number from the host."""
    ramp = torch.arange(-1, 2, device=like.device, dtype=like.dtype)
    across = torch.outer((2 - ramp.abs()) / 8, ramp)
    return torch.stack((across, across.T))[:, None]


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode='bilinear', align_corners=False)
