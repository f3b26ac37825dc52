"""Pictures that are the frames of a video: folders, and names with a number."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from support.inference_case import files, read, save
from support.video_case import COUNT, case, loaded_once
from support.videos import WIDTH, moving, pictures_of, square, times_of, write_video

from inference.video.pictures import PictureReader, open_video, read_times, written_times
from inference.video.plate import read_plate
from inference.video.settings import sequence_paths

__all__ = ['case', 'loaded_once']


@pytest.fixture
def frames(tmp_path):
    """Numbered from 998, so that the order of the text is another, among other files."""
    for index, pixels in enumerate(moving(COUNT)):
        save(tmp_path / f'frames/shot.{998 + index}.png', pixels)
    (tmp_path / 'frames/notes.txt').write_text('')
    (tmp_path / 'frames/.shot.3.png').write_text('')
    return tmp_path / 'frames'


@pytest.mark.parametrize('name', ['', 'shot.%d.png', 'shot.%04d.png'])
def test_the_order_is_that_of_the_numbers(frames, name):
    with open_video(frames / name, Fraction(24)) as reader:
        assert [square(frame.pixels()) for frame in reader] == [2 * index + 4 for index in range(COUNT)]
        assert [reader.seconds(frame) for frame in reader] == [index / 24 for index in range(COUNT)]
        assert reader.expected == COUNT
    assert square(read_plate(frames / name, 0.21, rate=Fraction(24))) == 14


def test_a_film_of_pictures_is_that_of_a_video(case, frames):
    flags = ('--output-format', 'image_sequences', '--picture-format', 'pha=png')
    case.src = frames / 'shot.%d.png'
    assert case.run(*flags) == 0
    written = {f'pha/{index:06d}.png' for index in range(COUNT)}
    assert files(case.out) == written | {'sequence.json', 'pha/timestamps.txt'}
    before = {name: (case.out / name).stat().st_mtime_ns for name in written}
    (case.out / 'pha/000003.png').unlink()
    assert case.run(*flags, '-y') == 0  # goes on
    changed = {name for name in written if (case.out / name).stat().st_mtime_ns != before[name]}
    assert changed == {'pha/000003.png'}
    pictures = [read(case.out / name) for name in sorted(written)]
    case.src = frames
    assert case.run('--frame-rate', '24000/1001', '--video-quality', '0', '-y') == 0
    assert times_of(case.out / 'pha.mp4') == [Fraction(1001, 24000) * index for index in range(COUNT)]
    for decoded, picture in zip(pictures_of(case.out / 'pha.mp4'), pictures):
        assert np.abs(decoded[..., 0].astype(int) - picture).max() <= 2


def test_a_clean_pass_of_pictures_is_followed(case, frames):
    case.bgr = frames
    assert case.run('--video-bgr-mode', 'each') == 0
    assert len(times_of(case.out / 'pha.mp4')) == COUNT


def test_what_is_wrong_with_pictures_is_one_line(case, frames, capsys):
    def said(src, code=2):
        case.src = src
        assert case.run('-y') == code
        return capsys.readouterr().err

    assert f'--video-src {frames / "x%d.png"}: no such pictures' in said(frames / 'x%d.png')
    (frames / 'shot.1003.png').unlink()
    assert '1 of the pictures are missing, the first is number 1003' in said(frames / 'shot.%d.png')
    save(frames / 'shot.1004.png', moving(1, WIDTH + 32)[0])
    assert f'shot.1004.png: is {WIDTH + 32}x64, the first picture {WIDTH}x64' in said(frames, 1)
    case.out = frames.parent
    save(frames.parent / 'pha/1.png', moving(1)[0])
    case.src = frames.parent / 'pha'
    assert case.run('-y', '--output-format', 'image_sequences') == 2
    assert 'is to be read; choose another folder' in capsys.readouterr().err


def test_a_file_with_a_percent_sign_is_itself(tmp_path):
    path = save(tmp_path / 'a%d.png', moving(1)[0])
    assert read_plate(path).shape == moving(1)[0].shape
    with pytest.raises(ValueError, match='no such pictures'):
        sequence_paths(tmp_path / 'b%d.png')
    assert PictureReader(tmp_path, Fraction(25)).expected == 1


def test_a_folder_has_one_picture_of_each_number_and_says_what_is_missing(frames):
    assert open_video(frames).note is None
    for name, twin in (('shot.0999.png', 'shot.999.png'), ('shot.999.jpg', 'shot.999.png')):
        save(frames / name, moving(1)[0])
        with pytest.raises(ValueError, match=f'of one number, keep one of each: .*{name} and .*{twin}'):
            sequence_paths(frames)
        (frames / name).unlink()
    for number in (1000, 1003, 1004):
        (frames / f'shot.{number}.png').unlink()
    note = '3 of the pictures are missing, the first is number 1000'
    assert open_video(frames).note == f'warning: {frames}: {note}'
    with pytest.raises(ValueError, match=note):
        sequence_paths(frames / 'shot.%d.png')


@pytest.mark.parametrize('rate', ['24/0', 'film', 'nan'])
def test_a_rate_that_is_no_number_is_refused_in_words(case, capsys, rate):
    with pytest.raises(SystemExit) as left:
        case.run('--frame-rate', rate)
    assert left.value.code == 2
    assert f'--frame-rate: {rate}: must be a number such as 24 or 24000/1001' in capsys.readouterr().err


def test_times_survive_pictures(case, tmp_path):
    times = [0, 40, 1000, 1001, 1501, 1541, 1581, 1621, 1661, 1701, 1741, 1781]
    case.src = write_video(tmp_path / 'film.mkv', moving(COUNT), times)
    assert case.run('--output-format', 'image_sequences') == 0
    assert (case.out / 'pha/timestamps.txt').read_text().splitlines()[:3] == [
        '# timestamp format v2',
        '0.0000000000',
        '40.0000000000',
    ]
    with open_video(case.out / 'pha') as reader:
        assert [frame.pts * reader.time_base for frame in reader] == [Fraction(time, 1000) for time in times]
    with open_video(case.out / 'pha', Fraction(10)) as reader:  # a rate that is given stands above the file
        assert [reader.seconds(frame) for frame in reader] == [index / 10 for index in range(COUNT)]


def test_times_that_are_hours_apart(frames):
    times = [Fraction(3600 * index, 1) for index in range(COUNT)]
    (frames / 'timestamps.txt').write_bytes(written_times(times))
    with open_video(frames) as reader:
        assert reader.rate == Fraction(1, 3600)
        assert [reader.seconds(frame) for frame in reader] == times


def test_times_in_text_are_exact(tmp_path):
    path = tmp_path / 'timestamps.txt'
    times = [Fraction(1001 * index, 24000) + Fraction(1, 90000) for index in (0, 1, 2, 300_000)]
    path.write_bytes(written_times(times))
    assert read_times(path) == times


def test_a_folder_takes_times_with_or_without_an_end(frames):
    for count, last in ((COUNT, 40), (COUNT + 1, 500)):
        lines = [40 * index for index in range(COUNT)] + [40 * (COUNT - 1) + last]
        text = '\n'.join(['# timecode format v2', *map(str, lines[:count])])
        (frames / 'timestamps.txt').write_text(text)
        with open_video(frames / 'shot.%d.png') as reader:
            found = list(reader)
            assert reader.rate == 25
            assert [frame.pts * reader.time_base for frame in found] == [Fraction(i, 25) for i in range(COUNT)]
            assert found[-1].duration * reader.time_base == Fraction(last, 1000)


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        ('# timestamp format v2\n0\n40\n', '2 times for 12 pictures'),
        ('# timestamp format v2\n0\n40\n40\n', 'its times do not rise'),
        ('# timestamp format v2\n0\nsoon\n', 'cannot be read as times'),
        ('0\n40\n', 'no "# timestamp format v2" in its first line'),
        ('', 'no "# timestamp format v2" in its first line'),
    ],
)
def test_times_that_cannot_be_are_refused_in_one_line(frames, text, line):
    (frames / 'timestamps.txt').write_text(text)
    with pytest.raises(ValueError, match=line):
        PictureReader(frames)
