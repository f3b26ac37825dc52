"""Where a run computes: device, precision, and the processes of several GPUs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.devices import choose_device

log = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
# How long ranks get to save and leave once one of them has ended.
GRACE_SECONDS = 30


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, logs and prints."""
        return self.rank == 0

    def agree(self, *flags: float) -> list[float]:
        """The largest value of each flag over all ranks; reads them from the device, and so waits for it."""
        table = torch.tensor(flags, dtype=torch.float64, device='cpu' if self.world == 1 else self.device)
        if self.world > 1:
            dist.all_reduce(table, dist.ReduceOp.MAX)
        return table.tolist()

    def in_turn(self, function: Callable[[], Any]) -> Any:
        """Calls a function on the first rank, then on the others, which find done what it did."""
        if not self.first:
            dist.barrier()
        result = function()
        if self.first and self.world > 1:
            dist.barrier()
        return result

    def share_buffers(self, module: nn.Module) -> None:
        """Gives every rank the first one's buffers: BatchNorm statistics, where they are not synchronised."""
        if self.world == 1:
            return
        floats = [b for b in module.buffers() if b.is_floating_point()]
        flat = torch.cat([b.flatten() for b in floats])
        dist.broadcast(flat, 0)
        for buffer, values in zip(floats, flat.split([b.numel() for b in floats])):
            buffer.copy_(values.view_as(buffer))

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on the CPU."""
        if self.world == 1:
            return values.cpu()
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()


def gpus_to_use(device: str) -> int:
    """Processes that a plain `python train_*.py` starts: one for each visible GPU; 1 inside torchrun."""
    if 'RANK' in os.environ or device not in ('auto', 'cuda'):
        return 1
    return max(1, torch.cuda.device_count())


def launch(command: Sequence[str], count: int) -> int:
    """Runs a command once for each of `count` ranks of this machine and returns its exit code.

    Signals are passed on, so that every rank saves; when one rank fails the others are ended too.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    shared = {**os.environ, 'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(count)}
    children = [
        subprocess.Popen(
            [sys.executable, *command], env={**shared, 'RANK': str(i), 'LOCAL_RANK': str(i)}, start_new_session=True
        )
        for i in range(count)
    ]

    passed_on: list[int] = []

    def pass_on(number: int, _: object = None) -> None:
        passed_on.append(number)
        for child in children:
            child.send_signal(number)

    numbers = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGUSR1') if hasattr(signal, name)]
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        while (codes := [child.poll() for child in children]).count(None) and not any(codes):
            time.sleep(0.2)
        if not passed_on and None in codes:
            pass_on(signal.SIGTERM)
        # A rank that waits for a failed one never gets to see a signal.
        deadline = time.monotonic() + GRACE_SECONDS
        while None in codes and time.monotonic() < deadline:
            time.sleep(0.2)
            codes = [child.poll() for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    first = next((code for code in codes if code), 0)
    return first if first >= 0 else 128 - first


def join_ranks(device: str) -> Ranks:
    """Joins the process group that torchrun or `launch` describes in the environment, if any.

    Raises:
        ValueError: the device asked for is not there.
    """
    chosen = choose_device(device)
    world = int(os.environ.get('WORLD_SIZE', '1'))
    if world == 1:
        return Ranks(chosen)
    if chosen.type == 'cuda':
        chosen = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')))
        torch.cuda.set_device(chosen)
    # NCCL is missing on Windows, where gloo carries the gradients of GPUs too, slower.
    backend = 'nccl' if chosen.type == 'cuda' and dist.is_nccl_available() else 'gloo'
    # After a restart torchrun's store still has the addresses of the processes that died: each start has its own part.
    store, rank, size = next(dist.rendezvous('env://'))
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    dist.init_process_group(backend, store=dist.PrefixStore(f'start {attempt}', store), rank=rank, world_size=size)
    return Ranks(chosen, dist.get_rank(), world)


def leave_ranks() -> None:
    """Leaves the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def distribute(module: nn.Module, ranks: Ranks, compiled: bool = False) -> nn.Module:
    """Wraps a module for training: synchronised BatchNorm and averaged gradients over ranks, compiled if asked.

    BatchNorm is synchronised on GPUs only: torch has no CPU kernel for it. The module itself shares all parameters and
    buffers with what is returned.
    """
    net = module
    if ranks.world > 1:
        if ranks.device.type == 'cuda':
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        devices = [ranks.device.index] if ranks.device.type == 'cuda' else None
        net = DistributedDataParallel(net, device_ids=devices, gradient_as_bucket_view=True)
    return torch.compile(net, dynamic=True) if compiled else net  # type: ignore[return-value]


def autocast_forward(net: nn.Module, device: torch.device, dtype: torch.dtype) -> Forward:
    """The network as a function that computes in `dtype` and returns float32, so that losses are exact."""

    def forward(src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
        # In the layout of the weights: the networks never mix two.
        src, bgr = (x.contiguous(memory_format=torch.channels_last) for x in (src, bgr))
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            outputs = net(src, bgr)
        return tuple(output.float() for output in outputs)

    return forward


def requeue() -> None:
    """Put the SLURM job that this process belongs to back in the queue; say so if that fails."""
    job = os.environ['SLURM_JOB_ID']
    # A task of a job array goes by array id and number.
    if 'SLURM_ARRAY_JOB_ID' in os.environ:
        job = f'{os.environ["SLURM_ARRAY_JOB_ID"]}_{os.environ["SLURM_ARRAY_TASK_ID"]}'
    try:
        subprocess.run(['scontrol', 'requeue', job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, 'stderr', None) or error
        log.error('--requeue: job %s could not be put back in the queue: %s', job, str(reason).strip())
    else:
        log.info('job %s is back in the queue', job)
