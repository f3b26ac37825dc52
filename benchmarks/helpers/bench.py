"""What a section of gpu.py is given: where it runs, at which size, and the file that its rows go to."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from . import machine

T = TypeVar('T')


@dataclass(frozen=True)
class Bench:
    """A section at work.

    Attributes:
        section: its name.
        device: where it runs.
        tiny: run everything once at the smallest size, to see that it runs.
        file: JSON lines, one a row.
    """

    section: str
    device: torch.device
    tiny: bool
    file: Path

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU of CUDA."""
        return self.device.type == 'cuda'

    @property
    def half(self) -> str:
        """The precision of 16 bits that the published toolkit would take here: a CPU has bfloat16 alone."""
        return 'float16' if self.cuda else 'bfloat16'

    def size(self, full: T, tiny: T) -> T:
        """Choose by whether the run is a tiny one."""
        return tiny if self.tiny else full

    def row(self, what: str, ok: bool | None = None, **figures: Any) -> None:
        """Write a row at once, so that a section that is cut off leaves what it has.

        Args:
            what: was measured or checked, and its unit.
            ok: for a check, whether it passed.
            figures: by name; float numbers are rounded to four digits.
        """
        rounded = {name: float(f'{x:.4g}') if isinstance(x, float) else x for name, x in figures.items()}
        line = json.dumps({'section': self.section, 'what': what, **({} if ok is None else {'ok': ok}), **rounded})
        with self.file.open('a') as file:
            file.write(line + '\n')
        print(line, flush=True)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Let the section go on where the block fails or memory runs out: a row says so."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.row(what, left_out='too little memory')
        except Exception as error:
            traceback.print_exc()
            self.row(what, ok=False, error=f'{type(error).__name__}: {error}'.splitlines()[0][:200])
        if self.cuda:
            torch.cuda.empty_cache()

    def milliseconds(self, work: Callable[[], object], repeats: int) -> tuple[float, float]:
        """Do as `machine.milliseconds`, with two repeats in a tiny run."""
        return machine.milliseconds(work, self.device, self.size(repeats, 2), self.size(3, 1))
