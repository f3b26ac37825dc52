"""Sheets of validation samples: what the network makes of the same few pictures, at every validation; and grids."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from common.files import Disk
from metrics.error_colours import TOO_LITTLE, TOO_MUCH, error_colours

from .validation import Prediction

NAME = re.compile(r'valid-(\d+)\.jpg')
COLUMNS = ('source', 'plate', 'alpha', 'true alpha', 'error', 'cut-out')
ROWS = 4
LEAST_SIDE, SIDE = 176, 320
"""Of a cell, pixels."""
LINE, GAP = 20, 4
MOST = 20
"""Sheets of a run that stay in its folder."""
GRID_SIDE, GRID_PIXELS = 512, 5 << 20
"""The longest side of a picture in a grid, and the pixels of all of them."""


class Sheet:
    """Takes a few samples out of a validation, spread over its batches, and draws them.

    Args:
        batches: of the validation, on this rank.
    """

    def __init__(self, batches: int):
        rows = min(ROWS, batches)
        self.chosen = {round(i * (batches - 1) / max(1, rows - 1)) for i in range(rows)}
        self.each = -(-ROWS // max(1, rows))
        self.seen = 0
        self.rows: list[tuple[str, list[np.ndarray]]] = []

    def look(self, names: Sequence[str], prediction: Prediction) -> None:
        """Take the samples that are due out of a batch.

        Args:
            names: of the samples.
            prediction: of the batch.
        """
        if self.seen in self.chosen:
            each = min(self.each, len(names), ROWS - len(self.rows))
            for i in range(each):
                sample = i * len(names) // each
                self.rows.append(_row(names[sample], prediction, sample))
        self.seen += 1

    def draw(self, title: str, comment: str) -> tuple[bytes, int, int]:
        """Return the sheet as a JPEG file with a comment, its width and its height."""
        side = self.rows[0][1][0].shape[0]
        across, down = side + GAP, side + LINE + 2 * GAP
        sheet = Image.new('RGB', (len(COLUMNS) * across + GAP, 2 * LINE + len(self.rows) * down), 'white')
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        # A long title is written smaller, so that all of it is there.
        fonts = (ImageFont.load_default(size) for size in range(13, 0, -1))
        fitting = next((f for f in fonts if pen.textlength(title, f) < sheet.width - 3 * GAP), font)
        pen.text((GAP, 2), title, 'black', fitting)
        for column, name in enumerate(COLUMNS):
            pen.text((GAP + column * across, LINE + 2), name, 'black', font)
        legend = GAP + COLUMNS.index('error') * across + pen.textlength('error: ', font)
        pen.text((legend, LINE + 2), 'too much', TOO_MUCH, font)
        pen.text((legend + pen.textlength('too much ', font), LINE + 2), 'too little', TOO_LITTLE, font)
        for row, (label, cells) in enumerate(self.rows):
            top = 2 * LINE + row * down
            for column, cell in enumerate(cells):
                sheet.paste(Image.fromarray(cell), (GAP + column * across, top))
            pen.text((GAP, top + side + 1), label, 'black', font)
        return _jpeg(sheet, comment)


def _row(name: str, prediction: Prediction, sample: int) -> tuple[str, list[np.ndarray]]:
    """Return a sample's label and cells, uint8 RGB, small."""
    true = prediction.true
    pred_pha, pred_fgr, true_pha = (
        x[sample : sample + 1].float().clamp(0, 1) for x in (prediction.pha, prediction.fgr, true.pha)
    )
    side = min(SIDE, max(LEAST_SIDE, *true_pha.shape[2:]))
    too_much, too_little = (pred_pha - true_pha).clamp(min=0), (true_pha - pred_pha).clamp(min=0)
    error = (too_much + too_little).mean().item()
    cells = [_cell(x, side) for x in (true.src[sample : sample + 1], true.bgr[sample : sample + 1], pred_pha, true_pha)]
    errors = [_cell(x, side)[..., 0] for x in (too_much, too_little, true_pha)]
    squares = (np.indices((side, side)) // 8).sum(0)[..., None] % 2
    behind = (1 - cells[2] / np.float32(255)) * (150 + 60 * squares)
    cut_out = (_cell(pred_fgr * pred_pha, side) + behind).clip(0, 255).astype(np.uint8)
    short = '/'.join(PurePath(name).parts[-2:]).encode(errors='backslashreplace').decode()
    label = f'{short}: mean error of alpha {error:.4f}'
    return label, [*cells, error_colours(*errors), cut_out]


def _cell(picture: Tensor, side: int) -> np.ndarray:
    """Return a picture (1, 1 or 3, H, W), 0..1, as uint8 RGB (side, side, 3)."""
    small = F.interpolate(picture.float().clamp(0, 1), (side, side), mode='area')[0].expand(3, -1, -1)
    return (small.permute(1, 2, 0).cpu().numpy() * 255 + 0.5).astype(np.uint8)


def shrunk(batch: Tensor) -> Tensor:
    """Return pictures (B, C, H, W), 0..1, as uint8, small enough for a grid; on their device, without a wait."""
    height, width = batch.shape[2:]
    ratio = min(1.0, GRID_SIDE / max(height, width), math.sqrt(GRID_PIXELS / (len(batch) * height * width)))
    size = [max(1, round(side * ratio)) for side in (height, width)]
    small = F.interpolate(batch.detach().float(), size, mode='area').clamp(0, 1)
    return (small * 255 + 0.5).to(torch.uint8)


def grid(batch: Tensor) -> tuple[bytes, int, int]:
    """Return pictures (B, 1 or 3, H, W), uint8, five in a row, as a JPEG file, its width and its height."""
    return _jpeg(Image.fromarray(make_grid(batch, nrow=5).permute(1, 2, 0).numpy()))


def _jpeg(picture: Image.Image, comment: str = '') -> tuple[bytes, int, int]:
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=90, comment=comment.encode())
    return file.getvalue(), *picture.size


def is_own(path: Path, comment: str) -> bool:
    """Return whether a file is a sheet with this comment."""
    try:
        with Image.open(path) as picture:
            return picture.info.get('comment') == comment.encode()
    except OSError:
        return False


def own_sheets(folder: Path, comment: str) -> dict[int, Path]:
    """Return the sheets in a folder that have this comment, by their step."""
    named = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(name[1]), path) for name, path in named if name and is_own(path, comment)))


def thin_out(disk: Disk, sheets: dict[int, Path], best: int) -> None:
    """Remove sheets until few enough are left: always the one whose neighbours lie closest together.

    So they stay spread over the run. The first, the newest and the best are never removed.

    Args:
        disk: the file operations.
        sheets: of one run, by step, in the order of the steps.
        best: step of the best validation.

    Raises:
        OSError: the disk's own error.
    """
    steps = list(sheets)
    while len(steps) > MOST:
        inner = [i for i in range(1, len(steps) - 1) if steps[i] != best]
        closest = min(inner, key=lambda i: steps[i + 1] - steps[i - 1])
        disk.unlink(sheets[steps.pop(closest)])
