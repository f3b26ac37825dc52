"""Weight files that are made from others: whole inputs, outputs in nobody's way, and a word on where they come from."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import Disk, read_back, sync, unlink_quietly, write_new, write_through

from .inventory import Run, run_folders, runs
from .record import Record, read_records
from .verify import Verifier, owner, provenance_path, read_provenance

if TYPE_CHECKING:
    from torch import Tensor

    from model.weights import WeightFile


@dataclass(frozen=True)
class Member:
    """A weight file that an average is made of.

    Attributes:
        path: of the file.
        record: of the checkpoint that it belongs to, if it does.
        sha256: of its content.
        metrics: from the record, those of this kind of weights.
    """

    path: Path
    record: Record | None
    sha256: str
    metrics: dict[str, float]

    def origin(self) -> dict[str, Any]:
        """What a provenance says of it."""
        known = {} if self.record is None else {'run': self.record.run, 'step': self.record.step}
        return {'path': str(self.path), 'sha256': self.sha256, **known, 'metrics': self.metrics}


def verifier() -> Verifier:
    """Verifies files of every kind."""
    return Verifier(_read_plainly)


def read_whole(path: Path, verifier: Verifier) -> WeightFile:
    """Reads a weight file unless it is known to be damaged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or no weight file.
    """
    from model.weights import read_weights

    verdict = verifier.check(path)
    if verdict.damaged:
        raise ValueError(f'{path}: damaged: {verdict.text}')
    return read_weights(path)


def read_training_state(path: Path) -> dict[str, Any]:
    """What a .state.pth holds.

    Raises:
        ValueError: it is damaged, or none.
    """
    import torch

    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise a dozen types on damaged files
        raise ValueError(f'{path}: not a training state, or a damaged one ({type(error).__name__})') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path}: holds a {type(content).__name__}, not a training state')
    return content


def checkpoint_of(path: Path) -> tuple[Path, str]:
    """The folder and the name of the checkpoint that a file, or a link such as best.pth, belongs to.

    Raises:
        ValueError: it belongs to none.
    """
    real = path.resolve()
    owned = owner(real, read_records(real.parent)) if real.is_file() else None
    if owned is None:
        raise ValueError(f'{path}: no checkpoint with a record; give the .pth file of one in the folder of its run')
    return real.parent, owned[0].name


def the_run(folder: Path | None, parent: Path) -> Run:
    """The only run in a folder, or below the parent if no folder is given.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = runs(the_folder(folder, parent))
    if len(found) != 1:
        names = ', '.join(f'{run.stage} {run.run}' for run in found) or 'none'
        raise ValueError(f'{folder or parent}: needs one run, and there are {len(found)} ({names}); give files by name')
    return found[0]


def the_folder(folder: Path | None, parent: Path) -> Path:
    """The folder given, or the only one with a run below the parent.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: there is none, or more than one to choose from.
    """
    if folder is not None:
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder}: no such folder')
        if not runs(folder):
            raise ValueError(f'{folder}: holds no checkpoint with a record')
        return folder
    found = [path for path in run_folders(parent) if runs(path)]
    if len(found) != 1:
        names = ', '.join(map(str, found)) or 'none'
        raise ValueError(f'{parent}: which run? There are {len(found)} ({names}); give a folder')
    return found[0]


def chosen(args: argparse.Namespace, run: Run | None, monitor: str) -> list[Path]:
    """The files that an average is asked of, oldest first.

    Args:
        args: `files`, or `best` or `last` of a run, and `ema`.
        run: whose checkpoints are meant, where no files are given.
        monitor: the metric of the best.

    Raises:
        ValueError: the run has too few.
    """
    if run is None:
        return list(args.files)
    kind = 'ema' if args.ema else 'weights'
    if args.best is not None:
        records = run.best(args.best, kind, metric_name(monitor, args.ema))
    else:
        records = run.newest(args.last, kind)
    return [run.folder / record.files[kind].name for record in records]


def metric_name(monitor: str, ema: bool) -> str:
    """The metric of plain or of averaged weights, such as 'valid_ema_loss', for a name of either or just 'loss'."""
    return ('valid_ema_' if ema else 'valid_') + bare_metric(monitor)


def bare_metric(monitor: str) -> str:
    """What scoring calls a metric, such as 'loss' for 'valid_ema_loss'."""
    return monitor.removeprefix('valid_').removeprefix('ema_')


def members(paths: Sequence[Path], verifier: Verifier) -> list[Member]:
    """What an average is made of; checkpoints of one run by step, other files as they are given: the newest last.

    Raises:
        FileNotFoundError: no such file.
        ValueError: fewer than two files, one given twice, or a training state.
    """
    found: list[Member] = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such file')
        for other in found:
            if path.samefile(other.path):
                raise ValueError(f'{path} and {other.path} are one file; each counts once')
        owned = owner(path.resolve(), read_records(path.resolve().parent))
        record, kind = owned or (None, 'weights')
        metrics = {} if record is None else {k: v for k, v in record.metrics.items() if k.startswith('valid_')}
        own = {k: v for k, v in metrics.items() if k.startswith('valid_ema_') == (kind == 'ema')}
        found.append(Member(path, record, verifier.digest(path), own))
    if len(found) < 2:
        raise ValueError(f'an average needs at least two files, not {len(found)}')
    if len({member.record.run if member.record else None for member in found}) == 1:
        found.sort(key=lambda member: member.record.step if member.record else 0)
    return found


def check_output(out: Path, overwrite: bool, inputs: Sequence[Path], provenance: bool = False) -> None:
    """Refuses names that are taken.

    Args:
        out: the file to be written.
        overwrite: whether it may be there.
        inputs: must not be written over.
        provenance: whether one will be written too.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: another suffix than .pth and .safetensors, a file that is there, one of the inputs, or a name
            that training uses in the folder of a run; a provenance of another file.
    """
    from .convert import check_suffix

    try:
        check_suffix(out.suffix)
    except ValueError as error:
        raise ValueError(f'-o {out}: {error}') from None
    if not out.parent.is_dir():
        raise FileNotFoundError(f'-o {out}: there is no folder {out.parent}')
    if any(out.exists() and out.samefile(path) for path in inputs):
        raise ValueError(f'-o {out}: is one of the inputs; choose another name')
    if out.is_dir() or (out.exists() and not overwrite):
        raise ValueError(
            f'-o {out}: exists; choose another name' + ('' if out.is_dir() else ', or write over it with -y')
        )
    about = provenance_path(out)
    if provenance and about.exists() and read_provenance(out) is None:
        raise ValueError(f'-o {out}: {about.name} is there and speaks of another file; choose another name')
    reserved = out.name.startswith('epoch-') or out.name in ('best.pth', 'last.pth')
    if reserved and any(out.parent.glob('epoch-*.json')):
        raise ValueError(f'-o {out}: training uses this name in the folder of a run; choose another name')


def write_weights(
    out: Path, state: Mapping[str, Tensor], provenance: Mapping[str, Any] | None = None, disk: Disk | None = None
) -> None:
    """Writes weights and, beside them, where they come from. The file is there whole and as it was meant, or not.

    Args:
        out: .pth or .safetensors.
        state: contiguous tensors, each of its own memory.
        provenance: completed by name, size, sha256 and time; None writes none.
        disk: the file operations.

    Raises:
        OSError: the disk's own error; what was under the name is untouched.
    """
    from .convert import write_state

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
        write_through(disk, about, lambda target: target.write(text))


def _read_plainly(path: Path) -> str:
    """Reads a weight file that has no checksums and says how that went; a ValueError says that it is damaged."""
    from model.weights import read_weights

    try:
        read_weights(path)
    except ValueError as error:
        if 'not a weight file' in str(error):
            raise
        return f'not read: {str(error).removeprefix(f"{path}: ")}'
    return 'readable'
