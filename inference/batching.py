"""Batches on their way through the network, of pictures as of frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from common.cli import out_of_memory
from common.console import say

from .pipeline import batches

if TYPE_CHECKING:
    from torch import Size, Tensor

    from .matte import Pending
    from .predictor import Matting, Plate


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A picture on its way through the stages.

    Attributes:
        inputs: the picture, and its plate on the device; None once computed, or where nothing is to be computed.
        misfit: why the plate seems not to fit, with the measured differences.
        unaligned: why the plate could not be aligned.
    """

    inputs: tuple[Tensor, Plate] | None = None
    misfit: tuple[str, ...] = ()
    unaligned: str | None = None


Item = TypeVar('Item', bound=Loaded)
Started = tuple[Item, 'Pending | None', int]

# On a GPU. By arithmetic, eight pictures of HD hold 0.8 GB in float16, four of 4K 1.2; in float32 twice that.
MOST_PICTURES, MOST_PIXELS = 8, 2**25


class BatchSize:
    """How many pictures are computed at once: those that were asked for; else one, or what a GPU can take.

    Call it with the shape of a picture, (H, W, 3).
    """

    def __init__(self, given: int | None, matting: Matting):
        if given is None and (matting.device.type != 'cuda' or not matting.memory_factor):
            given = 1
        self._given, self._pixels = given, 0 if given else MOST_PIXELS // matting.memory_factor

    def __call__(self, shape: Size | None) -> int:
        if self._given or shape is None:
            return self._given or 1
        return min(MOST_PICTURES, max(1, self._pixels // (shape[0] * shape[1])))

    def lower(self, count: int, shape: Size) -> bool:
        """Take half of what did not fit into memory from now on; return False where that is no choice."""
        if self._given or count == 1:
            return False
        height, width = shape[:2]
        self._pixels = count * height * width // 2
        say(f'note: {count} pictures of {width}x{height} at once do not fit into memory; going on with {self(shape)}')
        return True


def compute_batches(
    items: Iterable[Item],
    matting: Matting,
    size: int | None,
    kinds: Collection[str],
    spread: Callable[..., Iterator[list[Started[Item]]]] = map,
    failed: Callable[[Item, Exception], Item] | None = None,
) -> Iterator[Started[Item]]:
    """Start each batch of neighbours of one size on the device.

    Args:
        items: loaded pictures; those without inputs pass through.
        matting: the network.
        size: of a batch, at most; None leaves it to the device and to its memory, see `BatchSize`.
        kinds: of outputs; 'err' and 'ref' are computed only if they are among these.
        spread: `map`, or a function with the same arguments that works on several batches at once.
        failed: returns what becomes of an item whose batch cannot be computed, or raises the error again; so does None.

    Yields:
        The item without its inputs, the result of its batch (None if nothing is computed), and its index in that; in
        the order of the items.
    """
    at_once = BatchSize(size, matting)
    start = partial(_start, matting=matting, at_once=at_once, kinds=kinds, failed=failed)
    for started in spread(start, batches(items, at_once, key=lambda item: item.inputs and item.inputs[0].shape)):
        yield from started


def _start(
    batch: list[Item],
    matting: Matting,
    at_once: BatchSize,
    kinds: Collection[str],
    failed: Callable[[Item, Exception], Item] | None,
) -> list[Started[Item]]:
    inputs = [item.inputs for item in batch if item.inputs]
    done = [replace(item, inputs=None) for item in batch]
    if not inputs:
        return [(item, None, i) for i, item in enumerate(done)]
    srcs, plates = zip(*inputs)
    try:
        pending = matting.submit(srcs, plates, 'err' in kinds, 'ref' in kinds)
        return [(item, pending, i) for i, item in enumerate(done)]
    except (ValueError, MemoryError, RuntimeError) as error:
        if not (out_of_memory(error) and at_once.lower(len(batch), srcs[0].shape)):
            if failed is None:
                raise
            return [(failed(item, error), None, i) for i, item in enumerate(done)]
    # Here, since the error holds all that had been computed.
    half = len(batch) // 2
    parts = batch[:half], batch[half:]
    return [started for part in parts for started in _start(part, matting, at_once, kinds, failed)]
