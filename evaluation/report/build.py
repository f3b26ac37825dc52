"""A self-contained HTML page of an evaluation: means side by side, the worst, median and best pictures, and all
figures. It needs no network, no server and, to be read, no script.

    data = report_bytes(results, pictures, sort_by='sad')
    write_atomic(Path('report.html'), data)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.results import Results

from .page import Picture, Strip, label, page
from .pictures import error_picture, matte_uri, photo_uri, small

PIXELATED_BELOW = 200
"""A picture whose longest side is shorter is enlarged pixel by pixel: blurred, a hard matte would look soft."""


@dataclass(frozen=True)
class ReportPictures:
    """What the page shows of one picture from one model: uint8, (H, W, 3) in RGB, or None, and mattes (H, W)."""

    src: np.ndarray | None
    true_pha: np.ndarray
    pred_pha: np.ndarray


def report_bytes(
    results: Sequence[Results],
    pictures: Callable[[str, str], ReportPictures],
    sort_by: str = 'sad',
    title: str = 'Evaluation',
    places: int = 3,
) -> bytes:
    """Make the page.

    Args:
        results: one per model. Names of models and pictures may hold any character.
        pictures: called with the name of a model and of a picture, for the ones shown only: at most 3 x `places` per
            model. It may compute or read them then; one at a time is held in memory.
        sort_by: the metric that says which pictures are worst and how the table is sorted at first.
        title, places: head of the page; how many of the worst, of the median and of the best pictures to show.

    Returns:
        The page as UTF-8, about 100 kB per shown picture.

    Raises:
        ValueError: no results, no picture has the metric `sort_by`, or the pictures of one name differ in size.
    """
    if not results:
        raise ValueError('a report needs the results of at least one model')
    known = list(dict.fromkeys(metric for row in results for found in row.figures.values() for metric in found))
    if sort_by not in known:
        raise ValueError(f'{sort_by!r} cannot sort pictures; the metrics of pictures here are {", ".join(known)}')
    shown = [
        {
            f'{group} by {label(sort_by)}': [_strip(name, pictures(row.model, name)) for name in names]
            for group, names in chosen(row, sort_by, places).items()
        }
        for row in results
    ]
    # Names of files need not be valid text; what UTF-8 cannot hold becomes a question mark.
    return page(title, results, shown, sort_by).encode('utf-8', 'replace')


def chosen(results: Results, sort_by: str, places: int = 3) -> dict[str, list[str]]:
    """Choose the worst, median and best pictures of a model.

    Each group comes from its third of all pictures, from worst to best, so none is chosen twice. Pictures without the
    metric are left out. Neighbouring frames look alike, so a clip gives a second frame to a group only when every
    other clip in that third has given one.

    Returns:
        'Worst', 'Median', 'Best' (those that are not empty), each to at most `places` names from worse to better.
    """
    values = {name: found.get(sort_by, math.nan) for name, found in results.figures.items()}
    ranked = sorted((name for name in values if not math.isnan(values[name])), key=lambda name: (-values[name], name))
    rank = {name: i for i, name in enumerate(ranked)}
    count, middle = len(ranked), (len(ranked) - 1) / 2
    thirds = np.cumsum([0, (count + 2) // 3, count // 3, (count + 1) // 3])
    worst, median, best = (ranked[start:end] for start, end in itertools.pairwise(thirds))
    groups = {'Worst': worst, 'Median': sorted(median, key=lambda name: abs(rank[name] - middle)), 'Best': best[::-1]}
    spread = {group: _spread(names, places, results.alike) for group, names in groups.items()}
    return {group: sorted(names, key=rank.__getitem__) for group, names in spread.items() if names}


def _spread(names: Sequence[str], places: int, alike: Mapping[str, Hashable]) -> list[str]:
    """Take the first names, one of each clip or subject as far as that fills the places."""
    first: dict[Hashable, str] = {}
    for name in names:
        first.setdefault(alike.get(name, name), name)
    return list(dict.fromkeys([*first.values(), *names]))[:places]


def _strip(name: str, pictures: ReportPictures) -> Strip:
    src, true_pha, pred_pha = pictures.src, pictures.true_pha, pictures.pred_pha
    shapes = {pixels.shape[:2] for pixels in (src, true_pha, pred_pha) if pixels is not None}
    if len(shapes) > 1:
        sizes = ', '.join(sorted(f'{width}x{height}' for height, width in shapes))
        raise ValueError(f'{name}: source, truth and prediction differ in size ({sizes})')
    shown = [
        ('Truth', matte_uri(small(true_pha))),
        ('Prediction', matte_uri(small(pred_pha))),
        ('Error', matte_uri(error_picture(pred_pha, true_pha))),
    ]
    if src is not None:
        shown.insert(0, ('Source', photo_uri(src)))
    height, width = small(true_pha).shape
    tiny = max(width, height) < PIXELATED_BELOW
    return Strip(name, [Picture(kind, uri, width, height, tiny) for kind, uri in shown])
