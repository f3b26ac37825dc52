"""The three stages between picture files and matte files: load, compute, write.

A picture that fails, for whatever reason that leaves the others unharmed, travels on with its `error`. Only a file
that cannot be written ends the run, unless it is for its name.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import partial

import cv2

from common.cli import out_of_memory
from common.network import MIN_SIDE
from dataset.readers import ImageError, read_tagged
from inference.batching import compute_batches
from inference.matte import NotFiniteError, Pending
from inference.plates.agreement import plate_agreement
from inference.plates.alignment import align_plate
from inference.predictor import Matting

from .inputs import Job
from .report import PictureResult
from .writer import PictureWriter

# What systems say of names that are too long or hold what a disk does not take.
NAMES = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
SPARE_MEMORY = 'lower --batch-size, --model-backbone-scale or --model-refine-sample-pixels, or --precision float16'


def load_pair(job: Job, matting: Matting, resize: bool, align: bool, srgb: bool = False) -> PictureResult:
    """Decode a picture, put its plate on the device and compare the two: the first stage, on threads.

    The picture stays in its own colours, into which its plate is converted, or both are converted to sRGB.
    """
    if job.bgr is None:
        return PictureResult(job, error=f'{job.src}: it has no plate')
    try:
        src, tags = read_tagged(job.src, srgb)
        height, width = src.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f'{width}x{height} is too small: pictures must be at least 16 x 16')
        try:
            plate = matting.plate(job.bgr, (width, height) if resize else None, tags.profile)
        except (ImageError, OSError) as error:
            return PictureResult(job, error=str(error), bad_plate=True)
        unaligned = None
        if align:
            aligned = align_plate(src, plate.pixels)
            unaligned = aligned.warning
            plate = plate if aligned.homography is None else matting.plate(aligned.bgr)
        misfit = tuple(plate_agreement(src, plate.pixels).warnings())
        return PictureResult(job, tags, inputs=(matting.staged(src), plate), misfit=misfit, unaligned=unaligned)
    except (ImageError, OSError) as error:
        return PictureResult(job, error=str(error))
    except (ValueError, MemoryError, RuntimeError, cv2.error) as error:
        return PictureResult(job, error=_reason(job, error))


def write(computed: tuple[PictureResult, Pending | None, int], writer: PictureWriter) -> PictureResult:
    """Wait for the device, encode and write a picture: the third stage, on threads."""
    item, pending, index = computed
    try:
        if pending is not None:
            writer.write(item.job.name, replace(pending.matte(index), tags=item.tags), item.job.src)
    except (NotFiniteError, MemoryError) as error:
        return _failed(item, error)
    except OSError as error:
        if getattr(error.__cause__, 'errno', None) not in NAMES:
            raise
        return replace(item, error=str(error))
    return item


def _failed(item: PictureResult, error: Exception) -> PictureResult:
    return replace(item, error=_reason(item.job, error))


# The second stage: a batch that fails costs its own pictures only.
compute = partial(compute_batches, failed=_failed)


def _reason(job: Job, error: Exception) -> str:
    """Return why a picture failed; an error that is not the picture's fault, such as a broken GPU, is raised again."""
    if out_of_memory(error):
        return f'{job.src}: too little memory: {SPARE_MEMORY}'
    if isinstance(error, (ValueError, cv2.error)):
        return f'{job.src}: {error}'
    raise error
