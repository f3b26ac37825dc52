"""Whether an exported network gives what the one it was made from gives: pictures to try, and numbers to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from common.network import OUTPUTS
from dataset.readers import read_rgb
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

from . import ParityError

# Of a refining network.
FULL_SIZE = ('pha', 'fgr', 'com')


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture and its plate, uint8 RGB (H, W, 3), and what they show."""

    name: str
    src: np.ndarray
    bgr: np.ndarray

    def tensors(self) -> tuple[Tensor, Tensor]:
        """As the networks take them: float (1, 3, H, W), 0..1."""
        src, bgr = (torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32) / 255) for x in (self.src, self.bgr))
        return src, bgr


@dataclass(frozen=True)
class Limits:
    """The largest differences that pass.

    Attributes:
        mean: of any output; of those at full size over all cells that are refined alike, and over those that both
            refine: a small part, so that refined cells in wrong places would hardly show in the former.
        worst: of any value, in cells that both refine or neither does.
        cells: share of the refined cells that may be other ones: where errors are nearly equal, rounding decides.
    """

    mean: float
    worst: float
    cells: float


@dataclass(frozen=True)
class Difference:
    """Of one output: the worst, the mean, and the mean of cells that both refine.

    Of results at full size the first two, too, count cells that are refined alike only.
    """

    worst: float
    mean: float
    refined: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """What one pair of pictures showed.

    Attributes:
        name: of the pair, with its size.
        differences: by output.
        refined: cells that the original refines; None if it is no refining network.
        differing: cells that one of the two refines and the other does not.
    """

    name: str
    differences: dict[str, Difference] = field(default_factory=dict)
    refined: int | None = None
    differing: int = 0

    def __str__(self) -> str:
        found = ', '.join(
            f'{name} {x.worst:.1e} ({x.mean:.1e}' + (f'; {x.refined:.1e})' if x.refined else ')')
            for name, x in self.differences.items()
        )
        cells = f'; {self.differing} of {self.refined} cells refined differently' if self.refined is not None else ''
        return f'  {self.name}: {found}{cells}'

    def problems(self, limits: Limits) -> list[str]:
        """What is beyond the limits, in words."""
        found = []
        for name, x in self.differences.items():
            # Not <=: a difference may be NaN.
            if not x.worst <= limits.worst:
                found.append(f'{name} differs by up to {x.worst:.1e}, more than {limits.worst:.0e}')
            if not (x.mean <= limits.mean and x.refined <= limits.mean):
                mean = f'{x.mean:.1e} ({x.refined:.1e} in refined cells)'
                found.append(f'{name} differs by {mean} in the mean, more than {limits.mean:.0e}')
        # A pair counts twice: one cell less and another more. One such pair says nothing.
        if self.refined is not None and self.differing > 2 * max(limits.cells * self.refined, 1):
            found.append(f'{self.differing} of {self.refined} cells are refined differently')
        return found


def outputs_of(network: nn.Module, src: Tensor, bgr: Tensor) -> dict[str, Tensor]:
    """What a network of ours returns for pictures (B, 3, H, W), float 0..1, by name; without gradients."""
    with torch.no_grad():
        results = network(src, bgr)
    [names] = [names for names in OUTPUTS.values() if len(names) == len(results)]
    return dict(zip(names, results))


def compare(name: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Comparison:
    """Compares results by name.

    Args:
        name: of the pair.
        expected: of the original; with 'ref_sm' if it refines.
        found: of the exported network, some or all of these.

    Raises:
        ParityError: shapes that differ.
    """
    ref, found_ref = expected.get('ref_sm'), found.get('ref_sm')
    cells = None if ref is None or found_ref is None else (ref > 0, found_ref > 0)
    differences = {}
    for key, value in found.items():
        if key == 'ref_sm':
            continue
        if value.shape != expected[key].shape:
            raise ParityError(
                f'nothing written: {name}: {key} is {tuple(value.shape)}, not {tuple(expected[key].shape)}'
            )
        # Features have no range: in parts of the largest.
        scale = max(1.0, float(expected[key].abs().max()))
        difference = (value.to(torch.float32) - expected[key]).abs() / scale
        if cells is not None and key in FULL_SIZE:
            alike, both = (difference[_pixels(x, difference)] for x in (cells[0] == cells[1], cells[0] & cells[1]))
            differences[key] = Difference(*map(float, (_largest(alike), _mean(alike), _mean(both))))
        else:
            differences[key] = Difference(float(difference.max()), float(difference.mean()))
    if cells is None:
        return Comparison(name, differences)
    return Comparison(name, differences, int(cells[0].sum()), int((cells[0] != cells[1]).sum()))


def _largest(x: Tensor) -> Tensor:
    return x.max() if len(x) else x.sum()


def _mean(x: Tensor) -> Tensor:
    return x.sum() / max(len(x), 1)


def _pixels(cells: Tensor, like: Tensor) -> Tensor:
    """Truth values of cells (B, 1, h, w) for each pixel of `like` (B, C, H, W)."""
    height, width = like.shape[2:]
    pixels = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return pixels[..., :height, :width].expand_as(like)


def pairs(width: int, height: int, files: Sequence[Path] = ()) -> list[Pair]:
    """Two pairs that no export saw: photographs, and drawings.

    Args:
        width, height: of the pictures, in pixels.
        files: a photograph and its plate, to be resized; scikit-learn's two sample photographs if left out, the one as
            subject in front of the other.

    Raises:
        dataset.readers.ImageError: a file cannot be read.
    """
    if files:
        src, bgr = (cv2.resize(read_rgb(path), (width, height), interpolation=cv2.INTER_AREA) for path in files)
        photographs = Pair(f'{files[0].name} {width}x{height}', src, bgr)
    else:
        from sklearn.datasets import load_sample_image

        flower, temple = (
            cv2.resize(load_sample_image(name), (width, height), interpolation=cv2.INTER_CUBIC)
            for name in ('flower.jpg', 'china.jpg')
        )
        # The blossom is lighter and redder than the leaves around it.
        red, green, blue = (flower[..., i].astype(np.float32) for i in range(3))
        blossom = np.clip((red - np.maximum(green, blue) * 0.9 - 20) / 60, 0, 1)[..., None]
        src = np.round(temple + (flower.astype(np.float32) - temple) * blossom).astype(np.uint8)
        photographs = Pair(f'photograph {width}x{height}', src, temple)
    return [photographs, _drawn(width, height)]


def _drawn(width: int, height: int) -> Pair:
    cut_out = SyntheticMattes(1, seed=7).read(0, (height, height))
    plate = cv2.resize(SyntheticBackgrounds(1, seed=7).read(0, (width, height)), (width, height))
    side = min(width, height)
    cut_out = cv2.resize(cut_out, (side, side), interpolation=cv2.INTER_AREA)
    src, left, top = plate.copy(), (width - side) // 2, (height - side) // 2
    behind = plate[top : top + side, left : left + side].astype(np.float32)
    alpha = cut_out[..., 3:].astype(np.float32) / 255
    inside = np.round(behind + (cut_out[..., :3] - behind) * alpha).astype(np.uint8)
    src[top : top + side, left : left + side] = inside
    return Pair(f'drawing {width}x{height}', src, plate)
