"""The figures of one picture: a prediction compared with the truth, both in 8 bits as in files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataset.readers import read_alpha, read_rgb
from metrics import matting as metrics
from metrics.trimap import trimap, unknown

from .tables import COLOUR_METRICS
from .testset.layout import Truth

OF_PAIRS = 'dtssd'  # the one metric that needs two frames

Pixels = tuple[np.ndarray, np.ndarray | None]  # alpha uint8 (H, W); foreground uint8 RGB (H, W, 3), if there is one
PixelSource = Callable[[], Pixels]  # waits for the device, or reads files; called on a thread, once


@dataclass(frozen=True, eq=False)
class Frame:
    """A prediction with the truth: alphas uint8 (H, W), and colours uint8 RGB (H, W, 3) where both are known.

    `region` has the pixels that count, bool (H, W); None counts all.
    """

    truth: Truth
    pred_pha: np.ndarray
    true_pha: np.ndarray
    region: np.ndarray | None
    pred_fgr: np.ndarray | None = None
    true_fgr: np.ndarray | None = None


def read_frame(predicted: tuple[Truth, PixelSource], whole: bool) -> Frame:
    """Get a prediction and read its truth; that of the foreground is read only if there is a predicted one.

    Args:
        predicted: files of the truth, and where the prediction comes from.
        whole: all pixels count, instead of those that are unknown in the trimap.

    Raises:
        ValueError: a picture cannot be read or computed, or files differ in size.
    """
    truth, source = predicted
    pred_pha, pred_fgr = source()
    true_pha = read_alpha(truth.pha)
    region = None if whole else unknown(trimap(true_pha) if truth.trimap is None else read_alpha(truth.trimap))
    true_fgr = None if pred_fgr is None or truth.fgr is None else read_rgb(truth.fgr)
    pictures = {'prediction': pred_pha, 'predicted fgr': pred_fgr, 'true fgr': true_fgr, 'trimap': region}
    for kind, picture in pictures.items():
        if picture is not None and picture.shape[:2] != true_pha.shape:
            (height, width), (rows, columns) = picture.shape[:2], true_pha.shape
            raise ValueError(f'{truth.pha} is {columns}x{rows}, its {kind} {width}x{height}')
    return Frame(truth, pred_pha, true_pha, region, None if true_fgr is None else pred_fgr, true_fgr)


def figures(frame: Frame, names: Sequence[str], scaling: str) -> dict[str, float]:
    """Compute the metrics of one picture but dtssd, scaled as `metrics.SCALINGS` says; NaN where undefined."""
    pred, true = _batch(frame.pred_pha), _batch(frame.true_pha)
    region = None if frame.region is None else torch.from_numpy(frame.region)[None, None]
    found = {}
    for name in names:
        if name == OF_PAIRS:
            continue
        if name not in COLOUR_METRICS:
            value = getattr(metrics, name)(pred, true, region).item()
        elif frame.pred_fgr is None or frame.true_fgr is None:
            value = math.nan
        elif name == 'fg_mse_bmv2':
            value = metrics.fg_mse_bmv2(_batch(frame.pred_fgr), _batch(frame.true_fgr), true, region).item()
        else:
            value = metrics.fg_mse(_batch(frame.pred_fgr), _batch(frame.true_fgr), true).item()
        found[name] = value * metrics.SCALINGS[scaling][name]
    return found


def unsteadiness(before: Frame, frame: Frame, scaling: str) -> float:
    """Compute the dtSSD of two successive frames; a clip's is the mean over its pairs."""
    pred, true = (
        torch.cat([_batch(x), _batch(y)])
        for x, y in ((before.pred_pha, frame.pred_pha), (before.true_pha, frame.true_pha))
    )
    # The later frame's region counts for a pair.
    region = None if frame.region is None else torch.from_numpy(frame.region)[None, None].expand_as(pred)
    return metrics.dtssd(pred, true, region).item() * metrics.SCALINGS[scaling][OF_PAIRS]


def with_previous(frames: Iterable[Frame]) -> Iterator[tuple[Frame, Frame | None]]:
    """Yield each frame with the one before it in its clip, which is None for a clip's first frame and for stills."""
    before = None
    for frame in frames:
        same = before is not None and frame.truth.clip is not None and before.truth.clip == frame.truth.clip
        yield frame, before if same else None
        before = frame


def _batch(picture: np.ndarray) -> Tensor:
    """Return a picture as (1, C, H, W), 0..1, in double precision: float32 is off by more than the metrics' error."""
    levels = torch.from_numpy(picture)
    return (levels[None, None] if picture.ndim == 2 else levels.permute(2, 0, 1)[None]).double() / 255
