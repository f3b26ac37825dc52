"""The figures of an evaluation by picture, their means, and how far these can be trusted.

Intervals are 95 % percentile intervals of the bootstrap (Efron 1979): the pictures are drawn anew, with replacement, as
many as there are, 10,000 times, and the interval holds the middle 95 % of the means. Frames of a clip resemble each
other, and so do composites of one foreground over several backgrounds: these are drawn together, and a test set of
three clips, or of three subjects, counts as three, however many pictures it has.

What an interval does not say: it covers the choice of pictures from whatever these are a sample of, and nothing else:
no other kind of picture, no other training run. Of few groups it is too narrow: for two equal models the interval of
their difference leaves out 0 in 50 of 100 cases with 2 groups, in 26 with 3, 15 with 5, 10 with 10, 7 with 20, and 6
with 50 (normal differences; skewed ones are worse). So with fewer than 10 groups no difference is called one, and with
one group there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

RESAMPLES = 10_000
DRAWS_AT_ONCE = 4_000_000  # 32 MB of indices
LEAST_GROUPS = 10  # of which an interval may say that a difference is none of chance


@dataclass(frozen=True)
class Results:
    """The figures of one model on one test set."""

    model: str  # name of its row
    figures: dict[str, dict[str, float]]  # picture to metric to value, scaled as printed; NaN where undefined
    clips: dict[str, list[str]]  # clip to its pictures in order; empty for stills
    clip_figures: dict[str, dict[str, float]]  # clip to the metrics that only a clip has, 'dtssd'
    settings: dict[str, Any]  # on which the figures depend: checkpoint, precision, region, scaling, ...
    subjects: dict[str, str] = field(default_factory=dict)  # picture to whom it shows, where the test set says so

    @property
    def alike(self) -> dict[str, tuple[str, str]]:
        """Pictures to the group of those that resemble each other: of one subject, or of one clip."""
        groups = {name: ('clip', clip) for clip, names in self.clips.items() for name in names}
        return groups | {name: ('subject', subject) for name, subject in self.subjects.items()}

    def groups(self, metric: str) -> dict[str, tuple[str, str]]:
        """Return the group that each value of a metric, of pictures or of clips, is drawn with."""
        alike = self.alike
        if any(metric in found for found in self.clip_figures.values()):
            return {clip: alike[names[0]] for clip, names in self.clips.items() if names}
        return alike

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, those of pictures first, in the order in which they were computed."""
        figures = [*self.figures.values(), *self.clip_figures.values()]
        return list(dict.fromkeys(metric for found in figures for metric in found))

    def values(self, metric: str) -> dict[str, float]:
        """Return a metric's values by picture, or by clip for one that only clips have; NaN where it is undefined."""
        both = (self.figures, self.clip_figures)
        return {name: found[metric] for figures in both for name, found in figures.items() if metric in found}


@dataclass(frozen=True)
class Mean:
    """A mean, or the mean of paired differences, with its 95 % interval."""

    value: float  # NaN if nothing is defined
    low: float  # NaN, as is `high`, with fewer than two groups of pictures
    high: float
    count: int  # how many pictures (clips, for a metric of clips) it is over
    undefined: int  # how many were left out because the metric is not defined for them
    groups: int  # how many are drawn by themselves, where those of a subject or a clip are one

    @property
    def too_few(self) -> bool:
        """Whether there are too few groups for the interval to tell a difference from chance."""
        return self.groups < LEAST_GROUPS

    @property
    def excludes_0(self) -> bool:
        """Whether the whole interval lies on one side of 0, which chance alone seldom gives a difference.

        False with fewer than 10 groups.
        """
        return not self.too_few and (self.low > 0 or self.high < 0)


def means(results: Results) -> dict[str, Mean]:
    """Return each metric's mean over its pictures, all of equal weight, with its interval."""
    return {metric: _mean(results.values(metric), results.groups(metric)) for metric in results.metrics}


def differences(results: Results, reference: Results) -> dict[str, Mean]:
    """Return each common metric's mean difference from a reference on the same pictures; below 0 is better.

    Pictures are easy or hard for both models alike, so this interval is narrower than those of the two means: models
    can differ clearly although the intervals of their means overlap. Pictures that only one of the two has count as
    undefined.
    """
    found = {}
    for metric in results.metrics:
        ours, others = results.values(metric), reference.values(metric)
        if others:
            names = [*ours, *(name for name in others if name not in ours)]
            paired = {name: ours.get(name, math.nan) - others.get(name, math.nan) for name in names}
            found[metric] = _mean(paired, {**reference.groups(metric), **results.groups(metric)})
    return found


def bootstrap(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a mean by bootstrap; see the head of this module.

    Args:
        values: finite.
        groups: for each value what it is drawn together with; every value by itself if left out. A mean stays one over
            values: large groups weigh more.
        resamples: how often to draw. 10,000 leave each limit uncertain by a hundredth of the interval.
        seed: equal seeds give equal intervals.

    Returns:
        (low, high); NaN with fewer than two groups.
    """
    labels = range(len(values)) if groups is None else groups
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return _interval(tuple(values), tuple(number[label] for label in labels), resamples, seed)


@lru_cache(maxsize=1024)  # the table, the files and the page all ask for the same ones
def _interval(values: tuple[float, ...], member: tuple[int, ...], resamples: int, seed: int) -> tuple[float, float]:
    """Draw for `bootstrap`; `member` has the number of each value's group, counted from 0."""
    count = len(set(member))
    if count < 2:
        return math.nan, math.nan
    sums, sizes = np.bincount(member, values), np.bincount(member)
    rng = np.random.default_rng(seed)
    drawn = []
    at_once = max(1, DRAWS_AT_ONCE // count)
    for start in range(0, resamples, at_once):
        chosen = rng.integers(0, count, (min(at_once, resamples - start), count))
        drawn.append(sums[chosen].sum(1) / sizes[chosen].sum(1))
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return float(low), float(high)


def _mean(values: Mapping[str, float], alike: Mapping[str, Hashable]) -> Mean:
    defined = {name: value for name, value in values.items() if not math.isnan(value)}
    if not defined:
        return Mean(math.nan, math.nan, math.nan, 0, len(values), 0)
    groups = [alike.get(name, name) for name in defined]
    low, high = bootstrap([*defined.values()], groups)
    mean, count = math.fsum(defined.values()) / len(defined), len(defined)
    return Mean(mean, low, high, count, len(values) - count, len(set(groups)))
