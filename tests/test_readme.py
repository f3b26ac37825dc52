"""README's lines, typed from top to bottom in one folder, on data of the names that it gives."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.export_case import package
from support.pictures import noise, save, smooth
from support.videos import moving, write_video
from support.webcam_case import FakeWindow

import model.pretrained
from inference.webcam import display
from model import MattingRefine

README = (Path(__file__).parents[1] / 'README.md').read_text()
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
SIDE = 64
# What makes a line small: flags that come later win.
TRAIN = ['--model-backbone', 'mobilenetv2', '--train-resolution', '64', '--batch-size', '2', '--num-workers', '0']
REFINE = ['--max-steps', '6', '--model-refine-sample-pixels', '256', '--model-backbone-scale', '0.5']
SMALL = {
    'train_base': [*TRAIN, '--log-valid-interval', '4'],
    'train_refine': [*TRAIN, *REFINE],
    'inference_speed_test': [
        '--resolution',
        str(SIDE),
        str(SIDE),
        '--model-backbone',
        'mobilenetv2',
        '--precision',
        'float32',
    ],
    'export_coreml': ['--resolution', str(SIDE), str(SIDE)],
    'export_web': ['--runtime', 'runtime.tgz'],
    'inference_webcam': ['--video-src', 'talk.mp4', '--resolution', '96', '64'],
}


def subject(seed: int) -> tuple[np.ndarray, np.ndarray]:
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(alpha, (32, 28 + seed), 20, 255, -1, cv2.LINE_AA)
    return noise(SIDE, SIDE, 3, seed=seed), alpha


def write_data() -> None:
    """What a reader of README is supposed to have."""
    for split in ('train', 'valid'):
        for i in range(4):
            fgr, pha = subject(i)
            save(Path(f'my-data/{split}/fgr/person/{i:04d}.jpg'), fgr)
            save(Path(f'my-data/{split}/pha/person/{i:04d}.png'), pha)
        for i in range(6):
            save(Path(f'backgrounds/{split}/street{i or ""}.jpg'), smooth(96, 96 + i))
    room = smooth(SIDE, SIDE)
    for i in (1, 2):
        fgr, pha = subject(i)
        save(Path(f'pictures/{i:04d}.jpg'), np.where(pha[..., None] > 127, fgr, room))
        save(Path(f'plates/{i:04d}.jpg'), room)
    save(Path('photo.jpg'), np.where(pha[..., None] > 127, fgr, room))
    save(Path('plate.jpg'), room)
    package(Path('runtime.tgz'))
    Path('bucket/checkpoint').mkdir(parents=True)
    frames = moving(100)
    write_video(Path('talk.mp4'), frames)
    save(Path('plate.png'), np.median(frames, 0).astype(np.uint8))


@pytest.fixture
def _no_network(monkeypatch):
    """Random weights for those of ImageNet; a stand-in for the window of the webcam, in which B and Q are pressed."""
    from torchvision.models import mobilenet_v2

    monkeypatch.setattr(model.pretrained, '_download', lambda _: mobilenet_v2().state_dict())
    monkeypatch.setattr(display, 'Window', FakeWindow)
    monkeypatch.setattr(display, 'display_problem', lambda: None)
    monkeypatch.setattr(FakeWindow, 'keys', ['b', '', 'q'])


@pytest.mark.timeout(900)
@pytest.mark.parametrize('end', ['## Ship it', pytest.param('MIT licence', marks=pytest.mark.slow)])
@pytest.mark.usefixtures('_no_network')
def test_the_lines_of_readme_work_one_after_another(in_tmp, capfd, end):
    write_data()
    torch.manual_seed(0)
    torch.save(MattingRefine('mobilenetv2').state_dict(), 'pytorch_mobilenetv2.pth')
    typed = 0
    for language, text in BLOCK.findall(README[: README.index(end)]):
        if language == 'toml':
            Path('data_path.toml').write_text(text)
        elif language == 'python':
            exec(text, {})
        for line in re.findall(r'^python (.*)', text, re.MULTILINE):
            script, *words = shlex.split(line.replace('s3://bucket', f'file://{in_tmp}/bucket'), comments=True)
            name = script.removesuffix('.py')
            code = importlib.import_module(name).main([*words, *SMALL.get(name, [])])
            assert not code, f'{line}\n{"".join(capfd.readouterr())[-3000:]}'
            typed += 1
    assert typed >= 15
