"""Training steps to measure: by parts, ours beside the published ones, and those that the scripts make."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.published.network import Published
from dataset.augmentation import Draws
from dataset.loaders import Batch, copied_ahead
from dataset.sampling import SamplingPlan
from model import MattingBase, MattingRefine
from training.distributed import Forward, Ranks, autocast_forward
from training.loop import Run, _train_step
from training.losses import base_loss, refine_loss
from training.meters import BadSteps, Meter
from training.state import make_scaler


class Clock:
    """The times of a step's parts. On a GPU they are events, and nothing waits for it until `seconds` is called."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == 'cuda'
        self.moments: list[tuple[str, Any]] = []
        self.end('')

    def end(self, part: str) -> None:
        """End a part here; the next one begins."""
        moment = torch.cuda.Event(enable_timing=True) if self.cuda else time.perf_counter()
        if self.cuda:
            moment.record()
        self.moments.append((part, moment))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part, once the device has done the last one."""
        if self.cuda:
            self.moments[-1][1].synchronize()
        return {
            part: before.elapsed_time(after) / 1000 if self.cuda else after - before
            for (_, before), (part, after) in itertools.pairwise(self.moments)
        }


@dataclass(frozen=True)
class Way:
    """One of two ways to make a step: ours, or the published.

    Attributes:
        stage: 'base' or 'refine'.
        module, optimizer, scaler: what a step changes.
        forward: the network as it is called in a step.
        autocast: surrounds network and loss.
    """

    stage: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    forward: Forward
    autocast: Callable[[], contextlib.AbstractContextManager]

    def step(self, batch: Batch, clock: Clock) -> Tensor:
        """Make a step and return its loss, on the device."""
        true = batch.compose()
        clock.end('composite')
        with self.autocast():
            pred = self.forward(true.src, true.bgr)
            clock.end('forward')
            if self.stage == 'base':
                loss = base_loss(*pred[:3], true.pha, true.fgr)['total']
            else:
                loss = refine_loss(*pred[:5], true.pha, true.fgr)['total']
        clock.end('loss')
        self.scaler.scale(loss).backward()
        clock.end('backward')
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        clock.end('optimizer')
        return loss.detach()


def our_way(stage: str, backbone: str, device: torch.device, dtype: torch.dtype, compiled: bool = False) -> Way:
    """Return our way of a step, without what the loop adds to it: moments of BatchNorm, norms, averages."""
    module = (MattingBase if stage == 'base' else MattingRefine)(backbone)
    module.train().to(device, memory_format=torch.channels_last)
    net = torch.compile(module, dynamic=True) if compiled else module
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, fused=device.type != 'mps')
    forward = autocast_forward(net, device, dtype)  # type: ignore[arg-type]
    return Way(stage, module, optimizer, make_scaler(device, dtype), forward, contextlib.nullcontext)


def published_way(stage: str, backbone: str, device: torch.device, dtype: torch.dtype) -> Way:
    """Return the published way: NCHW, network and loss under autocast, Adam as it comes, a loss scaler in float16."""
    module = (MattingBase if stage == 'base' else Published)(backbone).train().to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    autocast = partial(torch.autocast, device.type, dtype, enabled=dtype is not torch.float32)

    def forward(src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
        return module(src.contiguous(), bgr.contiguous())

    return Way(stage, module, torch.optim.Adam(module.parameters(), 1e-4), scaler, forward, autocast)


class Trainer:
    """The steps of `train_base.py` or `train_refine.py` themselves, as for a command line; nothing is written.

    Args:
        stage: 'base' or 'refine'.
        device: where.
        words: flags of the script; those left out are at their defaults.
    """

    def __init__(self, stage: str, device: torch.device, *words: str):
        script = importlib.import_module(f'train_{stage}')
        scratch = ['--from-scratch'] if stage == 'refine' else []
        args = script.parse([
            '--dataset-name', 'synthetic', '--model-name', 'benchmark', '--device', device.type, '--dry-run', *scratch,
            *words,
        ])  # fmt: skip
        self.run: Run = script.make_run(args, Ranks(device))
        self.run.state.module.train()
        self.bad_steps, self.meter = BadSteps(self.run.state), Meter(device)

    @property
    def plan(self) -> SamplingPlan:
        """The samples of the run's steps."""
        return self.run.batches.plan  # type: ignore[attr-defined]

    def step(self, batch: Batch) -> Tensor:
        """Make a step and return its loss, on the device."""
        batches = copied_ahead([batch], self.run.ranks.device)
        return _train_step(self.run, batches, self.bad_steps, self.meter).losses['total']


def noise_batches(plan: SamplingPlan, count: int, pin: bool, crop: tuple[int, int] | None = None) -> list[Batch]:
    """Return batches of noise with the augmentation and the crops of a run's first steps, or with one crop (H, W)."""
    batches = []
    for i in range(count):
        height, width = crop or plan.crop(i)
        samples = [replace(sample, height=height, width=width) for sample in plan.step(i)]
        mattes, backgrounds = (_noise(len(samples), height, width, channels) for channels in (4, 3))
        batch = Batch(mattes, backgrounds, Draws.from_samples(samples), samples, ['noise'] * len(samples), [])
        batches.append(batch.pin_memory() if pin else batch)
    return batches


def _noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)
