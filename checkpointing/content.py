"""What a checkpoint holds, how that leaves a GPU, and the names of its files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.devices import on_device

from .record import Record

# Tensors of a GPU that together have no more bytes leave it in one copy.
JOINED_BYTES = 4 << 20


@dataclass(frozen=True)
class Content:
    """The content of a checkpoint: weights, the rest of the training state, averaged weights or None.

    Its tensors may be on any device and in any memory layout.
    """

    weights: dict[str, torch.Tensor]
    state: dict[str, Any]
    ema: dict[str, torch.Tensor] | None = None

    def parts(self) -> dict[str, Any]:
        """Return the content of each file, in the order in which the files are written.

        The state first: a weight file without a record but beside a state is a half-written checkpoint, and may be
        replaced; one without either is somebody's. Weights have the memory layout that other tools expect.
        """
        parts = {'state': self.state}
        for kind, weights in {'ema': self.ema, 'weights': self.weights}.items():
            if weights is not None:
                parts[kind] = {name: tensor.contiguous() for name, tensor in weights.items()}
        return parts

    def on_its_way(self) -> HostCopy | None:
        """Return a copy that leaves the device, of which the tensors load everywhere; None if all is on the CPU."""
        return HostCopy(vars(self)) if any(t.device.type != 'cpu' for t in _tensors(vars(self))) else None


class HostCopy:
    """A copy of tensors in the computer's memory, which those of a GPU reach while the caller goes on.

    The copies are enqueued on the stream of the operations to come, so they read the values of now, whatever changes
    the tensors later. They take no memory of the GPU but `JOINED_BYTES`, and none where it is full.

    Args:
        content: tensors in dictionaries, to any depth; what else is in them stays as it is.
    """

    def __init__(self, content: dict[str, Any]):
        self._content = content
        self._copies = {id(t): t.clone() for t in _tensors(content) if t.device.type == 'cpu'}
        sources = ((t, _dense(t.detach())) for t in _tensors(content) if t.device.type != 'cpu')
        # In an order in which each begins at a multiple of its elements' size.
        self._sources = sorted(sources, key=lambda source: -source[1].element_size())
        self._event: torch.cuda.Event | None = None
        if not self._sources:
            return
        device = self._sources[0][1].device
        cuda, begin = device.type == 'cuda', 0
        self._buffer = _host_memory(sum(t.nbytes for _, t in self._sources), cuda)
        for part in _joined(t.as_strided((t.numel(),), (1,)).view(torch.uint8) for _, t in self._sources):
            self._buffer[begin : begin + len(part)].copy_(part, non_blocking=cuda)
            begin += len(part)
        if cuda:
            self._event = torch.cuda.Event(blocking=True)
            self._event.record(torch.cuda.current_stream(device))

    def arrived(self) -> dict[str, Any]:
        """Wait until all is there; return the content, its tensors with their strides and memory of their own."""
        if self._event is not None:
            with on_device(self._sources[0][1].device):  # a thread would open the first GPU, too
                self._event.synchronize()
        begin = 0
        for original, t in self._sources:
            # By NumPy, since torch.save would write the whole buffer for a slice of torch's.
            part = torch.from_numpy(self._buffer.numpy()[begin : begin + t.nbytes])
            self._copies[id(original)] = part.view(t.dtype).as_strided(t.shape, t.stride())
            begin += t.nbytes
        return _replaced(self._content, self._copies)


def _host_memory(size: int, pinned: bool) -> torch.Tensor:
    """Return memory of the computer, page-locked if there is so much of that: without, the host waits for the copy."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict):
        for part in content.values():
            yield from _tensors(part)


def _replaced(content: Any, copies: dict[int, torch.Tensor]) -> Any:
    if isinstance(content, dict):
        return {name: _replaced(part, copies) for name, part in content.items()}
    return copies.get(id(content), content)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor if its elements fill its memory, as those of weights do in both layouts, else a copy."""
    layouts = (torch.contiguous_format, torch.channels_last)
    return tensor if any(tensor.is_contiguous(memory_format=f) for f in layouts) else tensor.contiguous()


def _joined(parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield flat tensors in their order, small ones put together; as they are where the GPU has no room for that."""
    group: list[torch.Tensor] = []
    room = JOINED_BYTES
    for part in itertools.chain(parts, [None]):
        if part is not None and len(part) <= room:
            group.append(part)
            room -= len(part)
            continue
        try:
            yield from [torch.cat(group)] if group[1:] else group
        except torch.OutOfMemoryError:
            yield from group
        group, room = ([], JOINED_BYTES) if part is None else ([part], JOINED_BYTES - len(part))


def file_name(name: str, kind: str) -> str:
    """Return the file of a checkpoint that holds its 'weights', 'state' or 'ema'."""
    return f'{name}.pth' if kind == 'weights' else f'{name}.{kind}.pth'


def read_content(folder: Path, record: Record) -> Content:
    """Read a checkpoint that verified, without running code from it."""

    def load(kind: str) -> Any:
        return torch.load(folder / record.files[kind].name, map_location='cpu', weights_only=True)

    return Content(load('weights'), load('state'), load('ema') if 'ema' in record.files else None)


def tensor_bytes(content: Content) -> int:
    """Return the bytes of a content's tensors."""
    return sum(t.nbytes for t in _tensors(vars(content)))
