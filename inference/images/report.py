"""The findings of a run over many pictures: a line for each of the first of a kind, and counts at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import NAMED, Job

if TYPE_CHECKING:
    from torch import Tensor

    from inference.predictor import Plate


@dataclass(frozen=True)
class PictureResult:
    """A picture on its way through the stages.

    Attributes:
        job: picture, plate and name.
        inputs: the decoded picture, and its plate on the device; None once computed, or if it failed.
        misfit: why the plate seems not to fit, with the measured differences.
        unaligned: why the plate could not be aligned.
        error: why the picture failed.
        bad_plate: whether it failed because its plate cannot be read.
    """

    job: Job
    inputs: tuple[Tensor, Plate] | None = None
    misfit: tuple[str, ...] = ()
    unaligned: str | None = None
    error: str | None = None
    bad_plate: bool = False


class Report:
    """Counts of pictures, and which ones need a look. `add` and `summary` return lines to print."""

    def __init__(self) -> None:
        self.done = self.failed = self._unaligned = 0
        self._misfits: Counter[Path] = Counter()
        self._bad_plates: Counter[Path] = Counter()

    def add(self, item: PictureResult) -> list[str]:
        """Count a picture; return what to say of it now."""
        plate = item.job.bgr
        if item.error is not None:
            self.failed += 1
            self._bad_plates[plate] += item.bad_plate
            return [f'failed: {item.error}'] if self._bad_plates[plate] <= 1 or not item.bad_plate else []
        self.done += 1
        lines = []
        if item.unaligned:
            self._unaligned += 1
            if self._unaligned <= NAMED:
                lines.append(item.unaligned)
        if item.misfit:
            self._misfits[plate] += 1
            if self._misfits.total() <= NAMED:
                lines += item.misfit
        return [f'warning: {item.job.src} with {plate}: {"; ".join(lines)}'] if lines else []

    def summary(self) -> list[str]:
        """Return what to say at the end."""
        total, lines = self.done + self.failed, []
        lines += [
            f'failed: {count} pictures, because of their plate {plate}'
            for plate, count in self._bad_plates.items()
            if count > 1
        ]
        if self._unaligned:
            lines.append(f'warning: the plate is used unaligned for {self._unaligned} of {total} pictures')
        if self._misfits:
            named = ', '.join(f'{plate} ({count})' for plate, count in self._misfits.most_common(NAMED))
            more = f' and {len(self._misfits) - NAMED} more' if len(self._misfits) > NAMED else ''
            misfits = self._misfits.total()
            lines.append(f'warning: the plate does not fit {misfits} of {total} pictures: {named}{more}')
        return lines
