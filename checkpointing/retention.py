"""Which checkpoints of a run are kept, and why: a function of the records, and the files that may go by it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import Disk

from .record import Listing, Record

LEAST_STATES = 2


@dataclass(frozen=True)
class Policy:
    """The rules by which checkpoints are kept.

    Attributes:
        keep: of how many of the newest steps the weights are kept; None keeps all.
        states: of how many of the newest steps the training state is kept; never fewer than 2.
        every: one checkpoint in so many steps is kept for good; None keeps none for that.
        best: how many of the best are kept.
        monitor, mode: the metric that says which are best, and whether 'min' or 'max' of it is.
        best_name: how the best are named as links, such as 'best-{epoch:02d}-{valid_loss:.4f}'; None makes none.
        threshold: nothing worse is ever one of the best; None lets the first be.
    """

    keep: int | None = None
    states: int = LEAST_STATES
    every: int | None = None
    best: int = 1
    monitor: str = 'valid_loss'
    mode: str = 'min'
    best_name: str | None = None
    threshold: float | None = None

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> Policy:
        """Return the policy of a command line, or of the options in a record; what is missing is the default."""
        flags = {
            'keep': 'checkpoint_keep', 'states': 'checkpoint_keep_states', 'every': 'checkpoint_keep_every',
            'best': 'checkpoint_best', 'best_name': 'checkpoint_best_name',
            'monitor': 'monitor', 'mode': 'monitor_mode', 'threshold': 'monitor_threshold',
        }  # fmt: skip
        return Policy(**{name: options[flag] for name, flag in flags.items() if flag in options})

    def best_records(self, records: Iterable[Record], count: int | None = None) -> list[Record]:
        """Return the records of the best metrics, the best first: the one place that decides which is best.

        Ties keep the earlier; NaN, inf, missing values and those worse than the threshold never win; of several records
        of one step the first counts. Values on different validation samples do not compare, nor do losses of
        different recipes: those since the last change count.

        Args:
            records: oldest first.
            count: how many; as many as the policy keeps if left out.
        """
        sign = 1 if self.mode == 'min' else -1
        worst = math.inf if self.threshold is None else sign * self.threshold
        candidates: dict[int, Record] = {}
        last: Record | None = None
        for record in records:
            value = record.metrics.get(self.monitor, math.nan)
            if not math.isfinite(value):
                continue
            if last is not None and not record.validated_like(last, self.monitor):
                candidates.clear()
            last = record
            if sign * value <= worst:
                candidates.setdefault(record.step, record)
        return heapq.nsmallest(count or self.best, candidates.values(), key=lambda r: sign * r.metrics[self.monitor])


@dataclass(frozen=True)
class Kept:
    """The reasons to keep the weights of a checkpoint (none: they may go), and whether its state is kept."""

    reasons: tuple[str, ...]
    state: bool


def decide_kept(records: Sequence[Record], policy: Policy, files: Listing) -> dict[str, Kept]:
    """Decide which checkpoints of one run are kept.

    Several checkpoints of one step count as one: what matters is how far one can go back.

    Args:
        records: of one run and stage, oldest first.
        policy: the rules.
        files: that are there; those that are gone count for nothing.

    Returns:
        For each record's name why it is kept.
    """
    whole = [r for r in records if files.has(r, 'weights')]
    names = {r.name for r in whole}
    steps = sorted({r.step for r in whole})
    newest = set(steps[-policy.keep :] if policy.keep is not None else steps)
    with_state = set(sorted({r.step for r in whole if files.has(r, 'state')})[-max(policy.states, LEAST_STATES) :])
    best = {r.name: rank for rank, r in enumerate(policy.best_records(whole), 1)}
    # A deletion that was cut leaves none of these without weights: somebody else did.
    never_deleted = {r.name for r in policy.best_records(records)} if len(whole) < len(records) else set()
    never_deleted |= {r.name for r in records[-1:]}
    first_of: dict[int, int] = {}
    if policy.every:
        for step in steps:
            first_of.setdefault((step + 1) // policy.every, step)
        first_of.pop(0, None)
    every = set(first_of.values())
    pins = pinned(files)
    kept = {}
    for r in records:
        reasons = []
        if r.name not in names:
            cut_deletion = r.files['weights'].name not in files.names and policy.keep is not None
            if not cut_deletion or r.name in never_deleted:
                reasons.append('its weights are damaged or gone')
        if r.name in pins:
            reasons.append('pinned')
        if r.name in best:
            reasons.append(f'best {best[r.name]} of {policy.best}' if policy.best > 1 else 'best')
        if r.step in every:
            reasons.append(f'every {policy.every} steps')
        if r.step in with_state:
            reasons.append('to resume from')
        if r.step in newest:
            reasons.append('all are kept' if policy.keep is None else f'newest {policy.keep}')
        kept[r.name] = Kept(tuple(reasons), r.step in with_state or r.name in pins or r.name not in names)
    return kept


def removable(records: Sequence[Record], policy: Policy, files: Listing, spared: Collection[str] = ()) -> list[Path]:
    """Return the files that may go by the policy.

    A record without weights is what a deletion that was cut has left, and goes too.

    Args:
        records: of one run and stage, oldest first.
        policy: the rules.
        files: that are there.
        spared: names of checkpoints that stay although they may go.
    """
    names: list[str] = []
    all_kept = decide_kept(records, policy, files)
    for record in records:
        kept = all_kept[record.name]
        if record.name in spared:
            continue
        kinds = [] if kept.state else ['state']
        if not kept.reasons:
            kinds += ['ema', 'weights']
        names += [record.files[k].name for k in kinds if k in record.files]
        if not kept.reasons:
            names.append(f'{record.name}.json')
    return [files.folder / name for name in names if name in files.names and (files.folder / name).is_file()]


def remove(disk: Disk, folder: Path, paths: Sequence[Path]) -> None:
    """Remove what `removable` names; records only when their files are gone for good.

    Weights without a record would be taken for somebody's, and stay for ever.
    """
    for is_record in (False, True):
        group = [path for path in paths if (path.suffix == '.json') is is_record]
        for path in group:
            disk.unlink(path)
        if group:
            disk.fsync_folder(folder)


def pinned(files: Listing) -> set[str]:
    """Return the names of pinned checkpoints: those with a file <name>.pin beside them."""
    return {name.removesuffix('.pin') for name in files.names if name.endswith('.pin')}
