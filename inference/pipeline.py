"""Stages that run ahead of each other on threads, to decode, compute and encode at the same time.

Pillow, OpenCV and torch release Python's lock while they work, so threads are enough and pixels are never copied
between processes. A stage is a plain function from one item to one result:

    with Pipeline() as pipeline:
        loaded = pipeline.ahead(load, jobs, threads=4)
        computed = (compute(item) for item in loaded)         # in the calling thread
        for done in pipeline.ahead(write, computed, threads=4):
            ...

With one thread a stage handles its items strictly in order, which is what reading and writing a video needs.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from common.signals import interruption

Item = TypeVar('Item')
Result = TypeVar('Result')


class Pipeline:
    """The owner of the stages' threads.

    Leaving the block, for whatever reason, drops what has not started and waits for what has, so that no file is left
    half written. Nothing hangs, since no stage ever waits for another one's queue.
    """

    def __init__(self) -> None:
        self._pools: list[ThreadPoolExecutor] = []

    def __enter__(self) -> Pipeline:
        interruption.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with ExitStack() as stack:  # the first pool is shut down last, and all are
            stack.callback(interruption.end, failed=kind is not None)
            for pool in self._pools:
                stack.callback(pool.shutdown, wait=True, cancel_futures=True)

    def ahead(
        self, work: Callable[[Item], Result], items: Iterable[Item], threads: int, depth: int | None = None
    ) -> Iterator[Result]:
        """Run a stage ahead of its consumer.

        Args:
            work: the stage. What it raises is raised here, when its turn comes.
            items: consumed in the thread that iterates over the result, `depth` ahead at most.
            threads: how many items are worked on at the same time.
            depth: how many items are in flight or waiting to be taken, which bounds the memory; threads + 1 if
                left out, so that no thread waits for the consumer.

        Returns:
            The results, in the order of the items.
        """
        pool = ThreadPoolExecutor(threads, thread_name_prefix=getattr(work, '__name__', 'stage'))
        self._pools.append(pool)
        return _in_order(pool, work, items, depth or threads + 1)

    def reading(self, items: Iterable[Item], depth: int) -> Iterator[Item]:
        """Iterate on a thread of its own, `depth` items ahead of the consumer at most."""
        iterator, end = iter(items), object()

        def read(_: None) -> object:
            return next(iterator, end)

        ahead = self.ahead(read, itertools.repeat(None), 1, depth)
        return itertools.takewhile(lambda item: item is not end, ahead)  # type: ignore[arg-type]


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(work, item))
        del item  # pictures are large: the stage alone holds it now
        # What is done is handed on at once: a failed write ends the run now and not `depth` pictures later.
        if len(running) >= depth or running[0].done():
            yield running.popleft().result()
        interruption.check()
    while running:
        yield running.popleft().result()
        interruption.check()


def batches(items: Iterable[Item], size: Callable[[Any], int], key: Callable[[Item], Hashable]) -> Iterator[list[Item]]:
    """Group neighbours of equal key, at most `size(key)` together, which is asked anew for each group."""
    for value, group in itertools.groupby(items, key):
        while batch := list(itertools.islice(group, size(value))):
            yield batch


class Recent(Generic[Result]):
    """The last few results of a slow function, by key; threads that want the same one share a single call."""

    def __init__(self, capacity: int, make: Callable[[Any], Result]):
        self._capacity, self._make = capacity, make
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Future[Result]] = OrderedDict()

    def get(self, key: Hashable) -> Result:
        """Return the result for `key`; what the function raises goes to all who wait, and is not kept."""
        with self._lock:
            known = self._kept.pop(key, None)
            self._kept[key] = future = known or Future()
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        if known is None:
            try:
                future.set_result(self._make(key))
            except BaseException as error:
                with self._lock:  # the next one to ask tries again
                    if self._kept.get(key) is future:
                        del self._kept[key]
                future.set_exception(error)
        return future.result()
