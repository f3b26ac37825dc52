"""Every frame that can be decoded, once, upright, with its time and in its colours, whatever a file claims."""

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from support.videos import HEIGHT, WIDTH, moving, square, times_of, write_video

from inference.compositing import fitted
from inference.video.colour import BT601, BT709, Colour, to_frame, to_rgb
from inference.video.plate import MEDIAN_FRAMES, read_plate, repeated
from inference.video.reader import VideoReader

BT2020 = 9


def frames_of(path):
    with VideoReader(path) as reader:
        return [(frame.pts * reader.time_base, frame.pixels()) for frame in reader], reader


@pytest.mark.parametrize(
    ('suffix', 'codec'), [('.mp4', 'libx264'), ('.mkv', 'libx264'), ('.avi', 'mpeg4'), ('.ts', 'libx264')]
)
def test_every_frame_once_in_order(tmp_path, suffix, codec):
    path = write_video(tmp_path / f'a{suffix}', moving(30), codec=codec, time_base=Fraction(1, 25))
    frames, reader = frames_of(path)
    assert [square(pixels) for _, pixels in frames] == [2 * i + 4 for i in range(30)]
    assert (reader.width, reader.height, reader.damage) == (WIDTH, HEIGHT, None)
    assert all(pixels.shape == (HEIGHT, WIDTH, 3) for _, pixels in frames)


SEVERAL = """
import sys
from concurrent.futures import ThreadPoolExecutor
from inference.video.reader import VideoReader
with VideoReader(sys.argv[1]) as reader, ThreadPoolExecutor(8) as pool:
    frame = next(iter(reader))
    assert len({*pool.map(lambda index: frame.pixels(index % 2 == 1).tobytes(), range(400))}) == 2
"""


def test_one_frame_may_be_converted_by_several_threads(tmp_path):
    path = write_video(tmp_path / 'a.mp4', moving(2))
    subprocess.run([sys.executable, '-c', SEVERAL, path], check=True)


def test_times_are_those_of_the_file_also_where_the_rate_varies(tmp_path):
    times = [40, 80, 90, 300, 301, 1000, 1033]
    path = write_video(tmp_path / 'a.mp4', moving(7), times, Fraction(1, 1000))
    frames, reader = frames_of(path)
    assert [time for time, _ in frames] == times_of(path)
    assert [time - frames[0][0] for time, _ in frames] == [Fraction(t - 40, 1000) for t in times]
    assert reader.damage is None


@pytest.mark.parametrize('rotation', [90, 180, -90])
def test_rotation_of_phones_is_honoured(tmp_path, rotation):
    upright = moving(3)[2]
    upright[:8, :8] = 255  # the upper left corner
    lying = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
    path = write_video(tmp_path / 'a.mp4', [lying] * 3, rotation=rotation)
    frames, reader = frames_of(path)
    assert (reader.width, reader.height) == (WIDTH, HEIGHT)
    assert np.abs(frames[1][1].astype(int) - upright).mean() < 3


@pytest.mark.parametrize('matrix', [BT601, BT709, BT2020])
@pytest.mark.parametrize('full', [False, True])
def test_matrix_and_range_are_read_as_the_file_says(tmp_path, matrix, full):
    colours = np.array(
        [[200, 30, 40], [30, 180, 60], [40, 60, 220], [250, 250, 250], [5, 5, 5], [120, 130, 125]], np.uint8
    )
    picture = np.repeat(np.repeat(colours[None], 16, 1), 64, 0)
    path = write_video(tmp_path / 'a.mp4', [picture] * 3, colour=(matrix, full), crf=0, pixel_format='yuv444p')
    frames, reader = frames_of(path)
    assert reader.colour == Colour(matrix, full)
    assert np.abs(frames[1][1][:, 8::16].astype(int) - colours).max() <= 3
    wrong = Colour(BT709 if matrix == BT601 else BT601, not full)
    with VideoReader(path) as again:
        assert np.abs(to_rgb(next(iter(again)).decoded, wrong)[:, 8::16].astype(int) - colours).max() > 8


def test_what_a_file_does_not_say_is_taken_as_players_do():
    small, large = av.VideoFrame(640, 480, 'yuv420p'), av.VideoFrame(1280, 720, 'yuv420p')
    assert (Colour.of(small), Colour.of(large)) == (Colour(BT601), Colour(BT709))
    assert Colour.of(av.VideoFrame(64, 48, 'yuvj420p')).full_range
    assert Colour.of(av.VideoFrame(64, 48, 'rgb24')) == Colour(BT709)


@pytest.mark.parametrize('pixel_format', ['yuv420p', 'yuv444p', 'yuv422p10le', 'yuva444p10le'])
def test_to_yuv_and_back(pixel_format):
    y, x = np.mgrid[0:48, 0:64]
    ramp = np.stack([x * 3 + 20, y * 4 + 20, (x + y) * 2], -1).astype(np.uint8)
    ramp = np.dstack([ramp, x.astype(np.uint8)]) if 'a' in pixel_format else ramp
    for colour in (Colour(BT601), Colour(BT709, True), Colour(BT2020, False, 9, 16)):
        frame = to_frame(ramp, pixel_format, colour)
        assert Colour.of(frame) == replace(colour, bits=10 if '10' in pixel_format else 8)
        assert np.abs(to_rgb(frame, colour).astype(int) - ramp[..., :3]).max() <= (5 if '420' in pixel_format else 2)


def test_a_known_colour_in_known_numbers():
    """Pure red by BT.709, limited: Y = 16 + 219 x 0.2126, Cb = 128 - 224 x 0.2126 / 1.8556, Cr = 128 + 112."""
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (16, 16, 3))
    planes = [np.frombuffer(plane, np.uint8)[0] for plane in to_frame(red, 'yuv420p', Colour(BT709)).planes]
    assert np.abs(np.array(planes, int) - [63, 102, 240]).max() <= 1
    grey = np.full((16, 16), 255, np.uint8)
    assert np.frombuffer(to_frame(grey, 'yuv420p', Colour(BT709)).planes[0], np.uint8)[0] == 235
    assert np.frombuffer(to_frame(grey, 'yuv420p', Colour(BT709, True)).planes[0], np.uint8)[0] == 255


def test_a_file_that_was_cut_gives_what_it_has_and_one_line(tmp_path):
    whole = write_video(tmp_path / 'a.mkv', moving(60), g='10').read_bytes()
    path = tmp_path / 'cut.mkv'
    path.write_bytes(whole[: len(whole) // 2])
    frames, reader = frames_of(path)
    assert 10 < len(frames) < 50
    assert [square(pixels) for _, pixels in frames] == [2 * i + 4 for i in range(len(frames))]
    assert reader.damage.startswith(f'{path}: ends after ')
    assert reader.damage.endswith('of 2.4 seconds')
    assert '\n' not in reader.damage


@pytest.mark.parametrize(('codec', 'pixel_format'), [('mpeg4', 'yuv420p'), ('mjpeg', 'yuvj420p')])
def test_an_avi_cut_between_two_frames_is_known_to_be_cut(tmp_path, codec, pixel_format):
    path = tmp_path / 'a.avi'
    whole = write_video(path, moving(31), codec=codec, pixel_format=pixel_format, time_base=Fraction(1, 25))
    data = whole.read_bytes()
    begin, end = data.index(b'movi'), data.index(b'idx1')
    frames = [begin + match.start() for match in re.finditer(b'00dc', data[begin:end])]
    assert len(frames) == 31
    path.write_bytes(data[: frames[14]])
    read, reader = frames_of(path)
    assert len(read) in (13, 14)
    assert re.fullmatch(rf'{path}: ends after 0\.[56] of 1\.2 seconds(; .*)?', reader.damage)


@pytest.mark.parametrize(
    ('tracks', 'default', 'film', 'slow'),
    [
        ([1, 30], None, 1, 1),
        ([1, 30], 0, 1, 1),
        ([30, 1], 1, 0, 1),
        ([30, 25], None, 0, 1),
        ([30, 25], 1, 1, 1),
        ([1, 1], 1, 1, 1),
        ([130, 2], 1, 1, 125),
    ],
)
def test_of_several_tracks_the_film_that_players_show_is_read(tmp_path, tracks, default, film, slow):
    path = tmp_path / 'a.mkv'
    with av.open(str(path), 'w') as container:
        streams = [
            container.add_stream('mpeg4', rate=Fraction(25, slow if i == default else 1)) for i in range(len(tracks))
        ]
        for index, stream in enumerate(streams):
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH + 2 * index, 'yuv420p'
            stream.disposition = Disposition.default if index == default else 0
        packets = []
        for stream, count in zip(streams, tracks):
            for pixels in moving(count, stream.width):
                packets += stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24'))
            packets += stream.encode(None)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    frames, reader = frames_of(path)
    assert (len(frames), reader.width, reader.damage) == (tracks[film], WIDTH + 2 * film, None)


def test_damage_in_the_middle_costs_the_damaged_frames_alone(tmp_path):
    whole = bytearray(write_video(tmp_path / 'a.mp4', moving(60), g='5', bf='0').read_bytes())
    at = len(whole) // 2
    whole[at : at + 40] = bytes(40)
    path = tmp_path / 'bad.mp4'
    path.write_bytes(whole)
    frames, reader = frames_of(path)
    assert 54 <= len(frames) <= 60
    assert [square(pixels) for _, pixels in frames[-10:]] == [2 * i + 4 - (2 * i + 4) // 72 * 72 for i in range(50, 60)]
    assert 'damaged' in reader.damage or 'cannot be decoded' in reader.damage


def test_a_header_that_claims_too_many_frames_is_not_believed(tmp_path):
    path = write_video(tmp_path / 'a.avi', moving(20), codec='mpeg4', time_base=Fraction(1, 25))
    data = bytearray(path.read_bytes())
    at = data.index(b'strh') + 8 + 32  # dwLength of the stream's header
    assert int.from_bytes(data[at : at + 4], 'little') == 20
    data[at : at + 4] = (5000).to_bytes(4, 'little')
    path.write_bytes(data)
    frames, reader = frames_of(path)
    assert [square(pixels) for _, pixels in frames] == [2 * i + 4 for i in range(20)]
    assert reader.damage is not None


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        VideoReader(tmp_path / 'none.mp4')
    text = tmp_path / 'text.mp4'
    text.write_text('no video at all' * 100)
    with pytest.raises(ValueError, match=r'text\.mp4: cannot be read as a video: [^\n]+$'):
        VideoReader(text)
    whole = write_video(tmp_path / 'a.mp4', moving(20)).read_bytes()
    headless = tmp_path / 'cut.mp4'
    headless.write_bytes(whole[: len(whole) // 2])  # the index of an MP4 lies at its end
    with pytest.raises(ValueError, match=r'cut\.mp4: cannot be read as a video'):
        VideoReader(headless)
    sound = tmp_path / 'sound.m4a'
    with av.open(str(sound), 'w') as container:
        stream = container.add_stream('aac', rate=8000, layout='mono')
        block = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format='s16', layout='mono')
        block.sample_rate = 8000
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match='holds no video'):
        VideoReader(sound)


def test_frames_seen_ahead_come_again_and_are_let_go(tmp_path):
    with VideoReader(write_video(tmp_path / 'a.mp4', moving(9))) as reader:
        seen = [frame.decoded for frame in reader.peek(6)]
        assert reader.peek(1)[0].decoded is seen[0]
        held, frames = sys.getrefcount(seen[5]), iter(reader)
        assert [square(next(frames).pixels()) for _ in range(8)] == list(range(4, 20, 2))
        assert sys.getrefcount(seen[5]) < held


def test_the_estimate_of_frames_grows_better(tmp_path):
    times = [i * 20 for i in range(60)] + [1200 + i * 200 for i in range(60)]
    path = write_video(tmp_path / 'a.mkv', moving(120), times)
    with VideoReader(path) as reader:
        for frame in reader:
            if frame.index in (100, 115):
                assert abs(reader.expected - 120) < (25 if frame.index == 100 else 6)
        assert reader.expected == 120


def test_plates_of_a_video(tmp_path):
    pictures = moving(60)
    path = write_video(tmp_path / 'a.mp4', pictures, crf=4)
    back = moving(1)[0]
    back[20:44] = pictures[30][20:44]
    back[20:44, 64:88] = pictures[0][20:44, 64:88]  # frame 30's square begins at 64
    assert np.abs(read_plate(path, 0.4).astype(int) - pictures[10]).mean() < 2
    assert square(read_plate(path, 0.439)) == 24
    assert square(read_plate(path, 0.44)) == 26
    assert np.abs(read_plate(path).astype(int) - back).mean() < 3  # nobody stays in the median
    with pytest.raises(ValueError, match=r'has no frame at 2\.5 seconds: it ends after 2\.40'):
        read_plate(path, 2.5)


def test_the_median_takes_few_frames_from_all_over_the_video(tmp_path):
    level = [np.full((HEIGHT, WIDTH, 3), i, np.uint8) for i in range(20, 220)]
    path = write_video(tmp_path / 'a.mp4', level, crf=0)
    assert len(level) > MEDIAN_FRAMES
    assert abs(read_plate(path).mean() - 119.5) < 8


def test_a_video_behind_the_subject_begins_again(tmp_path):
    path = write_video(tmp_path / 'a.mp4', moving(3))
    frames = repeated(path)
    assert [square(next(frames).pixels()) for _ in range(7)] == [4, 6, 8, 4, 6, 8, 4]
    frames.close()


@pytest.mark.parametrize('suffix', ['.ts', '.avi', '.mkv', '.mp4', '.flv', '.h264'])
def test_the_plate_of_a_time_is_the_frame_of_that_time(tmp_path, suffix):
    """Not one from the key frame after it, where some containers' seeking lands."""
    codec = 'mpeg4' if suffix == '.avi' else 'libx264'
    path = write_video(tmp_path / f'a{suffix}', moving(30), codec=codec, time_base=Fraction(1, 25), g='12')
    for index in (0, 5, 11, 12, 13, 29):
        assert square(read_plate(path, index / 25 + 0.01)) == 2 * index + 4


def test_a_late_plate_is_found_by_seeking_and_is_the_same(tmp_path, monkeypatch):
    path = write_video(tmp_path / 'a.mp4', moving(30), [i * 1000 for i in range(30)], g='6')
    sought = []
    seek = VideoReader.seek
    monkeypatch.setattr(VideoReader, 'seek', lambda self, seconds: sought.append(seek(self, seconds)) or sought[-1])
    assert [square(read_plate(path, seconds)) for seconds in (2.5, 24.2, 29.02)] == [8, 52, 62]
    assert sought == [False, True, True]
    with pytest.raises(ValueError, match=r'no frame at 1e\+20 seconds'):
        read_plate(path, 1e20)


def test_a_seek_that_lands_too_late_is_not_trusted(tmp_path, monkeypatch):
    path = write_video(tmp_path / 'a.mp4', moving(30), [i * 1000 for i in range(30)], g='6')
    seek = VideoReader.seek
    monkeypatch.setattr(VideoReader, 'seek', lambda self, seconds: seek(self, seconds + 12))
    assert square(read_plate(path, 12.5)) == 28


def joined(tmp_path):
    """Two recordings in one file, the second of which begins at 0 again."""
    tone = (np.sin(np.arange(8000)) * 8000).astype(np.int16)[None]
    one = write_video(
        tmp_path / 'one.ts', moving(25), [i + i // 3 for i in range(25)], Fraction(1, 25), audio=[tone]
    ).read_bytes()
    path = tmp_path / 'two.ts'
    path.write_bytes(one * 2)
    return path


def test_times_that_jump_back_go_on_from_where_they_were(tmp_path):
    frames, reader = frames_of(joined(tmp_path))
    times = [time for time, _ in frames]
    assert len(times) == 50
    steps = [round((later - earlier) * 25) for earlier, later in itertools.pairwise(times)]
    assert steps[:24] == steps[25:] == [1, 1, 2] * 8
    assert 1 <= steps[24] <= 2
    assert reader.damage is None or 'ends after' not in reader.damage


def test_times_of_display_in_disorder_give_way_to_those_of_decoding(tmp_path):
    """H.264 in AVI: the container has no times of display, and what FFmpeg makes up for them is wrong."""
    path = write_video(tmp_path / 'a.avi', moving(40), time_base=Fraction(1, 25))
    frames, _ = frames_of(path)
    gaps = [round((b - a) * 25) for (a, _), (b, _) in itertools.pairwise(frames)]
    assert len(frames) == 40
    assert gaps.count(1) >= 37


@pytest.mark.parametrize('suffix', ['.mkv', '.webm', '.mp4', '.mov'])
def test_sound_that_is_longer_than_the_picture_is_no_damage(tmp_path, suffix):
    codec = {'codec': 'libvpx-vp9', 'crf': None} if suffix == '.webm' else {}
    tone = np.zeros((1, 24000), np.int16)
    path = tmp_path / f'a{suffix}'
    if suffix == '.webm':
        write_video(path, moving(25), **codec)
    else:
        write_video(path, moving(25), audio=[tone])
    frames, reader = frames_of(path)
    assert (len(frames), reader.damage) == (25, None)


def test_a_last_frame_that_lasts_is_no_damage_and_keeps_its_length(tmp_path):
    path = write_video(tmp_path / 'a.gif', moving(3), [0, 100, 200], codec='gif', pixel_format='rgb8', rate=100)
    data = bytearray(path.read_bytes())
    at = data.rindex(b'\x21\xf9\x04') + 4
    data[at : at + 2] = (300).to_bytes(2, 'little')  # hundredths of a second that the last picture is shown
    path.write_bytes(data)
    with VideoReader(path) as reader:
        *_, last = reader
        assert last.duration * reader.time_base == 3
    assert reader.damage is None


def test_pixels_that_are_not_square_turn_with_the_picture(tmp_path):
    path = tmp_path / 'a.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(1)[0], format='rgb24')))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert (reader.width, reader.height, reader.pixel_aspect) == (HEIGHT, WIDTH, Fraction(3, 4))


def test_frames_of_another_size_are_scaled_and_counted(tmp_path):
    one = write_video(tmp_path / 'one.h264', moving(10), time_base=Fraction(1, 25)).read_bytes()
    other = write_video(tmp_path / 'other.h264', moving(5, 64, 48), time_base=Fraction(1, 25)).read_bytes()
    path = tmp_path / 'both.h264'
    path.write_bytes(one + other)
    frames, reader = frames_of(path)
    assert {pixels.shape for _, pixels in frames} == {(HEIGHT, WIDTH, 3)}
    assert len(frames) == 15
    assert reader.damage is None
    assert reader.scaled == f'{path}: 5 frames are of another size, and scaled to {WIDTH}x{HEIGHT}'
    for index, (_, pixels) in enumerate(frames[10:]):
        scaled = fitted(moving(5, 64, 48)[index], (WIDTH, HEIGHT))
        assert np.abs(pixels.astype(int) - scaled).mean() < 4


def test_a_codec_that_nobody_knows_is_refused_in_one_line(tmp_path):
    data = write_video(tmp_path / 'a.avi', moving(5), codec='mpeg4', time_base=Fraction(1, 25)).read_bytes()
    path = tmp_path / 'b.avi'
    path.write_bytes(data.replace(b'FMP4', b'QQ??'))
    with pytest.raises(ValueError, match=r'b\.avi: [^\n]+$'):
        VideoReader(path)


def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / 'clip-12:30.mp4', moving(2))
    assert len(frames_of(Path('clip-12:30.mp4'))[0]) == 2


def test_a_gap_of_hours_is_a_new_beginning(tmp_path):
    times = [0, 1, 2, 7 * 3600 * 25, 7 * 3600 * 25 + 1, 7 * 3600 * 25 + 3]
    frames, reader = frames_of(write_video(tmp_path / 'a.mkv', moving(6), times, Fraction(1, 25)))
    assert reader.damage is None
    assert [round(time * 25) for time, _ in frames] == [0, 1, 2, 3, 4, 6]
