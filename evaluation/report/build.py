"""A self-contained HTML page of an evaluation: means side by side, the worst, median and best pictures,
what each model makes of them, and all figures. It needs no network, no server and, to be read, no script.

    data = report_bytes(results, pictures, sort_by='sad')
    write_atomic(Path('report.html'), data)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

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
        pictures: called with the name of a model and of a picture, for the ones shown only: at most 4 x `places` per
            model. It may compute or read them then; one picture at a time is held in memory.
        sort_by: the metric that says which pictures are worst, in the mean over the models, and how the table is
            sorted at first.
        title, places: head of the page; how many pictures to show of the worst, of the median, of the best, and of
            the others those that the models differ most on.

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
    together, apart = _together(results, sort_by)
    groups = {f'{group} by {label(sort_by)}': names for group, names in chosen(together, sort_by, places).items()}
    others = sorted(
        apart.keys() - {name for names in groups.values() for name in names}, key=lambda name: (-apart[name], name)
    )
    if others:
        groups[f'Of the others, those that the models differ most on, by {label(sort_by)}'] = others[:places]
    shown = {
        heading: [
            _strip(name, [(i, pictures(row.model, name)) for i, row in enumerate(results) if name in row.figures])
            for name in names
        ]
        for heading, names in groups.items()
    }
    # Names of files need not be valid text; what UTF-8 cannot hold becomes an escape.
    return page(title, results, shown, sort_by).encode('utf-8', 'backslashreplace')


def chosen(results: Results, sort_by: str, places: int = 3) -> dict[str, list[str]]:
    """Choose the worst, median and best pictures.

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


def _together(results: Sequence[Results], sort_by: str) -> tuple[Results, dict[str, float]]:
    """Return the models' results as one, with the mean of a metric by picture, and how far apart the models are."""
    found: dict[str, list[float]] = {}
    for row in results:
        for name, figures in row.figures.items():
            found.setdefault(name, []).append(figures.get(sort_by, math.nan))
    known = {name: [value for value in values if not math.isnan(value)] for name, values in found.items()}
    mean = {name: {sort_by: sum(values) / len(values) if values else math.nan} for name, values in known.items()}
    apart = {name: max(values) - min(values) for name, values in known.items() if values and max(values) > min(values)}
    return replace(results[0], figures=mean), apart


def _strip(name: str, found: Sequence[tuple[int, ReportPictures]]) -> Strip:
    """Make a strip: source and truth, then prediction and error of each model, by its place among the results."""
    src, true_pha = found[0][1].src, found[0][1].true_pha
    shapes = {x.shape[:2] for _, them in found for x in (them.src, them.true_pha, them.pred_pha) if x is not None}
    if len(shapes) > 1:
        sizes = ', '.join(sorted(f'{width}x{height}' for height, width in shapes))
        raise ValueError(f'{name}: source, truth and prediction differ in size ({sizes})')
    height, width = small(true_pha).shape
    tiny = max(width, height) < PIXELATED_BELOW

    def picture(kind: str, uri: str, model: int | None = None) -> Picture:
        return Picture(kind, uri, width, height, tiny, model)

    shown = [] if src is None else [picture('Source', photo_uri(src))]
    shown.append(picture('Truth', matte_uri(small(true_pha))))
    for model, them in found:
        shown.append(picture('Prediction', matte_uri(small(them.pred_pha)), model))
        shown.append(picture('Error', matte_uri(error_picture(them.pred_pha, true_pha)), model))
    return Strip(name, shown)
