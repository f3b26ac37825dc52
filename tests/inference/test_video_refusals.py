"""inference_video.py: what it refuses before anything is written."""

from __future__ import annotations

import os

import av
import numpy as np
import pytest
from support.inference_case import files, save
from support.video_case import case, loaded_once, plate
from support.videos import moving, times_of, write_video

from common.path_checks import unwritable_problems
from inference.video.reader import VideoReader
from inference.video.writer import VideoWriter

__all__ = ['case', 'loaded_once']
NOT_TEXT = os.fsdecode(b'caf\xe9')


def test_a_picture_that_is_to_be_read_is_not_among_those_written(case, capsys):
    case.bgr = save(case.out / 'fgr/000000.png', plate())
    before = case.bgr.read_bytes()
    assert case.run('--output-format', 'image_sequences', '-y', types=('fgr',)) == 2
    assert 'is to be read; choose another folder' in capsys.readouterr().err
    assert case.bgr.read_bytes() == before


def test_what_is_to_be_read_is_never_written_over(case, capsys):
    case.out.mkdir()
    case.src = case.src.rename(case.out / 'pha.mp4')
    before = case.src.read_bytes()
    assert case.run('-y') == 2
    assert 'is to be read; choose another folder' in capsys.readouterr().err
    assert case.src.read_bytes() == before


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_touched(case, capsys):
    case.out.mkdir()
    (case.out / 'mine.txt').write_text('mine')
    case.src, case.bgr = case.src.with_name('none.mp4'), None
    assert case.run('--video-quality', 99, '--batch-size', 0, '--video-resize', 4, 4, types=('com', 'ref')) == 2
    err = capsys.readouterr().err
    for part in ('6 problems', 'none.mp4: no such file', '--video-bgr: give', '--video-quality 99', '--batch-size 0',
                 '--video-resize 4 4', 'not empty (it holds mine.txt)'):  # fmt: skip
        assert part in err
    assert files(case.out) == {'mine.txt'}


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('--video-bgr-time', 1), 'is a picture; leave one of the two out'),
        (('--video-bgr-mode', 'each'), 'needs a video as --video-bgr'),
        (('--picture-format', 'pha=png'), 'needs --output-format image_sequences'),
        (('--video-target-bgr', '.'), '.: no such pictures (jpg'),
        (('--video-target-bgr', __file__), 'only com shows it'),
    ],
)
def test_flags_that_contradict_each_other(case, capsys, flags, message):
    assert case.run(*flags) == 2
    assert message in capsys.readouterr().err


def test_weights_that_are_none_and_a_video_that_is_none(case, capsys):
    good, case.checkpoint = case.checkpoint, case.bgr
    assert case.run() == 2
    case.checkpoint, case.src = good, case.bgr.with_name('text.mp4')
    case.src.write_text('nothing')
    capsys.readouterr()
    assert case.run() == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert 'text.mp4: cannot be read as a video' in err
    assert not case.out.exists()


def test_names_that_are_no_text_go_through(case, capsys):
    src = write_video(case.src, moving(2), audio=[np.zeros((1, 2000), np.int16)])
    case.src = src.rename(src.with_name(f'{NOT_TEXT}.mp4'))
    case.bgr = case.bgr.rename(case.bgr.with_name(f'{NOT_TEXT}.png'))
    target = write_video(case.src.with_name(f'{NOT_TEXT} target.mp4'), moving(1))
    case.out = case.out / NOT_TEXT
    flags = '--video-target-bgr', target
    assert case.run(*flags, types=('com', 'pha')) == 0
    assert len(times_of(case.out / 'com.mp4')) == 2
    with av.open(str(case.out / 'com.mp4')) as container:
        assert container.streams.audio
    assert case.run('--skip-existing', *flags, types=('com', 'pha')) == 0
    assert r'caf\udce9' in capsys.readouterr().out


@pytest.mark.parametrize('flag', ['video_src', 'video_bgr', 'video_target_bgr', 'output_dir', 'deep'])
def test_names_that_are_too_long_are_refused_in_one_line(case, capsys, flag):
    long = case.src.with_name('n' * 300 + ('.png' if 'bgr' in flag else '.mp4'))
    if flag == 'output_dir':
        case.out = long
    elif flag == 'deep':
        case.out = case.src.parent.joinpath(*['n' * 200] * 25)
    elif flag != 'video_target_bgr':
        setattr(case, flag.removeprefix('video_'), long)
    target = ('--video-target-bgr', long) if flag == 'video_target_bgr' else ()
    assert case.run(*target, types=('com',)) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    said = (
        'File name too long' if flag in ('output_dir', 'deep') else f'--{flag.replace("_", "-")} {long}: no such file'
    )
    assert said in err
    assert not list(case.src.parent.glob('n*'))


def test_a_path_that_is_long_is_no_hindrance(tmp_path):
    folder = tmp_path.joinpath(*['n' * 200] * 12)
    folder.mkdir(parents=True)
    src = write_video(tmp_path / 'a.mp4', moving(2), audio=[np.zeros((1, 2000), np.int16)])
    src = src.rename(folder / ('ä' * 125 + '.mp4'))
    out = folder / ('o' * 255) / 'com.mp4'
    with VideoReader(src) as reader:
        size = reader.width, reader.height
        with VideoWriter(out, 'video', size, reader.time_base, reader.rate, reader.colour, audio=src) as video:
            assert not unwritable_problems('--output-dir', out.parent)
            out.parent.mkdir()
            for frame in reader:
                video.write(video.prepared(frame.pixels()), frame.pts)
    assert times_of(out) == times_of(src)
