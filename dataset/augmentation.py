"""Composites of warped mattes and backgrounds, made on the device, and the augmentation of training samples.

The augmentation is that of the published training scripts (paper, section 5). Random numbers are drawn on the CPU,
seeded by the sample alone: nothing waits for the device, and a sample looks the same in any batch, rank or worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.published import pointing

from .sampling import VALIDATION, Sample, rng, seed_of

__getattr__ = pointing(__name__)  # the published data sets' transforms are elsewhere

# Sides of a shadow's blur window in pixels: at least, and below.
SHADOW_WINDOW = (20, 40)


@dataclass(frozen=True)
class Composite:
    """What the network sees, `src` and the plate `bgr`, and the truth, `fgr` and `pha`.

    Colours are RGB (B, 3, H, W), alpha is (B, 1, H, W), all float32, 0..1.
    """

    src: Tensor
    bgr: Tensor
    fgr: Tensor
    pha: Tensor


def compose_training(mattes: Tensor, backgrounds: Tensor, draws: Draws) -> Composite:
    """Augment and composite a training batch; arguments are those of `loaders.Batch`."""
    numbers, each = draws.by_name(), draws.each
    # Foregrounds and backgrounds are one tensor, so that their colours change together.
    colours, pha = _to_float(mattes[..., :3], backgrounds), _to_float(mattes[..., 3:])
    fgr, back = colours.chunk(2)
    for i, draw in enumerate(each):
        if draw.fgr_blur is not None:
            fgr[i], pha[i] = (_blur(x[i], numbers[f'fgr_blur {i}']) for x in (fgr, pha))
        if draw.fgr_sharpen:
            fgr[i], pha[i] = _sharpen(fgr[i]), _sharpen(pha[i])
        if draw.back_blur is not None:
            back[i] = _blur(back[i], numbers[f'back_blur {i}'])
        if draw.back_sharpen:
            back[i] = _sharpen(back[i])
    fgr, back = _jitter(colours, numbers['jitter']).clamp_(0, 1).chunk(2)

    shaded = back.clone()
    if shadowed := [i for i, draw in enumerate(each) if draw.shadow_move is not None]:
        shadows = torch.stack([pha[i] for i in shadowed]) * numbers['shadow_strength'][:, None, None, None]
        for i, shadow in zip(shadowed, _move(shadows, numbers['shadow_move'], outside='zeros')):
            shaded[i].sub_(_box_blur(shadow, each[i].shadow_window)).clamp_(0, 1)
    src, bgr = torch.lerp(shaded, fgr, pha), back
    _add_noise([(src[i], *draw.src_noise) for i, draw in enumerate(each) if draw.src_noise is not None]
               + [(bgr[i], *draw.bgr_noise) for i, draw in enumerate(each) if draw.bgr_noise is not None])  # fmt: skip
    torch.clamp(_jitter(bgr, numbers['plate_jitter']), 0, 1, out=bgr)
    if moved := [i for i, draw in enumerate(each) if draw.plate_move is not None]:
        for i, plate in zip(moved, _move(torch.stack([bgr[i] for i in moved]), numbers['plate_move'])):
            bgr[i] = plate
    return Composite(src, bgr, fgr, pha)


def compose_validation(mattes: Tensor, backgrounds: Tensor, draws: Draws) -> Composite:
    """Composite a validation batch without augmentation, but with a slightly disturbed plate.

    No studio yields a plate that equals the background to the last bit, and subtracting such a one would solve the
    task. So, as in the paper's evaluation, it is moved by up to 0.3 pixels, its gamma is changed by 0.85..1.15 and
    noise of sigma 0.01 is added, the same in every validation. Arguments are those of `compose_training`.
    """
    fgr, pha, back = _to_float(mattes[..., :3]), _to_float(mattes[..., 3:]), _to_float(backgrounds)
    src = torch.lerp(back, fgr, pha)
    bgr = _move(back, draws.by_name()['plate_move'])
    for plate, draw in zip(bgr, draws.each):
        plate.pow_(draw.plate_gamma)
    _add_noise([(plate, *draw.bgr_noise) for plate, draw in zip(bgr, draws.each) if draw.bgr_noise is not None])
    return Composite(src, bgr, fgr, pha)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch, drawn where it is read.

    All that the device computes with is one tensor: one copy, which nobody waits for where memory is page-locked.

    Attributes:
        each: the draws of each sample.
        numbers: float32 (K,), arrays of these, one after the other.
        shapes: of the arrays in `numbers`, by name.
    """

    each: list[_Draw]
    numbers: Tensor
    shapes: dict[str, tuple[int, ...]]

    @staticmethod
    def from_samples(samples: Sequence[Sample]) -> Draws:
        """Draw what a batch is augmented by, or, of validation samples, how their plate is disturbed."""
        each = [(_Draw.of_validation if s.epoch == VALIDATION else _Draw.of_training)(s) for s in samples]
        arrays: dict[str, Any] = {'jitter': [draw.fgr_jitter for draw in each] + [draw.back_jitter for draw in each]}
        for name in ('plate_jitter', 'shadow_strength', 'shadow_move', 'plate_move'):
            arrays[name] = [value for draw in each if (value := getattr(draw, name)) is not None]
        for name in ('fgr_blur', 'back_blur'):
            kernels = ((i, getattr(draw, name)) for i, draw in enumerate(each))
            arrays |= {f'{name} {i}': kernel for i, kernel in kernels if kernel is not None}
        arrays = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
        numbers = torch.from_numpy(np.concatenate([array.ravel() for array in arrays.values()]))
        return Draws(each, numbers, {name: array.shape for name, array in arrays.items()})

    def by_name(self) -> dict[str, Tensor]:
        """Return the arrays, which are views of `numbers`; of those that not every sample has, one for each that has.

        They are 'jitter', of the foregrounds and then of the backgrounds (2 B, 4), 'plate_jitter' (B, 4),
        'shadow_strength' (n,), 'shadow_move' and 'plate_move' (n, 2, 3), and the kernels 'fgr_blur <sample>' and
        'back_blur <sample>' (1, taps).
        """
        parts = self.numbers.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for part, (name, shape) in zip(parts, self.shapes.items())}


@dataclass(frozen=True)
class _Draw:
    """A sample's random numbers but for its geometry; None for what is not done to it."""

    fgr_jitter: np.ndarray  # as `_draw_jitter` makes them
    back_jitter: np.ndarray
    plate_jitter: np.ndarray
    fgr_blur: np.ndarray | None = None  # kernels
    back_blur: np.ndarray | None = None
    fgr_sharpen: bool = False
    back_sharpen: bool = False
    shadow_strength: float | None = None  # 0..0.3
    shadow_move: np.ndarray | None = None  # affines, for `_move`
    shadow_window: int = 0  # pixels
    src_noise: tuple[float, int] | None = None  # sigma and seed
    bgr_noise: tuple[float, int] | None = None
    plate_move: np.ndarray | None = None
    plate_gamma: float = 1.0

    @staticmethod
    def of_training(sample: Sample) -> _Draw:
        """Draw as the published scripts do; blur radii are for the samples' resolution and shrink with the crop."""
        key = sample.seed, sample.epoch, sample.index
        g = rng(*key, 'colour')
        width, height = sample.width, sample.height
        blur_scale = max(width, height) / (sample.resolution or max(width, height))

        def chance(p: float) -> bool:
            return bool(g.random() < p)

        fgr_blur, back_blur = (_blur_kernel(g.integers(0, 6) * blur_scale) if chance(0.1) else None for _ in range(2))
        fgr_sharpen, back_sharpen = chance(0.1), chance(0.1)
        fgr_jitter, back_jitter = (_draw_jitter(g, 0.15, 0.05) for _ in range(2))
        strength = shadow = None
        window = 0
        if chance(0.3):
            strength, angle = g.uniform(0, 0.3), g.uniform(-5, 5)
            shift = g.uniform(-0.2, 0.2) * width, g.uniform(-0.2, 0.2) * height
            scale, shear = g.uniform(0.5, 1.5), g.uniform(-5, 5)
            shadow = _affine(height, width, angle, *shift, scale, shear)
            window = min(int(g.integers(*SHADOW_WINDOW)), height, width)
        src_noise = bgr_noise = None
        if chance(0.4):
            src_noise = g.uniform(0, 0.03), seed_of(*key, 'src noise')
            bgr_noise = g.uniform(0, 0.03), seed_of(*key, 'bgr noise')
        plate_jitter = _draw_jitter(g, 0.18, 0.1) if chance(0.8) else NO_JITTER
        plate_move = None
        if chance(0.3):
            angle, shift = g.uniform(-1, 1), (g.uniform(-0.01, 0.01) * width, g.uniform(-0.01, 0.01) * height)
            plate_move = _affine(height, width, angle, *shift)
        return _Draw(
            fgr_jitter, back_jitter, plate_jitter, fgr_blur, back_blur, fgr_sharpen, back_sharpen,
            strength, shadow, window, src_noise, bgr_noise, plate_move,
        )  # fmt: skip

    @staticmethod
    def of_validation(sample: Sample) -> _Draw:
        """Draw how a plate is disturbed."""
        key = sample.seed, sample.epoch, sample.index
        g = rng(*key, 'plate')
        move = _affine(sample.height, sample.width, 0.0, *g.uniform(-0.3, 0.3, 2).tolist())
        return _Draw(
            NO_JITTER, NO_JITTER, NO_JITTER,
            plate_move=move, plate_gamma=g.uniform(0.85, 1.15), bgr_noise=(0.01, seed_of(*key, 'plate noise')),
        )  # fmt: skip


# Brightness, contrast and saturation as factors, hue in radians.
NO_JITTER = np.array([1.0, 1.0, 1.0, 0.0])


def _draw_jitter(generator: np.random.Generator, strength: float, hue: float) -> np.ndarray:
    """Draw factors within 1 +- strength, and a change of hue within +-hue turns."""
    return NO_JITTER + generator.uniform(-1, 1, 4) * [strength, strength, strength, 2 * math.pi * hue]


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


def _jitter(x: Tensor, factors: Tensor) -> Tensor:
    """Change the colours of x (B, 3, H, W), each sample by its own factors (B, 4); the result is not clamped."""
    for column, operation in enumerate(_JITTER):
        x = operation(x, factors[:, column])
    return x


def _to_float(*pictures: Tensor) -> Tensor:
    """Convert uint8 (B, H, W, C) to float 0..1 (B, C, H, W), all in one tensor, one after the other."""
    # On channels-last memory, what follows takes up to twice as long.
    x = torch.cat(pictures).permute(0, 3, 1, 2)
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _blur_kernel(radius: float) -> np.ndarray | None:
    """Return the taps (1, K) of a mean over 2 radius + 1 pixels; the outermost ones count by the radius's fraction."""
    whole = math.floor(radius)
    kernel = torch.ones(1, 2 * whole + 3)
    kernel[:, [0, -1]] = radius - whole
    return (kernel / kernel.sum()).numpy() if radius else None


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Filter x (C, H, W) by a kernel (1, K) along both sides."""
    return kornia.filters.filter2d_separable(x[None], kernel, kernel, border_type='replicate')[0].clamp_(0, 1)


def _box_blur(x: Tensor, window: int) -> Tensor:
    """Average x (C, H, W) over a square window."""
    return kornia.filters.box_blur(x[None], (window, window), separable=True)[0]


def _sharpen(x: Tensor) -> Tensor:
    """Sharpen x (C, H, W) with the kernel of Pillow's SHARPEN: 2 x minus the mean of the 8 neighbours."""
    kernel = x.new_full((1, 3, 3), -2 / 16)
    kernel[:, 1, 1] = 32 / 16
    return kornia.filters.filter2d(x[None], kernel, border_type='replicate')[0].clamp_(0, 1)


def _add_noise(noisy: Sequence[tuple[Tensor, float, int]]) -> None:
    """Add noise to pictures, in place: each is given with its sigma and the seed of its noise."""
    if not noisy:
        return
    pictures, sigmas, seeds = map(list, zip(*noisy))
    noise = [_noise(picture, seed) for picture, seed in zip(pictures, seeds)]
    torch._foreach_mul_(noise, sigmas)
    torch._foreach_add_(pictures, noise)
    torch._foreach_clamp_min_(pictures, 0.0)
    torch._foreach_clamp_max_(pictures, 1.0)


def _noise(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _affine(
    height: int, width: int, angle: float, shift_x: float, shift_y: float, scale: float = 1.0, shear: float = 0.0
) -> np.ndarray:
    """Return the matrix (2, 3) by which `_move` rotates (degrees), scales and shears (degrees, along x) a picture.

    That happens about its centre; then it is shifted (pixels). The matrix is inverted here, as kornia's warp inverts it
    on the device and waits for the result.
    """
    turn, lean = math.radians(angle), math.tan(math.radians(shear))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    back = np.linalg.inv(scale * rotation @ np.array([[1, -lean], [0, 1]]))
    half = np.array([max(width - 1, 1), max(height - 1, 1)]) / 2
    return np.column_stack([back * half / half[:, None], -back @ [shift_x, shift_y] / half])


def _move(x: Tensor, affines: Tensor, outside: str = 'border') -> Tensor:
    """Move x (B, C, H, W) by affines (B, 2, 3) of `_affine`."""
    grid = F.affine_grid(affines, [len(x), 1, *x.shape[2:]], align_corners=True)
    return F.grid_sample(x, grid, padding_mode=outside, align_corners=True)
