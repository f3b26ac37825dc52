"""Weights in another precision or kind of file, and the writing of weight files that are made from others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from common.cli import raise_problems
from common.files import Disk, read_back, sync, unlink_quietly, write_durable, write_new
from common.installation import missing_problems
from common.path_checks import output_file_problems

from .verify import provenance_path, read_provenance

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
    """Cast the floating tensors of a state_dict and leave all others as they are.

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
    """Write contiguous tensors, each with memory of its own, as '.pth' (a bare state_dict) or '.safetensors'."""
    if suffix == '.pth':
        torch.save(dict(state), file)
        return
    check_suffix(suffix)
    from safetensors.torch import save

    file.write(save(dict(state), metadata={'format': 'pt'}))


def check_suffix(suffix: str) -> None:
    """Raise ValueError if files of this suffix cannot be written."""
    if suffix not in SUFFIXES:
        raise ValueError(f'the suffix {suffix!r} is not one of {", ".join(SUFFIXES)}')
    if suffix == '.safetensors':
        raise_problems(missing_problems('safetensors'))


def check_output(out: Path, overwrite: bool, inputs: Sequence[Path], provenance: bool = False) -> None:
    """Refuse names that are taken.

    Args:
        out: the file to be written.
        overwrite: whether it may be there.
        inputs: must not be written over.
        provenance: whether one will be written too.

    Raises:
        ValueError: no such folder, another suffix than .pth and .safetensors, a file that is there, one of the inputs,
            or a name that training uses in the folder of a run; a provenance of another file.
    """
    try:
        check_suffix(out.suffix)
    except ValueError as error:
        raise ValueError(f'-o {out}: {error}') from None
    raise_problems(output_file_problems('-o', out, overwrite, inputs))
    about = provenance_path(out)
    if provenance and about.exists() and read_provenance(out) is None:
        raise ValueError(f'-o {out}: {about.name} is there and speaks of another file; choose another name')
    reserved = out.name.startswith('epoch-') or out.name in ('best.pth', 'last.pth')
    if reserved and any(out.parent.glob('epoch-*.json')):
        raise ValueError(f'-o {out}: training uses this name in the folder of a run; choose another name')


def write_weights(
    out: Path, state: Mapping[str, Tensor], provenance: Mapping[str, Any] | None = None, disk: Disk | None = None
) -> None:
    """Write weights, whole or not at all, and beside them where they come from.

    Args:
        out: .pth or .safetensors.
        state: contiguous tensors, each of its own memory.
        provenance: completed by name, size, sha256 and time; None writes none.
        disk: the file operations.

    Raises:
        OSError: the disk's own error; what was under the name is untouched.
    """
    disk = disk or Disk()
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    about = provenance_path(out)
    try:
        crc = write_new(disk, temporary, lambda file: write_state(file, state, out.suffix))
        sync(disk, temporary)
        size, sha256 = read_back(disk, temporary, crc)
        # Of the file before: it would call the new one damaged.
        if read_provenance(out) is not None:
            disk.unlink(about)
        disk.replace(temporary, out)
    except BaseException:
        unlink_quietly(temporary)
        raise
    disk.fsync_folder(out.parent)
    if provenance is not None:
        file = {'file': out.name, 'size': size, 'sha256': sha256, 'written': time.strftime('%Y-%m-%dT%H:%M:%S%z')}
        text = json.dumps({**file, **provenance}, indent=1).encode()
        write_durable(disk, about, lambda target: target.write(text))
