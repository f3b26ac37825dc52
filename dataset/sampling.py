"""Which samples a step sees, and what every random draw is made from.

Nothing here holds state: the order of an epoch is a function of (seed, epoch), a sample's augmentation of (seed,
epoch, index), a batch's crop of (seed, step). So the number of workers, the number of ranks and the moment of a crash
cannot change a run, and a resume needs nothing but the number of a step.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

# The epoch of validation samples: their draws belong to no epoch of the training.
VALIDATION = 2**31


def rng(*key: int | str) -> np.random.Generator:
    """A generator that follows from the key alone; words are hashed by CRC-32."""
    return np.random.default_rng([zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key])


def seed_of(*key: int | str) -> int:
    """A 63-bit seed that follows from the key alone, for generators on a device."""
    return int(rng(*key).integers(2**63 - 1))


@dataclass(frozen=True)
class Sample:
    """Everything that one sample's pixels follow from.

    Attributes:
        seed, epoch, index: what its draws are made from.
        matte, background: which pictures.
        height, width: of its step's crop.
        step_size: samples of its step over all ranks and parts, by which the loss is averaged.
    """

    seed: int
    epoch: int
    index: int
    matte: int
    background: int
    height: int
    width: int
    step_size: int


@dataclass(frozen=True)
class SamplingPlan:
    """The samples of every step of a run, in batches that differ by at most one sample.

    An epoch is the longer of the two lists, in an order of its own; the shorter list repeats, shuffled apart, so that
    pairs change from epoch to epoch.

    Args:
        mattes, backgrounds: lengths of the two lists.
        batch_size: samples of an optimizer step at most, over all ranks and accumulated parts.
        resolution: training resolution; both sides of a batch's crop are drawn from [resolution / 2, resolution).
        multiple: the crop's sides are multiples of it.
        seed: of the run.
    """

    mattes: int
    backgrounds: int
    batch_size: int
    resolution: int
    multiple: int = 1
    seed: int = 0

    @property
    def samples_per_epoch(self) -> int:
        """Length of the longer list."""
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
        """The samples of a step, counted from 0 over the whole run."""
        epoch, i = divmod(step, self.steps_per_epoch)
        n = self.samples_per_epoch
        chosen = slice(n * i // self.steps_per_epoch, n * (i + 1) // self.steps_per_epoch)
        mattes = _order(self.seed, epoch, n, 'mattes')[chosen]
        backgrounds = _order(self.seed, epoch, n, 'backgrounds')[chosen]
        height, width = self.crop(step)
        return [
            Sample(
                self.seed, epoch, int(m), int(m) % self.mattes, int(b) % self.backgrounds, height, width, len(mattes)
            )
            for m, b in zip(mattes, backgrounds)
        ]

    def crop(self, step: int) -> tuple[int, int]:
        """The (height, width) of a step's crop."""
        sides = rng(self.seed, 'crop', step).integers(self.resolution // 2, self.resolution, 2)
        height, width = (sides // self.multiple * self.multiple).tolist()
        return height, width


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int, name: str) -> np.ndarray:
    return rng(seed, epoch, name).permutation(length)


def split(samples: list[Sample], parts: int, part: int) -> list[Sample]:
    """The part-th of `parts` slices of a batch, whose lengths differ by at most one."""
    n = len(samples)
    return samples[n * part // parts : n * (part + 1) // parts]


def validation_samples(mattes: int, backgrounds: int, count: int, side: int) -> list[Sample]:
    """`count` samples spread evenly over the longer list: the same ones, whatever the seed of the run.

    Args:
        mattes, backgrounds: lengths of the two lists.
        count: at most this many.
        side: of the square picture.
    """
    n = max(mattes, backgrounds)
    count = min(count, n)
    spread = [round(i * (n - 1) / max(1, count - 1)) for i in range(count)]
    return [Sample(0, VALIDATION, i, i % mattes, i % backgrounds, side, side, count) for i in spread]


@dataclass(frozen=True)
class StepSampler:
    """Yields, for every step from `start` to before `end`, this rank's accumulated parts: lists of samples.

    A step of fewer samples than parts gives some of them a sample of another, whose step size of 0 says that it does
    not count: every rank has to take part in every step.

    Args:
        plan: of the run.
        start, end: steps.
        accumulate: parts of a rank.
        rank, world: of this process.
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
