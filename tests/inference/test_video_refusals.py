"""inference_video.py: what it refuses before anything is written."""

from __future__ import annotations

import pytest
from support.inference_case import files, save
from support.video_case import case, loaded_once, plate

__all__ = ['case', 'loaded_once']


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
        (('--video-target-bgr', '.'), '.: no such pictures (.jpg'),
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
