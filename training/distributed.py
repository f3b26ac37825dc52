"""Where a run computes: device, precision, and the processes of several GPUs."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.devices import choose_device, cores
from common.rendezvous import POLL_SECONDS, join
from common.signals import STOPS, StopSignals, signal_name

from .batch_norm import NormOverRanks

log = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
T = TypeVar('T')


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those of the run, its device, and where ranks leave notes for each other."""

    device: torch.device
    rank: int = 0
    world: int = 1
    store: dist.Store | None = None
    launcher: int | None = None
    _turns: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def orphaned(self) -> bool:
        """Whether the process that launched the ranks has ended, so that nobody could end them."""
        return self.launcher is not None and self.launcher != os.getppid()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, logs and prints."""
        return self.rank == 0

    @property
    def first_of_machine(self) -> bool:
        """Whether this is the process that looks at its machine's files."""
        return os.environ.get('LOCAL_RANK', '0') == '0'

    def agree(self, *flags: float) -> list[float]:
        """Return the largest value of each flag over all ranks. Waits for the device."""
        table = torch.tensor(flags, dtype=torch.float64, device='cpu' if self.world == 1 else self.device)
        if self.world > 1:
            dist.all_reduce(table, dist.ReduceOp.MAX)
        return table.tolist()

    def told_by_first(self, code: int = 2, seconds: float = 10) -> int:
        """Note that this rank fails, with what exit code; return the first one's if it fails too and says why, else 0.

        Args:
            code: 2 or TRY_AGAIN.
            seconds: that the first one is waited for.
        """
        if self.store is None:
            return 0
        try:
            if self.first:
                self.store.set('failed', str(code))
                # The store may be this process's, and asking one that is gone prints a page.
                self._see([f'heard by {rank}' for rank in range(1, self.world)], seconds=3)
                return 0
            told = self._see(['failed'], seconds)
            self.store.set(f'heard by {self.rank}', '')
            return int(self.store.get('failed')) if told else 0
        except RuntimeError:
            return code  # it has ended, and the store with it

    def _see(self, keys: list[str], seconds: float) -> bool:
        """Wait for notes of other ranks; the store's own waiting prints warnings."""
        assert self.store is not None
        deadline = time.monotonic() + seconds
        while not (found := self.store.check(keys)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return found

    def in_turn(self, function: Callable[[], Any]) -> Any:
        """Call a function on the first rank, then on the others, which find done what it did, however long it took.

        They wait for a note, since a barrier gives up after minutes: NCCL's after 10.
        """
        if self.store is None:
            return function()
        turn = f'turn {next(self._turns)}'
        while not (self.first or self.store.check([turn])):
            if self.store.check(['failed']) and self.told_by_first():
                raise dist.DistError(PEER)
            time.sleep(POLL_SECONDS)
        result = function()
        if self.first:
            self.store.set(turn, '')
        return result

    def wait_for_first(self) -> None:
        """Wait on all ranks until the first has come here, however long it takes, and all have seen it."""
        self.in_turn(lambda: None)
        if self.world > 1:
            dist.barrier()  # the store may be the first rank's

    def from_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first rank alone, and return on all what it returns; tensors on the CPU."""
        if self.world == 1:
            return function()
        value = self.in_turn(lambda: function() if self.first else None)
        # Tensors go one by one: a pickle of gigabytes is held four times.
        tensors: list[Tensor] = []
        sent: list[Any] = [_pickled(value, tensors), [(tensor.shape, tensor.dtype) for tensor in tensors]]
        dist.broadcast_object_list(sent, 0)
        for i, (shape, dtype) in enumerate(sent[1]):
            tensor = tensors[i] if self.first else torch.empty(shape, dtype=dtype)
            tensor = tensor.detach().to(self.device).contiguous()
            dist.broadcast(tensor, 0)
            if not self.first:
                tensors.append(tensor.cpu())
        return cast(T, value if self.first else _unpickled(sent[0], tensors))

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def build(self, make: Callable[[], nn.Module]) -> Any:
        """Make a network on this rank's device; the first rank begins, so that weights are downloaded once."""
        # Convolutions are 1.1 to 1.2 times as fast in this layout on a CPU.
        return self.in_turn(make).to(device=self.device, memory_format=torch.channels_last)

    def share_buffers(self, module: nn.Module) -> None:
        """Copy the first rank's buffers to all: a step that one rank left out alone has made them differ."""
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

    A signal is passed on, so that every rank saves, however long that takes; repeats of the next seconds count as the
    same one, and a later one kills the ranks. When one rank fails the others are ended, too, and killed if they are
    there 30 seconds later.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, start_processes

    # What the launcher logs of a rank that failed is a traceback of its own: the rank has said what was wrong.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith('torch.distributed.elastic'):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # The ranks find each other through a store of this process, which outlives each of them.
    store = dist.TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    shared = {
        'MASTER_ADDR': 'localhost', 'MASTER_PORT': f'{store.port}', 'TORCHELASTIC_USE_AGENT_STORE': 'True',
        'WORLD_SIZE': f'{count}', 'LOCAL_WORLD_SIZE': f'{count}',
    }  # fmt: skip
    environments = {rank: {**shared, 'RANK': f'{rank}', 'LOCAL_RANK': f'{rank}'} for rank in range(count)}
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, cores() // count)))
    os.environ['TORCHELASTIC_SIGNALS_TO_HANDLE'] = ''  # it would answer by an exception, and a second one ends all
    ranks: PContext | None = None
    send = getattr(os, 'killpg', os.kill)  # each rank leads a group of its own, but on Windows

    def pass_on(number: int) -> None:
        for rank in () if ranks is None else ranks.pids().values():
            with contextlib.suppress(ProcessLookupError):
                send(rank, number)

    signals = StopSignals(pass_on, insist=lambda _: pass_on(signal.SIGKILL), numbers=STOPS)
    # The launcher wants a folder for logs, of which there are none.
    with tempfile.TemporaryDirectory() as logs, signals:
        arguments = dict.fromkeys(range(count), tuple(command))
        ranks = start_processes('ranks', sys.executable, arguments, environments, DefaultLogsSpecs(logs))
        signals.catch()  # versions of torch that do not ask the environment have taken them
        if signals.number:
            pass_on(signals.number)
        result = ranks.wait(period=0.2)
    if signals.number:
        return signals.exit_code
    failures = result.failures.values() if result else ()
    if not failures:
        return 0
    first = min(failures, key=lambda failure: failure.timestamp)
    if first.exitcode < 0:
        print(f'error: rank {first.local_rank} was killed by {signal_name(-first.exitcode)}', file=sys.stderr)
    return first.exitcode if first.exitcode >= 0 else 128 - first.exitcode


def _pickled(value: Any, tensors: list[Tensor]) -> bytes:
    """Pickle a value without its tensors, which are appended to `tensors`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, part: Any) -> int | None:
            if not isinstance(part, Tensor):
                return None
            tensors.append(part)
            return len(tensors) - 1

    Pickler(content := io.BytesIO()).dump(value)
    return content.getvalue()


def _unpickled(content: bytes, tensors: Sequence[Tensor]) -> Any:
    """Undo `_pickled`."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number: int) -> Tensor:
            return tensors[number]

    return Unpickler(io.BytesIO(content)).load()


PEER = 'another rank has ended or cannot be reached; what it printed says why'


def is_of_peer(error: BaseException) -> bool:
    """Return whether an error says that another rank has ended, or cannot be reached: not what went wrong there."""
    return isinstance(error, dist.DistError) or (dist.is_initialized() and 'gloo' in str(error))


def join_ranks(device: str) -> Ranks:
    """Join the process group that torchrun or `launch` describes in the environment, if any.

    Raises:
        ValueError: the device asked for is not there.
    """
    chosen = choose_device(device)
    world = int(os.environ.get('WORLD_SIZE', '1'))
    if chosen.type == 'cuda':
        if world > 1:
            chosen = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')))
        torch.cuda.set_device(chosen)
    if world == 1:
        return Ranks(chosen)
    # NCCL is missing on Windows, where gloo carries the gradients of GPUs too, slower.
    backend = 'nccl' if chosen.type == 'cuda' and dist.is_nccl_available() else 'gloo'
    store, rank, size = join()
    gpu = chosen if backend == 'nccl' else None
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=gpu)
    return Ranks(chosen, rank, world, store, os.getppid())


def leave_ranks() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def distribute(module: nn.Module, ranks: Ranks, compiled: bool = False) -> nn.Module:
    """Wrap a module for training: synchronised BatchNorm and averaged gradients over ranks, compiled if asked.

    The module itself shares all parameters and buffers with what is returned.
    """
    net = module
    if ranks.world > 1:
        for layer in module.modules():
            if type(layer) is nn.BatchNorm2d:  # not one that is frozen
                layer.__class__ = NormOverRanks
        devices = [ranks.device.index] if ranks.device.type == 'cuda' else None
        # Buffers need no broadcast: each rank computes them from the same table. torch 2.15 calls that otherwise.
        known = inspect.signature(DistributedDataParallel).parameters
        off: Any = {'forward_sync_buffers' if 'forward_sync_buffers' in known else 'broadcast_buffers': False}
        net = DistributedDataParallel(net, device_ids=devices, gradient_as_bucket_view=True, **off)
    if compiled:
        # Sides that happen to be equal would be taken for one, and the next crop be compiled for anew.
        torch.fx.experimental._config.use_duck_shape = False
        net = torch.compile(net, dynamic=True)  # type: ignore[assignment]
    return net


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
