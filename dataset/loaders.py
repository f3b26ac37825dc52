"""Batches for training and validation: worker processes decode and warp samples, a device composites them."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from common import console, signals
from common.devices import cores, keep_memory
from common.stores import StoreError

from .augmentation import Composite, Draws, compose_training, compose_validation
from .geometry import AffineRange, draw_affine, warp
from .readers import ImageError
from .sampling import VALIDATION, Sample, StepSampler, rng, validation_samples

log = logging.getLogger(__name__)

# Pictures that are tried for a sample, one after the other, until one can be read.
TRIES = 8


class Source(Protocol):
    """Pictures by index: `dataset.sources` reads them from files, `dataset.synthetic` draws them."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray: ...


@dataclass
class Batch:
    """The samples of one accumulated part of a step, warped, on one device."""

    mattes: Tensor  # uint8 (B, H, W, 4), RGB and alpha
    backgrounds: Tensor  # uint8 (B, H, W, 3)
    draws: Draws  # what they are augmented by
    samples: list[Sample]  # what all of this follows from
    names: list[str]  # of the mattes, for messages
    errors: list[str]  # why pictures could not be read, which others replace

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def share(self) -> float:
        """This part's share of its step's samples, over all ranks and parts; 0 if its only sample does not count."""
        step_size = self.samples[0].step_size
        return len(self.samples) / step_size if step_size else 0.0

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, which is copied to a GPU without waiting."""
        return self._moved(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device, without waiting for the copy."""
        return self._moved(lambda x: x.to(device, non_blocking=True))

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        draws = replace(self.draws, numbers=move(self.draws.numbers))
        return replace(self, mattes=move(self.mattes), backgrounds=move(self.backgrounds), draws=draws)

    def compose(self) -> Composite:
        """Composite the batch; training samples are augmented, validation samples are not."""
        if self.samples[0].epoch == VALIDATION:
            return compose_validation(self.mattes, self.backgrounds, self.draws)
        return compose_training(self.mattes, self.backgrounds, self.draws)


@dataclass(frozen=True)
class WarpedPairs(Dataset):
    """Mattes (H, W, 4) and backgrounds, decoded and warped to the crop of a sample, the index of this data set."""

    mattes: Source
    backgrounds: Source
    matte_range: AffineRange
    background_range: AffineRange

    def __getitem__(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, Sample, str, list[str]]:
        """Return matte (H, W, 4), background (H, W, 3), the sample, the matte's name, and errors of reading."""
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
    """Read a picture, or the next one that can be read, adding the errors of those that cannot."""
    for index in range(first, first + min(TRIES, len(source))):
        try:
            return source.read(index % len(source), min_size=(side, side))
        except StoreError:
            raise
        except (ImageError, OSError) as error:
            errors.append(str(error))
    raise ImageError(f'{len(errors)} pictures in a row cannot be read: {"; ".join(errors)}')


def collate(items: Sequence[tuple[np.ndarray, np.ndarray, Sample, str, list[str]]]) -> Batch:
    """Make a batch of items of `WarpedPairs`."""
    mattes, backgrounds, samples, names, errors = zip(*items)
    pictures, draws = (_stack(mattes), _stack(backgrounds)), Draws.from_samples(samples)
    return Batch(*pictures, draws, list(samples), list(names), list(itertools.chain(*errors)))


def _stack(pictures: Sequence[np.ndarray]) -> Tensor:
    # In a worker, torch's own collation stacks into shared memory: one copy instead of two.
    return default_collate([torch.from_numpy(picture) for picture in pictures])


def _start_worker(said: Any, _: int) -> None:
    """Restrict a worker to one thread, and let it ignore the signals that ask the trainer to save.

    It says once what the trainer, or another worker, has not `said`.

    Process groups get these signals as a whole, and the trainer, which goes on until the next step, ends its workers.
    """
    console.share_said(said)
    keep_memory()  # clearing pages would take up to two fifths of a worker's time at 2048 pixels
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in signals.STOPS:
        signal.signal(number, signal.SIG_IGN)


def _loader(dataset: WarpedPairs, batches: Any, workers: int, pin: bool) -> DataLoader:
    started = functools.partial(_start_worker, console.shared_said()) if workers else None
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, pin_memory=pin,
        worker_init_fn=started, prefetch_factor=2 if workers else None,
    )  # fmt: skip


class TrainingBatches:
    """The batches of a run from a step on: one loader for all its epochs, so that none begins with a wait.

    Args:
        dataset, sampler: read and warp a sample; choose the samples.
        workers, pin: processes, 0 reads in this one; return batches in page-locked memory, for a GPU.

    Attributes:
        unreadable: errors of pictures that could not be read, by epoch.

    Raises:
        ImageError: while iterating, where more than 1 % of an epoch's samples cannot be read.
    """

    def __init__(self, dataset: WarpedPairs, sampler: StepSampler, workers: int, pin: bool):
        self.sampler, self.plan, self.world = sampler, sampler.plan, sampler.world
        self.loader = _loader(dataset, sampler, workers, pin)
        self.unreadable: dict[int, list[str]] = {}

    def __iter__(self) -> Iterator[Batch]:
        for batch in _batches(self.loader):
            if batch.errors:
                self._count(batch)
            yield batch

    def read_step(self, step: int) -> list[Batch]:
        """Return the batches of one step, read in this process."""
        one = replace(self.sampler, start=step, end=step + 1)
        return [collate([self.loader.dataset[sample] for sample in samples]) for samples in one]

    def _count(self, batch: Batch) -> None:
        epoch = batch.samples[0].epoch
        named = self.unreadable.setdefault(epoch, [])
        for error in batch.errors:
            named.append(error)
            log.warning('skipped (%d in epoch %d): %s', len(named), epoch, error)
        # A rank knows of its own share of the epoch only.
        if len(named) > 0.01 * self.plan.samples_per_epoch / self.world:
            raise ImageError(
                f'{len(named)} pictures of epoch {epoch} cannot be read, more than 1 % of its '
                f'{self.plan.samples_per_epoch} samples; the last: {named[-1]}'
            )


class ValidationBatches:
    """A rank's batches of the fixed validation samples; pictures that cannot be read are replaced, and named once.

    Args:
        dataset, workers, pin: as for `TrainingBatches`.
        count, side: samples over all ranks, spread evenly over the data set; side of the square pictures, in pixels.
        batch_size: most samples of a batch.
        rank, world: every world-th sample is this rank's.
    """

    def __init__(
        self, dataset: WarpedPairs, count: int, side: int, batch_size: int, workers: int, pin: bool,
        rank: int = 0, world: int = 1,
    ):  # fmt: skip
        samples = validation_samples(len(dataset.mattes), len(dataset.backgrounds), count, side)[rank::world]
        batches = [samples[i : i + batch_size] for i in range(0, len(samples), batch_size)]
        self.loader = _loader(dataset, batches, workers, pin)
        self.named: set[str] = set()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in _batches(self.loader):
            for error in set(batch.errors) - self.named:
                log.warning('validation uses another picture instead: %s', error)
                self.named.add(error)
            yield batch


def _batches(loader: DataLoader) -> Iterator[Batch]:
    """Yield a loader's batches, and raise a known error of a worker without the traceback that torch adds to it.

    That a worker was killed is found out, by a RuntimeError, where its batch is waited for. Torch by itself raises it
    as soon as it happens, wherever the main thread is: in an optimizer's step, or where the error gets lost.
    """
    try:
        with signals.blocked(), signals.kept('SIGCHLD'):
            batches = iter(loader)
        yield from batches
    except (ImageError, StoreError) as error:
        kind = type(error)
        raise kind(str(error).strip().splitlines()[-1].rpartition(f'{kind.__name__}: ')[2]) from None


def copied_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield batches on a device; each may be used there until the next one is asked for.

    A GPU copies a batch in a stream of its own, while it computes with the last one. The copy takes the memory of the
    batch before that, and waits until it is no longer used: two are there, however far ahead of the GPU the host is.
    """
    if device.type != 'cuda':
        yield from (batch.to(device) for batch in batches)
        return
    computing, copying = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    last = computing.record_event()
    for batch in batches:
        copying.wait_event(last)
        last = computing.record_event()
        with torch.cuda.stream(copying):
            moved = batch.to(device)
        computing.wait_stream(copying)
        yield moved


def default_workers() -> int:
    """Return how many loader processes suit a rank: the machine's cores, shared out over its ranks, at most 16."""
    return min(16, max(1, cores() // int(os.environ.get('LOCAL_WORLD_SIZE', '1'))))
