"""Videos that are written: times, pixels, labels, and what is left when something goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from support.browser import needs_chrome, seen_by_chrome
from support.videos import MILLISECOND, RATE, SIZE, TICK, decoded, noise, picture, room_for

from inference.video.colour import Colour
from inference.video.reader import VideoReader
from inference.video.settings import FORMATS
from inference.video.writer import VideoWriter


def writer(path: Path, size: tuple[int, int] = SIZE, time_base: Fraction = TICK, **options) -> VideoWriter:
    video_format = next(name for name, each in FORMATS.items() if each.suffix == path.suffix)
    options = {'colour': Colour(), 'rate': RATE, **options}
    return VideoWriter(path, video_format, size, time_base, **options)


def write(path: Path, pictures: Sequence[np.ndarray], times: Sequence[int] | None = None, **options) -> None:
    with writer(path, pictures[0].shape[1::-1], **options) as video:
        for index, pixels in enumerate(pictures):
            video.write(video.prepared(pixels), index if times is None else times[index])


def difference(frame: av.VideoFrame, pixels: np.ndarray) -> np.ndarray:
    """The mean absolute one of each channel."""
    return np.abs(frame.to_ndarray(format='rgba' if pixels.shape[2] == 4 else 'rgb24') - pixels.astype(float)).mean(
        (0, 1)
    )


@pytest.fixture(params=['v.mp4', 'v.mov', 'v.webm'])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


@pytest.mark.parametrize(
    'time_base',
    [
        '1/90000',
        '1001/30000',
        *(pytest.param(x, marks=pytest.mark.slow) for x in ('1/12800', '1/1000', '1/25', '1/1000000')),
    ],
)
def test_times_are_the_sources(path, time_base):
    unit = Fraction(time_base)
    steps = [max(1, round(Fraction(ms, 1000) / unit)) for ms in (40, 80, 33, 200, 41)]
    times = [3 * steps[0]]
    while len(times) < 24:
        times.append(times[-1] + steps[len(times) % 5])
    write(path, [picture(i) for i in range(24)], times, time_base=unit)
    expected = [time * unit for time in times]
    shown = [frame.pts * frame.time_base for frame in decoded(path)]
    end = expected[-1] + max(1, round(TICK / unit)) * unit
    with av.open(str(path)) as container:
        duration = Fraction(container.duration, av.time_base)
    if path.suffix == '.webm':
        assert len(shown) == 24
        assert max(abs(time - true) for time, true in zip(shown, expected)) <= Fraction(1, 2000)
        assert abs(duration - end) <= Fraction(1, 1000)
    else:
        assert shown == expected
        with av.open(str(path)) as container:
            assert container.streams.video[0].time_base == Fraction(1, unit.denominator)
            last = max((packet for packet in container.demux(video=0) if packet.size), key=lambda packet: packet.pts)
            assert (last.pts + last.duration) * last.time_base == end


def test_pixels_come_back(path):
    pictures = [picture(i) for i in range(30)]
    write(path, pictures)
    frames = decoded(path)
    assert len(frames) == 30
    limit = 0.6 if path.suffix == '.mov' else 5  # a false matrix or range costs 8 and more
    for frame, pixels in zip(frames, pictures):
        assert difference(frame, pixels).max() < limit


def test_grey_stays_grey(path):
    write(path, [picture(i)[..., 0] for i in range(5)])
    frames = decoded(path)
    assert len(frames) == 5
    pixels = frames[3].to_ndarray(format='rgb24').astype(int)
    assert np.abs(pixels - picture(3)[..., :1]).max() <= 8
    assert np.ptp(pixels, axis=2).max() <= 1


@pytest.mark.parametrize(('name', 'worst'), [('v.mov', 1), ('v.webm', 24)])
def test_alpha_comes_back(tmp_path, name, worst):
    pictures = [picture(i, channels=4) for i in range(30)]
    for pixels in pictures:
        pixels[:8, :8, 3], pixels[-8:, -8:, 3] = 0, 255
    write(tmp_path / name, pictures, alpha=True)
    frames = decoded(tmp_path / name)
    assert len(frames) == 30
    for frame, pixels in zip(frames, pictures):
        alpha = frame.to_ndarray(format='rgba')[..., 3].astype(int)
        assert np.abs(alpha - pixels[..., 3]).max() <= worst
        assert np.abs(alpha - pixels[..., 3]).mean() <= 2
        assert (alpha[1:7, 1:7].max(), alpha[-7:-1, -7:-1].min()) == (0, 255)
    if name == 'v.webm':
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].metadata['alpha_mode'] == '1'


@pytest.mark.parametrize(
    'colour', [Colour(1, False, 1, 1), Colour(6, True, 6, 6), Colour(9, False, 9, 14), Colour(5, False, 5, 6)]
)
def test_colour_is_labelled(path, colour):
    write(path, [picture(0)] * 3, colour=colour)
    with av.open(str(path)) as container:
        said = container.streams.video[0].codec_context
        full = colour.full_range and path.suffix != '.mov'
        # VP9's own stream knows one BT.601, and the last frame of a decoder says what that has.
        assert said.colorspace == colour.matrix or (path.suffix == '.webm' and colour.matrix in (5, 6))
        assert (said.color_primaries, said.color_trc) == (colour.primaries, colour.transfer)
        assert said.color_range == (ColorRange.JPEG if full else ColorRange.MPEG)
    assert difference(decoded(path)[1], picture(0)).max() < 4.5


@pytest.mark.parametrize('size', [(63, 47), (1, 1), (17, 16)])
def test_odd_sides(path, size):
    write(path, [picture(i, size) for i in range(4)])
    frames = decoded(path)
    shown = tuple(side + side % 2 for side in size) if path.suffix == '.mp4' else size
    assert [(frame.width, frame.height) for frame in frames] == [shown] * 4
    pixels = frames[2].to_ndarray(format='rgb24').astype(int)
    repeated = np.pad(picture(2, size), ((0, shown[1] - size[1]), (0, shown[0] - size[0]), (0, 0)), 'edge')
    assert np.abs(pixels - repeated).mean() < 4.5


@pytest.mark.parametrize(
    ('timecode', 'rate'),
    [('10:20:30:12', RATE), ('01:00:00;02', Fraction(30000, 1001)), ('01:00:00;02', RATE), ('no timecode', RATE)],
)
def test_timecode_and_date_go_along(path, timecode, rate):
    date = '2024-05-06T07:08:09.000000Z'
    with writer(path, time_base=1 / rate, rate=rate, recorded={'creation_time': date, 'timecode': timecode}) as video:
        for index in range(4):
            video.write(video.prepared(picture(index)), index)
    with VideoReader(path) as reader:
        assert len(list(reader)) == 4
    fits = path.suffix == '.webm' or (timecode[:2].isdigit() and (';' in timecode) == (rate != RATE))
    assert reader.recorded == {'creation_time': date} | ({'timecode': timecode} if fits else {})


@pytest.mark.parametrize('words', ['phone', 'camera', 'place alone'])
def test_place_and_camera_go_along(path, words):
    apple = {'creationdate': '2024-05-06T09:08:09+0200', 'make': 'Apple', 'model': 'iPhone 15', 'software': '17.4',
             'location.ISO6709': '+47.3769+008.5417+408.000/'}  # fmt: skip
    recorded = {'creation_time': '2024-05-06T07:08:09.000000Z'} | {
        'phone': {f'com.apple.quicktime.{word}': said for word, said in apple.items()},
        'camera': {'make': 'Sony', 'model': 'FX3'},
        'place alone': {'location': '+47.3769+008.5417/'},
    }[words]
    write(path, [picture(0)] * 2, recorded=recorded | {'comment': 'not of the camera'})
    with VideoReader(path) as reader:
        expected = {'creation_time': recorded['creation_time']} if path.suffix == '.webm' else recorded
        assert reader.recorded == expected


def test_pixel_aspect_is_kept(path):
    write(path, [picture(0)] * 3, pixel_aspect=Fraction(16, 11))
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(
            *((1, 1) if path.suffix == '.webm' else (16, 11))
        )


@pytest.mark.parametrize('name', ['v.mp4', 'v.webm'])
def test_quality_costs_size(tmp_path, name):
    sizes = []
    for quality in (5, 18, 30, 45):
        write(tmp_path / name, [noise(i) for i in range(8)], quality=quality)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


def test_what_was_written_before_a_stop_plays(path):
    video = writer(path)

    def stopped() -> None:
        with video:
            for index in range(13):
                video.write(video.prepared(picture(index)), index)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    frames = decoded(path)
    assert [frame.pts * frame.time_base for frame in frames] == [index * TICK for index in range(13)]
    assert difference(frames[12], picture(12)).max() < 4.5
    assert video.frames == 13


def test_no_frame_no_file(path):
    with writer(path.parent / 'new' / path.name):
        pass
    assert list(path.parent.iterdir()) == []


def test_an_older_file_stays_until_the_new_one_is_whole(path):
    path.write_bytes(b'older')
    with writer(path):
        pass
    assert path.read_bytes() == b'older'
    with writer(path) as video:
        for index in range(9):
            video.write(video.prepared(noise(index)), index)
            assert path.read_bytes() == b'older'
        video.close()
        assert len(decoded(path)) == 9
        video.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(('frames', 'room'), [(400, 60_000), (5, 500)], ids=['while writing', 'while closing'])
def test_a_full_disk(path, frames, room):
    path.write_bytes(b'older')
    with room_for(room), pytest.raises(OSError, match=rf'{path.name}: cannot be written: File too large'):
        write(path, [noise(index) for index in range(frames)], quality=1)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == b'older'


def test_the_last_frame_lasts_as_long_as_it_is_said_to(tmp_path):
    with writer(tmp_path / 'v.mp4') as video:
        for index in range(4):
            video.write(video.prepared(picture(index)), index, 50)
    with av.open(str(tmp_path / 'v.mp4')) as container:
        stream = container.streams.video[0]
        assert abs(stream.duration * stream.time_base - 53 * TICK) <= TICK


LENGTHS = {  # time base, times, and the duration of the last
    'constant': (Fraction(1, 30), range(30), 1),
    'variable': (MILLISECOND, [0, 40, 80, 81, 90, 400, 433, 466, 500, 533, 566, 600, 1000, 1010, 1020, 1500], 70),
    'sparse at the end': (MILLISECOND, [*range(0, 800, 40), 5000], 5000),
    'sparse at the beginning': (Fraction(1, 90_000), [0, 900_000, 1_800_000, *range(1_803_000, 1_830_000, 3000)], 3000),
}


def write_length(path: Path, name: str) -> tuple[int, Fraction]:
    """Write the file; return its number of frames and its length in seconds."""
    unit, times, last = LENGTHS[name]
    with writer(path, time_base=unit) as video:
        for index, time in enumerate(times):
            video.write(video.prepared(picture(index)), time, last)
    return len(times), (times[-1] + last) * unit


@pytest.mark.parametrize('name', LENGTHS)
def test_readers_find_the_length_the_rate_and_the_end_of_the_last_frame(path, name):
    count, length = write_length(path, name)
    rough = path.suffix == '.webm'  # milliseconds, and no durations of frames
    with av.open(str(path)) as container:
        assert abs(Fraction(container.duration, av.time_base) - length) < Fraction(1 + 1000 * rough, 10**6)
        if rough:
            return
        stream = container.streams.video[0]
        assert (stream.frames, stream.duration * stream.time_base) == (count, length)
        assert abs(stream.average_rate - count / length) < Fraction(1, 10**5)
        last = max((packet for packet in container.demux(stream) if packet.size), key=lambda packet: packet.pts)
        assert (last.pts + last.duration) * stream.time_base == length
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(float(count / length), rel=1e-5)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == count


@needs_chrome
def test_a_browser_finds_the_length(tmp_path):
    lengths = [float(write_length(tmp_path / f'{name}.mp4', name)[1]) for name in LENGTHS]
    page = tmp_path / 'page.html'
    page.write_text(
        ''.join(f'<video preload="auto" src="{name}.mp4"></video>' for name in LENGTHS)
        + '<pre></pre><script>onload = () => { document.querySelector("pre").textContent = JSON.stringify('
        '[...document.querySelectorAll("video")].map((video) => video.duration)) }</script>'
    )
    assert seen_by_chrome(page) == pytest.approx(lengths, abs=1e-5)


def test_a_last_frame_that_lasts_for_ever_costs_nothing(path):
    with writer(path) as video:
        for index in range(3):
            video.write(video.prepared(picture(index)), index, 2**31 + 5)
    assert len(decoded(path)) == 3


def test_a_folder_that_cannot_be_made(path):
    path.write_bytes(b'')
    with pytest.raises(OSError, match=rf'{path.name}/{path.name}: cannot be written'):
        write(path / path.name, [picture(0)])


def test_refusals(tmp_path):
    path = tmp_path / 'v.mp4'
    with pytest.raises(ValueError, match=r'v\.mp4: video has no alpha'):
        writer(path, alpha=True)
    with pytest.raises(ValueError, match=r'v\.mp4: a quality of 52; 0\.\.51 is allowed'):
        writer(path, quality=52)
    with pytest.raises(ValueError, match=r'v\.mp4: libx264 cannot encode 40000x8 pixels'):
        writer(path, (40000, 8))
    with writer(path) as video:
        for wrong in (picture(0, (63, 48)), picture(0, channels=4), picture(0).astype(np.float32)):
            with pytest.raises(ValueError, match=r'v\.mp4: a frame of .* expected uint8 \(48, 64, 3\) or \(48, 64\)'):
                video.prepared(wrong)
        frame = video.prepared(picture(0))
        with pytest.raises(ValueError, match=r'a frame at -1, expected 0 or later'):
            video.write(frame, -1)
        video.write(frame, 7)
        with pytest.raises(ValueError, match=r'a frame at 7, expected 8 or later'):
            video.write(video.prepared(picture(1)), 7)
    assert [frame.pts * frame.time_base for frame in decoded(path)] == [7 * TICK]
    with pytest.raises(ValueError, match=r'v\.mp4: is closed'):
        video.write(frame, 8)
