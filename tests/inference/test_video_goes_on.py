"""--skip-existing of inference_video.py: what is whole is not made again."""

from __future__ import annotations

from argparse import Namespace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.inference_case import files, save
from support.video_case import case, loaded_once
from support.videos import SIZE, moving, picture, write_video

from inference.images.writer import PictureWriter
from inference.video import outputs
from inference.video.colour import Colour
from inference.video.outputs import PictureSequences, without_whole
from inference.video.pictures import read_times
from inference.video.reader import VideoReader
from inference.video.settings import FORMATS, VideoSettings
from inference.video.stages import FrameItem
from inference.video.writer import VideoWriter, whole_extent

__all__ = ['case', 'loaded_once']
TIMES = [0, 40, 90, 120, 300, 1000]
TONE = (np.sin(np.arange(9000)) * 8000).astype(np.int16)[None]


def made_of(src: Path, folder: Path, video_format: str, frames: int = len(TIMES), kind: str = 'com') -> Path:
    """What a run leaves of a source."""
    folder.mkdir(exist_ok=True)
    path = folder / f'{kind}{FORMATS[video_format].suffix}'
    with VideoReader(src) as reader:
        audio = src if src.suffix == '.mp4' else None
        common = SIZE, reader.time_base, reader.rate, Colour()
        with VideoWriter(path, video_format, *common, audio=audio, origin=reader.origin) as video:
            for frame in [*reader][:frames]:
                video.write(video.prepared(picture(frame.index)), frame.pts)
    return path


def settings(src: Path, out: Path, video_format: str, *kinds: str) -> VideoSettings:
    values = dict.fromkeys(VideoSettings.__annotations__)
    values |= {'video_src': src, 'output_dir': out, 'output_format': video_format}
    return VideoSettings.from_options(values, dict.fromkeys(kinds, 'png'))


def left(*which) -> list[str]:
    return [*without_whole(settings(*which))[0].picture_formats]


@pytest.mark.parametrize('video_format', FORMATS)
def test_a_video_that_was_cut_anywhere_is_not_whole(tmp_path, video_format):
    src = write_video(tmp_path / 'src.mp4', moving(len(TIMES)), TIMES, audio=[TONE])
    path = made_of(src, tmp_path, video_format)
    data = path.read_bytes()
    assert whole_extent(path) == (len(TIMES), 1)
    for size in (*range(0, len(data), len(data) // 12), len(data) - 1):
        path.write_bytes(data[:size])
        assert whole_extent(path) is None
        path.write_bytes(data[:size] + bytes(len(data) - size))
        assert size > len(data) * 0.8 or whole_extent(path) != (len(TIMES), 1)
    assert whole_extent(tmp_path / 'none.mp4') is None


@pytest.mark.parametrize('video_format', FORMATS)
def test_as_many_frames_and_the_same_end_make_it_the_sources(tmp_path, video_format):
    src = write_video(tmp_path / 'src.mkv', moving(len(TIMES)), [time + 5000 for time in TIMES])
    out = tmp_path / 'out'
    made_of(src, out, video_format)
    made_of(src, out, video_format, len(TIMES) - 1, 'pha')
    assert left(src, out, video_format, 'com', 'pha', 'fgr') == ['pha', 'fgr']
    later = write_video(tmp_path / 'later.mkv', moving(len(TIMES)), [*TIMES[:-1], 1010])
    assert left(later, out, video_format, 'com', 'pha') == ['com', 'pha']


def test_a_source_whose_packets_are_not_its_frames_is_compared_as_decoded(tmp_path):
    one = write_video(tmp_path / 'one.ts', moving(5), time_base=Fraction(1, 25))
    src = tmp_path / 'joined.ts'
    src.write_bytes(one.read_bytes() * 2)
    made_of(src, tmp_path / 'out', 'video', 10)
    assert left(src, tmp_path / 'out', 'video', 'com') == []
    made_of(src, tmp_path / 'out', 'video', 5)
    assert left(src, tmp_path / 'out', 'video', 'com') == ['com']


@pytest.mark.parametrize(('kinds', 'decoded'), [((3,), 4), ((3, 6), 0), ((3, 4), 5)])
def test_a_source_is_decoded_only_as_far_as_outputs_go(tmp_path, monkeypatch, kinds, decoded):
    src = write_video(tmp_path / 'src.mkv', moving(len(TIMES)), TIMES)
    for kind, frames in zip(('pha', 'com'), kinds):
        made_of(src, tmp_path / 'out', 'video', frames, kind)
    shown = []
    monkeypatch.setattr(outputs, 'progress', lambda frames, *_: (shown.append(frame) or frame for frame in frames))
    assert left(src, tmp_path / 'out', 'video', 'com', 'pha') == (['pha'] if 6 in kinds else ['com', 'pha'])
    assert len(shown) == decoded


def test_times_of_a_run_that_came_farther_stay(tmp_path):
    def made(frames: int, complete: bool, record: str = 'flags') -> int:
        writer = PictureWriter(tmp_path, {'pha': 'png'})
        sequence = PictureSequences(writer, record, False, Fraction(1, 25), 0)
        for index in range(frames):
            sequence.draw(item := FrameItem(index, index, 1), Namespace(pha=picture(index)[..., 0]))
            sequence.writers()[0]((item, None))
        sequence.finish(complete)
        return len(read_times(tmp_path / 'pha/timestamps.txt'))

    assert [made(3, False), made(2, False), made(4, False), made(2, True)] == [4, 4, 5, 3]
    assert [made(4, True), made(2, False, 'other flags')] == [5, 3]


def test_only_what_is_missing_is_made(case, capsys):
    write_video(case.src, moving(2))
    case.out.mkdir()
    (case.out / 'mine.txt').write_text('')
    assert case.run('-y', types=('pha', 'err')) == 0
    whole, cut = case.out / 'pha.mp4', case.out / 'err.mp4'
    expected = cut.read_bytes()
    cut.write_bytes(expected[:-40])
    before = whole.stat().st_mtime_ns
    capsys.readouterr()
    assert case.run('--skip-existing', types=('pha', 'err')) == 0
    assert f'{whole}: is whole, skipped' in capsys.readouterr().out
    assert (whole.stat().st_mtime_ns, cut.read_bytes()) == (before, expected)
    remade = cut.stat().st_mtime_ns
    assert case.run('--skip-existing', '-y') == 2
    assert '--skip-existing: not together with -y' in capsys.readouterr().err
    assert case.run('--skip-existing', types=('pha', 'err')) == 0
    assert capsys.readouterr().out == f'{whole}: is whole, skipped\n{cut}: is whole, skipped\n'
    assert (whole.stat().st_mtime_ns, cut.stat().st_mtime_ns) == (before, remade)
    assert files(case.out) == {'mine.txt', 'pha.mp4', 'err.mp4'}


def test_pictures_that_are_whole_stay_whatever_flags_they_were_made_with(tmp_path):
    grey = picture(0)[..., 0]
    for kind, index in (('pha', 0), ('pha', 1), ('err', 1), ('pha', 2), ('err', 2)):
        save(tmp_path / f'{kind}/{index:06d}.png', picture(index))
    cut = tmp_path / 'err/000002.png'
    cut.write_bytes(cut.read_bytes()[:-9])
    (tmp_path / 'sequence.json').write_text('other flags')
    kept = (tmp_path / 'pha/000000.png').read_bytes()
    kinds = {'pha': 'png', 'err': 'png'}
    made = PictureSequences(PictureWriter(tmp_path, kinds, keep=True), 'record', False, Fraction(1, 25), 0)
    assert (made.note, [made.done(index) for index in range(4)]) == (None, [False, True, False, False])
    made.draw(FrameItem(0, 0, 0), Namespace(pha=grey, err=grey))
    assert made.done(0)
    assert (tmp_path / 'pha/000000.png').read_bytes() == kept
    assert PictureSequences(PictureWriter(tmp_path, kinds), 'other flags', False, Fraction(1, 25), 0).done(1) is False
