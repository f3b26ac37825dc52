"""What the toolkit does whatever the recipe, switched off, and what it does not do, switched on: to measure either."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from torch import Tensor

PYRAMID_LEVELS = 5


@contextlib.contextmanager
def plain_clamp(channels: Sequence[int]) -> Iterator[None]:
    """Let no gradient through the clamp of pictures of these numbers of channels: 1 is alpha, 3 is colour."""
    from model import MattingBase

    ours = MattingBase.clamp

    def clamp(self: MattingBase, x: Tensor) -> Tensor:
        return x.clamp(0, 1) if x.shape[1] in channels else ours(self, x)

    with mock.patch.object(MattingBase, 'clamp', clamp):
        yield


@contextlib.contextmanager
def fringes() -> Iterator[None]:
    """Leave the colours around a subject as they are in its file."""
    import cv2

    from dataset import sources

    with mock.patch.object(sources, 'cut_out', lambda rgb, alpha, _: cv2.merge([rgb, alpha])):
        yield


@contextlib.contextmanager
def laplacian() -> Iterator[None]:
    """Add the mean L1 norm of the levels of alpha's Laplacian pyramid to the loss, each by the area of its pixels."""
    from training import losses

    def terms(pred_pha: Tensor, pred_fgr: Tensor, true_pha: Tensor, *more: Any) -> dict[str, Tensor]:
        return {**ours(pred_pha, pred_fgr, true_pha, *more), 'pha_laplacian': pyramid_norm(pred_pha - true_pha)}

    ours = losses._matte_terms
    with mock.patch.object(losses, '_matte_terms', terms):
        yield


def pyramid_norm(x: Tensor) -> Tensor:
    """Return the mean over the levels of the Laplacian pyramid of x (B, C, H, W) of 2**level times their mean size."""
    import torch
    from kornia.geometry import pyrdown
    from torch.nn.functional import interpolate

    levels: list[Tensor] = []
    while len(levels) < PYRAMID_LEVELS and min(x.shape[2:]) > 4:
        low = pyrdown(x, 'replicate')
        enlarged = interpolate(low, x.shape[2:], mode='bilinear', align_corners=False)
        levels.append(2 ** len(levels) * (x - enlarged).abs().mean())
        x = low
    return torch.stack(levels).mean()


ABLATIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    'plain-clamp': partial(plain_clamp, (1, 3)),
    'plain-clamp-fgr': partial(plain_clamp, (3,)),
    'fringes': fringes,
    'laplacian': laplacian,
}
