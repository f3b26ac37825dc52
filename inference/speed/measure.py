"""The speed of a network here, for pictures of one size: times, operations, memory.

What is timed is `Matting.predict` on float pictures that are on the device already, in the layout that the pipeline
gives them: the network alone, without files, decoding, and copies between computer and device.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.devices import peak_mib
from common.network import BACKBONES, NetworkSettings
from inference import backends, networks
from inference.graphs import stacked
from inference.pixels import channels_first, to_float
from inference.predictor import Matting
from model import MattingBase

from .sweep import SpeedRow

LEAST_WARM_UPS, MOST_WARM_UPS = 3, 10
WARM_UP_SECONDS = 0.5  # an idle GPU takes as long to reach its clock rate
SETTLED = 1.1  # the longest of three times by the shortest


@dataclass(frozen=True)
class Speed:
    """The figures of a row: median, 10th and 90th percentile of the times for a batch, and what follows from them."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    fps: float  # pictures per second, by the median
    gmac: float | None  # for one picture, see `count_gmac`
    peak_mib: float | None
    runs: int  # that were timed
    warm_ups: int  # runs that came before
    alpha_mean: float | None = None  # difference from `reference`, 0..1, on average and at most; None without one
    alpha_max: float | None = None


def measure(
    row: SpeedRow,
    device: torch.device,
    images: tuple[np.ndarray, np.ndarray] | None = None,
    repeats: int = 30,
    seconds: float = math.inf,
    reference: Tensor | None = None,
) -> Speed:
    """Warm up until the times settle, then time single runs, each until the device is done.

    Args:
        row: what to measure.
        device: where.
        images: picture and plate, uint8 RGB (H, W, 3) of the row's size, for the whole batch; noise if left out.
        repeats: runs to time.
        seconds: begin no more runs once these have passed since the first.
        reference: alpha to compare with, see `float32_alpha`.
    """
    if row.compiled:
        torch.compiler.reset()  # or it makes the sides of a second size variable, and gives up after eight
    matting = backends.load_matting(
        row.checkpoint, row.network, row.backend, device, row.precision, row.compiled, traceable=True,
        graphs=row.graphs,
    )  # fmt: skip
    src, bgr = _inputs(row, matting, images)
    gmac = _gmac(row, src, bgr)
    if row.backend == 'torchscript':
        backends.trace(matting, src, bgr)
    reset_peak(device)
    run = partial(_seconds, partial(matting.predict, src, bgr), device)
    warm_ups = _warm_up(run)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < repeats and (not times or time.perf_counter() < end):
        times.append(run())
    p10, median, p90 = (1000 * float(x) for x in np.percentile(times, [10, 50, 90]))
    fps = 1000 * row.batch_size / median
    peak = peak_mib(device)
    apart = () if reference is None else _difference(matting.predict(src, bgr)['pha'], reference)
    return Speed(median, p10, p90, fps, gmac, peak, len(times), warm_ups, *apart)


def float32_alpha(row: SpeedRow, images: tuple[np.ndarray, np.ndarray]) -> Tensor:
    """Return the alpha of the row's weights in float32 on the CPU, (1, 1, H, W) in 0..1."""
    matting = backends.load_matting(row.checkpoint, row.network, 'pytorch', torch.device('cpu'), 'float32')
    return matting.predict(*_inputs(replace(row, batch_size=1), matting, images))['pha']


def _difference(pha: Tensor, reference: Tensor) -> tuple[float, float]:
    apart = (pha[:1].float().cpu() - reference).abs()
    return float(apart.mean()), float(apart.max())


def count_gmac(network: nn.Module, src: Tensor, bgr: Tensor) -> float:
    """Count the multiplications, each with its addition, in the convolutions, in 10^9; tensors on 'meta' will do.

    The figures published for these networks are 0.3 to 1.4 % higher, because they count two more for each value that
    passes a BatchNorm. Enlarging crops by matrix products, 0.1 to 0.3 more, is in neither.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(src, bgr)
    return counter.get_flop_counts()['Global'].get(torch.ops.aten.convolution, 0) / 2e9


def reset_peak(device: torch.device) -> bool:
    """Give free memory back and begin `peak_mib` anew; return whether the system can do that."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.init()  # until then there is no peak to reset, and torch raises
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type == 'mps':
        torch.mps.empty_cache()
        return True
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL('libc.so.6').malloc_trim(0)
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return False
    return True


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where figures come from: processor, cores, device, threads, system and versions."""
    return {
        'processor': processor(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type,
        'system': platform.platform(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
    }


def processor() -> str:
    """Return the processor's name."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(named, platform.processor() or platform.machine())


def _inputs(row: SpeedRow, matting: Matting, images: tuple[np.ndarray, np.ndarray] | None) -> tuple[Tensor, Tensor]:
    """Return a batch and its plate as `Matting.submit` makes them."""
    (width, height), count = row.size, row.batch_size
    if images is None:
        noise = np.random.default_rng(0)
        *srcs, bgr = (noise.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count + 1))
    else:
        srcs, bgr = [images[0]] * count, images[1]
    weights = next(matting.model.parameters(), None)
    dtype = matting.dtype if weights is None else weights.dtype
    if dtype == torch.bfloat16 and isinstance(matting.model, MattingBase):
        dtype = torch.float32  # the networks here convert it themselves
    src, plate = (
        to_float(channels_first(stacked([matting.staged(x) for x in y], matting.device)), dtype) for y in (srcs, [bgr])
    )
    return src, plate.expand_as(src)


def _gmac(row: SpeedRow, src: Tensor, bgr: Tensor) -> float | None:
    """Count 10^9 multiplications for one picture, with tensors that hold nothing.

    How many cells exceed a threshold depends on weights and picture, so there the network is run; None where its
    weights lie in an ONNX file, or such a file does not say which network it is.
    """
    refiner = row.network.refiner
    if row.backend == 'onnx' and row.network.backbone not in BACKBONES:
        return None
    if refiner and refiner.refine_mode == 'thresholding':
        if row.backend == 'onnx':
            return None
        # In eager mode whatever is measured: compiled or traced convolutions cannot be counted.
        eager = backends.load_matting(row.checkpoint, row.network, 'pytorch', src.device, 'float32')
        return count_gmac(eager.model, src[:1].float(), bgr[:1].float())
    return _gmac_without_pixels(row.network, row.size)


@functools.cache  # a second or two, and the same for all precisions and backends
def _gmac_without_pixels(network: NetworkSettings, size: tuple[int, int]) -> float:
    with torch.device('meta'):
        picture = torch.empty(1, 3, *reversed(size))
        return count_gmac(networks.make_network(network).eval(), picture, picture)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type != 'cpu':
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def _warm_up(run: Callable[[], float]) -> int:
    """Run until three times in a row are alike, and return how often that was."""
    times: list[float] = []
    while True:
        times.append(run())
        last = times[-LEAST_WARM_UPS:]
        settled = len(last) == LEAST_WARM_UPS and max(last) <= SETTLED * min(last)
        if sum(times) >= WARM_UP_SECONDS and (settled or len(times) >= MOST_WARM_UPS):
            return len(times)
