"""What a training says of an error: one line that names the cause and what to change; the traceback goes to a file."""

from __future__ import annotations

import re
import time
import traceback
from pathlib import Path

import torch

from common.cli import out_of_memory
from common.installation import import_problem

# Of messages by torch and the system: what each means, and what helps.
CAUSES = (
    (
        r'</?torch_\d+.*(No space left|Cannot allocate)',
        'shared memory (/dev/shm) is full: give a container more (--shm-size), or lower --num-workers or --batch-size',
    ),
    (
        r'DataLoader worker .* exited unexpectedly',
        'a process that reads pictures was killed, as systems do where memory or shared memory runs out: lower '
        '--num-workers or --batch-size, or give the job more memory, a container more /dev/shm (--shm-size)',
    ),
    (r'too many open files|ancdata', 'too many open files: raise the limit (ulimit -n), or lower --num-workers'),
    (r'No space left on device', 'a disk, or shared memory (/dev/shm, for --num-workers), is full'),
    (r'CUDA error|CUBLAS|cuDNN|NCCL', 'the GPU, its driver or the connection between GPUs failed'),
)


def known_cause(error: BaseException) -> str | None:
    """Return in one line what an error of the machine means and what to change; None for other errors."""
    words = str(error).strip() or type(error).__name__
    # A worker's error comes with its traceback, of which the last line is the error itself.
    first = words.splitlines()[-1 if words.startswith('Caught ') else 0]
    if isinstance(error, ImportError):
        return import_problem(error)
    if out_of_memory(error):
        # CUDA says how much it lacks, and then a page of how its allocator works.
        what = first.partition('. GPU ')[0] + memory_taken()
        return f'too little memory: lower --batch-size (--accumulate makes up for it) or --train-resolution ({what})'
    if isinstance(error, (ConnectionError, EOFError)):
        words = 'DataLoader worker (no pid) exited unexpectedly'  # found out by the other end of its queue
    if isinstance(error, (RuntimeError, OSError, EOFError)):
        for pattern, meaning in CAUSES:
            if re.search(pattern, words, re.IGNORECASE | re.DOTALL):
                return f'{meaning} ({first})'
    return None


def memory_taken() -> str:
    """Return how much of the GPU's memory was taken at most, as '; at most 7.2 of 8.0 GB were taken'; else ''."""
    if not torch.cuda.is_initialized():
        return ''
    try:
        taken, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties().total_memory
    except RuntimeError:  # the GPU answers no more
        return ''
    return f'; at most {taken / 1e9:.1f} of {whole / 1e9:.1f} GB were taken'


def explain(error: BaseException) -> str:
    """Return in one line what an error means: the known cause, or its kind and its own words."""
    last = (str(error).strip().splitlines() or [''])[-1]
    kind = type(error).__name__
    named = isinstance(error, (ValueError, OSError, ArithmeticError)) or last.startswith(kind)
    return known_cause(error) or (last if named else f'{kind}: {last}')


def write_traceback(folder: Path, error: BaseException) -> str:
    """Write an error's traceback to a new file in the log folder; return words that name it, or nothing if it can't."""
    path = folder / f'error-{time.strftime("%Y-%m-%d-%H%M%S")}-{time.time_ns() % 10**6}.txt'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(''.join(traceback.format_exception(error)), errors='backslashreplace')
    except OSError:
        return ''
    return f'; the traceback is in {path}'
