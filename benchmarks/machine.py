"""What every benchmark prints first, and how it takes its times."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def describe() -> str:
    """The machine and the versions, in one line."""
    import kornia
    import torch
    import torchvision

    from inference.speed.measure import processor

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return (
        f'{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; Python {platform.python_version()}, '
        f'torch {torch.__version__}, torchvision {torchvision.__version__}, kornia {kornia.__version__}'
    )


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def write_json(file: Path | None, numbers: Mapping[str, object]) -> None:
    """Writes what was measured, and on what, if a file is wanted."""
    if file:
        file.write_text(json.dumps({'machine': describe(), **numbers}, indent=2) + '\n')


def interleaved(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each work, run in turn so that a busy moment hits all of them; a warm-up round first."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
