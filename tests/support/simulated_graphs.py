"""CUDA graphs of the devices of `simulated_cuda`."""

from __future__ import annotations

import threading

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .simulated_streams import (
    Memory,
    Stream,
    below,
    cuda,
    leaves,
    mapped,
    on_stream,
    project_line,
    refuse_in_capture,
    spoil,
    use,
)


class Place:
    """Where a tensor lies, without keeping its memory; called, it returns the tensor, or None if that is gone."""

    def __init__(self, values):
        self.storage = StorageWeakRef(values.untyped_storage())
        self.dtype, self.where = values.dtype, (values.storage_offset(), values.size(), values.stride())

    def __call__(self):
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        return None if storage is None else torch.empty(0, dtype=self.dtype).set_(storage, *self.where)


class CUDAGraph:
    """Operations of a capture, which are done anew at each replay, on the memory that they were captured with."""

    def __init__(self, keep_graph=False):
        self.reset()

    def reset(self):
        self.nodes, self.own, self.saved = None, {}, {}

    def pool(self):
        return id(self), 0

    def capture_begin(self, pool=None, capture_error_mode='global'):
        self.stream = cuda.streams[cuda.device]
        if self.stream in cuda.default or cuda.capture is not None:
            raise RuntimeError('a graph is captured on a stream that is not the default, and one at a time')
        self.mode, self.thread, self.members = capture_error_mode, threading.get_ident(), {self.stream}
        self.reset()
        self.nodes, self.begun = [], self.stream.launch()
        cuda.capture = self

    def before(self, stream, changed):
        """Check an operation's stream, and keep what the operation changes: a capture computes nothing."""
        if stream.clock.get(self.stream, 0) >= self.begun:
            self.members.add(stream)
        if stream not in self.members:
            raise RuntimeError(f'an operation on a stream that is not captured, at {project_line()}')
        for values in changed:
            storage = values.untyped_storage()
            if storage._cdata not in self.own and storage._cdata not in self.saved:
                self.saved[storage._cdata] = storage, storage.clone()

    def add(self, function, args, kwargs, made):
        """Take in an operation and its results, which are not views."""
        for values in made:
            storage = values.untyped_storage()
            self.own[storage._cdata] = storage
            storage.memory = Memory(self.stream, 0)
        self.nodes.append((function, *mapped(self.packed, (args, kwargs)), made))

    def packed(self, values):
        storage = values.untyped_storage()
        if storage._cdata in self.own:
            return values
        if hasattr(storage, 'memory') or hasattr(storage, 'pinned'):
            return Place(values)
        if values.dim():
            refuse_in_capture('a copy from pageable memory')
        return values.clone()  # what a command holds itself

    def capture_end(self):
        cuda.capture = None
        with below():
            for storage, content in self.saved.values():
                storage.copy_(content)
            for values in [x for *_, made in self.nodes for x in made]:
                spoil(values, values)
        self.saved.clear()

    def replay(self):
        if self.nodes is None:
            raise RuntimeError('the graph holds no capture')
        with cuda.lock, below():
            stream = cuda.streams[self.stream.device_index]
            count = stream.launch()
            cuda.ledger.launches['graph'] += 1
            cuda.ledger.events.append(('replay', stream.device_index))
            for function, args, kwargs, made in self.nodes:
                args, kwargs = mapped(self.found, (args, kwargs), Place)
                given = leaves((args, kwargs))
                for values in given:
                    if hasattr(values.untyped_storage(), 'memory'):
                        use(values, stream, count, False)
                results = leaves(function(*args, **kwargs))
                for old, new in zip(made, [x for x in results if all(x is not y for y in given)], strict=True):
                    use(old, stream, count, True)
                    old.copy_(new)

    @staticmethod
    def found(place):
        values = place()
        if values is None:
            raise RuntimeError('the graph reads memory that was freed after its capture')
        return values


class graph:
    """Capture the block."""

    def __init__(self, cuda_graph, pool=None, stream=None, capture_error_mode='global', **_):
        self.graph, self.pool, self.mode, self.stream = cuda_graph, pool, capture_error_mode, stream

    def __enter__(self):
        cuda.synchronize()
        self.within = on_stream(self.stream or Stream())
        self.within.__enter__()
        self.graph.capture_begin(self.pool, self.mode)

    def __exit__(self, *error):
        self.graph.capture_end()
        if error[0] is not None:
            self.graph.reset()
        self.within.__exit__(*error)
