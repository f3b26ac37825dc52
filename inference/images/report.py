"""The findings of a run over many pictures: a line for each of the first of a kind, and counts at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dataset.tags import NO_TAGS, Tags
from inference.batching import Loaded

from .inputs import NAMED, Job


@dataclass(frozen=True)
class PictureResult(Loaded):
    """A job on its way through the stages: tags of the picture, why it failed, if it did, and if for its plate."""

    job: Job
    tags: Tags = NO_TAGS
    error: str | None = None
    bad_plate: bool = False


class Report:
    """Counts of pictures, and which ones need a look; returns what to print for each (`add`) and at the end."""

    def __init__(self) -> None:
        self.done = self.failed = self._unaligned = 0
        self._misfits: Counter[Path] = Counter()
        self._bad_plates: Counter[Path | None] = Counter()

    def add(self, item: PictureResult) -> list[str]:
        plate = item.job.bgr
        if item.error is not None or plate is None:
            self.failed += 1
            self._bad_plates[plate] += item.bad_plate
            return [f'failed: {item.error}'] if self._bad_plates[plate] <= 1 or not item.bad_plate else []
        self.done += 1
        lines = []
        if item.unaligned:
            self._unaligned += 1
            lines += [item.unaligned] if self._unaligned <= NAMED else []
        if item.misfit:
            self._misfits[plate] += 1
            lines += item.misfit if self._misfits.total() <= NAMED else ()
        return [f'warning: {item.job.src} with {plate}: {"; ".join(lines)}'] if lines else []

    def summary(self) -> list[str]:
        total, bad = self.done + self.failed, self._bad_plates.items()
        lines = [f'failed: {count} pictures, because of their plate {plate}' for plate, count in bad if count > 1]
        if self._unaligned:
            lines.append(f'warning: the plate is used unaligned for {self._unaligned} of {total} pictures')
        if self._misfits:
            named = ', '.join(f'{plate} ({count})' for plate, count in self._misfits.most_common(NAMED))
            more = f' and {len(self._misfits) - NAMED} more' if len(self._misfits) > NAMED else ''
            misfits = self._misfits.total()
            lines.append(f'warning: the plate does not fit {misfits} of {total} pictures: {named}{more}')
        return lines
