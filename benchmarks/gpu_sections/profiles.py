"""How much of the time a GPU works, and on what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from helpers import machine
from helpers.bench import Bench
from helpers.training_steps import noise_batches
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from .networks import CASES, TINY, network_on
from .training import make_trainer


def profile(bench: Bench) -> None:
    """The share of the time in which the GPU works, in training steps and in HD passes, and what takes most of it."""
    for stage in ('base', 'refine'):
        backbone, precision = bench.size(('resnet50', 'float16'), ('mobilenetv2', 'float32'))
        what = f'{stage} step, {backbone} {precision}'
        with bench.attempt(what):
            trainer = make_trainer(bench, stage, backbone, precision)
            side = 3 * trainer.plan.resolution // 4 // 4 * 4
            (batch,) = noise_batches(trainer.plan, 1, bench.cuda, (side, side))
            busy(bench, what, lambda trainer=trainer, batch=batch: trainer.step(batch))
    sides, settings = next(iter(bench.size(CASES, TINY).values()))
    for who in ('published', 'ours', 'ours in a graph'):
        precision = bench.half if bench.cuda else 'float32'
        what = f'HD pass, mobilenetv2 {precision}, {who}'
        with bench.attempt(what), torch.inference_mode():
            busy(bench, what, network_on(bench, who, 'mobilenetv2', settings, precision, sides, 1))


def busy(bench: Bench, what: str, work: Callable[[], Any]) -> None:
    """Write what a work's kernels take of the time; on a CPU its operations stand for them."""
    repeats = bench.size(10, 1)
    for _ in range(bench.size(5, 1)):
        work()
    machine.synchronize(bench.device)
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]) as found:
        for _ in range(repeats):
            work()
        machine.synchronize(bench.device)
    kind = DeviceType.CUDA if bench.cuda else DeviceType.CPU
    kernels = [event for event in found.events() if event.device_type == kind]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    working, end = 0.0, spans[0][0]
    for begin, finish in spans:
        working += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    times: Counter[str] = Counter()
    for event in kernels:
        times[event.name[:60]] += event.time_range.elapsed_us()
    most = {name: round(us / 1000 / repeats, 3) for name, us in times.most_common(5)}
    bench.row(what, busy_share=working / (end - spans[0][0]), busy_ms=working / 1000 / repeats,
              kernels=len(kernels) // repeats, most_ms=most)  # fmt: skip
