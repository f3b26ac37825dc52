"""The curves of a run without TensorBoard: a table, and a picture of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# Of a curve at most so many points are drawn.
POINTS = 2000
FIGURES = {
    'loss': 'loss', 'sad': 'SAD (1000 px)', 'mad': 'MAD (1e-3)', 'mse': 'MSE (1e-3)', 'grad': 'Grad', 'conn': 'Conn',
    'fg_mse': 'FG-MSE (1e-3)', 'learning_rate': 'learning rate', 'gradient_norm': 'gradient norm',
}  # fmt: skip
LOGARITHMIC = ('loss', 'gradient_norm')


class Curves:
    """The table of curves.csv: a row for each step of which something was logged, a column for each curve.

    Args:
        path: of the file. What a process that was killed has logged from `start` on is left out.
        start: the first step of this process.
        epoch_steps: steps of an epoch.

    Raises:
        ValueError: the file is not such a table.
    """

    def __init__(self, path: Path, start: int, epoch_steps: int):
        self.epoch_steps = epoch_steps
        head, *rows = path.read_text().splitlines() if path.exists() else ['step,epoch']
        if not head.startswith('step,epoch'):
            raise ValueError(f'{path} is not a table of curves')
        self.columns = head.split(',')
        self.rows = [row for row in rows if int(row.partition(',')[0]) < start]
        # The last step is logged once more where a validation of it was cut.
        self.newest = dict(zip(self.columns, self.rows.pop().split(','))) if self.rows else {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add figures to the row of a step, which is the newest one or a later one."""
        if self.newest.get('step') != str(step):
            self.rows += self._lines()
            self.newest = {'step': f'{step}', 'epoch': f'{step // self.epoch_steps}'}
        self.newest |= {tag: f'{value:.7g}' for tag, value in values.items()}
        if new := [tag for tag in values if tag not in self.columns]:
            self.columns += new
            self.rows = [row + ',' * len(new) for row in self.rows]

    def _lines(self) -> list[str]:
        return [','.join(self.newest.get(column, '') for column in self.columns)] if self.newest else []

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return '\n'.join([','.join(self.columns), *self.rows, *self._lines(), '']).encode()

    def points(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the steps and values of each curve, thinned out."""
        cells = [row.split(',') for row in (*self.rows, *self._lines())]
        found = {}
        for column, tag in enumerate(self.columns[2:], 2):
            there = [(float(row[0]), float(row[column])) for row in cells if row[column]]
            steps, values = np.array(there[:: -(-len(there) // POINTS) or 1]).reshape(-1, 2).T
            found[tag] = steps, values
        return found


def draw(curves: Curves, best: int) -> bytes:
    """Draw curves as a PNG file: losses, validation metrics, learning rates, gradients.

    Args:
        curves: the table.
        best: step of the best validation, which is marked.

    Raises:
        ImportError: matplotlib is not installed.
    """
    logging.getLogger('matplotlib').setLevel(logging.ERROR)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels: dict[str, list[str]] = {}
    for tag in curves.columns[2:]:
        name = tag.removeprefix('valid_').removeprefix('ema_').partition('/')[0]
        if name in FIGURES:
            panels.setdefault(name, []).append(tag)
    figure = Figure(figsize=(14, 1 + 3 * -(-len(panels) // 3)), dpi=90)
    figure.subplots_adjust(0.05, 0.06, 0.99, 0.95, 0.17, 0.3)
    axes = figure.subplots(-(-len(panels) // 3), 3, squeeze=False).ravel()
    points = curves.points()
    for axis, name in zip(axes, sorted(panels, key=list(FIGURES).index)):
        for tag in panels[name]:
            few = len(points[tag][0]) < 50
            axis.plot(*points[tag], marker='.' if few else '', lw=1, label=tag.removeprefix('learning_rate/'))
        if name in LOGARITHMIC and any((points[tag][1] > 0).any() for tag in panels[name]):
            axis.set_yscale('log')
        axis.xaxis.set_major_locator(MaxNLocator('auto', integer=True))
        axis.axvline(best, color='0.6', ls='--', lw=1, label='best validation')
        axis.set(title=FIGURES[name], xlabel='step')
        axis.grid(color='0.9')
        axis.legend(fontsize=8)
    for axis in axes[len(panels) :]:
        axis.remove()
    file = io.BytesIO()
    figure.savefig(file, format='png')
    return file.getvalue()
