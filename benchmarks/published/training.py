"""The base stage the published way: samples made by Pillow, composites in NCHW, a plain clamp, Adam as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import transforms

from dataset.augmentation import Composite
from dataset.sampling import SamplingPlan, rng
from model import MattingBase

from .reading import published_sample

RATES = {'backbone': 1e-4, 'aspp': 5e-4, 'decoder': 5e-4}
MOVE_SHADOW = transforms.RandomAffine(degrees=(-5, 5), translate=(0.2, 0.2), scale=(0.5, 1.5), shear=(-5, 5))
MOVE_PLATE = transforms.RandomAffine(degrees=(-1, 1), translate=(0.01, 0.01))
JITTER_PLATE = transforms.ColorJitter(0.18, 0.18, 0.18, 0.1)


class PublishedBase(MattingBase):
    """The weights and results of `MattingBase`; what is clamped has no gradient in training, either."""

    def clamp(self, x: Tensor) -> Tensor:
        """Clamp to 0..1."""
        return x.clamp(0, 1)


def train(
    network: PublishedBase, mattes: Sequence[tuple[Path, Path]], backgrounds: Sequence[Path], plan: SamplingPlan,
    steps: int,
) -> Iterator[float]:  # fmt: skip
    """Train in float32 on the CPU and yield the loss of each step.

    Args:
        network: is changed.
        mattes, backgrounds: (foreground, alpha) pairs and pictures to train on.
        plan: which of them each step takes, in what crop; its seed is that of all draws.
        steps: of the optimizer.
    """
    torch.manual_seed(plan.seed)
    optimizer = torch.optim.Adam(
        [{'params': getattr(network, name).parameters(), 'lr': rate} for name, rate in RATES.items()]
    )
    network.train()
    for step in range(steps):
        samples = plan.step(step)
        generator = rng(plan.seed, 'published', step)
        items = [
            published_sample(*mattes[s.matte], backgrounds[s.background], plan.resolution, 'base', generator)
            for s in samples
        ]
        true = composite(*_crop([torch.stack(x) for x in zip(*items)], *plan.crop(step)), generator)
        pred_pha, pred_fgr, pred_err, _ = network(true.src, true.bgr)
        loss = base_loss(pred_pha, pred_fgr, pred_err, true)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def composite(fgr: Tensor, pha: Tensor, bgr: Tensor, generator: np.random.Generator) -> Composite:
    """Composite a batch over shaded backgrounds, with noise, and disturb its plates.

    Args:
        fgr, pha, bgr: float (B, 3 | 1 | 3, H, W), 0..1; bgr is changed.
        generator: decides what is done to which sample; torch's own draws affines, colours and noise.
    """
    shaded = bgr.clone()
    for i in range(len(fgr)):
        if generator.random() < 0.3:
            window = int(generator.integers(20, 40))
            shadow = MOVE_SHADOW(pha[i : i + 1] * generator.uniform(0, 0.3))
            window = min(window, *pha.shape[2:])
            shaded[i] = (shaded[i] - kornia.filters.box_blur(shadow, (window, window))[0]).clamp(0, 1)
    src = fgr * pha + shaded * (1 - pha)
    for i in range(len(fgr)):
        if generator.random() < 0.4:
            for picture in (src[i], bgr[i]):
                picture.add_(torch.randn_like(picture) * generator.uniform(0, 0.03)).clamp_(0, 1)
        if generator.random() < 0.8:
            bgr[i] = JITTER_PLATE(bgr[i])
        if generator.random() < 0.3:
            bgr[i] = MOVE_PLATE(bgr[i])
    return Composite(src, bgr, fgr, pha)


def base_loss(pred_pha: Tensor, pred_fgr: Tensor, pred_err: Tensor, true: Composite) -> Tensor:
    """Sum the terms: L1 of alpha, of its Sobel gradient and of the visible foreground, and MSE of the error."""
    visible = true.pha > 0
    sobel = kornia.filters.sobel
    return (
        F.l1_loss(pred_pha, true.pha)
        + F.l1_loss(sobel(pred_pha), sobel(true.pha))
        + F.l1_loss(pred_fgr * visible, true.fgr * visible)
        + F.mse_loss(pred_err, (pred_pha.detach() - true.pha).abs())
    )


def _crop(pictures: list[Tensor], height: int, width: int) -> list[Tensor]:
    """Resize square pictures to the longer side of a crop, and cut it out of their centres."""
    side = max(height, width)
    resized = (F.interpolate(x, (side, side), mode='bilinear', align_corners=False) for x in pictures)
    top, left = (side - height) // 2, (side - width) // 2
    return [x[..., top : top + height, left : left + width].contiguous() for x in resized]
