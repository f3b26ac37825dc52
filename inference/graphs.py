"""CUDA graphs: what a network does to pictures of one size, recorded once and then started as a whole.

A forward pass is hundreds of small operations, which a fast GPU finishes sooner than the CPU can start them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from common.console import say
from common.devices import on_device

# Takes pictures that are stacked, and what else there is; starts operations of fixed shapes, and waits for none.
Work = Callable[..., Any]

MOST_GRAPHS = 4  # each keeps its inputs and results, by arithmetic 150 MB for 8 pictures of HD; the rest is shared
MOST_SEEN = 64  # keys that are remembered until they come again
RECORDING = threading.Lock()  # a process can record one graph at a time


def stacked(pictures: Sequence[Tensor], device: torch.device) -> Tensor:
    """Put pictures (H, W, 3) of one size on a device, in one batch (B, H, W, 3); a single one is not copied again."""
    moved = [x.to(device, non_blocking=True) for x in pictures]
    return torch.stack(moved) if len(moved) > 1 else moved[0][None]


@contextmanager
def in_default_stream(device: torch.device) -> Iterator[torch.cuda.Stream | None]:
    """Start on a GPU, and in its default stream, what this thread starts inside the block; other devices need nothing.

    It comes after what the caller has started there before, and before what the caller starts afterwards. Yields the
    caller's stream if that is another one.
    """
    if device.type != 'cuda':
        yield None
        return
    with on_device(device):
        callers, default = torch.cuda.current_stream(), torch.cuda.default_stream()
        if callers == default:
            yield None
            return
        default.wait_stream(callers)
        try:
            with torch.cuda.stream(default):
                yield callers
        finally:
            callers.wait_stream(default)


class _Graph:
    """A recorded computation, with the memory that it reads and writes."""

    def __init__(self, work: Work, pictures: Tensor, kept: Sequence[Tensor], stream: torch.cuda.Stream, pool: Any):
        self._pictures, self._static = pictures.clone(), [x.clone() for x in kept]
        self._kept = kept
        stream.wait_stream(torch.cuda.current_stream())
        self._graph = torch.cuda.CUDAGraph()
        with RECORDING, torch.cuda.stream(stream):  # left also where the end of a failed recording raises
            # Libraries choose their algorithms, and take the working memory of this stream.
            work(self._pictures, *self._static)
            # Other threads go on to take pinned memory and to wait for events, which 'global' would forbid them.
            with torch.cuda.graph(self._graph, pool, stream, capture_error_mode='thread_local'):
                self.results = work(self._pictures, *self._static)
        torch.cuda.current_stream().wait_stream(stream)

    def replay(self, pictures: Sequence[Tensor], kept: Sequence[Tensor]) -> Any:
        for held, new in zip(self._pictures, pictures):
            held.copy_(new, non_blocking=True)
        if any(new is not old for new, old in zip(kept, self._kept)):
            for held, new in zip(self._static, kept):
                held.copy_(new, non_blocking=True)
            self._kept = kept
        self._graph.replay()
        return self.results


class Graphs:
    """The recorded computations of a predictor on one GPU.

    What comes once is computed without; from the second time on it is recorded, which takes as long as some batches.
    All share their working memory, since one runs after the other. A full table is emptied as a whole, so that this
    memory goes back, too; and only for a size that comes twice in a row, or pictures of many sizes in any order would
    be recorded more often than computed. A size for which there is no memory is computed without from then on, and all
    are where recording fails for another reason.
    """

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._graphs: dict[Hashable, _Graph] = {}
        self._pool: Any = None
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._last: Hashable = None
        self._works = True
        self._too_large: set[Hashable] = set()

    def run(self, key: Hashable, work: Work, pictures: Sequence[Tensor], kept: Sequence[Tensor] = ()) -> Any:
        """Return `work(stacked(pictures), *kept)`.

        Always call it in the same stream, and no second time before copying the results has been started there.

        Args:
            key: equal for equal work on `kept` of equal shapes.
            work: what to compute.
            pictures: of one size, on the CPU or the GPU.
            kept: on the GPU; the same tensors hold the same values every time.

        Returns:
            The results, which the next call may overwrite.
        """
        key = key, len(pictures), pictures[0].shape, pictures[0].dtype
        in_a_row, self._last = self._last == key, key
        graph = self._graphs.get(key)
        if graph is None and self._worth_recording(key, in_a_row):
            graph = self._record(key, work, pictures, kept)
        if graph is not None:
            return graph.replay(pictures, kept)
        results = None
        try:
            results = work(stacked(pictures, self._device), *kept)
        except torch.OutOfMemoryError:
            if not self._graphs:
                raise
        if results is None:  # not in the block above, where the error holds all that had been computed
            self._clear()
            torch.cuda.empty_cache()
            results = work(stacked(pictures, self._device), *kept)
        self._seen[key] = None
        if len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        return results

    def _worth_recording(self, key: Hashable, in_a_row: bool) -> bool:
        fits = self._works and key not in self._too_large
        return fits and key in self._seen and (in_a_row or len(self._graphs) < MOST_GRAPHS)

    def _record(self, key: Hashable, work: Work, pictures: Sequence[Tensor], kept: Sequence[Tensor]) -> _Graph | None:
        if len(self._graphs) >= MOST_GRAPHS:
            self._clear()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            self._graphs[key] = _Graph(work, stacked(pictures, self._device), kept, self._stream, self._pool)
            return self._graphs[key]
        except torch.OutOfMemoryError:
            self._too_large.add(key)
        except RuntimeError as error:
            self._works = False
            # The end of a recording that failed raises an error of its own.
            reason = str(error.__context__ or error).strip().partition('\n')[0]
            say(f'note: no CUDA graph could be recorded, so all goes on without: {reason}')
        self._clear()
        return None

    def _clear(self) -> None:
        torch.cuda.current_stream().synchronize()  # none may be freed while it runs
        self._graphs.clear()
        self._pool = None
