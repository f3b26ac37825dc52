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
    """The command lines of the scripts that the demo runs, with their names; they do nothing."""
    lines = []
    monkeypatch.setattr(train_refine, 'main', lambda words: lines.append(['train_refine.py', *words]) or 0)
    monkeypatch.setattr(
        inference_images, 'start', lambda words, shard: lines.append(['inference_images.py', *words]) or 0
    )
    monkeypatch.setattr(demo, 'draw_pictures', lambda: None)
    monkeypatch.setattr(demo, 'make_sheet', lambda folder, path: path)
    return lines


def value(line, flag):
    return line[line.index(flag) + 1]


@pytest.mark.parametrize(
    ('script', 'words', 'again'),
    [
        ('demo.py', [], 'make demo'),
        ('demo.py', ['--steps', '20'], 'python demo.py --steps 20'),
        ('bgmatting demo', [], 'bgmatting demo'),
        ('bgmatting demo', ['--steps', '20'], 'bgmatting demo --steps 20'),
    ],
)
def test_it_cuts_out_at_once_and_again_after_a_training_that_goes_on(called, monkeypatch, capsys, script, words, again):
    monkeypatch.setattr(sys, 'argv', [script, *words])
    assert demo.main(words) == 0
    first, begun, gone_on, last = called
    assert [line[0] for line in called] == ['inference_images.py', *['train_refine.py'] * 2, 'inference_images.py']
    assert '--model-checkpoint' not in first
    assert value(last, '--model-checkpoint') == 'demo_output/checkpoint/fine-tuned/best.pth'
    steps = int(words[1]) if words else 32
    assert [int(value(line, '--max-steps')) for line in (begun, gone_on)] == [steps // 2, steps]
    for line in (begun, gone_on):
        assert value(line, '--model-last-checkpoint') == 'auto'
        assert value(line, '--model-start-weights') == 'starter'
        assert value(line, '--part-of') == again
        train_refine.parse(line[1:])
    out = capsys.readouterr().out
    assert '--part-of' not in out
    assert out.count('--model-last-checkpoint auto') == 2
    assert out.index('demo_output/result.png') < out.index('train_refine.py') < out.index('demo_output/fine_tuned.png')


@pytest.mark.parametrize('failing', range(4))
def test_what_fails_ends_it(called, monkeypatch, failing):
    for owner, name in ((train_refine, 'main'), (inference_images, 'start')):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *words, real=real: real(*words) or 7 * (len(called) == failing + 1))
    assert demo.main([]) == 7
    assert len(called) == failing + 1


@pytest.mark.parametrize('place', ['start', pytest.param('draw_pictures', marks=pytest.mark.slow), 'choose_device'])
def test_a_signal_ends_the_demo_in_one_line(tmp_path, place):
    program = f"""
import os, signal, sys
import demo, inference_images, train_refine
from common import devices
def stop(*_):
    os.kill(os.getpid(), signal.SIGINT)
    return 'cpu'
train_refine.main = lambda words: 0
demo.draw_pictures = lambda: None
demo.make_sheet = lambda folder, path: path
inference_images.start = lambda words, shard: 0
devices.fast_in_bfloat16 = lambda device: False
owner = {{'start': inference_images, 'choose_device': devices}}.get({place!r}, demo)
setattr(owner, {place!r}, stop)
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


def test_its_pictures_are_drawn_and_a_photograph_with_the_person_painted_over(in_tmp, monkeypatch):
    monkeypatch.setattr(demo, 'DRAWN', demo.DRAWN[:1])
    demo.draw_pictures()
    names = sorted(path.name for path in (demo.OUT / 'pictures').iterdir())
    assert names == ['a-photograph.png', 'drawn-05.png']
    for name in names:
        source, plate = (np.asarray(Image.open(demo.OUT / kind / name)).astype(int) for kind in ('pictures', 'plates'))
        assert source.shape == plate.shape
        changed = np.abs(source - plate).max(2) > 20
        assert 0.05 < changed.mean() < 0.7
    assert source.shape == (demo.SIDE, demo.SIDE, 3)
    source, plate = (np.asarray(Image.open(demo.OUT / kind / names[0])) for kind in ('pictures', 'plates'))
    same = (source == plate).all(2)
    assert source.shape == (512, 512, 3)
    assert same[:18].all()
    assert not same[200:300, 200:330].any()


def test_without_the_photograph_there_are_drawn_pictures_alone(in_tmp, monkeypatch, capsys):
    monkeypatch.setattr('matplotlib.get_data_path', lambda: str(in_tmp))
    assert demo.photograph() is None
    assert capsys.readouterr().err.count('\n') == 1


def test_the_sheet_names_its_columns(in_tmp):
    names, folder = ('a', 'b'), demo.OUT / 'cut_out/result'
    for name, side in zip(names, (demo.SIDE, 2 * demo.SIDE)):
        colour, grey = np.ones((side, side, 3), np.uint8), np.full((side, side), 255, np.uint8)
        save(demo.OUT / f'pictures/{name}.png', 40 * colour)
        save(demo.OUT / f'plates/{name}.png', 80 * colour)
        save(folder / f'fgr/{name}.jpg', 120 * colour)
        save(folder / f'pha/{name}.jpg', grey)
    sheet = np.asarray(Image.open(demo.make_sheet(folder, in_tmp / 'sheet.png')))
    assert sheet.shape == (demo.LABEL + len(names) * demo.SIDE, len(demo.COLUMNS) * demo.SIDE, 3)
    labels, pictures = sheet[: demo.LABEL], sheet[demo.LABEL :]
    for column, level in enumerate((40, 80, 255, 120, 120)):
        place = slice(column * demo.SIDE, (column + 1) * demo.SIDE)
        assert labels[:, place].min() < 100  # letters
        assert np.abs(pictures[:, place].astype(int) - level).max() <= 2


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
