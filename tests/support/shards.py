"""A small data set as folders, and as tar shards made of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

import make_shards
from dataset.checks import DataReport, check_files
from dataset.geometry import AffineRange
from dataset.loaders import TrainingBatches, WarpedPairs
from dataset.paths import DataPaths, read_data_config
from dataset.sampling import SamplingPlan, StepSampler
from dataset.sources import BackgroundFiles, MatteFiles
from support.pictures import noise, save, smooth


def write_folders(root: Path) -> None:
    """Pairs of several kinds, a dot in a name among them, and backgrounds."""
    for i, (fgr, pha) in enumerate([('jpg', 'png'), ('png', 'jpg'), ('webp', 'png'), ('tif', 'tif'), ('jpg', 'jpg')]):
        name = f'anna/{i}' if i % 2 else f'take.{i}'
        save(root / f'fgr/{name}.{fgr}', smooth(80, 96))
        alpha = np.zeros((80, 96), np.uint8)
        alpha[20:70, 20 + i : 70] = 255
        save(root / f'pha/{name}.{pha}', alpha)
    for i in range(3):
        save(root / f'bgr/{i}.jpg', noise(90, 100, 3, seed=i))


def write_shards(root: Path, limit: str = '1') -> Path:
    """Make `shards/pairs` and `shards/bgr` of the folders."""
    pairs = ['--fgr', f'{root}/fgr', '--pha', f'{root}/pha', '--output-dir', f'{root}/shards/pairs']
    assert make_shards.main([*pairs, '--shard-megabytes', limit]) == 0
    assert make_shards.main(['--bgr', f'{root}/bgr', '--output-dir', f'{root}/shards/bgr']) == 0
    return root / 'shards'


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def data_paths(config: Path, fgr: str, pha: str, bgr: str, top: str = 'cache = "kept"') -> DataPaths:
    """Read a data configuration in which training and validation have the same folders."""
    sets = [f'[mine.{split}]\nfgr = "{fgr}"\npha = "{pha}"' for split in ('train', 'valid')]
    config.write_text('\n'.join([top, *sets, f'[backgrounds]\ntrain = "{bgr}"\nvalid = "{bgr}"']))
    return read_data_config(config, 'mine')


def batches(report: DataReport, workers: int, start: int = 0, end: int = 6) -> TrainingBatches:
    report.raise_for_findings()
    data = WarpedPairs(
        MatteFiles(report.train_pairs), BackgroundFiles(report.train_bgr), AffineRange((0.4, 1)), AffineRange((1, 2))
    )
    plan = SamplingPlan(len(data.mattes), len(data.backgrounds), batch_size=2, resolution=64)
    return TrainingBatches(data, StepSampler(plan, start, end), workers, pin=False)


def findings(paths: DataPaths) -> str:
    return '\n'.join(check_files(paths).findings)
