"""The HTML of a report. Values are prepared here and laid out by report.html.jinja, which escapes all text from
outside. Style and script are files beside it.

Models have short names, since columns have no room for long ones, and a metric has the same number of decimals in all
tables.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from evaluation.results import Mean, Results, differences, means
from evaluation.tables import TITLES, few_hint

from .pictures import error_scale, matte_uri

FOLDER = Path(__file__).parent

Figures = Mapping[str, Mapping[str, float]]  # name to metric to value


@dataclass(frozen=True)
class Picture:
    """One picture of a strip: what it shows, a data URI, its size, and whether its pixels are to be visible.

    `model` is the place of its model among the results; None where all models share it.
    """

    kind: str
    uri: str
    width: int
    height: int
    is_tiny: bool
    model: int | None = None


@dataclass(frozen=True)
class Strip:
    """The pictures of one name, side by side."""

    name: str
    pictures: list[Picture]


def page(title: str, results: Sequence[Results], groups: Mapping[str, list[Strip]], sort_by: str) -> str:
    """Return the page; `groups` are strips by heading, the rest is as in `report_bytes`."""
    decimals = _decimals(results)
    keys = [''] if len(results) == 1 else [_short_name(i) for i in range(len(results))]
    models: list[dict[str, Any]] = [
        {
            'key': key,
            'row': row,
            'means': means(row),
            'differences': differences(row, results[0]),
        }
        for key, row in zip(keys, results, strict=True)
    ]
    names = dict.fromkeys(name for row in results for name in row.figures)
    clip_metrics = [metric for row in results for found in row.clip_figures.values() for metric in found]
    script = (FOLDER / 'report.js').read_text('utf-8')

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        'breakable': _breakable, 'label': label, 'number': _number, 'bar': _bar, 'value': _setting,
        'counted': lambda count, thing: f'{count} {thing}{"s" * (count != 1)}',
    }  # fmt: skip
    environment.tests['known'] = _known
    return environment.get_template('report.html.jinja').render(
        title=title,
        style=Markup((FOLDER / 'report.css').read_text('utf-8')),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii'),
        clip_count=len({clip for row in results for clip in row.clips}),
        models=models,
        groups=groups,
        missing=sum(
            all(math.isnan(row.figures.get(name, {}).get(sort_by, math.nan)) for row in results) for name in names
        ),
        decimals=decimals,
        scales={metric: _longest([model['means'].get(metric) for model in models]) for metric in decimals},
        grouped=any(row.clips or row.subjects for row in results),
        few_hint=few_hint(results),
        settings=list(dict.fromkeys(name for row in results for name in row.settings)),
        error_scale=matte_uri(error_scale()),
        sort_by=sort_by,
        pictures=_figure_table([row.figures for row in results], decimals, sort_by),
        clips=_figure_table([row.clip_figures for row in results], decimals, next(iter(clip_metrics), '')),
    )


def label(metric: str) -> str:
    """Return a metric's name as papers write it."""
    return TITLES.get(metric, metric)


def _short_name(i: int) -> str:
    """Return A, B, ... Z, AA, ..."""
    return (chr(64 + i // 26) if i >= 26 else '') + chr(65 + i % 26)


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _breakable(name: str) -> Markup:
    """Escape a name, and let a long one wrap at the usual places."""
    return Markup(re.sub(r'([-_./])', r'\1<wbr>', str(escape(name))))


def _decimals(results: Sequence[Results]) -> dict[str, int]:
    """Return decimals per metric, equal down a column: four digits of a typical value."""
    decimals = {}
    for metric in dict.fromkeys(metric for row in results for metric in row.metrics):
        sizes = [abs(value) for row in results for value in row.values(metric).values()]
        typical = statistics.median([size for size in sizes if 0 < size < math.inf] or [1])
        decimals[metric] = min(max(3 - math.floor(math.log10(typical)), 0), 6)
    return decimals


def _number(value: float | None, decimals: int, sign: str = '') -> str:
    """Format a figure; a dash if it is undefined. `sign` '+' marks those above 0 as well."""
    return f'{value:{sign}.{decimals}f}'.replace('-', '−') if _known(value) else '–'


def _longest(found: Sequence[Mean | None]) -> float:
    """Return the largest end of the bars of one metric, which all models share as a scale."""
    ends = [end for mean in found if mean is not None for end in (mean.value, mean.high)]
    return max(filter(_known, ends), default=0) or 1


def _bar(mean: Mean, longest: float) -> str:
    """Return the style of a bar that shows a mean and its interval; its left end is 0."""
    low, high = (mean.value if math.isnan(end) else end for end in (mean.low, mean.high))
    ends = (('low', low), ('mean', mean.value), ('high', high))
    return ';'.join(f'--{end}:{100 * value / longest:.1f}%' for end, value in ends)


def _setting(value: object) -> str:
    if value is None:
        return '–'
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _figure_table(figures: Sequence[Figures], decimals: Mapping[str, int], sort_by: str) -> dict[str, Any]:
    """Return the names, the first model's worst first, and the metrics of a table of all figures."""

    def order(name: str) -> tuple[bool, float, str]:
        first = figures[0].get(name, {}).get(sort_by, math.nan)
        return math.isnan(first), 0 if math.isnan(first) else -first, name

    present = {metric for row in figures for found in row.values() for metric in found}
    return {
        'names': sorted(dict.fromkeys(name for row in figures for name in row), key=order),
        'metrics': [metric for metric in decimals if metric in present],
        'figures': figures,
        'sort_by': sort_by,
    }
