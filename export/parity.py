"""Parity of an exported network with its original: pictures that neither has seen, differences, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from common.network import OUTPUTS
from dataset.readers import read_rgb
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
from model.folding import folded

from . import ParityError

# Outputs of a refining network at the picture's full size.
FULL_SIZE = ('pha', 'fgr', 'com')
# An exported network adds up in another order than the original in the same precision: it may differ by so many times
# what that precision alone costs.
TIMES_ROUNDING = 3


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture and its plate, uint8 RGB (H, W, 3), with a name that says what they show and their size."""

    name: str
    src: np.ndarray
    bgr: np.ndarray

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return picture and plate as the networks take them: float (1, 3, H, W), 0..1."""
        src, bgr = (torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32) / 255) for x in (self.src, self.bgr))
        return src, bgr


@dataclass(frozen=True)
class Limits:
    """The largest differences that pass.

    Attributes:
        mean: of the mean difference of any output. At full size this is the mean over all cells refined alike, and
            also over those that both networks refine, which are few: errors there would hardly show in the former.
        worst: of the largest difference of any value, in cells refined alike.
        cells: of the share of refined cells that only one of the networks refines, 0..1. Rounding decides where
            predicted errors are nearly equal.
    """

    mean: float
    worst: float
    cells: float


# What rounding may cost at most; a network that it costs more is of no use in that precision.
MOST = Limits(mean=0.03, worst=0.5, cells=0.2)


@dataclass(frozen=True)
class OutputDifference:
    """The absolute difference of one output."""

    worst: float  # the largest
    mean: float  # at full size, as is `worst`, over cells refined alike only
    refined: float = 0.0  # the mean over cells that both networks refine; 0 for outputs that are not at full size


@dataclass(frozen=True)
class PairComparison:
    """The differences on one pair of pictures, by output."""

    name: str
    differences: dict[str, OutputDifference] = field(default_factory=dict)
    refined: int | None = None  # number of cells that the original refines; None if the network does not refine
    differing: int = 0  # number of cells that only one of the networks refines
    rounding: PairComparison | None = None  # of the original in the file's precision, where the limits are exceeded

    def __str__(self) -> str:
        alone = f'\n    by rounding alone: {self.rounding._figures()}' if self.rounding else ''
        return f'  {self.name}: {self._figures()}{alone}'

    def _figures(self) -> str:
        found = ', '.join(
            f'{name} {x.worst:.1e} ({x.mean:.1e}' + (f'; {x.refined:.1e})' if x.refined else ')')
            for name, x in self.differences.items()
        )
        cells = f'; {self.differing} of {self.refined} cells refined differently' if self.refined is not None else ''
        return found + cells

    def problems(self, limits: Limits) -> list[str]:
        """Return in words what is beyond the limits, and beyond what rounding explains."""
        found = []
        figures = {'worst': ('by up to', 'worst'), 'mean': ('in the mean by', 'mean'),
                   'refined': ('in the mean of refined cells by', 'mean')}  # fmt: skip
        for name, x in self.differences.items():
            own = self.rounding.differences[name] if self.rounding else OutputDifference(0, 0)
            for figure, (words, limit) in figures.items():
                value, alone = getattr(x, figure), getattr(own, figure)
                allowed = max(getattr(limits, limit), min(TIMES_ROUNDING * alone, getattr(MOST, limit)))
                # "not <=" instead of ">", since a difference may be NaN.
                if not value <= allowed:
                    found.append(f'{name} differs {words} {value:.1e}, more than {allowed:.1e}{_alone(alone)}')
        if self.refined is not None:
            alone = self.rounding.differing if self.rounding else 0
            # A cell in place of another counts twice. One such pair proves nothing, whatever the share.
            least = 2 * max(limits.cells * self.refined, 1)
            allowed = max(least, min(TIMES_ROUNDING * alone, 2 * MOST.cells * self.refined))
            if self.differing > allowed:
                words = (
                    f'{self.differing} of {self.refined} cells are refined differently, more than {allowed:.0f}, '
                    f'which are {allowed / 2:.0f} in place of others'
                )
                found.append(words + _alone(alone))
        return found

    @property
    def sensitive(self) -> bool:
        """Whether the original itself comes out otherwise in the file's precision, by more than can be borne."""
        return self.rounding is not None and bool(self.rounding.problems(MOST))


def _alone(difference: float) -> str:
    written = f'{difference:.1e}' if isinstance(difference, float) else difference
    return f' ({written} by rounding alone)' if difference else ''


def outputs_of(network: nn.Module, src: Tensor, bgr: Tensor) -> dict[str, Tensor]:
    """Return a network's results for pictures (B, 3, H, W), float 0..1, by name, computed without gradients."""
    with torch.no_grad():
        results = network(src, bgr)
    [names] = [names for names in OUTPUTS.values() if len(names) == len(results)]
    return dict(zip(names, results))


def compare(
    name: str,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    limits: Limits | None = None,
    rounded: Callable[[], Mapping[str, Tensor]] | None = None,
) -> PairComparison:
    """Compare some or all of the exported network's results for a pair of pictures with those of the original.

    How much rounding costs depends on the network and the picture: hundreds of times as much where alpha is steep, as
    on pictures unlike those that it was trained on. So where results exceed the limits, the same is measured of the
    original in the file's precision.

    Args:
        name: of the pair.
        expected: results of the original, float32, by name.
        found: those of the exported network.
        limits: that they are to keep.
        rounded: computes the results of the original in the file's precision.

    Raises:
        ParityError: shapes differ.
    """
    comparison = _compare(name, expected, found)
    if limits is None or rounded is None or not comparison.problems(limits):
        return comparison
    return replace(comparison, rounding=_compare(name, expected, rounded()))


def rounded_outputs(original: nn.Module, src: Tensor, bgr: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what `outputs_of` does, of a network with BatchNorm folded, weights and pictures in another precision."""
    results = outputs_of(folded(original).to(dtype), src.to(dtype), bgr.to(dtype))
    return {name: x.float() for name, x in results.items()}


def _compare(name: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> PairComparison:
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
        # Features have no fixed range, so that their differences are relative to the largest.
        scale = max(1.0, float(expected[key].abs().max()))
        difference = (value.to(torch.float32) - expected[key]).abs() / scale
        if cells is not None and key in FULL_SIZE:
            alike, both = (difference[_pixels(x, difference)] for x in (cells[0] == cells[1], cells[0] & cells[1]))
            worst = alike.max() if len(alike) else alike.sum()
            means = (x.sum() / max(len(x), 1) for x in (alike, both))
            differences[key] = OutputDifference(float(worst), *map(float, means))
        else:
            differences[key] = OutputDifference(float(difference.max()), float(difference.mean()))
    if cells is None:
        return PairComparison(name, differences)
    return PairComparison(name, differences, int(cells[0].sum()), int((cells[0] != cells[1]).sum()))


def require_equal(comparisons: Iterable[PairComparison], limits: Limits, verdict: str) -> None:
    """Print all comparisons as they come, then the verdict, such as 'proved equal by ...'.

    Raises:
        ParityError: something exceeds the limits.
    """
    print('worst difference from the original (mean; mean of refined cells):')
    problems, unseen, explained, sensitive = [], True, False, False
    for comparison in comparisons:
        print(comparison, flush=True)
        problems += [f'{comparison.name}: {problem}' for problem in comparison.problems(limits)]
        unseen = unseen and comparison.refined == 0
        explained = explained or comparison.rounding is not None
        sensitive = sensitive or comparison.sensitive
    if problems:
        advice = (
            'the original comes out otherwise in this precision, too: take --precision float32, or pictures and a '
            '--model-backbone-scale like those it was trained with'
            if sensitive
            else 'rounding does not explain that: try another --refine-form, and report it'
        )
        raise ParityError('\n  '.join(['not equal to the original, nothing written:', *problems, advice]))
    note = '; but it refined no cell of these pictures, so try yours: --validate-pair' if unseen else ''
    allowed = f'worst {limits.worst:g}, mean {limits.mean:g}, {limits.cells:.1%} of the cells in place of others'
    allowed += ', or what rounding explains' if explained else ''
    print(f'{verdict} (limits: {allowed}){note}', flush=True)


def _pixels(cells: Tensor, like: Tensor) -> Tensor:
    """Return truth values of cells (B, 1, h, w) for the pixels of `like` (B, C, H, W)."""
    height, width = like.shape[2:]
    pixels = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return pixels[..., :height, :width].expand_as(like)


def pairs(width: int, height: int, files: Sequence[Path] = ()) -> list[Pair]:
    """Return two pairs that no conversion has seen: photographs and drawings.

    Args:
        width, height: of the pictures, in pixels.
        files: a photograph and its plate, which are resized; if left out, scikit-learn's two sample photographs, one
            as the subject in front of the other.

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
        # Tells the blossom from the leaves around it: it is lighter and redder.
        red, green, blue = (flower[..., i].astype(np.float32) for i in range(3))
        blossom = np.clip((red - np.maximum(green, blue) * 0.9 - 20) / 60, 0, 1)[..., None]
        src = np.round(temple + (flower.astype(np.float32) - temple) * blossom).astype(np.uint8)
        photographs = Pair(f'photograph {width}x{height}', src, temple)
    return [photographs, drawn(width, height)]


def drawn(width: int, height: int) -> Pair:
    """Return a drawn subject before a drawn plate."""
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
