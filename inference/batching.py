"""Batches on their way through the network, of pictures as of frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .pipeline import batches

if TYPE_CHECKING:
    from torch import Tensor

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


def compute_batches(
    items: Iterable[Item],
    matting: Matting,
    size: int,
    kinds: Collection[str],
    spread: Callable[..., Iterator[tuple[list[Item], Pending | None]]] = map,
    failed: Callable[[Item, Exception], Item] | None = None,
) -> Iterator[tuple[Item, Pending | None, int]]:
    """Start each batch of neighbours of one size on the device.

    Args:
        items: loaded pictures; those without inputs pass through.
        matting: the network.
        size: of a batch, at most.
        kinds: of outputs; 'err' and 'ref' are computed only if they are among these.
        spread: `map`, or a function with the same arguments that works on several batches at once.
        failed: returns what becomes of an item whose batch cannot be computed, or raises the error again; so does None.

    Yields:
        The item without its inputs, the result of its batch (None if nothing is computed), and its index in that; in
        the order of the items.
    """
    start = partial(_start, matting=matting, kinds=kinds, failed=failed)
    grouped = batches(items, size, key=lambda item: item.inputs and item.inputs[0].shape)
    for batch, pending in spread(start, grouped):
        yield from ((item, pending, i) for i, item in enumerate(batch))


def _start(
    batch: list[Item], matting: Matting, kinds: Collection[str], failed: Callable[[Item, Exception], Item] | None
) -> tuple[list[Item], Pending | None]:
    inputs = [item.inputs for item in batch if item.inputs]
    done = [replace(item, inputs=None) for item in batch]
    if not inputs:
        return done, None
    try:
        srcs, plates = zip(*inputs)
        return done, matting.submit(srcs, plates, 'err' in kinds, 'ref' in kinds)
    except (ValueError, MemoryError, RuntimeError) as error:
        if failed is None:
            raise
        return [failed(item, error) for item in done], None
