"""Checks of the files and folders that a command line names, made before anything is loaded.

Each returns problems, one line each, for the script to raise together.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from .cli import flag
from .files import kind_of, not_a_folder
from .network import no_such_file
from .stores import named, url_of

# The script for files of a kind.
SCRIPTS = {'picture': 'inference_images.py', 'video': 'inference_video.py'}


def file_problem(path: Path, kinds: Sequence[str] = ()) -> str:
    """Return why a file cannot be read, or by its name is of another kind; '' where opening it decides.

    `kinds` are 'picture' and 'video', where the file must be one of these; none stands for weights.
    """
    if not kinds and url_of(path):
        if '?' in path.name:
            return 'a query (?...) is not read; leave it out'
        return '' if path.suffix == '.pth' else 'a URL, but of no .pth file in the mirror of a run'
    kind = kind_of(path)
    if kind == 'folder':
        hint = '; inference_images.py takes folders of pictures' if 'video' in kinds else ''
        if not kinds and (best := path / 'best.pth').is_file():
            hint = f'; give a file in it, such as {best}'
        return f'a folder, not a file{hint}'
    if not os.path.isfile(path):
        return no_such_file(path)
    if kind == 'file' or kind in kinds:
        return ''
    if not kinds:
        return f'a {kind}, not weights'
    return f'a {kind}, not a {kinds[0]}; {SCRIPTS[kind]} takes {kind}s'


def file_problems(args: argparse.Namespace, *names: str, kinds: Sequence[str] = ()) -> list[str]:
    """Return the `file_problem` of each attribute that is a path, or of each path in it."""
    values = ((name, getattr(args, name)) for name in names)
    paths = ((name, path) for name, value in values for path in (value if isinstance(value, list) else [value]) if path)
    return [f'{flag(name)} {named(path)}: {why}' for name, path in paths if (why := file_problem(path, kinds))]


def folder_problems(args: argparse.Namespace, *names: str) -> list[str]:
    """Return a problem for each attribute that is a path, but not of a folder."""
    paths = {name: path for name in names if (path := getattr(args, name)) is not None and not path.is_dir()}
    return [f'{flag(name)} {path}: {not_a_folder(path)}' for name, path in paths.items()]


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
    if problems := unwritable_problems(name, folder):
        return problems
    if any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
        return [f'{name} {path}: is one of the files to read; choose another name']
    if path.exists() and path.is_dir() != is_folder:
        return [f'{name} {path}: is a {"file" if is_folder else "folder"}; choose another name']
    if path.exists() and not overwrite:
        return [f'{name} {path}: exists; choose another name, or add -y to replace it']
    return []


def output_folder_problems(folder: Path) -> list[str]:
    """Return why nothing can be written into `--output-dir`, which need not exist."""
    return unwritable_problems('--output-dir', folder)


def unwritable_problems(name: str, parent: Path, child: str = '') -> list[str]:
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
