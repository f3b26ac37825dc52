"""The HTML of a report, around its tables. All text from outside is escaped; style and script are files beside it."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from evaluation.results import Results

from .pictures import error_scale, matte_uri
from .tables import (
    badge,
    box,
    decimals_of,
    figure_table,
    label,
    means_table,
    name_html,
    number,
    settings_table,
    short_names,
)

PIXELATED_BELOW = 200
"""A picture whose longest side is shorter is enlarged pixel by pixel: blurred, a hard matte would look soft."""


@dataclass(frozen=True)
class Picture:
    """One picture of a strip: what it shows, a data URI, and its size in pixels."""

    kind: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """The pictures of one name, side by side."""

    name: str
    pictures: list[Picture]


def page(title: str, results: Sequence[Results], shown: Sequence[Mapping[str, list[Strip]]], sort_by: str) -> str:
    """Build the page.

    Args:
        title: its head.
        results: one per model.
        shown: for each model its groups of strips by heading.
        sort_by: the metric by which the table of all pictures is sorted at first.
    """
    here = Path(__file__)
    script = here.with_name('report.js').read_text('utf-8')
    style = here.with_name('report.css').read_text('utf-8')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')
    # The browser itself refuses what the page must not do: load anything, or run any script but this one.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    keys = short_names(len(results))
    decimals = decimals_of(results)
    models = ''.join(
        _model(row, key, groups, decimals, sort_by) for row, key, groups in zip(results, keys, shown, strict=True)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{_head(title, results, keys)}
{means_table(results, keys, decimals)}
{settings_table(results, keys)}
{models}
{_all_pictures(results, keys, decimals, sort_by)}
{_all_clips(results, keys, decimals)}
</main>
<script>{script}</script>
</body>
</html>
"""


def _head(title: str, results: Sequence[Results], keys: Sequence[str]) -> str:
    pictures = len({name for row in results for name in row.figures})
    clips = len({clip for row in results for clip in row.clips})
    counts = [_count(len(results), 'model'), _count(pictures, 'picture')] + ([_count(clips, 'clip')] if clips else [])
    links = [('means', 'Means')]
    links += [(f'model{key}', f'Pictures of {key}' if key else 'Pictures') for key in keys]
    links += [('all-pictures', 'All figures')]
    items = ''.join(f'<a href="#{target}">{text}</a>' for target, text in links)
    return (
        f'<header><h1>{escape(title)}</h1><p>{", ".join(counts)}. All figures are errors: less is better.</p>'
        f'<nav>{items}</nav></header>'
    )


def _model(row: Results, key: str, groups: Mapping[str, list[Strip]], decimals: Mapping[str, int], sort_by: str) -> str:
    body = ''.join(
        f'<h3>{escape(heading)}</h3>' + ''.join(_strip(strip, row, decimals, sort_by) for strip in strips)
        for heading, strips in groups.items()
    )
    missing = sum(math.isnan(found.get(sort_by, math.nan)) for found in row.figures.values())
    if missing:
        body += f'<p class="note">{_count(missing, "picture")} without {escape(label(sort_by))} left out.</p>'
    legend = (
        '<p class="legend"><span>too little alpha, −1</span>'
        f'<img src="{matte_uri(error_scale())}" alt="blue, black, orange"><span>+1, too much alpha</span>'
        '<span>grey: the subject</span></p>'
    )
    return f'<section id="model{key}"><h2>{badge(key)}{name_html(row.model)}</h2>{legend}{body}</section>'


def _strip(strip: Strip, row: Results, decimals: Mapping[str, int], sort_by: str) -> str:
    name = escape(strip.name)
    found = row.figures[strip.name]
    figures = ''.join(
        f'<div{" class=main" if metric == sort_by else ""}><dt>{escape(label(metric))}</dt>'
        f'<dd>{number(found[metric], places)}</dd></div>'
        for metric, places in decimals.items()
        if metric in found
    )
    pictures = ''.join(
        f'<figure><img src="{shown.uri}" alt="{shown.kind} of {name}" width="{shown.width}" height="{shown.height}"'
        f'{" class=tiny" if max(shown.width, shown.height) < PIXELATED_BELOW else ""} loading="lazy">'
        f'<figcaption>{shown.kind}</figcaption></figure>'
        for shown in strip.pictures
    )
    return (
        f'<article class="strip"><div class="facts"><h4>{name_html(strip.name)}</h4><dl>{figures}</dl></div>'
        f'<div class="pictures">{pictures}</div></article>'
    )


def _count(count: int, thing: str) -> str:
    return f'{count} {thing}' if count == 1 else f'{count} {thing}s'


def _all_pictures(results: Sequence[Results], keys: Sequence[str], decimals: Mapping[str, int], sort_by: str) -> str:
    figures = [row.figures for row in results]
    table = figure_table('Picture', figures, keys, decimals, sort_by)
    tools = (
        '<p class="tools" hidden><label>Names with <input type="search" autocomplete="off" spellcheck="false"></label>'
        '<output></output></p>'
    )
    return f'<section id="all-pictures"><h2>All pictures</h2>{tools}{box("All pictures", table)}</section>'


def _all_clips(results: Sequence[Results], keys: Sequence[str], decimals: Mapping[str, int]) -> str:
    figures = [row.clip_figures for row in results]
    metrics = [metric for row in figures for found in row.values() for metric in found]
    if not metrics:
        return ''
    table = figure_table('Clip', figures, keys, decimals, metrics[0])
    return f'<section id="all-clips"><h2>All clips</h2>{box("All clips", table)}</section>'
