"""The three stages between picture files and matte files: load, compute, write.

A picture that fails, for whatever reason that leaves the others unharmed, travels on with its `error`. Only a file
that cannot be written ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import cv2

from common.cli import out_of_memory
from common.network import MIN_SIDE
from dataset.readers import ImageError, read_rgb
from inference.matte import NotFiniteError, Pending
from inference.pipeline import batches
from inference.plates.agreement import plate_fit
from inference.plates.alignment import align_plate
from inference.predictor import Matting

from .inputs import Job
from .report import Item
from .writer import PictureWriter

Started = tuple[list[Item], Pending | None]

SPARE_MEMORY = 'lower --batch-size, --model-backbone-scale or --model-refine-sample-pixels, or --precision float16'


def load(job: Job, matting: Matting, resize: bool, align: bool) -> Item:
    """First stage, on threads: decode a picture, see that its plate is on the device, compare the two."""
    try:
        src = read_rgb(job.src)
        height, width = src.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f'{width}x{height} is too small: pictures must be at least 16 x 16')
        try:
            plate = matting.plate(job.bgr, (width, height) if resize else None)
        except (ImageError, OSError) as error:
            return Item(job, error=str(error), bad_plate=True)
        unaligned = None
        if align:
            aligned = align_plate(src, plate.pixels)
            unaligned = aligned.warning
            plate = plate if aligned.homography is None else matting.plate(aligned.bgr)
        misfit = tuple(plate_fit(src, plate.pixels).warnings())
        return Item(job, (matting.staged(src), plate), misfit, unaligned)
    except (ImageError, OSError) as error:
        return Item(job, error=str(error))
    except (ValueError, MemoryError, RuntimeError, cv2.error) as error:
        return Item(job, error=_reason(job, error))


def compute(
    items: Iterable[Item],
    matting: Matting,
    size: int,
    kinds: set[str],
    spread: Callable[..., Iterator[Started]] = map,
) -> Iterator[tuple[Item, Pending | None, int]]:
    """Second stage: start each batch on the device; yields (item, its batch's result, index).

    Args:
        items: loaded pictures.
        matting: the network.
        size: of a batch at most.
        kinds: of outputs.
        spread: `map`, which starts them one after the other in this thread, or a function of the same arguments that
            works on several at once.
    """
    grouped = batches(items, size, key=lambda item: item.inputs and item.inputs[0].shape)
    for batch, pending in spread(partial(_start, matting=matting, kinds=kinds), grouped):
        yield from ((item, pending, i) for i, item in enumerate(batch))


def _start(batch: list[Item], matting: Matting, kinds: set[str]) -> Started:
    inputs = [item.inputs for item in batch if item.inputs]
    done = [replace(item, inputs=None) for item in batch]
    if not inputs:
        return done, None
    try:
        srcs, plates = [src for src, _ in inputs], [plate for _, plate in inputs]
        return done, matting.submit(srcs, plates, 'err' in kinds, 'ref' in kinds)
    except (ValueError, MemoryError, RuntimeError) as error:
        return [replace(item, error=_reason(item.job, error)) for item in done], None


def write(computed: tuple[Item, Pending | None, int], writer: PictureWriter) -> Item:
    """Third stage, on threads: wait for the device, encode and write.

    Raises:
        OSError: a file cannot be written.
    """
    item, pending, index = computed
    try:
        if pending is not None:
            writer.write(item.job.name, pending.matte(index))
    except (NotFiniteError, MemoryError) as error:
        return replace(item, error=_reason(item.job, error))
    return item


def _reason(job: Job, error: Exception) -> str:
    """Why a picture failed; what is not the picture's fault, such as a broken GPU, is raised again."""
    if out_of_memory(error):
        return f'{job.src}: too little memory: {SPARE_MEMORY}'
    if isinstance(error, (ValueError, cv2.error)):
        return f'{job.src}: {error}'
    raise error
