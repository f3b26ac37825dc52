"""Films that are interlaced, or do not say by which matrix their colours are stored."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import av.filter
import numpy as np
import pytest
from support.inference_case import save
from support.videos import INTERLACED, TICK, edges, interlaced, moving, write_video

from inference.video import colour
from inference.video.colour import BT601, BT709
from inference.video.inputs import VideoInputs
from inference.video.outputs import _read_otherwise, _record
from inference.video.reader import VideoReader
from inference.video.settings import VideoSettings

COUNT = 6
TIMES = [0, 1, 3, 4, 9, 20]
FIELDS = {  # file, field order by FFmpeg's number, and what else the encoder is told
    'h264 top': ('a.mkv', 2, {'flags': INTERLACED}),
    'h264 bottom': ('a.mkv', 3, {'flags': INTERLACED}),
    'mpeg2': ('a.mkv', 2, {'codec': 'mpeg2video', 'flags': INTERLACED, 'qscale': '2'}),
    'prores': ('a.mov', 3, {'codec': 'prores_ks', 'pixel_format': 'yuv422p10le', 'flags': INTERLACED}),
    'the container alone, top': ('a.mov', 2, {'codec': 'png', 'pixel_format': 'rgb24'}),
    'the container alone, bottom': ('a.mov', 5, {'codec': 'png', 'pixel_format': 'rgb24'}),
    'uncompressed': ('a.mov', 5, {'codec': 'rawvideo', 'pixel_format': 'uyvy422'}),
}


def frames_of(path: Path, **reading) -> list[tuple[int, int, np.ndarray]]:
    with VideoReader(path, **reading) as reader:
        return [(frame.pts, frame.duration, frame.pixels()) for frame in reader]


@pytest.mark.parametrize('name', FIELDS)
def test_interlaced_frames_become_whole_ones_of_their_earlier_field(tmp_path, capsys, name):
    file, order, options = FIELDS[name]
    top_first = order == 2
    path = write_video(tmp_path / file, interlaced(COUNT, top_first), TIMES, TICK, field_order=order, **options)
    left = frames_of(path, deinterlace=False)
    assert capsys.readouterr().err == ''
    expected = [8 * i + 4 for i in range(COUNT)]
    assert [edges(pixels) for *_, pixels in left] == [{at, at + 2} for at in expected]
    for _ in range(2):
        whole = frames_of(path)
        assert [edges(pixels) for *_, pixels in whole] == [{at} for at in expected]
        assert [frame[:2] for frame in whole] == [frame[:2] for frame in left]
    for (*_, pixels), (*_, comb) in zip(whole, left):
        own = slice(1 - top_first, None, 2)  # rows of the earlier field are as they were
        assert np.abs(pixels[own].astype(int) - comb[own]).mean() < 1.5
    err = capsys.readouterr().err
    assert err.startswith(f'{path}: is interlaced: ')
    assert err.count('\n') == 1


def test_progressive_frames_pass_as_they_are_also_beside_others(tmp_path, monkeypatch):
    one = write_video(tmp_path / 'one.ts', moving(COUNT))
    other = write_video(tmp_path / 'other.ts', interlaced(COUNT), flags=INTERLACED, field_order=2)
    both = tmp_path / 'both.ts'
    both.write_bytes(one.read_bytes() + other.read_bytes() + one.read_bytes())
    whole, left = frames_of(both), frames_of(both, deinterlace=False)
    assert [frame[:2] for frame in whole] == [frame[:2] for frame in left]
    assert len(whole) == 3 * COUNT
    assert all(np.array_equal(whole[i][2], left[i][2]) for i in (*range(COUNT), *range(2 * COUNT, 3 * COUNT)))
    assert [edges(frame[2]) for frame in whole[COUNT : 2 * COUNT]] == [{8 * i + 4} for i in range(COUNT)]
    monkeypatch.setattr(av.filter, 'Graph', None)
    assert len(frames_of(one)) == COUNT  # without the filter


def test_one_interlaced_frame_that_is_rotated(tmp_path):
    lying = [np.ascontiguousarray(np.rot90(frame)) for frame in moving(1)]
    path = write_video(tmp_path / 'a.mp4', lying, rotation=-90, flags=INTERLACED, field_order=2)
    ((_, _, pixels),) = frames_of(path)
    assert np.abs(pixels.astype(int) - moving(1)[0]).mean() < 6


def opened(src: Path, bgr: Path, **flags) -> VideoInputs:
    values = dict.fromkeys(field.name for field in fields(VideoSettings)) | {
        'video_src': src, 'video_bgr': bgr, 'video_bgr_mode': 'median', 'nvidia_codecs': (), 'device': 'cpu',
        'deinterlace': True,
    }  # fmt: skip
    return VideoInputs(VideoSettings.from_options(values | flags, {}))


@pytest.mark.parametrize('mode', ['median', 'each', 'time'])
def test_a_rate_stands_above_the_times_of_every_folder(tmp_path, mode):
    for index, pixels in enumerate(moving(COUNT)):
        save(tmp_path / f'frames/{index}.png', pixels)
    (folder := tmp_path / 'frames').joinpath('timestamps.txt').write_text('of another film')
    flags = {'frame_rate': Fraction(24), 'video_target_bgr': folder, 'video_bgr_mode': mode}
    flags |= {'video_bgr_mode': 'median', 'video_bgr_time': 0.1} if mode == 'time' else {}
    with opened(folder, folder, **flags) as inputs:
        assert len([*inputs.read()]) == COUNT


@pytest.mark.parametrize('name', ['progressive', 'the container alone, top', 'h264 top'])
def test_pictures_of_film_that_is_read_otherwise_are_not_gone_on_with(tmp_path, name):
    file, order, options = FIELDS.get(name, ('a.mkv', 0, {}))
    film = write_video(tmp_path / file, interlaced(COUNT), field_order=order, **options)
    plate = save(tmp_path / 'frames/plate.png', interlaced(1)[0])
    older = _record({})  # there were no such flags

    def record(src: Path, **flags) -> str:
        with opened(src, plate, **flags) as inputs:
            return _record(_read_otherwise(inputs))

    assert (record(film) == older) == (name == 'progressive')
    assert record(film, deinterlace=False) not in (older, record(film))
    assert record(film, video_matrix='bt709') != record(film)
    assert record(plate.parent) == older


# Matrices


def colourful(count: int) -> list[np.ndarray]:
    """`moving` before walls of four colours, by which matrices differ by 8 levels and more."""
    frames = moving(count)
    walls = np.repeat(np.array([[200, 60, 50], [40, 150, 70], [60, 70, 190], [170, 90, 160]]), 24, 0)
    for frame in frames:
        yellow = (frame == (235, 220, 40)).all(2, keepdims=True)
        frame[:] = np.where(yellow, frame, walls + (frame.astype(int) - 110) // 8)
    return frames


@pytest.mark.parametrize(('matrix', 'hd'), [(BT709, 720), (BT601, 64)], ids=['small', 'HD'])
def test_a_picture_as_plate_tells_the_matrix_of_a_film_that_does_not(tmp_path, capsys, monkeypatch, matrix, hd):
    monkeypatch.setattr(colour, 'LEAST_HD_SIDE', hd)
    pictures, plate = colourful(3), np.median(colourful(36), 0).astype(np.uint8)
    path = write_video(tmp_path / 'a.mp4', pictures, colour=(matrix, False), said=False)
    with opened(path, save(tmp_path / 'plate.png', plate)) as inputs:
        assert inputs.reader.colour.matrix == matrix
        frames = [read.frame.pixels() for read in inputs.read()]
    assert len(frames) == 3
    assert np.abs(frames[0].astype(int) - pictures[0]).mean() < 3
    names = ('bt709', 'bt601') if matrix == BT709 else ('bt601', 'bt709')
    said = f'{path}: does not say its matrix: {names[0]}, by which it is like the plate, not {names[1]}\n'
    assert capsys.readouterr().err == said


@pytest.mark.parametrize('what', ['it says one', 'grey', 'another scene', 'exposed otherwise', 'the rule is right'])
def test_the_matrix_stays_where_a_plate_does_not_clearly_tell_another(tmp_path, capsys, what):
    pictures, plate = colourful(3), np.median(colourful(36), 0)
    if what == 'grey':
        pictures, plate = ([picture.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8) for picture in both]
                           for both in (pictures, [plate]))  # fmt: skip
        (plate,) = plate
    plate = {'another scene': plate[::-1, ::-1] // 2, 'exposed otherwise': plate * 0.94}.get(what, plate)
    matrix = BT601 if what == 'the rule is right' else BT709
    path = write_video(tmp_path / 'a.mp4', pictures, colour=(matrix, False), said=False)
    if what == 'it says one':
        path = write_video(path, pictures, colour=(BT601, False))
        plate = np.asarray(frames_of(path, matrix=BT709)[0][2])
    with opened(path, save(tmp_path / 'plate.png', plate.astype(np.uint8))) as inputs:
        assert inputs.reader.colour.matrix == BT601
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('mode', ['median', 'each'])
def test_of_two_films_the_one_that_says_its_matrix_tells_the_others(tmp_path, mode):
    pictures = colourful(3)
    says = write_video(tmp_path / 'says.mp4', pictures, colour=(BT601, False))
    silent = write_video(tmp_path / 'silent.mp4', pictures, colour=(BT709, False), said=False)
    for src, bgr in ((silent, says), (says, silent)):
        with opened(src, bgr, video_bgr_mode=mode) as inputs:
            read = list(inputs.read())
            plate = read[0].plate.pixels() if mode == 'each' else inputs.plate
        assert np.abs(read[0].frame.pixels().astype(int) - pictures[0]).mean() < 3
        assert np.abs(plate[:, 60:].astype(int) - pictures[0][:, 60:]).mean() < 3
    with opened(silent, silent) as inputs:  # neither says it
        assert inputs.reader.colour.matrix == BT601


def test_a_matrix_that_is_given_counts_for_video_and_plate(tmp_path, capsys):
    pictures = colourful(3)
    wrong = write_video(tmp_path / 'wrong.mp4', pictures, colour=(BT601, False))
    silent = write_video(tmp_path / 'silent.mp4', pictures, colour=(BT709, False), said=False)
    with opened(wrong, silent, video_matrix='bt709') as inputs:
        assert inputs.reader.colour.matrix == BT709
        assert np.abs(inputs.plate[:, 60:].astype(int) - pictures[0][:, 60:]).mean() < 3
    assert capsys.readouterr().err == ''
