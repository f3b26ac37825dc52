"""Weights in another precision or kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

SUFFIXES = ('.pth', '.safetensors')


@dataclass(frozen=True)
class Conversion:
    """Weights in another precision.

    Attributes:
        state: the tensors.
        cast: how many of them were cast.
        vanished: values other than 0 that have become 0, by name.
    """

    state: dict[str, Tensor]
    cast: int
    vanished: dict[str, int]


def convert_state(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Conversion:
    """Casts the floating tensors of a state_dict and leaves all others as they are.

    Args:
        state: tensors by name.
        dtype: None casts nothing.

    Raises:
        ValueError: a finite value is too large for the dtype, with the tensor's name.
    """
    converted, vanished, cast = {}, {}, 0
    for name, tensor in state.items():
        # A copy of its own: views of one memory would be written whole for each, or not at all.
        own = tensor.detach().clone(memory_format=torch.contiguous_format)
        converted[name] = own
        if dtype is None or not tensor.is_floating_point() or tensor.dtype == dtype:
            continue
        converted[name] = own.to(dtype)
        cast += 1
        lost = own.isfinite() & ~converted[name].isfinite()
        if lost.any():
            largest = float(own[lost].abs().max())
            word = str(dtype).removeprefix('torch.')
            raise ValueError(
                f'{name}: {int(lost.sum())} values are too large for {word}, up to {largest:g}; the largest it can '
                f'hold is {torch.finfo(dtype).max:g}'
            )
        if zeros := int(((own != 0) & (converted[name] == 0)).sum()):
            vanished[name] = zeros
    return Conversion(converted, cast, vanished)


def write_state(file: BinaryIO, state: Mapping[str, Tensor], suffix: str) -> None:
    """Writes contiguous tensors of their own memory as '.pth', a bare state_dict, or as '.safetensors'."""
    if suffix == '.pth':
        torch.save(dict(state), file)
        return
    check_suffix(suffix)
    from safetensors.torch import save

    file.write(save(dict(state), metadata={'format': 'pt'}))


def check_suffix(suffix: str) -> None:
    """Raises ValueError if files of this suffix cannot be written."""
    if suffix not in SUFFIXES:
        raise ValueError(f'the suffix {suffix!r} is not one of {", ".join(SUFFIXES)}')
    if suffix == '.safetensors':
        try:
            import safetensors.torch  # noqa: F401
        except ImportError:
            raise ValueError("needs the package safetensors: pip install 'background-matting[safetensors]'") from None
