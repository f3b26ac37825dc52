"""Training on a GPU: its steps beside the published ones, crops of new and of few sizes, and waiting for data."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from helpers import drawings, machine
from helpers.bench import Bench
from helpers.training_steps import Clock, Trainer, noise_batches, published_way
from torch import Tensor

from common.devices import peak_mib
from dataset.loaders import Batch
from inference.speed.measure import reset_peak

# Stage, backbone and precision; the first is what the published scripts train.
CASES = [
    ('refine', 'resnet50', 'float16'),
    ('base', 'resnet50', 'float16'),
    ('refine', 'mobilenetv2', 'float16'),
    ('base', 'mobilenetv2', 'float16'),
    ('refine', 'resnet50', 'bfloat16'),
    ('refine', 'resnet50', 'float32'),
]
TINY = [('refine', 'mobilenetv2', 'float32')]
# Multiples of a crop's sides: the least that a stage can train on, as published, and what leaves few sizes.
MULTIPLES = {'base': (1, 32), 'refine': (4, 128)}
ROUNDS = 5

Step = Callable[[Batch], Tensor]


def steps(bench: Bench) -> None:
    """Milliseconds and memory of a step on batches of one crop, as training makes it and the published way, in turn."""
    for stage, backbone, precision in bench.size(CASES, TINY):
        with bench.attempt(f'{stage} {backbone} {precision}'):
            compare(bench, stage, backbone, precision)


def compare(bench: Bench, stage: str, backbone: str, precision: str) -> None:
    """Measure one case; on a GPU check that nothing waits within a step of ours."""
    what = f'{stage} {backbone} {precision}'
    before = memory(bench)
    trainer = make_trainer(bench, stage, backbone, precision)
    side = 3 * trainer.plan.resolution // 4 // 4 * 4  # the mean of a crop's
    batches = noise_batches(trainer.plan, bench.size(4, 2), bench.cuda, (side, side))
    ours_mib = peak(bench, trainer.step, batches, before)
    if bench.cuda:
        bench.row(f'{what}: a step waits for nothing', **waits(trainer.step, batches[0]))
    before = memory(bench)
    way = published_way(stage, backbone, bench.device, getattr(torch, precision))

    def published(batch: Batch) -> Tensor:
        return way.step(batch.to(bench.device), Clock(bench.device))

    published_mib = peak(bench, published, batches, before)
    times: dict[Step, list[float]] = {trainer.step: [], published: []}
    for _ in range(bench.size(ROUNDS, 1)):
        for step, measured in times.items():
            measured.append(mean_milliseconds(bench, step, batches))
    ours_ms, published_ms = map(statistics.median, times.values())
    finite = all(step(batches[0]).isfinite().item() for step in times)
    bench.row(f'{what}: losses are finite', ok=finite)
    bench.row(
        f'{what}, {len(batches[0])} of {side} x {side}, ms a step', ours=ours_ms, published=published_ms,
        published_over_ours=published_ms / ours_ms, ours_mib=ours_mib, published_mib=published_mib,
    )  # fmt: skip


def make_trainer(bench: Bench, stage: str, backbone: str, precision: str) -> Trainer:
    """Return a stage's steps at its defaults."""
    small = ['--train-resolution', '64', '--batch-size', '2'] if bench.tiny else []
    words = ['--model-backbone', backbone, '--precision', precision, '--num-workers', '0', *small]
    return Trainer(stage, bench.device, *words)


def memory(bench: Bench) -> float:
    """Return the MiB of tensors on a GPU, and begin its peak anew; 0 on a CPU."""
    if not bench.cuda:
        return 0.0
    reset_peak(bench.device)
    return torch.cuda.memory_allocated(bench.device) / 2**20


def peak(bench: Bench, step: Step, batches: Sequence[Batch], before: float) -> float:
    """Warm a step up; return the most MiB that were taken since there were `before`. On a CPU it is the process's."""
    for batch in batches:
        step(batch)
    machine.synchronize(bench.device)
    return (peak_mib(bench.device) or 0.0) - before


def waits(step: Step, batch: Batch) -> dict[str, object]:
    """Return as a check whether the host waits for the GPU anywhere in a step."""
    torch.cuda.set_sync_debug_mode('error')
    try:
        step(batch)
    except RuntimeError as error:
        return {'ok': False, 'error': str(error).splitlines()[0][:200]}
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return {'ok': True}


def mean_milliseconds(bench: Bench, step: Step, batches: Sequence[Batch]) -> float:
    """Return the mean time of the steps on some batches, one after another."""
    machine.synchronize(bench.device)
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    machine.synchronize(bench.device)
    return 1000 * (time.perf_counter() - start) / len(batches)


def crops(bench: Bench) -> None:
    """Milliseconds of a step where every crop has a size of its own, and where sides are multiples of a number.

    The host's time ends when the last step is handed to the device: what is beyond it, the host does not hold up.
    """
    for stage, multiples in MULTIPLES.items():
        trainer = make_trainer(bench, stage, *bench.size(('resnet50', 'float16'), ('mobilenetv2', 'float32')))
        warm = noise_batches(trainer.plan, 1, bench.cuda)
        trainer.step(warm[0])
        for multiple in bench.size(multiples, multiples[:1] + (16,)):
            batches = noise_batches(replace(trainer.plan, multiple=multiple), bench.size(24, 2), bench.cuda)
            sizes = len({batch.mattes.shape for batch in batches})
            for when in ('first time', 'seen before'):
                machine.synchronize(bench.device)
                start = time.perf_counter()
                for batch in batches:
                    trainer.step(batch)
                host = time.perf_counter() - start
                machine.synchronize(bench.device)
                whole = time.perf_counter() - start
                bench.row(
                    f'{stage}, crops in multiples of {multiple}, {when}, ms a step', whole=1000 * whole / len(batches),
                    host=1000 * host / len(batches), steps=len(batches), sizes=sizes,
                )  # fmt: skip


def loader(bench: Bench) -> None:
    """A run of train_refine.py at its defaults on JPEG files: samples a second, and the share of time without data."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = data_set(folder, bench.size(400, 8))
        small = ['--train-resolution', '64', '--num-workers', '1', '--model-backbone', 'mobilenetv2']
        words = ['--model-backbone', 'resnet50', *(small if bench.tiny else [])]
        limits = ['--max-steps', bench.size('90', '2'), '--log-train-loss-interval', bench.size('15', '1')]
        done = subprocess.run(
            [sys.executable, str(machine.ROOT / 'train_refine.py'), '--dataset-name', 'drawn', '--data-config', config,
             '--model-name', 'run', '--from-scratch', '--device', bench.device.type, '--valid-samples', '2', *words,
             *limits], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        print(done.stdout, flush=True)
        bench.row('train_refine.py ends well', ok=done.returncode == 0, code=done.returncode)
        with (folder / 'log/run/curves.csv').open() as file:
            for row in csv.DictReader(file):
                rates = {tag: float(x) for tag, x in row.items() if x and ('per_second' in tag or 'waiting' in tag)}
                if rates:
                    bench.row(f'train_refine.py up to step {row["step"]}', **rates)


def data_set(folder: Path, count: int) -> str:
    """Write JPEG files for training and a configuration that names them; return its path."""
    files = dict(zip(('fgr', 'pha', 'bgr'), drawings.training_files(folder)))
    lines = []
    for kind, file in files.items():
        for part in ('train', 'valid'):
            (folder / part / kind).mkdir(parents=True)
            for i in range(count):
                os.link(file, folder / part / kind / f'{i:04}.jpg')
    for part in ('train', 'valid'):
        lines += [f'[drawn.{part}]', *(f'{kind} = "{folder / part / kind}"' for kind in ('fgr', 'pha'))]
    lines += ['[backgrounds]', *(f'{part} = "{folder / part / "bgr"}"' for part in ('train', 'valid'))]
    (folder / 'data.toml').write_text('\n'.join(lines))
    return str(folder / 'data.toml')
