"""Tensors of the devices of `simulated_cuda`: which operations they allow, and which of them the host waits for."""

from __future__ import annotations

import functools

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .simulated_graphs import Place
from .simulated_streams import cuda, index_of, leaves, mapped, merge, project_line, refuse_in_capture, spoil, use

aten = torch.ops.aten
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
STAGED = 64 << 10  # bytes: so much of pageable memory a copy takes along at once, without waiting
# The host reads their results' shapes or values.
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.is_nonzero,
    aten.unique_consecutive, aten.equal, aten.bincount, aten.linalg_inv_ex, aten.repeat_interleave,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class SimulatedTensor(torch.Tensor):
    """A tensor of a device that is not there.

    C++ takes it for one of the CPU, since autograd's engine has no queue for such a device.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: self.where)
    is_cuda, is_cpu = property(lambda self: True), property(lambda self: False)

    @staticmethod
    def __new__(cls, values, index):
        self = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype
        )
        self.values, self.where = values, torch.device('cuda', index)
        return self

    def __init__(self, *_):
        pass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def to(self, *args, **kwargs):
        copy = kwargs.pop('copy', False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        more = {} if memory_format is None else {'memory_format': memory_format}
        if device is None or (device.type == 'cuda' and index_of(device) == self.where.index):
            return super().to(dtype=dtype or self.dtype, copy=copy, **more)
        return aten._to_copy(self, dtype=dtype, device=device, non_blocking=non_blocking, **more)

    def cpu(self, memory_format=torch.preserve_format):
        return self.to('cpu', memory_format=memory_format)

    def cuda(self, device=None, non_blocking=False):
        return self.to(torch.device('cuda', index_of(device)), non_blocking=non_blocking)

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {self.where} device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self):
        wait_here(self, 'tolist')
        return self.values.tolist()

    def get_device(self):
        return self.where.index

    def data_ptr(self):
        return self.values.data_ptr()

    def record_stream(self, stream):
        self.values.untyped_storage().memory.recorded.add(stream)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = self.detach().clone()
            copied = torch.nn.Parameter(copied) if isinstance(self, torch.nn.Parameter) else copied
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        cuda.ledger.copy('D2H save', False, False, self.nbytes)
        wait_here(self, 'pickling')
        return self.values.detach().__reduce_ex__(protocol)

    def __repr__(self, **_):
        return f'SimulatedTensor({self.values!r}, {self.where})'


class Mode(TorchDispatchMode):
    """Sees the operations that have no tensor of a device among their arguments."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


@functools.cache
def traits(func):
    """Return whether a function makes a view, which arguments it writes, and whether it only calls others."""
    arguments = func._schema.arguments
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    written = [(i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
    return view, written, torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE.name)


def index_in(x):
    """Return the index of the device that a tensor lies on or a device means; None for the CPU."""
    if isinstance(x, SimulatedTensor):
        return x.where.index
    if x is None or isinstance(x, torch.Tensor):
        return None
    device = torch.device(x)
    return index_of(device) if device.type == 'cuda' else None


def is_pinned(tensor):
    return not isinstance(tensor, SimulatedTensor) and hasattr(tensor.untyped_storage(), 'pinned')


def dense(tensor):
    """Return whether a tensor fills its part of the memory, in any order of its dimensions."""
    return torch.empty_like(tensor, device='meta').stride() == tensor.stride()


def pinned(tensor):
    """Take a new tensor's memory for page-locked. That belongs to no device, but needs a context on some."""
    refuse_in_capture('pinned memory')
    if not cuda.ledger.contexts:
        cuda.set_device(cuda.device)
    tensor.untyped_storage().pinned = True
    return tensor


def wait_here(tensor, what):
    """The host waits for all that the current stream of a tensor's device has to do."""
    stream = cuda.streams[tensor.where.index]
    use(tensor.values, stream, stream.launch(), False)
    cuda.ledger.wait(what)
    cuda.reach(stream.clock)


def dispatch(func, args, kwargs):
    """Run an operation."""
    with cuda.lock:
        return run(func, args, kwargs)


def run(func, args, kwargs):
    packet, (_, _, composite) = func.overloadpacket, traits(func)
    tensors = leaves((args, kwargs))
    ours = [x for x in tensors if isinstance(x, SimulatedTensor)]
    in_backward = torch._C._current_graph_task_id() != -1
    asked_for = index_in(kwargs.get('device'))
    if packet is aten.is_pinned:
        return is_pinned(args[0])
    if packet is aten._pin_memory:
        return pinned(args[0].clone())
    if composite and (ours or asked_for is not None or packet is aten.pin_memory):  # so they come in inference mode
        with Mode():
            return func._op_dk(COMPOSITE, *args, **kwargs)
    if not ours and asked_for is None:
        if kwargs.get('pin_memory'):
            return pinned(func(*args, **{**kwargs, 'pin_memory': False}))
        return func(*args, **kwargs)
    if packet in (aten._to_copy, aten.copy_):
        return transfer(func, args, kwargs, in_backward)
    others = [] if in_backward else [x for x in tensors if not isinstance(x, SimulatedTensor) and x.dim()]
    if packet is aten._foreach_copy_ and (others or len({x.where for x in ours}) > 1):
        for target, source in zip(*args[:2]):
            run(aten.copy_.default, (target, source, *args[2:]), kwargs)
        return None
    if packet not in INDEXING and (len({x.where for x in ours}) > 1 or (ours and others)):
        found = ', '.join(sorted({str(x.device) for x in [*ours, *others]}))
        raise RuntimeError(f'{func}: expected all tensors on one device, found {found}, at {project_line()}')
    if packet in INDEXING:
        if not isinstance(args[0], SimulatedTensor):
            raise RuntimeError(f'{func}: a tensor of the CPU is indexed by one of a GPU, at {project_line()}')
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                wait_here(args[0], f'{packet} by a mask')
            elif index is not None and not isinstance(index, SimulatedTensor) and index.dim():
                wait_here(args[0], f'{packet} by indices of the CPU')
    if packet in WAITING:
        wait_here(ours[0], str(packet).removeprefix('aten.'))
    if kwargs.get('device') is not None:
        if asked_for is None and not in_backward:
            # Such as `zeros_like`: another tensor's shape is all that is taken.
            return func(*(x.values if isinstance(x, SimulatedTensor) else x for x in args), **kwargs)
        kwargs = {**kwargs, 'device': torch.device('cpu')}
    return launch(func, args, kwargs, asked_for if asked_for is not None else ours[0].where.index)


def launch(func, args, kwargs, index):
    """Run an operation on a device."""
    owners = {id(x.values): x for x in leaves((args, kwargs)) if isinstance(x, SimulatedTensor)}
    args, kwargs = mapped(lambda x: x.values, (args, kwargs), SimulatedTensor)
    view, written, _ = traits(func)
    if view:
        out = func(*args, **kwargs)
    else:
        stream, graph = cuda.streams[index], cuda.capturing()
        count = stream.launch()
        cuda.ledger.launches[str(func.overloadpacket).removeprefix('aten.')] += 1
        changed = leaves([args[i] if i < len(args) else kwargs.get(name) for i, name in written])
        changed = {id(x): x for x in changed if id(x) in owners}
        if graph:
            graph.before(stream, changed.values())
        else:
            for key, x in owners.items():
                use(x.values, stream, count, key in changed)
        out = func(*args, **kwargs)
        made = [x for x in leaves(out) if id(x) not in owners]
        if graph:
            graph.add(func, args, kwargs, made)
        else:
            for x in made:
                use(x, stream, count, True)

    def wrapped(x):
        return owners[id(x)] if id(x) in owners else SimulatedTensor(x, index)

    # A view is an inference tensor only if what it is a view of is one.
    if view and torch.is_inference_mode_enabled() and not next(iter(owners.values())).is_inference():
        with torch.inference_mode(False):
            return mapped(wrapped, out)
    return mapped(wrapped, out)


def transfer(func, args, kwargs, in_backward):
    """Copy a tensor to another device or dtype."""
    kwargs = dict(kwargs)
    if func.overloadpacket is aten.copy_:
        target, source = args[:2]
        non_blocking = bool(args[2] if len(args) > 2 else kwargs.get('non_blocking'))
        to = index_in(target)
    else:
        target, source, non_blocking = None, args[0], bool(kwargs.pop('non_blocking', False))
        device = kwargs.pop('device', None)
        # In backward C++ asks for the device that it takes ours for.
        keeps = device is None or (in_backward and isinstance(source, SimulatedTensor))
        to = index_in(source if keeps else device)
    origin = index_in(source)
    if to is None:
        return download(source, target, func, kwargs, non_blocking)
    if origin is None:
        upload(source, to, non_blocking)
    elif origin != to:
        merge(cuda.streams[to].clock, cuda.streams[origin].clock)
    copied = launch(func, args, kwargs, to)
    if origin is None and is_pinned(source) and non_blocking and not cuda.capturing():
        unchanged(source, cuda.streams[to])
    elif origin != to and origin is not None:
        merge(cuda.streams[origin].clock, cuda.streams[to].clock)
    return copied


def upload(source, to, non_blocking):
    """Note a copy to a device."""
    # What does not lie in one piece is copied to pageable memory first.
    locked = is_pinned(source) and dense(source)
    cuda.ledger.copy('H2D', locked, non_blocking, source.nbytes)
    if not non_blocking or (not locked and source.nbytes > STAGED):
        cuda.ledger.wait('H2D copy' + (f' of {source.nbytes >> 10} KiB of pageable memory' if non_blocking else ''))
        cuda.reach(cuda.streams[to].clock)
    elif not locked:
        refuse_in_capture('a copy from pageable memory')


def unchanged(source, stream):
    """Raise, once the host has waited for a copy, if its source was changed before."""
    place, before, line = Place(source), source.clone(), project_line()

    def finish():
        now = place()
        if now is not None and not ((now == before) | (before != before)).all():
            raise RuntimeError(f'pinned memory was changed while it was copied to a device, at {line}')

    cuda.pending.append((stream, stream.clock[stream], finish))


def download(source, target, func, kwargs, non_blocking):
    """Copy from a device to the computer's memory."""
    if target is None:
        layout = kwargs.get('memory_format') or torch.preserve_format
        target = torch.empty_like(source.values, dtype=kwargs.get('dtype') or source.dtype, memory_format=layout)
        target = pinned(target) if non_blocking else target
    later = non_blocking and is_pinned(target) and dense(target)
    cuda.ledger.copy('D2H', is_pinned(target), non_blocking, target.nbytes)
    if not later:
        wait_here(source, 'D2H copy' + ' to pageable memory' * non_blocking)
        return target.copy_(source.values)
    index = source.where.index
    graph = cuda.capturing()
    if graph:
        graph.before(cuda.streams[index], ())
        graph.add(functools.partial(download_later, index), (target, source.values), {}, [])
    else:
        download_later(index, target, source.values)
    return target


def download_later(index, target, values):
    """Let values arrive in pinned memory when the host has waited for them."""
    stream = cuda.streams[index]
    count = stream.launch()
    use(values, stream, count, False)
    now = values.to(target.dtype, copy=True).expand_as(target)
    spoil(target, now)
    cuda.pending.append((stream, count, lambda: target.copy_(now)))
