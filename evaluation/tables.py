"""Results as text for a terminal, as JSON that is read again, and as CSV for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import console
from dataset.pairing import composed

from .results import LEAST_GROUPS, Mean, Results, differences, means

FORMAT = 1
REGIONS = ('unknown', 'whole')
TITLES = {
    'sad': 'SAD', 'mse': 'MSE', 'grad': 'Grad', 'conn': 'Conn', 'fg_mse': 'FG-MSE', 'fg_mse_bmv2': 'FG-MSE BMV2',
    'mad': 'MAD', 'dtssd': 'dtSSD'
}  # fmt: skip
COLOUR_METRICS = {'fg_mse', 'fg_mse_bmv2'}
DIGITS = 4  # of the largest number in a column
NOTHING = Mean(math.nan, math.nan, math.nan, 0, 0, 0)


def means_table(results: Sequence[Results]) -> str:
    """Format the means with their intervals, and the paired differences from the first model; lower is better.

    A `*` marks a difference whose interval leaves out 0; see `legend`.
    """
    metrics = all_metrics(results)
    found = [means(model) for model in results]
    apart = [differences(model, results[0]) if i else {} for i, model in enumerate(results)]
    places = {x: _places(mean[x].value for mean in found if x in mean) for x in metrics}
    rows = [['', 'pictures', *(TITLES[x] for x in metrics)]]
    for i, model in enumerate(results):
        rows += _mean_rows(model.model, str(len(model.figures)), found[i], places)
        undefined = [found[i].get(x, NOTHING).undefined for x in metrics]
        if any(undefined):
            rows.append(['  undefined', '', *(str(count or '') for count in undefined)])
        if i > 0:
            rows += _mean_rows('  minus the first', '', apart[i], places, '+')
    return _aligned(rows, names=1)


def legend(results: Sequence[Results]) -> str:
    """Say in a line what the figures of `means_table` are."""
    from metrics.matting import SCALINGS  # with it comes torch, which takes a second

    region, scaling = results[0].settings.get('region'), results[0].settings.get('scaling', 'raw')
    held = all_metrics(results)
    factors = {TITLES[name]: SCALINGS[scaling][name] for name in held}
    scaled = ', '.join(f'{title} x {factor:g}' for title, factor in factors.items() if factor != 1)
    pixels = 'all pixels' if region == 'whole' else 'the pixels that are unknown in the trimap'
    parts = [pixels + (', FG-MSE over the subject' if 'fg_mse' in held else ''), scaled or 'as defined']
    marked = '. *: the interval of the difference leaves out 0' if len(results) > 1 else ''
    hint = few_hint(results)
    return f'Over {"; ".join(parts)}{marked}{f"; no * with {hint}" if hint else ""}.'


def few_hint(results: Sequence[Results]) -> str:
    """Return 'fewer than 10 subjects or clips' if that is too few to judge some difference, else ''."""
    apart = [mean for model in results[1:] for mean in differences(model, results[0]).values() if mean.count]
    grouped = any(model.clips or model.subjects for model in results)
    few = any(mean.too_few for mean in apart)
    return f'fewer than {LEAST_GROUPS} {"subjects or clips" if grouped else "pictures"}' if few else ''


def pictures_table(results: Sequence[Results], sort_by: str | None = None) -> str:
    """List every picture, and then every clip, with the models beneath each other.

    They are in the set's order, or the first model's worst by a metric come first, and undefined ones last.
    """
    metrics = all_metrics(results)
    by_metric = {metric: [model.values(metric) for model in results] for metric in metrics}
    places = {x: _places(value for values in by_metric[x] for value in values.values()) for x in metrics}
    rows = [['', '', *(TITLES[x] for x in metrics)]]
    pictures = _in_order((model.figures for model in results), results[0], sort_by)
    clips = _in_order((model.clip_figures for model in results), results[0], sort_by)
    for label, name in [*((name, name) for name in pictures), *((f'clip {name}', name) for name in clips)]:
        is_clip = label != name
        for i, model in enumerate(results):
            values = (model.clip_figures if is_clip else model.figures).get(name, {})
            cells = [_number(values.get(x, math.nan), places[x]) for x in metrics]
            rows.append([label if i == 0 else '', model.model, *cells])
    return _aligned(rows, names=2)


def show(text: str) -> None:
    """Print a text with what the terminal can show of it; ignore a reader that has left, such as `head`."""
    console.reader_left(console.printable(f'{text}\n', sys.stdout))


def all_metrics(results: Iterable[Results]) -> list[str]:
    """Return the metrics of any of the results, in the order of `TITLES`."""
    held = {metric for model in results for metric in model.metrics}
    return [metric for metric in TITLES if metric in held]


def to_json(results: Sequence[Results]) -> str:
    """Format everything for `read_json`, and means and paired differences for other readers; undefined is null.

    A difference of too few groups has `excludes_0` null: it cannot be judged.
    """
    content = {
        'format': FORMAT,
        'results': [
            {**asdict(model), 'means': {metric: asdict(mean) for metric, mean in means(model).items()}}
            for model in results
        ],
        'differences': [
            {
                'model': model.model,
                'minus': results[0].model,
                'means': {
                    metric: {**asdict(mean), 'excludes_0': None if mean.too_few else mean.excludes_0}
                    for metric, mean in differences(model, results[0]).items()
                },
            }
            for model in results[1:]
        ],
    }
    return console.to_json(content) + '\n'


def read_json(path: Path) -> list[Results]:
    """Read what `to_json` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no results, or some of another version's region or scaling.
    """
    from metrics.matting import SCALINGS  # late, see above

    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['format'] != FORMAT:
            raise ValueError(f'it has format {content["format"]}; this version reads {FORMAT}')
        if not content['results']:
            raise ValueError('it has no rows')
        for entry in content['results']:
            for key, known in (('region', REGIONS), ('scaling', SCALINGS)):
                if (value := entry['settings'].get(key)) is not None and value not in known:
                    raise ValueError(f'it has the {key} {value!r}; this version knows {", ".join(known)}')
        return [
            Results(
                str(entry['model']),
                _figures(entry['figures']),
                {composed(clip): [composed(name) for name in names] for clip, names in entry['clips'].items()},
                _figures(entry['clip_figures']),
                dict(entry['settings']),
                {composed(name): str(subject) for name, subject in entry.get('subjects', {}).items()},
            )
            for entry in content['results']
        ]
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{path}: not the results of an evaluation: {error!r}') from None


def to_csv(results: Iterable[Results]) -> str:
    """Format a line per model, picture and metric, and per model, clip and metric of clips, whose picture is empty.

    Undefined values are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['model', 'clip', 'picture', 'metric', 'value'])
    for model in results:
        clip_of = {name: clip for clip, names in model.clips.items() for name in names}
        rows = [(clip_of.get(name, ''), name, values) for name, values in model.figures.items()]
        rows += [(clip, '', values) for clip, values in model.clip_figures.items()]
        for clip, name, values in rows:
            for metric, value in values.items():
                writer.writerow([model.model, clip, name, metric, '' if math.isnan(value) else repr(value)])
    return text.getvalue()


def _figures(content: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float]]:
    return {
        composed(name): {metric: math.nan if value is None else float(value) for metric, value in values.items()}
        for name, values in content.items()
    }


def _in_order(figures: Iterable[dict[str, Any]], first: Results, sort_by: str | None) -> list[str]:
    names = list(dict.fromkeys(name for found in figures for name in found))
    if sort_by is None:
        return names
    values = first.values(sort_by)
    return sorted(names, key=lambda name: -value if math.isfinite(value := values.get(name, math.nan)) else math.inf)


def _mean_rows(
    label: str, count: str, found: Mapping[str, Mean], places: Mapping[str, int], sign: str = ''
) -> list[list[str]]:
    """Return a row of means and one of their intervals; a sign is for differences."""
    values, intervals = [label, count], ['  95 % interval', '']
    for metric, decimals in places.items():
        mean = found.get(metric, NOTHING)
        values.append(_number(mean.value, decimals, sign) + ('*' if sign and mean.excludes_0 else ''))
        ends = '..'.join(_number(limit, decimals, sign) for limit in (mean.low, mean.high))
        intervals.append('-' if math.isnan(mean.low) else ends)
    return [values, intervals]


def _places(values: Iterable[float]) -> int:
    """Return how many decimals give the largest number of a column its digits."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 0 if largest == 0 else min(8, max(0, DIGITS - 1 - math.floor(math.log10(largest))))


def _number(value: float, decimals: int, sign: str = '') -> str:
    return f'{value:{sign}.{decimals}f}' if math.isfinite(value) else '-'


def _aligned(rows: Sequence[Sequence[str]], names: int) -> str:
    """Align columns: the first `names` of them to the left, figures to the right, whatever a cell holds."""
    rows = [[cell.encode('utf-8', 'backslashreplace').decode() for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        '  '.join(
            f'{cell:<{width}}' if i < names else f'{cell:>{width}}' for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )
    return '\n'.join(line.rstrip() for line in lines)
