"""What a set of weights is made of, and how two of them differ, tensor by tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.weights import unusual

STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


@dataclass(frozen=True)
class Difference:
    """A tensor whose values differ.

    Attributes:
        name: of the tensor.
        largest: absolute difference; inf where a number stands against NaN or another infinity.
        relative: the same over the largest finite absolute value in either.
        share: of the values that differ, 0..1.
        counter: whether it holds whole numbers, such as num_batches_tracked.
    """

    name: str
    largest: float
    relative: float
    share: float
    counter: bool = False


@dataclass(frozen=True)
class Comparison:
    """A comparison of two state_dicts.

    Attributes:
        tensors: in both.
        different: those whose values differ, the largest difference first.
        only_first, only_second: names in one only.
        shapes, dtypes: tensors of another shape or dtype, with both in words. Values of other dtypes are compared.
    """

    tensors: int
    different: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shapes: dict[str, tuple[str, str]]
    dtypes: dict[str, tuple[str, str]]

    @property
    def equal(self) -> bool:
        """Whether there is no difference of any kind."""
        return not (self.different or self.only_first or self.only_second or self.shapes or self.dtypes)


@dataclass(frozen=True)
class Summary:
    """Tensors, trained values, BatchNorm statistics, tensors by dtype, and counts of non-finite values by name."""

    tensors: int
    parameters: int
    statistics: int
    dtypes: dict[str, int]
    non_finite: dict[str, int]


def compare(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Comparison:
    """Compare two state_dicts in float64; NaN equals NaN, and an infinity itself."""
    both = [name for name in first if name in second]
    pairs = {name: (first[name], second[name]) for name in both}
    shapes = {k: (str(list(a.shape)), str(list(b.shape))) for k, (a, b) in pairs.items() if a.shape != b.shape}
    dtypes = {k: (_dtype(a), _dtype(b)) for k, (a, b) in pairs.items() if a.dtype != b.dtype}
    found = (_difference(name, *pair) for name, pair in pairs.items() if name not in shapes)
    different = sorted((d for d in found if d is not None), key=lambda d: (-d.largest, -d.relative, d.name))
    return Comparison(
        len(both),
        tuple(different),
        tuple(name for name in first if name not in second),
        tuple(name for name in second if name not in first),
        shapes,
        dtypes,
    )


def summarize(state: Mapping[str, Tensor]) -> Summary:
    """Count what a state_dict holds; what is trained is told from statistics by name. Unusual tensors may be there."""
    sizes = {name: tensor.numel() for name, tensor in state.items()}
    statistics = sum(size for name, size in sizes.items() if name.endswith(STATISTICS))
    usual = {name: tensor for name, tensor in state.items() if not unusual(tensor)}
    non_finite = {name: int((~tensor.double().isfinite()).sum()) for name, tensor in usual.items()}
    return Summary(
        len(state),
        sum(sizes.values()) - statistics,
        statistics,
        dict(Counter(_dtype(tensor) for tensor in state.values())),
        {name: count for name, count in non_finite.items() if count},
    )


def flatten(content: Any, name: str = '') -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries and lists, such as a training state, by their path in it."""
    if isinstance(content, Tensor):
        return {name: content}
    items = content.items() if isinstance(content, Mapping) else enumerate(content) if isinstance(content, list) else ()
    found = {}
    for key, part in items:
        found.update(flatten(part, f'{name}/{key}' if name else str(key)))
    return found


def _difference(name: str, first: Tensor, second: Tensor) -> Difference | None:
    counter = not (first.is_floating_point() or second.is_floating_point())
    if first.dtype != second.dtype or first.is_floating_point():
        first, second = first.double(), second.double()
    differ = (first != second) & ~((first != first) & (second != second))
    count = int(differ.sum())
    if not count:
        return None
    a, b = first.double(), second.double()
    largest = float((a - b)[differ].abs().nan_to_num(nan=math.inf, posinf=math.inf).max())
    values = torch.cat([a.flatten(), b.flatten()]).abs()
    scale = float(values[values.isfinite()].max()) if values.isfinite().any() else 0.0
    relative = largest / scale if scale else math.inf
    return Difference(name, largest, relative, count / first.numel(), counter)


def _dtype(tensor: Tensor) -> str:
    return ' '.join([str(tensor.dtype).removeprefix('torch.'), unusual(tensor)]).rstrip()
