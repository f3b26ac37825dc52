"""The rows of a speed test, as they are printed and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measure import Speed, Work

COLUMNS = {'model': -13, 'backbone': -11, 'resolution': 10, 'precision': -9, 'backend': -11, 'median ms': 10,
           'p10-p90': 17, 'fps': 8, 'GMac': 7, 'MiB': 7}  # fmt: skip


def cells(work: Work, found: Speed | None = None) -> list[str]:
    """A row of the table, or its beginning."""
    names = [work.model['model_type'], work.model['backbone'], '{}x{}'.format(*work.size), work.precision, work.backend]
    if found is None:
        return names
    gmac, mib = ('-' if x is None else f'{x:.1f}' for x in (found.gmac, found.peak_mib))
    return [*names, f'{found.median_ms:.2f}', f'{found.p10_ms:.2f}-{found.p90_ms:.2f}', f'{found.fps:.2f}', gmac, mib]


def line(values: Sequence[str]) -> str:
    """Aligned in the table's columns."""
    return ' '.join(f'{x:<{-width}}' if width < 0 else f'{x:>{width}}' for x, width in zip(values, COLUMNS.values()))


def fields(work: Work) -> dict[str, Any]:
    """What a row is about, in plain values: the network and its settings, the pictures, how it is run."""
    plain = asdict(work)
    model, (width, height) = plain.pop('model'), plain.pop('size')
    return {'checkpoint': model.pop('path'), **model, 'width': width, 'height': height, **plain}
