"""Small folders of checkpoints made by the real saving, and checkpoints.py called on them."""

import math
from pathlib import Path

import torch

import checkpoints
from checkpointing.content import Content
from checkpointing.manager import Checkpoints, Point
from checkpointing.retention import Policy

ROOT = Path(__file__).parents[2]
LOSSES = {1: 0.5, 3: 0.25, 5: math.nan, 7: 0.75}


def content(step, ema=False):
    weights = {'w': torch.arange(64.0) + step, 'n': torch.tensor(step)}
    moments = {'w': {'exp_avg': torch.full((64,), 0.5), 'step': torch.tensor(1.0)}}
    state = {'format': 1, 'progress': {'step': step + 1}, 'optimizer': moments, 'scaler': {}, 'ema_updates': None}
    return Content(weights, state, {'w': weights['w'] + 100, 'n': weights['n']} if ema else None)


def make(folder, losses=None, run='run', stage='base', ema=False, **options):
    """A run saved after the steps of `losses`; options as in a record, which the saving itself does not follow."""
    made = Checkpoints(folder, stage, run, {}, Policy(), options)
    for step, loss in (losses or LOSSES).items():
        metrics = {'valid_loss': loss, **({'valid_ema_loss': -loss} if ema else {})}
        made.save({f'epoch-0-iter-{step}': 'interval'}, Point(step, 0, metrics), content(step, ema))
        assert made.settle()
    return folder


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != '.lock'}


def load(path):
    return torch.load(path, weights_only=True)


def call(capsys, *words):
    """Runs the script; returns its exit code, what it printed and what it complained about."""
    capsys.readouterr()
    code = checkpoints.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert 'Traceback' not in captured.err
    return code, captured.out, captured.err


def flip(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 4
    path.unlink()
    path.write_bytes(data)


def foreign(name, **options):
    torch.save({'w': torch.arange(999.0)}, name, **options)
    return Path(name)


def without_checksums(name):
    torch.serialization.set_crc32_options(False)
    try:
        return foreign(name)
    finally:
        torch.serialization.set_crc32_options(True)
