"""What a checkpoint holds, and the names of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .record import Record


@dataclass(frozen=True)
class Content:
    """The content of a checkpoint: weights, the rest of the training state, averaged weights or None."""

    weights: dict[str, torch.Tensor]
    state: dict[str, Any]
    ema: dict[str, torch.Tensor] | None = None

    def parts(self) -> dict[str, Any]:
        """Return the content of each file, in the order in which the files are written.

        The state first: a weight file without a record but beside a state is a half-written checkpoint, and may be
        replaced; one without either is somebody's.
        """
        parts = {'state': self.state, 'ema': self.ema, 'weights': self.weights}
        return {kind: part for kind, part in parts.items() if part is not None}


def file_name(name: str, kind: str) -> str:
    """Return the file of a checkpoint that holds its 'weights', 'state' or 'ema'."""
    return f'{name}.pth' if kind == 'weights' else f'{name}.{kind}.pth'


def read_content(folder: Path, record: Record) -> Content:
    """Read a checkpoint that verified, without running code from it."""

    def load(kind: str) -> Any:
        return torch.load(folder / record.files[kind].name, map_location='cpu', weights_only=True)

    return Content(load('weights'), load('state'), load('ema') if 'ema' in record.files else None)


def tensor_bytes(content: Any) -> int:
    """Return the bytes of the tensors in a content or a part of it."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(tensor_bytes, content.values()))
    return 0
