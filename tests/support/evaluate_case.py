"""A small test set, and evaluate.py called on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluate
from evaluation.results import Results
from evaluation.tables import read_json
from support.inference_case import room
from support.pictures import save

NAMES = ['a', 'b', 'shots/c.01']


def disc(width: int = 96, height: int = 64, x: float = 0.5) -> np.ndarray:
    """A soft alpha."""
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (round(width * x), height // 2), min(width, height) // 4, 255, -1)
    return cv2.GaussianBlur(mask, None, 2)


def add(folder: Path, name: str, seed: int, width: int = 96, height: int = 64, x: float = 0.5) -> None:
    """One picture of a test set."""
    bgr, pha, fgr = room(seed, width, height), disc(width, height, x), room(100 + seed, width, height)
    alpha = pha[..., None] / 255
    save(folder / f'src/{name}.png', (fgr * alpha + bgr * (1 - alpha) + 0.5).astype(np.uint8))
    for kind, picture in (('bgr', bgr), ('fgr', fgr), ('pha', pha)):
        save(folder / f'{kind}/{name}.png', picture)


def make_set(folder: Path) -> Path:
    """A test set of `NAMES`."""
    for seed, name in enumerate(NAMES):
        add(folder, name, seed)
    return folder


def evaluated(tmp_path: Path, *flags: object) -> list[Results]:
    path = tmp_path / 'found.json'
    assert evaluate.main([*map(str, flags), '--json', str(path), '-y', '--device', 'cpu']) == 0
    return read_json(path)


def refused(capsys: pytest.CaptureFixture[str], *flags: object) -> str:
    assert evaluate.main([*map(str, flags)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    return captured.err
