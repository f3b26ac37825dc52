"""Composites of warped mattes and backgrounds, made on the device, and the augmentation of training samples.

The augmentation is that of the published training scripts (paper, section 5). Random numbers are drawn on the CPU,
seeded by the sample alone: nothing waits for the device, and a sample looks the same in any batch, rank or worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.published import pointing

from .sampling import Sample, rng, seed_of

__getattr__ = pointing(__name__)  # the published data sets' transforms are elsewhere

# Sides of a shadow's blur window in pixels: at least, and below.
SHADOW_WINDOW = (20, 40)

_Affine = tuple[float, float, float, float, float]  # the arguments of `_move`


@dataclass(frozen=True)
class Composite:
    """What the network sees, `src` and the plate `bgr`, and the truth, `fgr` and `pha`.

    Colours are RGB (B, 3, H, W), alpha is (B, 1, H, W), all float32, 0..1.
    """

    src: Tensor
    bgr: Tensor
    fgr: Tensor
    pha: Tensor


def compose_training(mattes: Tensor, backgrounds: Tensor, samples: Sequence[Sample]) -> Composite:
    """Augment and composite a training batch; arguments are those of `loaders.Batch`.

    Blur radii are meant for the samples' resolution and shrink with the crop.
    """
    fgr, pha, back = _to_float(mattes[..., :3]), _to_float(mattes[..., 3:]), _to_float(backgrounds)
    draws = [_Draws.from_sample(sample) for sample in samples]
    side = max(pha.shape[2:])
    scale = side / (samples[0].resolution or side)
    for i, draw in enumerate(draws):
        if draw.fgr_blur:
            fgr[i], pha[i] = _box_blur(fgr[i], draw.fgr_blur * scale), _box_blur(pha[i], draw.fgr_blur * scale)
        if draw.fgr_sharpen:
            fgr[i], pha[i] = _sharpen(fgr[i]), _sharpen(pha[i])
        if draw.back_blur:
            back[i] = _box_blur(back[i], draw.back_blur * scale)
        if draw.back_sharpen:
            back[i] = _sharpen(back[i])
    fgr = _jitter(fgr, [draw.fgr_jitter for draw in draws])
    back = _jitter(back, [draw.back_jitter for draw in draws])

    shaded = back.clone()
    for i, draw in enumerate(draws):
        if draw.shadow is not None:
            shaded[i] = (back[i] - _shadow(pha[i], *draw.shadow)).clamp(0, 1)
    src = torch.lerp(shaded, fgr, pha)
    bgr = back
    for i, (draw, sample) in enumerate(zip(draws, samples)):
        if draw.noise is not None:
            src[i] = _add_noise(src[i], draw.noise[0], seed_of(sample.seed, sample.epoch, sample.index, 'src noise'))
            bgr[i] = _add_noise(bgr[i], draw.noise[1], seed_of(sample.seed, sample.epoch, sample.index, 'bgr noise'))
    bgr = _jitter(bgr, [draw.plate_jitter for draw in draws])
    for i, draw in enumerate(draws):
        if draw.plate_shift is not None:
            bgr[i] = _move(bgr[i], *draw.plate_shift)
    return Composite(src, bgr, fgr, pha)


def compose_validation(mattes: Tensor, backgrounds: Tensor, samples: Sequence[Sample]) -> Composite:
    """Composite a validation batch without augmentation, but with a slightly disturbed plate.

    No studio yields a plate that equals the background to the last bit, and subtracting such a one would solve the
    task. So, as in the paper's evaluation, it is moved by up to 0.3 pixels, its gamma is changed by 0.85..1.15 and
    noise of sigma 0.01 is added, the same in every validation. Arguments are those of `compose_training`.
    """
    fgr, pha, back = _to_float(mattes[..., :3]), _to_float(mattes[..., 3:]), _to_float(backgrounds)
    src = torch.lerp(back, fgr, pha)
    bgr = back.clone()
    for i, sample in enumerate(samples):
        generator = rng(sample.seed, sample.epoch, sample.index, 'plate')
        shift_x, shift_y = generator.uniform(-0.3, 0.3, 2).tolist()
        plate = _move(back[i], 0.0, shift_x, shift_y).pow(generator.uniform(0.85, 1.15))
        bgr[i] = _add_noise(plate, 0.01, seed_of(sample.seed, sample.epoch, sample.index, 'plate noise'))
    return Composite(src, bgr, fgr, pha)


@dataclass(frozen=True)
class _Draws:
    """A sample's random numbers but for its geometry; radii in pixels at training resolution, jitter as factors.

    A shadow is its strength, 0..0.3, the affine of `_move`, and its blur window in pixels.
    """

    fgr_blur: int
    back_blur: int
    fgr_sharpen: bool
    back_sharpen: bool
    fgr_jitter: np.ndarray
    back_jitter: np.ndarray
    shadow: tuple[float, _Affine, int] | None
    noise: tuple[float, float] | None
    plate_jitter: np.ndarray
    plate_shift: tuple[float, float, float] | None

    @staticmethod
    def from_sample(sample: Sample) -> _Draws:
        g = rng(sample.seed, sample.epoch, sample.index, 'colour')
        width, height = sample.width, sample.height

        def chance(p: float) -> bool:
            return bool(g.random() < p)

        fgr_blur, back_blur = (int(g.integers(0, 6)) if chance(0.1) else 0 for _ in range(2))
        fgr_sharpen, back_sharpen = chance(0.1), chance(0.1)
        fgr_jitter, back_jitter = (_draw_jitter(g, 0.15, 0.05) for _ in range(2))
        shadow = None
        if chance(0.3):
            strength, angle = g.uniform(0, 0.3), g.uniform(-5, 5)
            shift = g.uniform(-0.2, 0.2) * width, g.uniform(-0.2, 0.2) * height
            scale, shear = g.uniform(0.5, 1.5), g.uniform(-5, 5)
            shadow = strength, (angle, *shift, scale, shear), int(g.integers(*SHADOW_WINDOW))
        noise = (g.uniform(0, 0.03), g.uniform(0, 0.03)) if chance(0.4) else None
        plate_jitter = _draw_jitter(g, 0.18, 0.1) if chance(0.8) else NO_JITTER
        plate_shift = None
        if chance(0.3):
            plate_shift = (g.uniform(-1, 1), g.uniform(-0.01, 0.01) * width, g.uniform(-0.01, 0.01) * height)
        return _Draws(
            fgr_blur, back_blur, fgr_sharpen, back_sharpen, fgr_jitter, back_jitter,
            shadow, noise, plate_jitter, plate_shift,
        )  # fmt: skip


# Brightness, contrast and saturation as factors, hue in radians.
NO_JITTER = np.array([1.0, 1.0, 1.0, 0.0])


def _draw_jitter(generator: np.random.Generator, strength: float, hue: float) -> np.ndarray:
    """Draw factors within 1 +- strength, and a change of hue within +-hue turns."""
    return NO_JITTER + generator.uniform(-1, 1, 4) * [strength, strength, strength, 2 * math.pi * hue]


def _shadow(pha: Tensor, strength: float, affine: _Affine, window: int) -> Tensor:
    """Return how much of the background's light the subject pha (1, H, W) takes away, 0..1 (1, H, W)."""
    shadow = _move(pha * strength, *affine, outside='zeros')
    window = min(window, *pha.shape[1:])
    return kornia.filters.box_blur(shadow[None], (window, window), separable=True)[0]


def _turn_hue(x: Tensor, angle: Tensor) -> Tensor:
    """Turn the hue of x (B, 3, H, W) by angle (B,), in radians, around the hexagon of HSV.

    kornia's `adjust_hue` gives the same to 1e-6. It converts to HSV and back, which on a CPU takes three to four times
    as long and would be most of a composite's time.
    """
    red, green, blue = x.unbind(1)
    low, high = torch.minimum(torch.minimum(red, green), blue), torch.maximum(torch.maximum(red, green), blue)
    chroma = high - low
    hue = torch.where(green == high, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    hue = torch.where(red == high, green - blue, hue).div_(chroma.clamp(min=1e-12))
    hue = hue.add_(angle[:, None, None], alpha=3 / math.pi).remainder_(6)  # in sixths of a turn, red is 0
    turned = torch.empty_like(x)
    for channel, share in enumerate(((hue - 3).abs_().sub_(1), 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_())):
        torch.addcmul(low, chroma, share.clamp_(0, 1), out=turned[:, channel])
    return turned


# In the order in which they are applied, which is that of the factors.
_JITTER: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    kornia.enhance.adjust_brightness_accumulative,
    kornia.enhance.adjust_contrast_with_mean_subtraction,
    kornia.enhance.adjust_saturation_with_gray_subtraction,
    _turn_hue,
)


def _jitter(x: Tensor, factors: Sequence[np.ndarray]) -> Tensor:
    """Change the colours of x (B, 3, H, W), each sample by its own factors (4,)."""
    table = torch.from_numpy(np.stack(factors)).to(x.device, x.dtype, non_blocking=True)
    for column, operation in enumerate(_JITTER):
        x = operation(x, table[:, column])
    return x.clamp_(0, 1)


def _to_float(x: Tensor) -> Tensor:
    """Convert uint8 (B, H, W, C) to float 0..1 (B, C, H, W)."""
    # On channels-last memory, what follows takes up to twice as long.
    return x.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _box_blur(x: Tensor, radius: float) -> Tensor:
    """Average x (C, H, W) over 2 radius + 1 pixels; the outermost ones count by the radius's fraction."""
    whole = math.floor(radius)
    kernel = torch.ones(1, 2 * whole + 3)
    kernel[:, [0, -1]] = radius - whole
    kernel = (kernel / kernel.sum()).to(x.device, x.dtype, non_blocking=True)
    return kornia.filters.filter2d_separable(x[None], kernel, kernel, border_type='replicate')[0].clamp(0, 1)


def _sharpen(x: Tensor) -> Tensor:
    """Sharpen x (C, H, W) with the kernel of Pillow's SHARPEN: 2 x minus the mean of the 8 neighbours."""
    kernel = torch.full((1, 3, 3), -2 / 16)
    kernel[:, 1, 1] = 32 / 16
    kernel = kernel.to(x.device, x.dtype, non_blocking=True)
    return kornia.filters.filter2d(x[None], kernel, border_type='replicate')[0].clamp(0, 1)


def _add_noise(x: Tensor, sigma: float, seed: int) -> Tensor:
    generator = torch.Generator(x.device).manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return noise.mul_(sigma).add_(x).clamp_(0, 1)


def _move(
    x: Tensor, angle: float, shift_x: float, shift_y: float, scale: float = 1.0, shear: float = 0.0,
    outside: str = 'border',
) -> Tensor:  # fmt: skip
    """Rotate (degrees), scale and shear (degrees, along x) x (C, H, W) about its centre, and move it (pixels).

    The map is inverted on the CPU: kornia's warp inverts it on the device, and waits for the result.
    """
    height, width = x.shape[1:]
    turn, lean = math.radians(angle), math.tan(math.radians(shear))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    back = np.linalg.inv(scale * rotation @ np.array([[1, -lean], [0, 1]]))
    half = np.array([max(width - 1, 1), max(height - 1, 1)]) / 2
    theta = np.column_stack([back * half / half[:, None], -back @ [shift_x, shift_y] / half])
    matrix = torch.from_numpy(theta).to(x.device, x.dtype, non_blocking=True)[None]
    grid = F.affine_grid(matrix, [1, 1, height, width], align_corners=True)
    return F.grid_sample(x[None], grid, padding_mode=outside, align_corners=True)[0]
