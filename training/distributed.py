"""Where a run computes: device, precision, and the processes of several GPUs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.devices import choose_device, cores

log = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
# The launcher passes these on to its ranks.
SIGNALS = 'SIGTERM,SIGINT,SIGUSR1'
# How long ranks have to save after a signal: they finish the validation under way first. Torch's 30 are too few.
SAVING_SECONDS = 3600


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those of the run, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, logs and prints."""
        return self.rank == 0

    def agree(self, *flags: float) -> list[float]:
        """Return the largest value of each flag over all ranks. Waits for the device."""
        table = torch.tensor(flags, dtype=torch.float64, device='cpu' if self.world == 1 else self.device)
        if self.world > 1:
            dist.all_reduce(table, dist.ReduceOp.MAX)
        return table.tolist()

    def in_turn(self, function: Callable[[], Any]) -> Any:
        """Call a function on the first rank, then on the others, which find done what it did."""
        if not self.first:
            dist.barrier()
        result = function()
        if self.first and self.world > 1:
            dist.barrier()
        return result

    def build(self, make: Callable[[], nn.Module]) -> Any:
        """Make a network on this rank's device; the first rank begins, so that weights are downloaded once."""
        # Convolutions are 1.1 to 1.2 times as fast in this layout on a CPU.
        return self.in_turn(make).to(device=self.device, memory_format=torch.channels_last)

    def share_buffers(self, module: nn.Module) -> None:
        """Copy the first rank's buffers to all: BatchNorm statistics, where they are not synchronised."""
        if self.world == 1:
            return
        floats = [b for b in module.buffers() if b.is_floating_point()]
        flat = torch.cat([b.flatten() for b in floats])
        dist.broadcast(flat, 0)
        for buffer, values in zip(floats, flat.split([b.numel() for b in floats])):
            buffer.copy_(values.view_as(buffer))

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on the CPU."""
        if self.world == 1:
            return values.cpu()
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()


def gpus_to_use(device: str) -> int:
    """Return how many processes a plain `python train_*.py` starts: one a visible GPU; 1 under torchrun."""
    if 'RANK' in os.environ or device not in ('auto', 'cuda'):
        return 1
    return max(1, torch.cuda.device_count())


def launch(command: Sequence[str], count: int) -> int:
    """Run a command once for each of `count` ranks of this machine, by torch's own launcher; return the exit code.

    Signals are passed on, so that every rank saves, however long that takes; a second one ends them at once. When one
    rank fails the others are ended, too, and killed if they are there 30 seconds later.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What the launcher logs of a rank that failed is a traceback of its own: the rank has said what was wrong.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith('torch.distributed.elastic'):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Versions of torch without these pass on SIGTERM and SIGINT alone, and kill ranks after 30 seconds.
    newer: dict[str, Any] = {'signals_to_handle': SIGNALS, 'shutdown_timeout': SAVING_SECONDS}
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, cores() // count)))
    try:
        # The launcher makes a folder for logs, of which there are none, and would leave it behind.
        with tempfile.TemporaryDirectory(prefix='torchelastic_') as logs:
            config = LaunchConfig(
                min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend='c10d',
                rdzv_endpoint='localhost:0', max_restarts=0, monitor_interval=0.2, logs_specs=DefaultLogsSpecs(logs),
                **{name: value for name, value in newer.items() if name in LaunchConfig.__dataclass_fields__},
            )  # fmt: skip
            elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def join_ranks(device: str) -> Ranks:
    """Join the process group that torchrun or `launch` describes in the environment, if any.

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
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def distribute(module: nn.Module, ranks: Ranks, compiled: bool = False) -> nn.Module:
    """Wrap a module for training: synchronised BatchNorm and averaged gradients over ranks, compiled if asked.

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
    """Return the network as a function that computes in `dtype` and returns float32, so that losses are exact."""

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
