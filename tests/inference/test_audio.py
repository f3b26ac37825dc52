"""The sound of a video in the video that is made of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.videos import SIZE, TICK, decoded, noise, picture, room_for

from inference.video.audio import AudioCopy, _Encoded
from inference.video.colour import Colour
from inference.video.settings import FORMATS
from inference.video.writer import VideoWriter

RATE = 48_000
ONSET = Fraction(1, 2)  # of the tone, in seconds; before it is silence
FRAMES = 40  # of the video, in 1.6 seconds


def make(
    path: Path, codec: str, start: Fraction = Fraction(0), seconds: float = 1.6, languages: tuple = ('deu',)
) -> Path:
    """A video whose sound begins at `start` and has a tone from `ONSET` after that."""
    moments = np.arange(int(seconds * RATE))
    tone = (12_000 * np.sin(moments * 2 * np.pi * 440 / RATE) * (moments >= RATE * ONSET)).astype(np.int16)
    with av.open(str(path), 'w') as container:
        video = container.add_stream('mpeg4', rate=25, width=SIZE[0], height=SIZE[1], pix_fmt='yuv420p')
        streams = [container.add_stream(codec, rate=RATE, layout='stereo') for _ in languages]
        for stream, language in zip(streams, languages):
            stream.metadata['language'] = language
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(index), format='rgb24')
            frame.pts, frame.time_base = index, TICK
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for stream in streams:
            for first in range(0, len(tone), 960):
                sound = av.AudioFrame.from_ndarray(
                    tone[first : first + 960].repeat(2)[None], format='s16', layout='stereo'
                )
                sound.rate, sound.pts, sound.time_base = RATE, round(start * RATE) + first, Fraction(1, RATE)
                container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    return path


def matted(source: Path, path: Path, frames: int = FRAMES, complete: bool = True, origin: int = 0) -> VideoWriter:
    video_format = next(name for name, each in FORMATS.items() if each.suffix == path.suffix)
    video = VideoWriter(path, video_format, SIZE, TICK, 1 / TICK, Colour(), audio=source, origin=origin)
    for index in range(frames):
        video.write(video.prepared(picture(index)), index + origin)
    video.close(complete)
    return video


def packets(path: Path, stream: int = 0) -> list[tuple[Fraction, bytes]]:
    """When each packet of sound begins, and its bytes."""
    with av.open(str(path)) as container:
        read = container.demux(container.streams.audio[stream])
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in read if packet.size]


def onset(path: Path) -> float:
    """When the tone begins, in seconds."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = frame.to_ndarray().astype(float)
            left = samples[0] if frame.format.is_planar else samples[0, ::2]
            loud = np.flatnonzero(np.abs(left) > (0.05 if frame.format.name.startswith('flt') else 0.05 * 2**15))
            if loud.size:
                return float(frame.pts * frame.time_base) + loud[0] / RATE
    raise AssertionError(f'{path} is silent')


def has_all_frames(path: Path, count: int = FRAMES) -> bool:
    return [frame.pts * frame.time_base for frame in decoded(path)] == [index * TICK for index in range(count)]


@pytest.mark.parametrize(
    ('source', 'codec', 'name'),
    [
        ('s.mp4', 'aac', 'v.mp4'),
        ('s.mp4', 'aac', 'v.mov'),
        ('s.avi', 'libmp3lame', 'v.mp4'),
        ('s.mov', 'pcm_s16le', 'v.mov'),
        ('s.mkv', 'libopus', 'v.webm'),
        ('s.mkv', 'libopus', 'v.mp4'),
        ('s.mkv', 'flac', 'v.mp4'),
    ],
)
@pytest.mark.parametrize('start', [pytest.param(Fraction(0), marks=pytest.mark.slow), Fraction(5, 24)])
def test_sound_is_copied_byte_for_byte(tmp_path, source, codec, name, start):
    source, path = make(tmp_path / source, codec, start), tmp_path / name
    video = matted(source, path)
    assert video.notes == []
    before, after = packets(source), packets(path)
    assert [data for _, data in after] == [data for _, data in before]
    assert max(abs(one - other) for (one, _), (other, _) in zip(after, before)) <= Fraction(1, 1000)
    assert has_all_frames(path)


def test_sound_of_a_stream_without_headers_is_copied(tmp_path):
    """In MPEG-TS, every packet of AAC has a header of seven bytes, which MP4 has once."""
    source, path = make(tmp_path / 's.ts', 'aac'), tmp_path / 'v.mp4'
    assert matted(source, path).notes == []
    assert [data for _, data in packets(path)] == [data[7:] for _, data in packets(source)]
    assert onset(path) == pytest.approx(onset(source), abs=1e-3)


@pytest.mark.parametrize(
    ('source', 'codec', 'name', 'note'),
    [
        ('s.mov', 'pcm_s16le', 'v.mp4', 'mp4 does not take pcm_s16le: encoded anew with aac'),
        ('s.mkv', 'flac', 'v.mov', 'mov does not take flac: encoded anew with pcm_s16le'),
        ('s.mp4', 'aac', 'v.webm', 'webm does not take aac: encoded anew with libopus'),
    ],
)
@pytest.mark.parametrize('start', [pytest.param(Fraction(0), marks=pytest.mark.slow), Fraction(5, 24)])
def test_sound_is_encoded_anew_where_it_must_be(tmp_path, source, codec, name, note, start):
    source, path = make(tmp_path / source, codec, start), tmp_path / name
    video = matted(source, path)
    assert video.notes == [f'{source}: sound: {note}']
    assert onset(path) == pytest.approx(float(ONSET + start), abs=2e-3)
    assert packets(path)[-1][0] == pytest.approx(1.6 + float(start), abs=0.05)
    assert has_all_frames(path)


def test_all_streams_go_along(tmp_path):
    source, path = make(tmp_path / 's.mp4', 'aac', languages=('deu', 'fra')), tmp_path / 'v.mp4'
    matted(source, path)
    with av.open(str(path)) as container:
        assert [stream.language for stream in container.streams.audio] == ['deu', 'fra']
    for stream in (0, 1):
        assert packets(path, stream) == packets(source, stream)


@pytest.mark.parametrize('name', ['v.mp4', 'v.mov', 'v.webm'])
def test_a_stopped_run_has_sound_for_its_frames(tmp_path, name):
    source, path = make(tmp_path / 's.mp4', 'aac'), tmp_path / name
    matted(source, path, frames=10, complete=False)
    assert has_all_frames(path, 10)
    assert 0.36 < packets(path)[-1][0] < 0.4
    with pytest.raises(AssertionError, match='is silent'):
        onset(path)


def test_a_complete_run_has_all_sound(tmp_path):
    source, path = make(tmp_path / 's.mp4', 'aac', seconds=2.5), tmp_path / 'v.mp4'
    matted(source, path)
    assert packets(path) == packets(source)


@pytest.mark.parametrize('name', ['v.mp4', 'v.mov', 'v.webm'])
@pytest.mark.parametrize(('container', 'codec'), [('mp4', 'aac'), ('mkv', 'libopus')])
def test_an_origin_moves_picture_and_sound(tmp_path, name, container, codec):
    """The sound begins before the picture, then."""
    source, path = make(tmp_path / f's.{container}', codec), tmp_path / name
    matted(source, path, origin=6)
    assert has_all_frames(path)
    assert onset(path) == pytest.approx(float(ONSET - 6 * TICK), abs=2e-3)


def test_sound_goes_along_with_the_picture(tmp_path):
    """Players that read as they play need both near each other."""
    source, path = make(tmp_path / 's.mp4', 'aac'), tmp_path / 'v.mp4'
    matted(source, path)
    with av.open(str(path)) as container:
        kinds = ''.join(packet.stream.type[0] for packet in container.demux() if packet.size)
    assert kinds.count('v') == FRAMES
    assert 'v' * 12 not in kinds
    assert 'a' * 12 not in kinds


@pytest.mark.parametrize(
    ('name', 'note'), [('v.mp4', []), ('v.webm', ['encoded anew with libopus', '3 packets are damaged and left out'])]
)
def test_damaged_sound_does_not_cost_the_video(tmp_path, name, note):
    source, path = make(tmp_path / 's.mp4', 'aac'), tmp_path / name
    data = source.read_bytes()
    for _, packet in packets(source)[40:43]:
        assert data.count(packet) == 1
        data = data.replace(packet, b'\xff' * len(packet))
    source.write_bytes(data)
    video = matted(source, path)
    assert has_all_frames(path)
    assert onset(path) == pytest.approx(float(ONSET), abs=2e-3)
    assert len(video.notes) == len(note)
    assert all(said.endswith(expected) for said, expected in zip(video.notes, note))


def test_an_error_of_the_decoder_that_looks_like_the_disks_costs_a_packet_alone(tmp_path, monkeypatch):
    """FFmpeg's AAC decoder says EPERM of some damaged packets."""
    source, path = make(tmp_path / 's.mp4', 'aac'), tmp_path / 'v.webm'
    encoded, calls = _Encoded.packets, []

    def failing(self, packet):
        calls.append(packet)
        if len(calls) == 20:
            raise av.error.PermissionError(1, 'Operation not permitted')
        return encoded(self, packet)

    monkeypatch.setattr(_Encoded, 'packets', failing)
    video = matted(source, path)
    assert has_all_frames(path)
    assert video.notes[-1].endswith('1 packets are damaged and left out')


def test_sound_that_is_cut_ends_early(tmp_path):
    source, path = make(tmp_path / 's.mkv', 'libopus'), tmp_path / 'v.mp4'
    whole = packets(source)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    matted(source, path)
    assert has_all_frames(path)
    kept = packets(path)
    assert 10 < len(kept) < len(whole) - 10
    assert [data for _, data in kept[:-1]] == [data for _, data in whole[: len(kept) - 1]]


@pytest.mark.parametrize('content', [None, b'no video'])
def test_a_file_that_cannot_be_read_costs_the_sound_alone(tmp_path, content):
    source, path = tmp_path / 's.mp4', tmp_path / 'v.mp4'
    if content:
        source.write_bytes(content)
    video = matted(source, path)
    assert len(video.notes) == 1
    assert video.notes[0].startswith(f'{source}: sound: cannot be read: ')
    assert has_all_frames(path)


def test_a_video_without_sound(tmp_path):
    source, path = make(tmp_path / 's.mp4', 'aac', languages=()), tmp_path / 'v.mp4'
    assert matted(source, path).notes == []
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ['video']


@pytest.mark.slow
def test_nothing_piles_up_in_memory(tmp_path):
    """The container holds pictures back until it has the sound for them."""
    source, path = make(tmp_path / 's.mov', 'pcm_s16le', seconds=8), tmp_path / 'new' / 'v.mov'
    with VideoWriter(path, 'prores4444', SIZE, TICK, 1 / TICK, Colour(), audio=source) as video:
        for index in range(200):
            video.write(video.prepared(noise(index)), index)
        (unfinished,) = path.parent.iterdir()
        written = unfinished.stat().st_size
    assert written > 0.8 * path.stat().st_size


def test_a_disk_that_the_sound_fills(tmp_path):
    source = make(tmp_path / 's.mov', 'pcm_s16le')
    with room_for(150_000), pytest.raises(OSError, match=r'v\.mov: cannot be written: File too large'):
        matted(source, tmp_path / 'v.mov', frames=1)
    assert [each.name for each in tmp_path.iterdir()] == ['s.mov']
    container = av.open(str(tmp_path / 'alone.mov'), 'w')
    copy = AudioCopy(source, container)
    with room_for(150_000), pytest.raises(OSError, match='File too large'):
        copy.write_until(None)
    copy.close()
