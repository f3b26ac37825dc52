"""CUDA devices that are not there: tensors say 'cuda:N' and keep their values in the computer's memory.

    with simulated_cuda(2) as ledger:
        x = torch.ones(3, device='cuda:1')
        with ledger.forbid_waits():
            y = x * 2  # `x + torch.ones(3)` raises, and so does `y.item()`: the host would wait

Whatever asks for cuda inside gets it: factories, `.to`, autocast, scalers, generators, pinned memory, streams, events
and graphs. What a GPU may forgive by chance is an error for certain. Copies without waiting into pinned memory arrive
when the host waits for something that is ordered after them; before that the memory holds garbage. A tensor that is
used on a stream which is not ordered after the one that wrote it is refused, as are pinned memory that changes under a
copy, and memory that is freed and taken again while another stream may still use it. A graph's results are garbage
until it is replayed, and a replay reads the very memory that the capture read.

Not simulated: rounding, speed and random numbers of a GPU, `torch.compile`, Triton, and devices that get mixed within a
backward pass, where C++ makes tensors by itself.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from types import SimpleNamespace

import torch
import torch._dynamo  # before anything is patched
from torch.utils import _foreach_utils

from . import simulated_graphs as graphs
from . import simulated_streams as streams
from .simulated_streams import cuda, index_of
from .simulated_tensors import Mode, SimulatedTensor


class Generator(torch.Generator):
    """A generator of the CPU that may say that it is of a device."""

    device = property(lambda self: self.where)

    def __new__(cls, device='cpu'):
        self = super().__new__(cls)
        self.where = torch.device(device)
        if self.where.type == 'cuda':
            self.where = torch.device('cuda', index_of(device))
        return self

    def __init__(self, device='cpu'):
        pass


class Autocast(torch.autocast):
    """Autocast of the CPU, which is what C++ knows."""

    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        if device_type == 'cuda':
            device_type, dtype = 'cpu', dtype or torch.float16
        super().__init__(device_type, dtype, enabled, cache_enabled)


def group_by_device(group, lists, with_indices=False):
    """Group tensors for a fused operation by the device that they say."""
    found = group(lists, with_indices).items()
    return {(next(x for x in parts[0][0] if x is not None).device, key[1]): parts for key, parts in found}


def drawing(function):
    """Let a function refuse generators of other devices."""

    @functools.wraps(function)
    def checked(*args, generator=None, device=None, **kwargs):
        if generator is not None and generator.device.type != torch.device(device or 'cpu').type:
            raise RuntimeError(f'{function.__name__}: a generator of {generator.device} draws for {device or "cpu"}')
        return function(*args, generator=generator, device=device, **kwargs)

    return checked


def patches():
    """Yield (owner, name, value) of all that torch asks about devices."""
    c, nothing = torch.cuda, lambda *_, **__: None
    numbers = SimpleNamespace(name='simulated', total_memory=8 << 30, major=9, minor=0, multi_processor_count=1)
    run_thread, group = threading.Thread.run, torch._C._group_tensors_by_device_and_dtype

    def run_in_mode(self):
        with Mode():
            run_thread(self)

    def exchange(index):
        before = cuda.device
        if index >= 0:
            cuda.set_device(index)
        return before

    def restore(index):
        before, cuda.local.device = cuda.device, index if index >= 0 else cuda.device
        return before

    for owner in (c, c.graphs):
        yield owner, 'CUDAGraph', graphs.CUDAGraph
        yield owner, 'graph', graphs.graph
        yield owner, 'graph_pool_handle', lambda: (id(object()), 0)
        yield owner, 'is_current_stream_capturing', lambda: cuda.streams[cuda.device].is_capturing()
    stream_now = lambda device=None: cuda.streams[index_of(device)]  # noqa: E731
    for name, value in {
        '_lazy_init': nothing, 'is_available': lambda: True, 'is_initialized': lambda: True,
        'device_count': lambda: cuda.count, 'current_device': lambda: cuda.device, 'set_device': cuda.set_device,
        '_exchange_device': exchange, '_maybe_exchange_device': restore, 'synchronize': cuda.synchronize,
        'Stream': streams.Stream, 'Event': streams.Event, 'stream': streams.on_stream, 'current_stream': stream_now,
        'StreamContext': streams.on_stream, 'default_stream': lambda device=None: cuda.default[index_of(device)],
        'set_stream': streams.set_stream,
        'is_bf16_supported': lambda including_emulation=True: True, 'get_device_name': lambda *_: numbers.name,
        'get_device_properties': lambda *_: numbers, 'get_device_capability': lambda *_: (9, 0),
        'empty_cache': nothing, 'reset_peak_memory_stats': nothing, 'max_memory_allocated': lambda *_: 0,
        'memory_allocated': lambda *_: 0, 'max_memory_reserved': lambda *_: 0, 'memory_reserved': lambda *_: 0,
        'mem_get_info': lambda *_: (8 << 30, 8 << 30), 'manual_seed_all': nothing, 'manual_seed': nothing,
    }.items():  # fmt: skip
        yield c, name, value
    for name, value in {
        'is_available': lambda: True, 'current_accelerator': lambda *_, **__: torch.device('cuda'),
        'current_device_index': lambda: cuda.device, 'set_device_index': cuda.set_device, 'current_stream': stream_now,
        'synchronize': cuda.synchronize,
    }.items():  # fmt: skip
        yield torch.accelerator, name, value
    yield torch.amp.autocast_mode, 'is_autocast_available', lambda device_type: True
    yield torch, 'autocast', Autocast
    yield torch, 'Generator', Generator
    for name in ('rand', 'randn', 'randint', 'randperm'):
        yield torch, name, drawing(getattr(torch, name))
    yield torch._C, '_group_tensors_by_device_and_dtype', functools.partial(group_by_device, group)
    yield _foreach_utils, '_foreach_supported_types', [torch.Tensor, SimulatedTensor]
    yield threading.Thread, 'run', run_in_mode


@contextlib.contextmanager
def simulated_cuda(count=1):
    """Let there be `count` CUDA devices within the block; yields the ledger of what happens on them."""
    ledger = cuda.start(count)
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    only_lift = torch._C._only_lift_cpu_tensors()
    found = [(owner, name, getattr(owner, name), value) for owner, name, value in patches()]
    torch._C._ensureCUDADeviceGuardSet()  # or C++ asks the driver which device 'cuda' is
    try:
        for owner, name, _, value in found:
            setattr(owner, name, value)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` makes them there, and copies
        with Mode(), torch.autograd.set_multithreading_enabled(False):
            yield ledger
        for stream in cuda.everything:  # whatever was not waited for has had its time
            cuda.reach(stream.clock)
    finally:
        torch._C._set_only_lift_cpu_tensors(only_lift)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        for owner, name, value, _ in reversed(found):
            setattr(owner, name, value)
