"""The tables of a report: means with intervals, settings, and all figures. All text from outside is escaped.

`keys` are the models' short names, in the order of the results; `decimals` says how many each metric is printed
with, and its order is that of the columns.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from html import escape

from evaluation.results import Mean, Results, differences, means
from evaluation.tables import TITLES, few_hint


def label(metric: str) -> str:
    """A metric as papers write it."""
    return TITLES.get(metric, metric)


def short_names(count: int) -> list[str]:
    """Short names of models, since columns have no room for long ones: A, B, ... Z, AA, ...; '' for a single one."""
    return [''] if count == 1 else [(chr(64 + i // 26) if i >= 26 else '') + chr(65 + i % 26) for i in range(count)]


def name_html(name: str) -> str:
    """The name of a model or a picture, escaped, with places where a long one may wrap."""
    wrapped = re.sub(r'([-_./])', r'\1<wbr>', escape(name))
    return f'<span class="name">{wrapped}</span>'


def badge(key: str) -> str:
    """A model's short name as a small label; nothing if it has none."""
    return f'<span class="key">{key}</span> ' if key else ''


def decimals_of(results: Sequence[Results]) -> dict[str, int]:
    """Decimals per metric, equal down a column: four digits of a typical value."""
    decimals = {}
    for metric in dict.fromkeys(metric for row in results for metric in row.metrics):
        sizes = [abs(value) for row in results for value in row.values(metric).values()]
        typical = statistics.median([size for size in sizes if 0 < size < math.inf] or [1])
        decimals[metric] = min(max(3 - math.floor(math.log10(typical)), 0), 6)
    return decimals


def number(value: float, decimals: int, sign: str = '') -> str:
    """A figure as it is printed; a dash if it is undefined. `sign` '+' marks those above 0 as well."""
    return '–' if math.isnan(value) else f'{value:{sign}.{decimals}f}'.replace('-', '−')


def _interval(mean: Mean, decimals: int, sign: str = '') -> str:
    if math.isnan(mean.low):
        return ''
    return f'<small>{number(mean.low, decimals, sign)} to {number(mean.high, decimals, sign)}</small>'


def box(name: str, table: str) -> str:
    """Wide tables scroll by themselves; the keyboard can scroll what can have the focus."""
    return f'<div class="box" role="region" aria-label="{name}" tabindex="0">{table}</div>'


def means_table(results: Sequence[Results], keys: Sequence[str], decimals: Mapping[str, int]) -> str:
    """A row of means per model, then a row of differences from the first model for each other one."""
    found = [means(row) for row in results]
    head = ''.join(f'<th scope="col">{escape(label(metric))}</th>' for metric in decimals)
    rows = ''
    for row, key, mean in zip(results, keys, found, strict=True):
        cells = ''.join(_mean_cell(mean.get(metric), metric, found, decimals) for metric in decimals)
        rows += f'<tr><th scope="row">{badge(key)}{name_html(row.model)}</th>{cells}</tr>'
    for row, key in zip(results[1:], keys[1:], strict=True):
        against = differences(row, results[0])
        cells = ''.join(_difference_cell(against.get(metric), decimals[metric]) for metric in decimals)
        name = f'{badge(key)}less {badge(keys[0])}'
        rows += f'<tr class="difference"><th scope="row">{name}</th>{cells}</tr>'
    note = 'Mean over the pictures, and its 95 % interval by bootstrap'
    grouped = any(row.clips or row.subjects for row in results)
    note += ', for which the pictures of a clip or subject are drawn together.' if grouped else '.'
    if len(results) > 1:
        note += ' A difference is called better or worse where its interval leaves out 0'
        hint = few_hint(results)
        note += f', but never with {hint}.' if hint else '.'
    table = (
        f'<table class="means"><thead><tr><th scope="col">Model</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )
    return f'<section id="means"><h2>Means</h2>{box("Means", table)}<p class="note">{note}</p></section>'


def _mean_cell(mean: Mean | None, metric: str, found: Sequence[Mapping[str, Mean]], decimals: Mapping[str, int]) -> str:
    """A mean, its interval, and both as a bar whose left end is 0 and whose scale all models share."""
    if mean is None or math.isnan(mean.value):
        return '<td>–</td>'
    low, high = (mean.value if math.isnan(end) else end for end in (mean.low, mean.high))
    others = [other[metric] for other in found if metric in other]
    longest = max(end for other in others for end in (other.value, other.high) if not math.isnan(end)) or 1
    ends = ';'.join(
        f'--{end}:{100 * value / longest:.1f}%' for end, value in (('low', low), ('mean', mean.value), ('high', high))
    )
    undefined = f'<small>{mean.undefined} undefined</small>' if mean.undefined else ''
    return (
        f'<td><b>{number(mean.value, decimals[metric])}</b>{_interval(mean, decimals[metric])}'
        f'<span class="range" style="{ends}"></span>{undefined}</td>'
    )


def _difference_cell(mean: Mean | None, decimals: int) -> str:
    if mean is None or math.isnan(mean.value):
        return '<td>–</td>'
    verdict = ('better' if mean.value < 0 else 'worse') if mean.excludes_0 else ''
    word = f' <i class="{verdict}">{verdict}</i>' if verdict else ''
    return f'<td><b>{number(mean.value, decimals, "+")}</b>{word}{_interval(mean, decimals, "+")}</td>'


def settings_table(results: Sequence[Results], keys: Sequence[str]) -> str:
    """A row per setting and a column per model, folded; nothing if there are no settings."""
    names = list(dict.fromkeys(name for row in results for name in row.settings))
    if not names:
        return ''
    head = ''.join(
        f'<th scope="col">{badge(key)}{name_html(row.model)}</th>' for row, key in zip(results, keys, strict=True)
    )
    rows = ''.join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + ''.join(f'<td>{escape(_setting(row.settings.get(name)))}</td>' for row in results)
        + '</tr>'
        for name in names
    )
    table = f'<table class="settings"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<details><summary>Settings</summary>{box("Settings", table)}</details>'


def _setting(value: object) -> str:
    if value is None:
        return '–'
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def figure_table(
    thing: str,
    figures: Sequence[Mapping[str, Mapping[str, float]]],
    keys: Sequence[str],
    decimals: Mapping[str, int],
    sort_by: str,
) -> str:
    """A row per name; a column per metric and model, the models of a metric side by side. Worst first."""
    present = {metric for row in figures for found in row.values() for metric in found}
    metrics = [metric for metric in decimals if metric in present]
    columns = [(metric, row, key) for metric in metrics for row, key in zip(figures, keys, strict=True)]

    def value(metric: str, row: Mapping[str, Mapping[str, float]], name: str) -> float:
        return row.get(name, {}).get(metric, math.nan)

    def order(name: str) -> tuple[bool, float, str]:
        first = value(sort_by, figures[0], name)
        return math.isnan(first), 0 if math.isnan(first) else -first, name

    def cell(metric: str, row: Mapping[str, Mapping[str, float]], key: str, name: str) -> str:
        figure = value(metric, row, name)
        data = '' if math.isnan(figure) else f' data-value="{figure:.9g}"'
        return f'<td{_first(key, keys)}{data}>{number(figure, decimals[metric])}</td>'

    names = sorted(dict.fromkeys(name for row in figures for name in row), key=order)
    rows = ''.join(
        f'<tr><th scope="row">{name_html(name)}</th>'
        + ''.join(cell(metric, row, key, name) for metric, row, key in columns)
        + '</tr>\n'
        for name in names
    )
    head = _figure_head(thing, metrics, keys, sort_by)
    return f'<table class="sortable"><thead>{head}</thead><tbody>\n{rows}</tbody></table>'


def _first(key: str, keys: Sequence[str]) -> str:
    """A metric's first column stands a little apart from the metric before it."""
    return ' class="first"' if key == keys[0] and key else ''


def _figure_head(thing: str, metrics: Sequence[str], keys: Sequence[str], sort_by: str) -> str:
    """One row of heads for one model; for several, metrics above and models below."""

    def sortable(metric: str, key: str, text: str) -> str:
        name = escape(f'{metric}.{key}' if key else metric)
        order = ' aria-sort="descending"' if metric == sort_by and key == keys[0] else ''
        return f'<th scope="col" data-sort="{name}"{order}{_first(key, keys)}>{text}</th>'

    names = f'<th scope="col" data-sort="name" rowspan="{min(len(keys), 2)}">{thing}</th>'
    if len(keys) == 1:
        return f'<tr>{names}' + ''.join(sortable(metric, '', escape(label(metric))) for metric in metrics) + '</tr>'
    above = ''.join(
        f'<th scope="colgroup" class="first" colspan="{len(keys)}">{escape(label(metric))}</th>' for metric in metrics
    )
    below = ''.join(
        sortable(metric, key, f'<span class="hidden">{escape(label(metric))} of </span>{key}')
        for metric in metrics
        for key in keys
    )
    return f'<tr>{names}{above}</tr><tr>{below}</tr>'
