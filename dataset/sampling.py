"""Which samples a step trains on, and the seed of every random draw.

Nothing here holds state: the order of an epoch is a function of (seed, epoch), a sample's augmentation of (seed, epoch,
index), a batch's crop of (seed, step). So the number of workers or ranks and the moment of a crash cannot change a run,
and a resumed run needs nothing but the number of its step.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

# The epoch of validation samples, which no training reaches: the two never share their draws.
VALIDATION = 2**31


def rng(*key: int | str) -> np.random.Generator:
    """Return a generator seeded by a key; words in it are hashed by CRC-32."""
    words = (zlib.crc32(k.encode(errors='surrogateescape')) if isinstance(k, str) else k for k in key)
    return np.random.default_rng([*words])


def seed_of(*key: int | str) -> int:
    """Return a 63-bit seed that follows from a key, for generators on a device."""
    return int(rng(*key).integers(2**63 - 1))


@dataclass(frozen=True)
class Sample:
    """All that a sample's pixels follow from; seed, epoch and index seed its random draws."""

    seed: int
    epoch: int
    index: int
    matte: int  # index of the picture
    background: int
    height: int  # of its step's crop, in pixels
    width: int
    step_size: int  # samples over all ranks and parts, by which the loss is averaged; 0 for one that does not count
    resolution: int | None = None  # of training, which blur radii are meant for; None: the crop's longer side


@dataclass(frozen=True)
class SamplingPlan:
    """The samples of every step of a run, in batches whose sizes differ by at most one.

    An epoch goes once through the longer of the two lists, in an order of its own. The shorter list repeats and is
    shuffled independently, so pairs change from epoch to epoch.

    Args:
        mattes, backgrounds: lengths of the two lists.
        batch_size: most samples of an optimizer step, over all ranks and accumulated parts.
        resolution: training resolution; both sides of a batch's crop are drawn from [resolution / 2, resolution).
        multiple: crops have sides that are multiples of it, in pixels; a multiple of `unit`.
        seed: of the run.
        unit: what the network needs sides to be multiples of; as `multiple` it gives the published crops.
    """

    mattes: int
    backgrounds: int
    batch_size: int
    resolution: int
    multiple: int = 1
    seed: int = 0
    unit: int = 1

    @property
    def samples_per_epoch(self) -> int:
        """The length of the longer list."""
        return max(self.mattes, self.backgrounds)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-self.samples_per_epoch // self.batch_size)

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest step."""
        return self.samples_per_epoch // self.steps_per_epoch

    def step(self, step: int) -> list[Sample]:
        """Return the samples of a step; steps count from 0 over the whole run."""
        epoch, i = divmod(step, self.steps_per_epoch)
        n = self.samples_per_epoch
        chosen = slice(n * i // self.steps_per_epoch, n * (i + 1) // self.steps_per_epoch)
        mattes = _order(self.seed, epoch, n, 'mattes')[chosen]
        backgrounds = _order(self.seed, epoch, n, 'backgrounds')[chosen]
        height, width = self.crop(step)
        size = height, width, len(mattes), self.resolution
        return [
            Sample(self.seed, epoch, int(m), int(m) % self.mattes, int(b) % self.backgrounds, *size)
            for m, b in zip(mattes, backgrounds)
        ]

    def crop(self, step: int) -> tuple[int, int]:
        """Return the (height, width) of a step's crop.

        They are the published draws, uniform below the resolution, at their nearest multiples. Rounding down instead
        would make crops smaller on average, by half a multiple. The nearest multiple is the resolution itself for some,
        which get the next lower one: no crop is larger than published, and the mean is lower by two percent at
        `default_multiple`.
        """
        unit, multiple = self.unit, self.multiple
        sides = rng(self.seed, 'crop', step).integers(self.resolution // 2, self.resolution, 2) // unit * unit
        nearest = (sides + multiple // 2) // multiple * multiple
        height, width = np.minimum(nearest, (self.resolution - 1) // multiple * multiple).tolist()
        return height, width


def default_multiple(resolution: int, unit: int) -> int:
    """Return a multiple that leaves four lengths of a side, 16 crops.

    A GPU plans its work anew for each size: on an H200 five to ten seconds, where a step takes 0.05.
    """
    return max(1, resolution // 8 // unit) * unit


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int, name: str) -> np.ndarray:
    return rng(seed, epoch, name).permutation(length)


def split(samples: list[Sample], parts: int, part: int) -> list[Sample]:
    """Return slice number `part` of `parts` slices of a batch, whose lengths differ by at most one."""
    n = len(samples)
    return samples[n * part // parts : n * (part + 1) // parts]


def validation_samples(mattes: int, backgrounds: int, count: int, side: int) -> list[Sample]:
    """Return at most `count` samples, spread evenly over the longer list: the same ones, whatever the run's seed.

    `mattes` and `backgrounds` are the lengths of the two lists, `side` is that of the square pictures, in pixels.
    """
    n = max(mattes, backgrounds)
    count = min(count, n)
    spread = [round(i * (n - 1) / max(1, count - 1)) for i in range(count)]
    return [Sample(0, VALIDATION, i, i % mattes, i % backgrounds, side, side, count) for i in spread]


@dataclass(frozen=True)
class StepSampler:
    """A rank's share of the steps from `start` to before `end`, one list of samples for each accumulated part.

    Every rank has to take part in every step. So where a step has fewer samples than parts, a part without one gets a
    sample of another, with a step size of 0.

    Args:
        plan, start, end: the samples of all steps, and which steps.
        accumulate: parts that a rank's share of a step is split into.
        rank, world: this process, and how many there are.
    """

    plan: SamplingPlan
    start: int
    end: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return max(0, self.end - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Sample]]:
        for step in range(self.start, self.end):
            samples = self.plan.step(step)
            for part in range(self.accumulate):
                share = split(samples, self.accumulate * self.world, part * self.world + self.rank)
                yield share or [replace(samples[0], step_size=0)]
