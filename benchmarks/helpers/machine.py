"""What the benchmarks share: the line about the machine, times, JSON and plots.

Import it before the toolkit's modules: it puts them on the path, wherever a benchmark is called from.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def describe() -> str:
    """Return the machine and the versions, in one line."""
    import kornia
    import torch
    import torchvision

    from inference.speed.measure import processor

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return (
        f'{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; Python {platform.python_version()}, '
        f'torch {torch.__version__}, torchvision {torchvision.__version__}, kornia {kornia.__version__}'
    )


def interleaved(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each work, after a warm-up, run in turn so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    import torch

    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def milliseconds(
    work: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 3
) -> tuple[float, float]:
    """Return the median of single calls that are waited for, and the mean of calls one after another."""

    def clocked(count: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            work()
        synchronize(device)
        return 1000 * (time.perf_counter() - start) / count

    clocked(warm_up)
    return statistics.median(clocked(1) for _ in range(repeats)), clocked(repeats)


def write_json(file: Path | None, numbers: Mapping[str, object]) -> None:
    """Write what was measured, and on what, if a file is wanted."""
    from common.console import to_json

    if file:
        file.write_text(to_json({'machine': describe(), **numbers}) + '\n')


def check_plot(parser: argparse.ArgumentParser, plot: Path | None) -> None:
    """Exit with a usage error if a plot is wanted and matplotlib is missing."""
    from common.installation import missing_problems

    if plot and (problems := missing_problems('matplotlib', needed_by='--plot: ')):
        parser.error(problems[0])


def log_plot(file: Path, title: str, x_label: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Plot named curves of (x, y) points, all above 0, on logarithmic axes; the title says what y is."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(9.6, 6.4), layout='constrained').subplots()
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points)), marker='o', label=name)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log', base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter('{x:g}')
    axes.set(title=title, xlabel=x_label)
    axes.grid(color='0.85')
    axes.legend()
    axes.figure.savefig(file)
