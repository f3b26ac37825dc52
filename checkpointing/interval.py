"""How often to save on machines that go away: what a save costs against what a loss of the machine costs.

Machines are lost at random, on average once in M seconds, and a save holds training up for C seconds. J. W. Young ("A
first order approximation to the optimum checkpoint interval", 1974) and J. T. Daly ("A higher order estimate of the
optimum checkpoint interval for restart dumps", 2006) give the interval at which least is lost, and Daly what is lost.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from .content import read_content
from .inventory import RecordedRun
from .manager import Checkpoints, Point


def young(saving: float, between: float) -> float:
    """Return the interval by Young's formula; all in seconds, `between` being the mean time between losses."""
    return math.sqrt(2 * saving * between)


def daly(saving: float, between: float) -> float:
    """Return the interval by Daly's formula of higher order, which holds where a save is no small part of it, too."""
    part = saving / (2 * between)
    return between if part >= 1 else young(saving, between) * (1 + math.sqrt(part) / 3 + part / 9) - saving


def share_lost(interval: float, saving: float, between: float, restarting: float) -> float:
    """Return the share of the time, 0..1, that saves, work done twice and restarts take; arguments in seconds."""
    # In logarithms: where nothing is ever finished, the time taken is beyond any float.
    exponent = (interval + saving) / between
    taken = restarting / between + exponent + math.log(-math.expm1(-exponent)) + math.log(between / interval)
    return -math.expm1(-taken)


def steps_per_second(run: RecordedRun) -> float | None:
    """Return a run's rate, validations and saves included, by the times of its records; None if they do not tell it."""
    points = sorted({record.step: record.written_at for record in run.records}.items())
    rates = [(step - before) / (now - then) for (before, then), (step, now) in pairwise(points) if now > then]
    return statistics.median(rates) if rates else None


def measure_saving(run: RecordedRun, repeats: int = 3) -> tuple[float, float]:
    """Save the newest checkpoint anew beside its run's folder; nothing of it stays.

    Returns:
        Medians of the seconds that training on a CPU waits for, and until the disk holds the checkpoint.

    Raises:
        ValueError: no checkpoint can be resumed from, or it cannot be saved.
    """
    record = next((r for r in reversed(run.records) if r.problem(run.folder) is None), None)
    if record is None:
        raise ValueError(f'{run}: none of its checkpoints is whole; give --save-seconds')
    content = read_content(run.folder, record)
    waited, whole = [], []
    with tempfile.TemporaryDirectory(prefix='.interval-', dir=run.folder.parent) as folder:
        for number in range(repeats):
            made = Checkpoints(Path(folder) / f'{number}', run.stage, run.run, {})
            begin = time.perf_counter()
            made.save({'epoch-0': 'measured'}, Point(0, 0), content)
            waited.append(time.perf_counter() - begin)
            if not made.settle():
                raise ValueError(f'{run}: its checkpoint cannot be saved anew; give --save-seconds')
            whole.append(time.perf_counter() - begin)
            made.close()
    return statistics.median(waited), statistics.median(whole)
