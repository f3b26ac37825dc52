"""Each stage of inference_images.py alone, on one picture after the other, and encoders to compare machines by."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import drawings
import machine
from PIL import Image

from inference.inputs import Job
from inference.options import DEFAULT_FORMATS
from inference.pictures import compute, load
from inference.predictor import Matting
from inference.writers import PictureWriter

KINDS = ('com', 'pha', 'fgr')
WARM_UP = 2


class Cost(NamedTuple):
    """Seconds of one picture: on the clock, and summed over the cores that worked."""

    clock: float
    cores: float


def stage_costs(matting: Matting, src: Path, bgr: Path, folder: Path, repeats: int) -> dict[str, Cost]:
    """Medians of one picture in the stages 'decode', 'compute', 'encode com', 'encode pha' and 'encode fgr'.

    Files are written to the folder. The plate is read once, as in a run.
    """
    job = Job('picture', src, bgr)
    writers = {f'encode {kind}': PictureWriter(folder, {kind: DEFAULT_FORMATS[kind]}) for kind in KINDS}
    spent: dict[str, list[Cost]] = {name: [] for name in ('decode', 'compute', *writers)}
    for _ in range(WARM_UP + repeats):
        with _clock(spent['decode']):
            item = load(job, matting, resize=False, align=False)
        with _clock(spent['compute']):
            item, pending, index = next(compute([item], matting, 1, set(KINDS)))
            if pending is None:
                raise RuntimeError(item.error)
            matte = pending.matte(index)
        for name, writer in writers.items():
            with _clock(spent[name]):
                writer.write('picture', matte)
    return {
        name: Cost(*(statistics.median(values) for values in zip(*costs[WARM_UP:]))) for name, costs in spent.items()
    }


def png_seconds(repeats: int) -> dict[str, float]:
    """Medians of encoding a drawn cut-out of 1920x1080: what a machine's speed at PNG is worth."""
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
def _clock(costs: list[Cost]) -> Iterator[None]:
    start = Cost(time.perf_counter(), time.process_time())
    yield
    costs.append(Cost(time.perf_counter() - start.clock, time.process_time() - start.cores))
