"""What lies in the folders of runs and whether it is whole, for those who look after checkpoints. Writes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .record import CheckpointError, Listing, Record, broken_records, read_records
from .retention import LEAST_STATES, Policy, decide_kept
from .verify import Verdict, inode, owner, read_provenance

WEIGHTS = ('.pth', '.pt', '.safetensors')


@dataclass(frozen=True)
class RecordedRun:
    """The checkpoints of one run and stage in a folder; several may share one.

    Attributes:
        folder: where they lie.
        run, stage: the id and 'base' or 'refine'.
        records: oldest first, at least one.
        place: what messages call the folder, if not by its path.
    """

    folder: Path
    run: str
    stage: str
    records: list[Record]
    place: str = ''

    @property
    def options(self) -> dict[str, Any]:
        """The command line of the training that wrote the newest checkpoint."""
        return self.records[-1].options

    def policy(self, **changes: Any) -> Policy:
        """Return what the run keeps by its own flags.

        Args:
            **changes: fields of the policy that replace the run's; None leaves them.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(Policy.from_options(self.options), **given)

    def due_files(self) -> dict[str, list[Path]]:
        """Return for each checkpoint the files that should be there.

        Older ones have lost their training state to the policy, and one that the policy does not keep may be what a
        deletion that was cut has left.
        """
        newest = sorted({record.step for record in self.records})[-LEAST_STATES:]
        files = Listing(self.folder)
        kept = decide_kept(self.records, self.policy(), files)
        due: dict[str, list[Path]] = {}
        for record in self.records:
            last, wanted = record.step in newest, bool(kept[record.name].reasons)
            due[record.name] = [
                self.folder / file.name
                for kind, file in record.files.items()
                if file.name in files.names or last or (wanted and kind != 'state')
            ]
        return due

    def best(self, count: int, kind: str, metric: str) -> list[Record]:
        """Return the `count` checkpoints of the best metric that have a file of a kind, oldest first.

        Raises:
            ValueError: there are fewer.
        """
        found = self.policy(monitor=metric).best_records((r for r in self.records if r.has(self.folder, kind)), count)
        return self._enough(found, count, f'{kind} and a finite {metric}')

    def newest(self, count: int, kind: str) -> list[Record]:
        """Return the `count` newest checkpoints that have a file of a kind, one of each step, oldest first.

        Raises:
            ValueError: there are fewer.
        """
        by_step = {record.step: record for record in reversed(self.records) if record.has(self.folder, kind)}
        return self._enough(list(by_step.values())[:count], count, kind)

    def _enough(self, found: list[Record], count: int, what: str) -> list[Record]:
        if len(found) < count:
            raise ValueError(f'{self}: {count} checkpoints are asked for, and {len(found)} have {what}')
        return sorted(found, key=lambda record: record.step)

    def __str__(self) -> str:
        return f'{self.place or self.folder}, {self.stage} run {self.run}'


@dataclass(frozen=True)
class Other:
    """A file of a run's folder that is no part of a checkpoint: its path, size in bytes, and what it is in words."""

    path: Path
    size: int
    what: str


def run_folders(parent: Path) -> list[Path]:
    """Return the folder itself if it holds weights or records, and those of its folders that do.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not parent.is_dir():
        raise FileNotFoundError(f'{parent}: no such folder')
    return [path for path in (parent, *sorted(parent.iterdir())) if path.is_dir() and _holds_checkpoints(path)]


def runs(folder: Path, place: str = '') -> list[RecordedRun]:
    """Return the runs in a folder, which messages call a place, the one that wrote last at the end."""
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in read_records(folder):
        grouped.setdefault((record.run, record.stage), []).append(record)
    found = [RecordedRun(folder, run, stage, records, place) for (run, stage), records in grouped.items()]
    return sorted(found, key=lambda run: max(record.written_at for record in run.records))


def checkpoint_of(path: Path) -> tuple[Path, str]:
    """Return folder and name of the checkpoint that a file, or a link such as best.pth, belongs to.

    Raises:
        ValueError: it belongs to none.
    """
    real = path.resolve()
    owned = owner(real, read_records(real.parent)) if real.is_file() else None
    if owned is None:
        raise ValueError(f'{path}: no checkpoint with a record; give the .pth file of one in the folder of its run')
    return real.parent, owned[0].name


def the_run(folder: Path | None, parent: Path, place: str = '') -> RecordedRun:
    """Return the only run in a folder, which messages call a place, or below the parent if no folder is given.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = runs(the_folder(folder, parent), place)
    if len(found) != 1:
        names = ', '.join(f'{run.stage} {run.run}' for run in found) or 'none'
        raise ValueError(
            f'{place or folder or parent}: needs one run, and there are {len(found)} ({names}); give files by name'
        )
    return found[0]


def the_folder(folder: Path | None, parent: Path) -> Path:
    """Return the folder given, or the only one with a run below the parent.

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


def inventory(folder: Path, check: Callable[[Path], Verdict] | None = None) -> dict[str, Any]:
    """Return all that is known of a folder, in plain types.

    Args:
        folder: of one or several runs.
        check: verifies a file; without it only sizes are looked at.
    """
    found = runs(folder)
    linked = links(folder, check is not None)
    return {
        'folder': str(folder),
        'size': size_on_disk(folder.iterdir()),
        'runs': [
            {
                'run': run.run,
                'stage': run.stage,
                'policy': asdict(run.policy()),
                'checkpoints': list(_checkpoints(run, check)),
            }
            for run in found
        ],
        'links': linked,
        'others': [
            {'name': other.path.name, 'size': other.size, 'what': other.what}
            for other in others(folder, linked, check is not None)
        ],
    }


def _checkpoints(run: RecordedRun, check: Callable[[Path], Verdict] | None) -> Iterator[dict[str, Any]]:
    policy = run.policy()
    kept = decide_kept(run.records, policy, Listing(run.folder))
    due = run.due_files()
    for record in run.records:
        paths = due[record.name]
        yield {
            'name': record.name,
            'step': record.step,
            'epoch': record.epoch,
            'metric': record.metrics.get(policy.monitor),
            'size': sum(path.stat().st_size for path in paths if path.is_file()),
            'kept': list(kept[record.name].reasons),
            'keeps_state': kept[record.name].state or not record.has(run.folder, 'state'),
            'verified': check is not None,
            'damage': [text for path in paths if (text := _damage(run, record, path, check))],
        }


def _damage(run: RecordedRun, record: Record, path: Path, check: Callable[[Path], Verdict] | None) -> str:
    if check is not None:
        verdict = check(path)
        return f'{path.name}: {verdict.text}' if verdict.damaged else ''
    kind = next(kind for kind, file in record.files.items() if file.name == path.name)
    return '' if record.has(run.folder, kind) else f'{path.name}: missing, or of another size'


def links(folder: Path, read: bool = True) -> dict[str, str]:
    """Return the links in a folder, such as best.pth, and the checkpoint file that each stands for."""
    records = read_records(folder)
    own = {file.name for record in records for file in record.files.values()}
    found = {}
    for name in sorted(name for name in set(os.listdir(folder)) - own if name.endswith('.pth')):
        owned = owner(folder / name, records, read)
        if owned is not None:
            found[name] = owned[0].files[owned[1]].name
    return found


def others(folder: Path, linked: Iterable[str], read: bool = True) -> list[Other]:
    """Return the files of a folder that belong to no checkpoint, and records that cannot be read.

    Args:
        folder: of a run.
        linked: the names that `links` found in it.
        read: whether weights without a record are read, to tell them from copies of checkpoints.
    """
    records = read_records(folder)
    known = {file.name for record in records for file in record.files.values()} | set(linked)
    known |= {f'{record.name}.json' for record in records}
    broken = broken_records(folder)
    found = []
    for name in sorted(set(os.listdir(folder)) - known):
        path = folder / name
        if path.is_file() and (what := _stray(path, broken, read)):
            found.append(Other(path, path.stat().st_size, what))
    return found


def _stray(path: Path, broken: Mapping[Path, CheckpointError], read: bool) -> str:
    if path.name.startswith('.'):
        return 'a temporary file: of a process that was killed, or is writing now' if path.suffix == '.tmp' else ''
    if '.aside' in path.name:
        return 'was in the way of a checkpoint and set aside'
    if path.name.endswith('.json.damaged'):
        return 'the record of a damaged checkpoint, set aside'
    if path in broken:
        return str(broken[path]).removeprefix(f'{path}: ')
    if path.suffix == '.json':
        with contextlib.suppress(CheckpointError):
            name = Record.read(path).name
            return '' if name == path.stem else f'a copy of the record of {name}'
    if path.suffix in WEIGHTS:
        if read_provenance(path) is not None:
            return 'made of other weights, with its provenance beside it'
        what = 'a training state' if path.name.endswith('.state.pth') else 'weights'
        return f'{what} without a record' + ('' if read else ' (or a copy; not read)')
    return ''


def targets(path: Path) -> list[Path]:
    """Return the files to verify for a path: the file itself, or all checkpoints and weights of a folder."""
    if not path.is_dir():
        return [path]
    found = []
    for folder in run_folders(path):
        due = (file for run in runs(folder) for files in run.due_files().values() for file in files)
        stray = (other.path for other in others(folder, links(folder)) if other.path.suffix in WEIGHTS)
        found += [*dict.fromkeys(due), *stray, *broken_records(folder)]
    return found


def size_on_disk(paths: Iterable[Path]) -> int:
    """Return the bytes that files take, each counted once under however many names."""
    return sum({inode(path): path.stat().st_size for path in paths if path.is_file()}.values())


def freed(paths: Sequence[Path]) -> int:
    """Return the bytes that removing these names gives back; a file that has another name stays."""
    names: dict[tuple[int, int | str], int] = {}
    for path in paths:
        names[inode(path)] = names.get(inode(path), 0) + 1
    return sum({inode(p): p.stat().st_size for p in paths if names[inode(p)] >= p.stat().st_nlink}.values())


def _holds_checkpoints(folder: Path) -> bool:
    return any(path.suffix in WEIGHTS or path.match('epoch-*.json') for path in folder.iterdir())
