"""A small video and its plate with inference_video.py called on them, also to be interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import inference_video
from inference import Matte, Matting
from inference.video.job import Findings
from inference.video.stages import FrameItem
from support.in_process import load_once, loaded_once
from support.inference_case import save
from support.videos import moving, pictures_of, write_video

__all__ = ['loaded_once']
COUNT = 12


def plate() -> np.ndarray:
    """What `moving` moves before."""
    return np.median(moving(36), axis=0).astype(np.uint8)


class VideoCase:
    """A video, its plate and an output folder, and the script run on them."""

    def __init__(self, folder: Path, checkpoint: Path):
        self.checkpoint, self.out = checkpoint, folder / 'out'
        self.src = write_video(folder / 'src.mp4', moving(COUNT))
        self.bgr: Path | None = save(folder / 'plate.png', plate())

    def run(self, *flags: object, types: tuple[str, ...] = ('pha',)) -> int:
        fixed = {
            '--model-type': 'mattingrefine',
            '--model-backbone': 'mobilenetv2',
            '--model-checkpoint': self.checkpoint,
            '--model-refine-sample-pixels': 800,
            '--video-src': self.src,
            '--video-bgr': self.bgr,
            '--output-dir': self.out,
            '--device': 'cpu',
        }
        words = [str(word) for pair in fixed.items() if pair[1] is not None for word in pair]
        return inference_video.main([*words, '--output-types', *types, *map(str, flags)])

    def mattes(self, plates: list[np.ndarray] | None = None) -> list[Matte]:
        """What comes out for each frame, with these plates or the one of the case."""
        matting = load_once(Matting.from_checkpoint, self.checkpoint, device='cpu', refine_sample_pixels=800)
        pictures = pictures_of(self.src)
        return [matting(src, bgr) for src, bgr in zip(pictures, plates or [plate()] * len(pictures))]


@pytest.fixture
def case(tmp_path, checkpoints, loaded_once):
    return VideoCase(tmp_path, checkpoints['mattingrefine'])


@contextmanager
def interrupted_at(frames: int) -> Iterator[None]:
    """The script gets a SIGINT once so many frames are done."""
    add = Findings.add

    def counted(findings: Findings, item: FrameItem) -> list[str]:
        lines = add(findings, item)
        if findings.done == frames:
            os.kill(os.getpid(), signal.SIGINT)
        return lines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Findings, 'add', counted)
        yield
