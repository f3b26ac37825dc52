"""The networks on a GPU: their rates beside the published ones, and CUDA graphs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from helpers import drawings
from helpers.bench import Bench
from torch import Tensor

from benchmarks.published.network import Published
from common.network import PUBLISHED, SIZES
from inference import Matting
from inference.matte import Pending
from inference.predictor import Plate
from model import MattingRefine

# Width and height, backbone scale and refined pixels.
CASES = {name: (SIZES[name], PUBLISHED[name]) for name in ('hd', '4k')}
TINY = {'tiny': ((128, 96), (1 / 4, 1600))}


def forward(bench: Bench) -> None:
    """Pictures a second of the networks alone, on pictures that are on the device: published, ours, ours in graphs."""
    for size, (sides, settings) in bench.size(CASES, TINY).items():
        for backbone in bench.size(('mobilenetv2', 'resnet50', 'resnet101'), ('mobilenetv2',)):
            published = None
            for who, precision, batch in variants(bench):
                what = f'{backbone} {size}, {who} {precision}, batch of {batch}, ms a picture'
                with bench.attempt(what), torch.inference_mode():
                    run = network_on(bench, who, backbone, settings, precision, sides, batch)
                    alone, each = (ms / batch for ms in bench.milliseconds(run, 20))
                    published = published or each
                    bench.row(what, alone=alone, one_after_another=each, fps=1000 / each,
                              times_published_float32=published / each)  # fmt: skip


def variants(bench: Bench) -> Iterable[tuple[str, str, int]]:
    """Yield whose network, precision and pictures of a batch; the published one in float32 comes first."""
    many = bench.size(8, 2)
    yield from (('published', precision, 1) for precision in ('float32', *(['float16'] if bench.cuda else [])))
    for precision in ('float32', bench.half):
        for who in ('ours', 'ours in a graph'):
            yield from ((who, precision, batch) for batch in (1, many))


def network_on(
    bench: Bench, who: str, backbone: str, settings: tuple[float, int], precision: str, sides: tuple[int, int],
    batch: int,
) -> Callable[[], Any]:  # fmt: skip
    """Return a network's call on a batch of noise that lies on the device."""
    scale, pixels = settings
    network = (Published if who == 'published' else MattingRefine)(backbone, scale, refine_sample_pixels=pixels).eval()
    network.load_state_dict(drawings.random_weights(backbone))
    dtype = torch.float16 if precision == 'float16' else torch.float32
    layout = torch.contiguous_format if who == 'published' else torch.channels_last
    src, bgr = (
        torch.rand(batch, 3, *reversed(sides), device=bench.device).to(dtype, memory_format=layout) for _ in range(2)
    )
    if who == 'published':
        network.to(bench.device, dtype)
        return lambda: network(src, bgr)
    matting = Matting(network, bench.device, precision, graphs=who == 'ours in a graph')
    return lambda: matting.predict(src, bgr)


def graphs(bench: Bench) -> None:
    """Pictures from pinned memory to mattes, the way that scripts go: eager, in CUDA graphs, compiled."""
    ways: dict[str, dict[str, bool]] = {'eager': {'graphs': False}, 'graphs': {}}
    if not bench.tiny:  # a compiler takes a minute
        ways['compiled'] = {'graphs': False, 'compiled': True}
    full = [(backbone, precision) for precision in ('float16', 'float32') for backbone in ('mobilenetv2', 'resnet50')]
    for backbone, precision in bench.size(full, [('mobilenetv2', 'float32')]):
        network = MattingRefine(backbone, refine_sample_pixels=bench.size(80_000, 1600)).eval()
        network.load_state_dict(drawings.random_weights(backbone))
        for batch in bench.size((1, 4, 8), (1, 2)):
            expected = None
            for way, settings in ways.items():
                what = f'{backbone} {precision}, {way}, batch of {batch}'
                with bench.attempt(what):
                    expected = submit(
                        bench, what, Matting(network, bench.device, precision, **settings), batch, expected
                    )


def submit(bench: Bench, what: str, matting: Matting, batch: int, expected: np.ndarray | None) -> np.ndarray:
    """Measure a batch of noise again and again; return the last alpha, which is held against the eager one's."""
    width, height = bench.size(SIZES['hd'], (128, 96))
    noise = np.random.default_rng(0)
    pictures = [noise.integers(0, 256, (height, width, 3), np.uint8) for _ in range(batch)]
    sources, plates = [matting.staged(picture) for picture in pictures], [matting.plate(pictures[0])] * batch
    start = time.perf_counter()
    first = alphas(matting, sources, plates)
    then = time.perf_counter()
    alphas(matting, sources, plates)  # a graph is recorded now
    seconds = then - start, time.perf_counter() - then
    under_way: deque[Pending] = deque()

    def stream() -> None:
        under_way.append(matting.submit(sources, plates))
        if len(under_way) > 2:
            under_way.popleft().result()  # as scripts do, or each batch would need pinned memory of its own

    alone, each = (ms / batch for ms in bench.milliseconds(stream, 20))
    last = alphas(matting, sources, plates)
    far = np.abs((last if expected is None else expected).astype(int) - last)
    bench.row(f'{what}, ms a picture', alone=alone, one_after_another=each, first_batch_s=seconds[0],
              second_batch_s=seconds[1], differs=int(far.max()),
              share_that_differs=float((far > 1).mean()))  # fmt: skip
    # The first one is computed before a graph is recorded. Libraries may choose another algorithm for the same thing.
    bench.row(f'{what}: the last result is the first', ok=bool((np.abs(first.astype(int) - last) > 1).mean() < 0.01))
    return last if expected is None else expected


def alphas(matting: Matting, sources: list[Tensor], plates: list[Plate]) -> np.ndarray:
    """Return a batch's alpha, (B, H, W)."""
    return np.stack([matte.pha for matte in matting.submit(sources, plates).result()])
