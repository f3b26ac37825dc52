"""From keys to batches: the data set that decodes and warps, and the loaders of training and validation."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from common.devices import cores, keep_memory

from .augmentation import Composite, compose_training, compose_validation
from .geometry import AffineRange, draw_affine, warp
from .readers import ImageError
from .sampling import VALIDATION, Sample, StepSampler, rng, validation_samples

log = logging.getLogger(__name__)

# How many neighbours are tried in place of a picture that cannot be read.
SUBSTITUTES = 8


class Source(Protocol):
    """A list of pictures: `dataset.sources` reads them from files, `dataset.synthetic` draws them."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray: ...


@dataclass
class Batch:
    """Warped pictures of one part of a step, on one device.

    Attributes:
        mattes: uint8 (B, H, W, 4), RGB and alpha.
        backgrounds: uint8 (B, H, W, 3).
        samples: their keys.
        names: of the mattes, for messages.
        errors: what could not be read and was replaced by a neighbour.
    """

    mattes: Tensor
    backgrounds: Tensor
    samples: list[Sample]
    names: list[str]
    errors: list[str]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def share(self) -> float:
        """This part's share of the samples of its step, over all ranks and parts; 0 if it only keeps others company."""
        step_size = self.samples[0].step_size
        return len(self.samples) / step_size if step_size else 0.0

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which copies to a GPU need no wait."""
        return replace(self, mattes=self.mattes.pin_memory(), backgrounds=self.backgrounds.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """On another device, without waiting for the copy."""
        return replace(
            self,
            mattes=self.mattes.to(device, non_blocking=True),
            backgrounds=self.backgrounds.to(device, non_blocking=True),
        )

    def compose(self, resolution: int) -> Composite:
        """Source, plate and truth: augmented for training samples, as they are for validation samples."""
        if self.samples[0].epoch == VALIDATION:
            return compose_validation(self.mattes, self.backgrounds, self.samples)
        return compose_training(self.mattes, self.backgrounds, self.samples, resolution)


@dataclass(frozen=True)
class WarpedPairs(Dataset):
    """Decodes a sample's matte and background and warps them to its crop; the key says how.

    Args:
        mattes: a source of (H, W, 4) pictures, RGB and alpha.
        backgrounds: a source of (H, W, 3) pictures.
        matte_range, background_range: of their affines.
    """

    mattes: Source
    backgrounds: Source
    matte_range: AffineRange
    background_range: AffineRange

    def __getitem__(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, Sample, str, list[str]]:
        """Returns matte (H, W, 4) and background (H, W, 3), the key, the matte's name, and what was unreadable."""
        errors: list[str] = []
        generator = rng(sample.seed, sample.epoch, sample.index, 'geometry')
        pictures = []
        for source, ranges, first, border in (
            (self.mattes, self.matte_range, sample.matte, cv2.BORDER_CONSTANT),
            (self.backgrounds, self.background_range, sample.background, cv2.BORDER_REFLECT_101),
        ):
            affine = draw_affine(generator, ranges)
            side = affine.needed_side(sample.width, sample.height)
            picture = _read(source, first, side, errors)
            pictures.append(warp(picture, affine, sample.width, sample.height, border))
        return pictures[0], pictures[1], sample, self.mattes.name(sample.matte), errors


def _read(source: Source, first: int, side: int, errors: list[str]) -> np.ndarray:
    """Reads a picture, or the next one that can be read, noting what could not."""
    for index in range(first, first + min(SUBSTITUTES, len(source))):
        try:
            return source.read(index % len(source), min_size=(side, side))
        except (ImageError, OSError) as error:
            errors.append(str(error))
    raise ImageError(f'{len(errors)} pictures in a row cannot be read: {"; ".join(errors)}')


def collate(items: Sequence[tuple[np.ndarray, np.ndarray, Sample, str, list[str]]]) -> Batch:
    """Makes a batch of what `WarpedPairs` returned."""
    mattes, backgrounds, samples, names, errors = zip(*items)
    return Batch(
        _stack(mattes),
        _stack(backgrounds),
        list(samples),
        list(names),
        [error for some in errors for error in some],
    )


def _stack(pictures: Sequence[np.ndarray]) -> Tensor:
    # torch's own collation stacks into shared memory when it runs in a worker: one copy instead of two.
    return default_collate([torch.from_numpy(picture) for picture in pictures])


def _start_worker(_: int) -> None:
    """One thread a worker, and deaf to the signals that ask the trainer to save: it stops the workers itself."""
    keep_memory('cpu')  # without, clearing pages takes up to two fifths of a worker's time at 2048 pixels
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for name in ('SIGINT', 'SIGTERM', 'SIGUSR1'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _loader(dataset: WarpedPairs, batches: Any, workers: int, pin: bool) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        prefetch_factor=2 if workers else None,
    )


class TrainingBatches:
    """The batches of a run from a step on: one loader for all its epochs, so that none begins with a wait.

    Args:
        dataset: what reads a sample.
        sampler: which samples.
        workers: processes; 0 reads in this one.
        pin: page-locked memory, for a GPU.

    Raises:
        ImageError: while iterating, when more than 1 % of an epoch's samples could not be read.
    """

    def __init__(self, dataset: WarpedPairs, sampler: StepSampler, workers: int, pin: bool):
        self.plan, self.world = sampler.plan, sampler.world
        self.loader = _loader(dataset, sampler, workers, pin)
        self.unreadable: dict[int, list[str]] = {}

    def __iter__(self) -> Iterator[Batch]:
        for batch in _plainly(self.loader):
            if batch.errors:
                self._count(batch)
            yield batch

    def _count(self, batch: Batch) -> None:
        epoch = batch.samples[0].epoch
        named = self.unreadable.setdefault(epoch, [])
        for error in batch.errors:
            named.append(error)
            log.warning('skipped (%d in epoch %d): %s', len(named), epoch, error)
        # Each rank reads its share of the epoch and judges by that.
        if len(named) > 0.01 * self.plan.samples_per_epoch / self.world:
            raise ImageError(
                f'{len(named)} pictures of epoch {epoch} cannot be read, more than 1 % of its '
                f'{self.plan.samples_per_epoch} samples; the last: {named[-1]}'
            )


class ValidationBatches:
    """The fixed validation batches of a rank; a picture that cannot be read is replaced, and named once.

    Args:
        dataset: what reads a sample.
        count: samples over all ranks, spread evenly over the data set.
        side: of the square pictures.
        batch_size: samples of a batch.
        workers: processes; 0 reads in this one.
        pin: page-locked memory, for a GPU.
        rank, world: every world-th sample is this rank's.
    """

    def __init__(
        self,
        dataset: WarpedPairs,
        count: int,
        side: int,
        batch_size: int,
        workers: int,
        pin: bool,
        rank: int = 0,
        world: int = 1,
    ):
        samples = validation_samples(len(dataset.mattes), len(dataset.backgrounds), count, side)[rank::world]
        batches = [samples[i : i + batch_size] for i in range(0, len(samples), batch_size)]
        self.loader = _loader(dataset, batches, workers, pin)
        self.named: set[str] = set()

    def __iter__(self) -> Iterator[Batch]:
        for batch in _plainly(self.loader):
            for error in set(batch.errors) - self.named:
                log.warning('validation uses another picture instead: %s', error)
                self.named.add(error)
            yield batch


def _plainly(loader: DataLoader) -> Iterator[Batch]:
    """Iterates a loader; an ImageError from a worker comes without the worker's traceback."""
    try:
        yield from loader
    except ImageError as error:
        raise ImageError(str(error).strip().splitlines()[-1].rpartition('ImageError: ')[2]) from None


def default_workers() -> int:
    """Loader processes that fit the machine: one a core, 16 at most."""
    return min(16, cores())
