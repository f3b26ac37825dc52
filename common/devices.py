"""Where and how precisely to compute, and how the process keeps its memory. Importing this does not import torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .cli import PRECISIONS

if TYPE_CHECKING:
    import torch


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `--device`; `local_rank` picks among several GPUs.

    Raises:
        ValueError: there is none of that kind, or torch knows no such device.
    """
    import torch

    there = {'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available()}
    if name == 'auto':
        name = next((device for device, present in there.items() if present), 'cpu')
    if not there.get(name.partition(':')[0], True):
        raise ValueError(f'--device {name}: there is none on this machine; use --device auto or cpu')
    if name == 'cuda':
        return torch.device('cuda', local_rank % torch.cuda.device_count())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'--device {name}: must be auto, cuda, cuda:1 and so on, mps or cpu') from None
    if device.type == 'cuda' and device.index >= (count := torch.cuda.device_count()):
        raise ValueError(
            f'--device {name}: there {"is one GPU" if count == 1 else f"are {count} GPUs"}, from cuda:0 on'
        )
    return device


def on_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one of this thread inside the block; other devices need nothing.

    Operations find the GPU of their tensors by themselves. Streams, events, pinned memory and graphs do not: they go to
    the current one, which in each new thread is the first.
    """
    import torch

    return torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the networks for `--precision`, in training and everywhere else.

    `auto` is float16 on cuda, where training scales the loss, and float32 elsewhere: bfloat16, about twice as fast on
    CPUs with matrix units for it, has 8 bits and costs quality, so it is taken only if it is asked for.

    Raises:
        ValueError: float16 on a CPU, where it is slower than float32, or no known precision.
    """
    import torch

    if name == 'auto':
        name = 'float16' if device.type == 'cuda' else 'float32'
    if name not in PRECISIONS:
        raise ValueError(f'--precision {name}: must be one of {", ".join(PRECISIONS)}')
    if name == 'float16' and device.type == 'cpu':
        raise ValueError('--precision float16: needs a GPU; use bfloat16 or float32 on a CPU')
    return getattr(torch, name)


def fast_in_bfloat16(device: torch.device) -> bool:
    """Return whether a device has units for bfloat16: AMX on CPUs, and GPUs that do not emulate it."""
    import torch

    if device.type == 'cpu':
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
        return bool(capabilities.get('amx_bf16'))
    return device.type == 'cuda' and torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let each thread's torch operations use `count` threads inside the block; as many as outside if 0."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it back, for the whole process.

    Networks on a CPU, and readers and writers of pictures beside any device, free and take the same few gigabytes over
    and over; by default they go back to the system in between, which clears them page by page: up to half of the time
    on a CPU. All threads that start afterwards share one pool, or each would keep its own: call it before there are
    any. Does nothing where the C library is not glibc.
    """
    mmap_max, trim_threshold, top_pad, arena_max = -4, -1, -2, -8
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL('libc.so.6')
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**26)
        libc.mallopt(arena_max, 1)


def expand_segments() -> None:
    """Let torch make what it has taken of a GPU's memory larger, or crops of many sizes leave gaps that none fits into.

    Call it before torch starts CUDA. Does nothing if the user has set that allocator up, or where it cannot do it.
    """
    # Versions 2.9 to 2.11 do not read this from PYTORCH_ALLOC_CONF, and the others know both names.
    if sys.platform == 'linux' and 'PYTORCH_ALLOC_CONF' not in os.environ:
        os.environ.setdefault('PYTORCH_CUDA_ALLOC_CONF', 'expandable_segments:True')


def compute_deterministically() -> None:
    """Let torch compute the same twice on a GPU, or raise RuntimeError where it cannot; call it before CUDA starts."""
    import torch
    from torch.utils import deterministic

    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    # Nothing reads memory that nothing was written to; filling it costs time at every layer.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def peak_mib(device: torch.device) -> float | None:
    """Return the most MiB in use since the process began, or since its system reset that.

    Of a GPU's memory what tensors took; on a CPU the process's resident memory, with Python, torch and the weights.
    None where the system does not tell.
    """
    import torch

    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == 'mps':
        return torch.mps.driver_allocated_memory() / 2**20  # of a pool, which grows only
    status = Path('/proc/self/status')
    if status.exists():
        return next(int(x.split()[1]) / 2**10 for x in status.read_text().splitlines() if x.startswith('VmHWM:'))
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == 'darwin' else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
