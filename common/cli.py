"""What all command lines share: parser, flags of machine and refiner, checks, and how a script says what went wrong.

Imports no torch, so `--help` answers at once. A check is a function that returns problems, one line each; a script
collects them all and raises them as one message.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from .network import REFINE_MODES, RefinerSettings

DEVICES = ('auto', 'cuda', 'mps', 'cpu')
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')
AUTO_PRECISION = 'auto: float16 on cuda, float32 elsewhere'


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults that say something, and keep the description's line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Not `in (None, False)`: 0 equals False, and a default of 0 says something.
        if action.default is None or action.default is False or action.required:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser with `HelpFormatter` and without abbreviations, which every script begins with.

    Of a path, '~' means the home folder also in --flag=~/path, which a shell leaves as it is.
    """

    def __init__(self, description: str | None, **more: Any):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False, **more)
        self.register('type', Path, lambda text: Path(os.path.expanduser(text)))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the command line; from now on, closed streams take everything, and others what their encoding lacks."""
        for name in ('stdout', 'stderr'):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
        if getattr(sys.stdout, 'errors', '') == 'strict':
            sys.stdout.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]
        return super().parse_args(args, namespace)


def flag(name: str) -> str:
    """Return the flag of an attribute: '--batch-size' for 'batch_size'."""
    return '--' + name.replace('_', '-')


def raise_problems(problems: Sequence[str]) -> None:
    """Raise a ValueError that lists all problems, one line each, if there are any."""
    if problems:
        raise ValueError('\n  '.join([f'{len(problems)} problems:', *problems]) if problems[1:] else problems[0])


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: the GPU's, or the computer's, for which torch has no type of its own."""
    words = ('out of memory', "can't allocate memory", 'insufficient memory')
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def report_error(error: BaseException, code: int, prefix: str = '', memory: str = '') -> int:
    """Print an error that the user can act on as one line, and return the exit code.

    Args:
        error: what was caught.
        code: 2 where nothing was started, else 1.
        prefix: begins the line, such as 'stopped: '.
        memory: what helps where memory ran out.

    Raises:
        BaseException: the error itself, if it is a fault of the toolkit's.
    """
    if out_of_memory(error):
        text = f'too little memory{": " if memory else ""}{memory}'
    elif isinstance(error, (ValueError, OSError)):
        text = str(error)
    else:
        raise error
    print(f'error: {prefix}{text}', file=sys.stderr)
    return code


def at_least_problems(args: argparse.Namespace, least: dict[str, int]) -> list[str]:
    """Return a problem for each attribute that is given and below its least value."""
    return [
        f'{flag(name)} {value}: must be at least {low}'
        for name, low in least.items()
        if (value := getattr(args, name, None)) is not None and value < low
    ]


def range_problems(args: argparse.Namespace, ranges: dict[str, tuple[int, int]]) -> list[str]:
    """Return a problem for each attribute outside its range, both ends included."""
    values = {name: getattr(args, name) for name in ranges}
    return [
        f'{flag(name)} {values[name]}: must be in {low}..{high}'
        for name, (low, high) in ranges.items()
        if not low <= values[name] <= high
    ]


def file_problems(args: argparse.Namespace, *names: str) -> list[str]:
    """Return a problem for each attribute that is a path, but not of a file."""
    return [
        f'{flag(name)} {path}: {"a folder, not a file" if path.is_dir() else "no such file"}'
        for name in names
        if (path := getattr(args, name)) is not None and not path.is_file()
    ]


def add_device_argument(add: Callable[..., object]) -> None:
    """Add `--device`."""
    add('--device', choices=DEVICES, default='auto', help='where to compute; auto: cuda, else mps, else cpu')


def add_precision_argument(add: Callable[..., object], more: str = '') -> None:
    """Add `--precision`; `more` is added to its help."""
    add('--precision', choices=PRECISIONS, default='auto', help=f'of the networks; {AUTO_PRECISION}{more}')


def precision_problems(device: str, precision: str) -> list[str]:
    """Return what is wrong with `--precision` on a device that is named."""
    if (device, precision) != ('cpu', 'float16'):
        return []
    return ['--precision float16: needs a GPU; use bfloat16 or float32 with --device cpu']


def add_refiner_arguments(add: Callable[..., object], defaults: RefinerSettings | None, kernel: bool = True) -> None:
    """Add `--model-backbone-scale` and `--model-refine-*`.

    Args:
        add: of the group.
        defaults: None leaves every flag that is not given at None.
        kernel: add `--model-refine-kernel-size`, too.
    """
    chosen = RefinerSettings() if defaults is None else defaults
    default = None if defaults is None else vars(chosen).get
    get = (lambda _: None) if default is None else default
    add('--model-backbone-scale', type=float, default=get('backbone_scale'), metavar='X',
        help='sides of what the coarse network sees, of the picture\'s; 0.25 for HD, 0.125 for 4K')  # fmt: skip
    add('--model-refine-mode', choices=REFINE_MODES, default=get('refine_mode'),
        help='refine all cells of 4x4 pixels, a fixed number, or those of large error')  # fmt: skip
    add('--model-refine-sample-pixels', type=int, default=get('refine_sample_pixels'), metavar='N',
        help='pixels refined per picture, for sampling; 80000 for HD, 320000 for 4K')  # fmt: skip
    add('--model-refine-threshold', '--model-refine-thresholding', type=float, default=get('refine_threshold'),
        metavar='X', help='predicted error above which a cell is refined, 0..1, for thresholding')  # fmt: skip
    if kernel:
        add('--model-refine-kernel-size', type=int, choices=(1, 3), default=get('refine_kernel_size'),
            help="of the refiner's convolutions; part of the weights")  # fmt: skip


def refiner_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags of `add_refiner_arguments`; those that are None are left out."""
    scale, pixels, threshold = (
        args.model_backbone_scale, args.model_refine_sample_pixels, args.model_refine_threshold,
    )  # fmt: skip
    found = []
    if scale is not None and not 0 < scale <= 0.5:
        found.append(f'--model-backbone-scale {scale}: must be above 0 and at most 0.5')
    if pixels is not None and pixels < 16:
        found.append(f'--model-refine-sample-pixels {pixels}: must be at least 16, one cell')
    if threshold is not None and not 0 <= threshold <= 1:
        found.append(f'--model-refine-threshold {threshold}: must be in 0..1')
    return found


def output_file_problems(
    name: str, path: Path, overwrite: bool, inputs: Collection[Path] = (), is_folder: bool = False
) -> list[str]:
    """Return why a file must not be written.

    Args:
        name: of the flag.
        path: of the file.
        overwrite: whether it may be there.
        inputs: files that are read, which it must not replace.
        is_folder: whether the output is a folder, written and replaced as a whole.
    """
    folder = path.parent
    if not folder.is_dir():
        return [f'{name} {path}: there is no folder {folder}']
    if not os.access(folder, os.W_OK):
        return [f'{name} {path}: the folder {folder} is not writable']
    if any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
        return [f'{name} {path}: is one of the files to read; choose another name']
    if path.exists() and path.is_dir() != is_folder:
        return [f'{name} {path}: is a {"file" if is_folder else "folder"}; choose another name']
    if path.exists() and not overwrite:
        return [f'{name} {path}: exists; choose another name, or add -y to replace it']
    return []


def output_folder_problems(folder: Path) -> list[str]:
    """Return why nothing can be written into `--output-dir`, which need not exist."""
    return folder_problems('--output-dir', folder)


def folder_problems(name: str, parent: Path, child: str = '') -> list[str]:
    """Return why nothing can be written into a folder, which need not exist; nothing of the attempt stays.

    Args:
        name: of the flag.
        parent: its value.
        child: of the folder in it that is meant.
    """
    existing = folder = parent / child
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            folder.lstat()  # a name can be too long
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if existing.is_symlink() and not existing.exists():
            return [f'{name} {parent}: {existing} is a link to a folder that is not there']
        if not existing.is_dir():
            return [f'{name} {parent}: {existing} is a file, not a folder']
        # Rights alone do not tell: of a disk that is mounted to be read, of /proc, or where the user is root.
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return []  # room may come
        return [f'{name} {parent}: nothing can be written to {existing} ({error.strerror})']
    return []


def not_empty_problems(folder: Path, held: Path | None, overwrite: bool, more: str = '') -> list[str]:
    """Return the problem of an output folder that holds something, unless it may be written over.

    Args:
        folder: of `--output-dir`.
        held: something in it, or None.
        overwrite: whether -y was given.
        more: what else -y does.
    """
    if held is None or overwrite:
        return []
    name = held.relative_to(folder)
    hint = f'choose another folder, or add -y to replace files of equal name{more}'
    return [f'--output-dir {folder}: not empty (it holds {name}); {hint}']
