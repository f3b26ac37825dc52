"""Where and how precisely to compute: the values of `--device` and `--precision`, and running out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for `--device`; `local_rank` picks among several GPUs.

    Raises:
        ValueError: there is none of that kind, or torch knows no such device.
    """
    there = {'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available()}
    if name == 'auto':
        name = next((device for device, present in there.items() if present), 'cpu')
    if not there.get(name.partition(':')[0], True):
        raise ValueError(f'--device {name}: there is none on this machine; use --device auto or cpu')
    if name == 'cuda':
        return torch.device('cuda', local_rank % torch.cuda.device_count())
    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f'--device {name}: must be auto, cuda, cuda:1 and so on, mps or cpu') from None


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype for `--precision` on a device.

    Raises:
        ValueError: float16 on a CPU, where it is slower than float32, or no known precision.
    """
    if name == 'auto':
        name = 'float16' if device.type == 'cuda' else 'float32'
    if name not in PRECISIONS:
        raise ValueError(f'--precision {name}: must be auto, {", ".join(PRECISIONS)}')
    if name == 'float16' and device.type == 'cpu':
        raise ValueError('--precision float16: needs a GPU; use bfloat16 or float32 on a CPU')
    return PRECISIONS[name]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, every thread's share of torch's work is done by `count` threads; by as many as outside if 0."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: the GPU's, or the computer's, for which torch has no type."""
    words = ('out of memory', "can't allocate memory", 'insufficient memory')
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
