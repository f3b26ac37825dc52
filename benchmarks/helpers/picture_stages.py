"""Times of each stage of inference_images.py by itself, and of PNG encoders, by which machines compare."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
from PIL import Image

from common.devices import torch_threads
from dataset.readers import image_size
from inference.images.inputs import Job
from inference.images.report import PictureResult
from inference.images.stages import compute, load_pair
from inference.images.writer import PictureWriter
from inference.matte import Matte
from inference.options import DEFAULT_FORMATS, share_cores
from inference.predictor import Matting

from . import drawings, machine

KINDS = ('com', 'pha', 'fgr')
WARM_UP = 2
MANY = 1000  # pictures of the run whose sharing of cores is taken


class Cost(NamedTuple):
    """Seconds of one picture: on the clock, and summed over the cores."""

    clock: float
    cores: float


def stage_costs(matting: Matting, src: Path, bgr: Path, folder: Path, repeats: int) -> dict[str, Cost]:
    """Return median costs of one picture in 'decode', 'compute', 'encode com', 'encode pha' and 'encode fgr'.

    Files are written to the folder. As in a run, the plate is read once, and several pictures are computed side by
    side, of which each costs its part of the time.
    """
    job = Job('picture', src, bgr)
    writers = {f'encode {kind}': PictureWriter(folder, {kind: DEFAULT_FORMATS[kind]}) for kind in KINDS}
    spent: dict[str, list[Cost]] = {name: [] for name in ('decode', 'compute', *writers)}
    width, height = image_size(src)
    threads = share_cores(matting.device.type, MANY, width * height)

    def matte_of(item: PictureResult) -> Matte:
        item, pending, index = next(compute([item], matting, 1, set(KINDS)))
        if pending is None:
            raise RuntimeError(item.error)
        return pending.matte(index)

    with torch_threads(threads.each), ThreadPoolExecutor(threads.batches) as pool:
        for _ in range(WARM_UP + repeats):
            with _clock(spent['decode']):
                item = load_pair(job, matting, resize=False, align=False)
            with _clock(spent['compute'], threads.batches):
                matte, *_ = pool.map(matte_of, [item] * threads.batches)
            for name, writer in writers.items():
                with _clock(spent[name]):
                    writer.write('picture', matte)
    return {
        name: Cost(*(statistics.median(values) for values in zip(*costs[WARM_UP:]))) for name, costs in spent.items()
    }


def png_seconds(repeats: int) -> dict[str, float]:
    """Return median seconds of encoding a drawn cut-out of 1920x1080: the machine's speed at PNG."""
    rgba = drawings.cut_out(1920, 1080)
    bgra = cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA)
    return machine.interleaved(
        {
            'Pillow': lambda: Image.fromarray(rgba).save(io.BytesIO(), 'PNG'),
            'OpenCV, level 1': lambda: cv2.imencode('.png', bgra, [cv2.IMWRITE_PNG_COMPRESSION, 1]),
        },
        repeats,
    )


@contextmanager
def _clock(costs: list[Cost], pictures: int = 1) -> Iterator[None]:
    start = Cost(time.perf_counter(), time.process_time())
    yield
    clock, cores = time.perf_counter() - start.clock, time.process_time() - start.cores
    costs.append(Cost(clock / pictures, cores / pictures))
