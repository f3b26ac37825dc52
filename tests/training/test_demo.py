"""The demo when it is stopped or run again: what it says can be typed by whoever typed `make demo`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import sabotage
from support.pictures import save
from support.runs import ROOT, flags

import demo
import inference_images
import train_base
import train_refine
from common.signals import StopRequest
from training.settings import TrainingSettings


@pytest.fixture
def called(in_tmp, monkeypatch):
    """The command lines of the scripts that the demo runs; they do nothing."""
    lines = []
    for script in (train_base, train_refine):
        monkeypatch.setattr(script, 'main', lambda words: lines.append(words) or 0)
    monkeypatch.setattr(inference_images, 'start', lambda words, shard: lines.append(words) or 130)
    monkeypatch.setattr(demo, 'draw_pictures', lambda: None)
    return lines


@pytest.mark.parametrize(
    ('script', 'words', 'again'),
    [
        ('demo.py', [], 'make demo'),
        ('demo.py', ['--steps', '20'], 'python demo.py --steps 20'),
        ('bgmatting demo', [], 'bgmatting demo'),
        ('bgmatting demo', ['--steps', '20'], 'bgmatting demo --steps 20'),
    ],
)
def test_the_stages_know_what_goes_on_with_them(called, monkeypatch, capsys, script, words, again):
    monkeypatch.setattr(sys, 'argv', [script, *words])
    assert demo.main(words) == 130
    base, refine, _ = called
    for line in (base, refine):
        assert line[line.index('--model-last-checkpoint') + 1] == 'auto'
        assert line[line.index('--part-of') + 1] == again
    assert refine[refine.index('--model-start-weights') + 1] == 'demo_output/checkpoint/base/best.pth'
    out = capsys.readouterr().out
    assert '--part-of' not in out
    assert out.count('--model-last-checkpoint auto') == 2


@pytest.mark.parametrize('place', ['import', pytest.param('draw_pictures', marks=pytest.mark.slow), 'start'])
def test_a_signal_ends_the_demo_in_one_line(tmp_path, place):
    program = f"""
import os, signal, sys
import demo, inference_images, train_base, train_refine
from common import devices
def stop(*_):
    os.kill(os.getpid(), signal.SIGINT)
    return 'cpu'
train_base.main = train_refine.main = lambda words: 0
demo.draw_pictures = lambda: None
if {place!r} == 'import':
    devices.choose_device = stop
elif {place!r} == 'start':
    inference_images.start = stop
else:
    demo.draw_pictures = stop
devices.fast_in_bfloat16 = lambda device: False
sys.exit(demo.main([]))
"""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    by = '' if place == 'start' else ' by SIGINT'
    assert (done.returncode, done.stderr) == (130, f'stopped{by}; make demo goes on\n')


def test_a_training_that_is_a_part_says_what_goes_on_with_it(in_tmp, monkeypatch, capfd):
    sabotage.tiny(monkeypatch.setattr)
    words = [*flags('run', model_last_checkpoint='auto'), '--part-of', 'make demo']
    real = train_base.train

    def train(args, ranks, request):
        assert request.hint == '; make demo goes on'
        return real(args, ranks, request)

    monkeypatch.setattr(train_base, 'train', train)
    assert train_base.main(words) == 0
    capfd.readouterr()
    assert train_base.main(words) == 0
    out = capfd.readouterr().out
    assert 'nothing to do: 6 steps are done\n' in out
    assert '--' not in out
    assert Path('checkpoint/run/epoch-1.pth').exists()


def test_words_for_going_on():
    options = vars(train_base.parse(flags('run')))
    assert TrainingSettings.from_options(options).loop.way_on == 'go on with --model-last-checkpoint auto'
    assert TrainingSettings.from_options({**options, 'part_of': 'make demo'}).loop.way_on == 'make demo goes on'


def test_before_the_first_step_the_hint_is_told(monkeypatch):
    told = []
    monkeypatch.setattr('common.signals.tell', told.append)
    monkeypatch.setattr('common.signals.end_at_once', told.append)
    StopRequest(hint='; make demo goes on').answer(signal.SIGTERM)
    assert told == ['stopped by SIGTERM before the first step; make demo goes on', 15]


def test_the_sheet_names_its_columns(in_tmp):
    for kind, suffix, value in (('src', 'png', 40), ('bgr', 'png', 80), ('cut_out/fgr', 'jpg', 120)):
        for i in demo.SHOWN:
            save(demo.OUT / kind / f'{i:02d}.{suffix}', np.full((demo.SIDE, demo.SIDE, 3), value, np.uint8))
    for i in demo.SHOWN:
        save(demo.OUT / f'cut_out/pha/{i:02d}.jpg', np.full((demo.SIDE, demo.SIDE), 255, np.uint8))
    sheet = np.asarray(Image.open(demo.make_sheet()))
    assert sheet.shape == (demo.LABEL + len(demo.SHOWN) * demo.SIDE, len(demo.COLUMNS) * demo.SIDE, 3)
    names, pictures = sheet[: demo.LABEL], sheet[demo.LABEL :]
    for column, value in enumerate((40, 80, 255, 120, 120)):
        place = slice(column * demo.SIDE, (column + 1) * demo.SIDE)
        assert names[:, place].min() < 100  # letters
        assert abs(int(pictures[5, place].mean()) - value) <= 2


def test_a_terminal_shows_two_pixels_in_a_character():
    red, blue = [255, 0, 0], [0, 0, 255]
    picture = np.array([[red, blue], [blue, red]], np.uint8)
    first, second = '\x1b[38;2;255;0;0;48;2;0;0;255m▀', '\x1b[38;2;0;0;255;48;2;255;0;0m▀'
    assert demo.in_half_blocks(picture, 2) == f'{first}{second}\x1b[0m'


@pytest.mark.parametrize(
    ('names', 'opened', 'printed'),
    [
        ({'DISPLAY': ':0', 'COLORTERM': 'truecolor'}, 1, False),
        ({'DISPLAY': 'nothing opens', 'COLORTERM': 'truecolor'}, 1, True),
        ({'COLORTERM': 'truecolor'}, 0, True),
        ({}, 0, False),
    ],
)
def test_the_picture_is_shown_where_that_can_be_done(in_tmp, monkeypatch, capsys, names, opened, printed):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY', 'COLORTERM'):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, 'platform', 'linux')
    addresses = []
    monkeypatch.setattr('webbrowser.open', lambda address: addresses.append(address) or os.environ['DISPLAY'] == ':0')
    demo.show(save(in_tmp / 'result.png', np.zeros((4, 4, 3), np.uint8)))
    assert addresses == [(in_tmp / 'result.png').as_uri()] * opened
    assert ('▀' in capsys.readouterr().out) == printed
