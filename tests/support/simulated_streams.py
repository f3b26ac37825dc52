"""Streams, events and memory of the devices of `simulated_cuda`, and the ledger of what happened on them."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils._python_dispatch import _disable_current_modes

ROOT = str(Path(__file__).parents[2]) + os.sep
PARTS = __file__.replace('streams.py', '')


@dataclass
class Ledger:
    """What happened on the devices.

    Attributes:
        waits: how often the host waited, by (what, innermost line of the project).
        launches: operations on a device that are no views, by name; a replayed graph is one, 'graph'.
        copies: [count, bytes] by (kind, pinned, non_blocking); the kind is 'H2D', 'D2H', or 'D2H save': pickled.
        events: ('record' | 'synchronize' | 'replay', device index), in order.
        contexts: indices of the devices on which this process has opened a context.
    """

    waits: collections.Counter = field(default_factory=collections.Counter)
    launches: collections.Counter = field(default_factory=collections.Counter)
    copies: dict = field(default_factory=lambda: collections.defaultdict(lambda: [0, 0]))
    events: list = field(default_factory=list)
    contexts: set = field(default_factory=set)
    impatient: collections.Counter = field(default_factory=collections.Counter)

    @contextlib.contextmanager
    def forbid_waits(self):
        """Within the block a wait of this thread is an AssertionError that names its line."""
        self.impatient[threading.get_ident()] += 1
        try:
            yield
        finally:
            self.impatient[threading.get_ident()] -= 1

    def clear(self):
        """Forget what happened."""
        for part in (self.waits, self.launches, self.copies, self.events, self.contexts):
            part.clear()

    def wait(self, what):
        """The host waits."""
        line = project_line()
        self.waits[what, line] += 1
        refuse_in_capture(what)
        if self.impatient[threading.get_ident()]:
            raise AssertionError(f'the host waits for the device: {what} at {line}')

    def copy(self, kind, pinned, non_blocking, size):
        """Bytes go from one memory to the other."""
        entry = self.copies[kind, pinned, non_blocking]
        entry[0] += 1
        entry[1] += size


def project_line():
    """The innermost line of the project, with these files left out."""
    frame = sys._getframe(1)
    while frame and (
        not (name := frame.f_code.co_filename).startswith(ROOT) or name.startswith(PARTS) or '-packages' in name
    ):
        frame = frame.f_back
    return f'{frame.f_code.co_filename.removeprefix(ROOT)}:{frame.f_lineno}' if frame else '?'


class Cuda:
    """The state of all devices. A clock says, by stream, how many of its operations are known to be done."""

    def __init__(self, count=0):
        self.count, self.ledger = count, Ledger()
        self.capture = None  # the graph that is being captured
        self.host: dict[Stream, int] = {}  # the clock of what the host has waited for
        self.pending: list[tuple[Stream, int, object]] = []  # copies under way: what ends them
        self.lock = threading.RLock()
        self.local = threading.local()  # each thread has its current device and streams
        self.default: list[Stream] = []
        self.everything: list[Stream] = []

    def start(self, count):
        """Begin anew, with so many devices."""
        self.__init__(count)
        self.default = [Stream(i) for i in range(count)]
        return self.ledger

    @property
    def device(self):
        """The index of this thread's current device."""
        return getattr(self.local, 'device', 0)

    @property
    def streams(self):
        """The current stream of each device, in this thread."""
        if not hasattr(self.local, 'streams'):
            self.local.streams = list(self.default)
        return self.local.streams

    def set_device(self, device):
        """Make a device this thread's current one, which opens a context there."""
        self.local.device = index_of(device)
        self.ledger.contexts.add(self.device)

    def reach(self, clock):
        """The host has waited until a clock."""
        with self.lock, below():
            merge(self.host, clock)
            done = [finish for stream, count, finish in self.pending if self.host.get(stream, 0) >= count]
            self.pending = [x for x in self.pending if self.host.get(x[0], 0) < x[1]]
            for finish in done:
                finish()

    def synchronize(self, device=None):
        """Wait for all streams of a device."""
        index = index_of(device)
        self.ledger.contexts.add(index)
        self.ledger.wait('torch.cuda.synchronize')
        for stream in self.everything:
            if stream.device_index == index:
                self.reach(stream.clock)

    def capturing(self):
        """The graph that this thread captures, if any."""
        return self.capture if self.capture is not None and self.capture.thread == threading.get_ident() else None


cuda = Cuda()
# A process of a loader is forked while another thread may hold the lock.
os.register_at_fork(after_in_child=lambda: setattr(cuda, 'lock', threading.RLock()))


def leaves(x):
    """Return the tensors of an operation's arguments or results."""
    if isinstance(x, torch.Tensor):
        return [x]
    found = []
    for part in x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ():
        if isinstance(part, (torch.Tensor, list, tuple, dict)):
            found += leaves(part)
    return found


def mapped(function, x, kind=torch.Tensor):
    """Return arguments or results with a function of each tensor in its place."""
    if isinstance(x, kind):
        return function(x)
    nested = (kind, list, tuple, dict)
    if isinstance(x, dict):
        return {k: mapped(function, part, kind) if isinstance(part, nested) else part for k, part in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)([mapped(function, part, kind) if isinstance(part, nested) else part for part in x])
    return x


@contextlib.contextmanager
def below():
    """Compute on the values themselves."""
    with torch.inference_mode(), _disable_current_modes():
        yield


def merge(clock, other):
    for stream, count in other.items():
        clock[stream] = max(clock.get(stream, 0), count)


def index_of(device):
    """The index of a device, or the current one."""
    index = device if device is None or isinstance(device, int) else torch.device(device).index
    index = cuda.device if index is None else index
    if not 0 <= index < cuda.count:
        raise RuntimeError(f'CUDA error: invalid device ordinal: cuda:{index} of {cuda.count}')
    return index


def refuse_in_capture(what):
    """Raise where something would spoil a capture: of this thread, or of any, as that wishes."""
    graph = cuda.capture
    if graph is not None and (graph.mode == 'global' or graph is cuda.capturing()):
        raise RuntimeError(f'operation not permitted when stream is capturing: {what} at {project_line()}')


class Stream:
    """A queue of a device's work."""

    def __init__(self, device=None, priority=0, **_):
        self.device = torch.device('cuda', index_of(device))
        self.device_index, self.cuda_stream = self.device.index, id(self)
        self.clock, self.freed, self.asked = {}, [], False
        cuda.everything.append(self)

    def launch(self):
        """Add an operation, which comes after all that the host has waited for; return its number."""
        merge(self.clock, cuda.host)
        self.clock[self] = self.clock.get(self, 0) + 1
        cuda.ledger.contexts.add(self.device_index)
        return self.clock[self]

    def wait_stream(self, other):
        merge(self.clock, other.clock)

    def wait_event(self, event):
        merge(self.clock, event.clock)

    def record_event(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def query(self):
        return asked(self)

    def synchronize(self):
        cuda.ledger.wait('Stream.synchronize')
        cuda.reach(self.clock)

    def is_capturing(self):
        return cuda.capture is not None and self in cuda.capture.members


def reached(clock):
    return all(cuda.host.get(stream, 0) >= count for stream, count in clock.items())


def asked(one):
    """Tell whether a stream's or an event's work is done: only when asked twice, since a device takes its time."""
    refuse_in_capture('query')
    if not reached(one.clock):
        one.asked = not one.asked
        if one.asked:
            return False
        cuda.reach(one.clock)
    return True


class Event:
    """A point in a stream's work; one that was not recorded is waited for by nobody."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
        self.timing, self.clock, self.asked, self.device, self.time = enable_timing, {}, False, None, None

    def record(self, stream=None):
        stream = cuda.streams[cuda.device] if stream is None else stream
        if self.device not in (None, stream.device):
            raise RuntimeError(f'an event of {self.device} is recorded on a stream of {stream.device}')
        cuda.ledger.events.append(('record', stream.device_index))
        self.device, self.asked, self.time = stream.device, False, stream.launch()
        self.clock = dict(stream.clock)

    def wait(self, stream=None):
        (cuda.streams[cuda.device] if stream is None else stream).wait_event(self)

    def query(self):
        return asked(self)

    def synchronize(self):
        if self.clock:
            cuda.ledger.events.append(('synchronize', self.device.index))
            cuda.ledger.wait('Event.synchronize')
            cuda.reach(self.clock)

    def elapsed_time(self, other):
        """Milliseconds: a hundredth for each operation between."""
        if not (self.timing and other.timing and self.clock and other.clock):
            raise ValueError('both events must be recorded, and made with enable_timing=True')
        if not (reached(self.clock) and reached(other.clock)):
            raise RuntimeError('CUDA error: device not ready')
        return (other.time - self.time) / 100


class Memory:
    """Who used a storage of a device: the stream that allocated it, its last write, the last use by each stream."""

    def __init__(self, stream, count):
        self.stream, self.write, self.uses, self.recorded = stream, (stream, count), {}, set()

    def __del__(self):
        foreign = {s: n for s, n in self.uses.items() if s is not self.stream and s not in self.recorded}
        if foreign:
            self.stream.freed.append(foreign)


def use(values, stream, count, write):
    """Read or write values of a device; raise where nothing orders that after what other streams do to them."""
    storage = values.untyped_storage()
    memory = getattr(storage, 'memory', None)
    if memory is None:
        if any(stream.clock.get(s, 0) < n for uses in stream.freed for s, n in uses.items()):
            raise RuntimeError(f'memory that another stream may still use is taken again, at {project_line()}')
        stream.freed.clear()
        memory = storage.memory = Memory(stream, count)
    if any(stream.clock.get(s, 0) < n for s, n in [memory.write, *(memory.uses.items() if write else ())]):
        raise RuntimeError(f'a tensor is used on a stream that does not wait for another, at {project_line()}')
    memory.uses[stream] = count
    if write:
        memory.write = (stream, count)


def spoil(values, like):
    """Make each value wrong."""
    values.copy_(torch.full_like(like, torch.nan) if like.is_floating_point() else like.bitwise_not())


def set_stream(stream):
    """Make a stream, and its device, the current ones of this thread."""
    if stream.device_index != cuda.device:
        cuda.set_device(stream.device_index)
    cuda.streams[stream.device_index] = stream


@contextlib.contextmanager
def on_stream(stream):
    """Make a stream the current one within the block."""
    if stream is None:
        yield
        return
    before = cuda.streams[cuda.device], cuda.streams[stream.device_index]
    set_stream(stream)
    try:
        yield
    finally:
        set_stream(before[1])
        set_stream(before[0])
