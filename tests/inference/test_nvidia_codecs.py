"""NVDEC and NVENC, as far as a machine without them can tell: what opens in their place, and what happens if it fails.

`av.open` with an accelerator opens another file of the test's choice, decoded by the CPU; the encoder is x264.
"""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from support.video_case import COUNT, case, loaded_once
from support.videos import SIZE, moving, noise, times_of, write_video

from inference.video import reader as reader_module
from inference.video import writer
from inference.video.colour import Colour, to_rgb
from inference.video.inputs import VideoInputs
from inference.video.outputs import open_outputs
from inference.video.reader import VideoReader
from inference.video.settings import H264, NVENC, VideoSettings
from inference.video.writer import VideoWriter

__all__ = ['case', 'loaded_once']


class Gpu:
    """What is decoded in place of any file that is opened with an accelerator: another one; None leaves it as it is."""

    def __init__(self) -> None:
        self.decodes: Path | None = None
        self.opened: list[str] = []


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    gpu, av_open = Gpu(), av.open

    def opened(path: str, *args, **options):
        if gpu.decodes and options.pop('hwaccel', None):
            gpu.opened.append(path)
            path = str(gpu.decodes)
        return av_open(path, *args, **options)

    monkeypatch.setattr(av, 'open', opened)
    return gpu


def no_gpu(kind: str, **options) -> HWAccel:
    return HWAccel(kind, **options | {'device': '99'})


@pytest.fixture
def film(tmp_path) -> Path:
    times = [0, 40, 90, 100, 300, *range(340, 1340, 40)]
    return write_video(tmp_path / 'film.mkv', moving(30), times, g='10')


def damaged(path: Path, at: float) -> Path:
    data = bytearray(path.read_bytes())
    begin = round(len(data) * at)
    data[begin : begin + 400] = bytes(400)
    copy = path.with_stem('damaged')
    copy.write_bytes(data)
    return copy


def read(path: Path, nvdec: bool) -> tuple[list, VideoReader]:
    with VideoReader(path, nvdec) as reader:
        return [(x.index, x.pts, x.duration, x.pixels().tobytes()) for x in reader], reader


def test_frames_of_the_gpu_are_taken_as_those_of_the_cpu(film, gpu):
    gpu.decodes = film
    expected, _ = read(film, False)
    assert (len(expected), gpu.opened) == (30, [])
    frames, reader = read(film, True)
    assert (gpu.opened, reader.note, reader.damage) == ([str(film)], None, None)
    assert frames == expected


def test_all_frames_are_the_gpus(tmp_path, gpu):
    """Seen where its second one is another."""
    first, *others = moving(3)
    path = write_video(tmp_path / 'a.mkv', [first, *others], crf=0)
    gpu.decodes = write_video(tmp_path / 'b.mkv', [first, *others[::-1]], crf=0)
    frames, reader = read(path, True)
    assert (frames, reader.note) == (read(gpu.decodes, False)[0], None)
    assert frames != read(path, False)[0]


@pytest.mark.parametrize('at', [0.4, 0.7])
def test_the_cpu_goes_on_where_the_gpu_fails(film, gpu, at):
    gpu.decodes = damaged(film, at)
    frames, reader = read(film, True)
    assert (len(gpu.opened), reader.note, reader.damage) == (1, None, None)
    assert frames == read(film, False)[0]


def test_damage_is_named_as_by_the_cpu(film, gpu):
    gpu.decodes = path = damaged(film, 0.6)
    (frames, reader), (expected, by_cpu) = read(path, True), read(path, False)
    assert reader.damage == by_cpu.damage is not None
    assert frames == expected


def test_another_picture_is_not_taken(tmp_path, film, gpu):
    gpu.decodes = write_video(tmp_path / 'other.mp4', [noise(i) for i in range(3)])
    frames, reader = read(film, True)
    assert frames == read(film, False)[0]
    assert reader.note == f'{film}: NVDEC cannot decode it, the CPU does: its first frame is another'


def test_a_machine_without_nvdec(film, monkeypatch):
    monkeypatch.setattr(reader_module, 'HWAccel', no_gpu)
    frames, reader = read(film, True)
    assert frames == read(film, False)[0]
    assert reader.note.startswith(f'{film}: NVDEC cannot decode it, the CPU does: ')
    assert '\n' not in reader.note


@pytest.mark.parametrize(('pixels', 'gpus'), [('yuv420p', 'nv12'), ('yuv420p10le', 'p010le')])
@pytest.mark.parametrize('colour', [Colour(1), Colour(5, True)])
def test_the_layout_of_a_gpus_frames_changes_no_pixel(tmp_path, pixels, gpus, colour):
    path = write_video(tmp_path / 'a.mp4', moving(2), pixel_format=pixels)
    with VideoReader(path) as reader:
        frame = next(iter(reader)).decoded
    as_gpu = frame.reformat(format=gpus, src_color_range=1, dst_color_range=1)
    assert as_gpu.format.name == gpus
    assert np.array_equal(to_rgb(as_gpu, colour), to_rgb(frame, colour))


def encoded(path: Path, nvenc: bool) -> VideoWriter:
    with VideoWriter(path, 'video', SIZE, Fraction(1, 1000), Fraction(25), Colour(), nvenc=nvenc) as video:
        for i, time in enumerate([0, 40, 50, 400, 401, 1000, 7000]):
            video.write(video.prepared(noise(i)), time, 100)
    return video


def test_an_encoder_that_opens_writes_the_same_times(tmp_path, monkeypatch):
    stand_in = replace(NVENC, encoder='libx264', options={'preset': 'ultrafast', 'bf': NVENC.options['bf']})
    monkeypatch.setattr(writer, 'NVENC', stand_in)
    by_gpu, by_cpu = encoded(tmp_path / 'gpu.mp4', True), encoded(tmp_path / 'cpu.mp4', False)
    assert by_gpu.note is None
    assert by_gpu.path.read_bytes() != by_cpu.path.read_bytes()
    assert times_of(by_gpu.path) == times_of(by_cpu.path)
    with av.open(str(by_gpu.path)) as container:
        assert container.duration == 7_100_000
        assert container.streams.video[0].duration * container.streams.video[0].time_base == Fraction(71, 10)


@pytest.mark.parametrize('encoder', ['h264_nvenc', 'h264_of_nobody'])
def test_an_encoder_that_does_not_open_is_named_and_the_cpu_encodes(tmp_path, monkeypatch, encoder):
    """Pictures of this size are too small for NVENC on any machine."""
    monkeypatch.setattr(writer, 'NVENC', replace(NVENC, encoder=encoder))
    by_gpu, by_cpu = encoded(tmp_path / 'gpu.mp4', True), encoded(tmp_path / 'cpu.mp4', False)
    assert by_gpu.note.startswith(f'{by_gpu.path}: NVENC cannot encode it, the CPU does: ')
    assert '\n' not in by_gpu.note
    assert by_gpu.path.read_bytes() == by_cpu.path.read_bytes()


def test_quality_is_nvencs_own_number():
    assert NVENC.encoder_options(18)['qp'] == '18'
    assert 'crf' not in NVENC.encoder_options(18)
    assert H264.encoder_options(18)['crf'] == '18'


def test_a_run_says_at_its_beginning_what_the_cpu_does(case, capsys, monkeypatch):
    monkeypatch.setattr(reader_module, 'HWAccel', no_gpu)
    assert case.run('--nvidia-codecs', 'encode', 'decode') == 0
    said = ''.join(capsys.readouterr()).splitlines()
    assert [line.partition(': ')[0] for line in said if 'the CPU does' in line] == [
        str(case.src),
        str(case.out / 'pha.mp4'),
    ]
    assert len(times_of(case.out / 'pha.mp4')) == COUNT
    assert case.run('--nvidia-codecs', 'decode', '--output-format', 'webm', '-y') == 0


def test_formats_that_nvenc_does_not_write_are_refused(case, capsys):
    assert case.run('--nvidia-codecs', 'encode', '--output-format', 'webm') == 2
    assert '--nvidia-codecs encode: writes H.264, not webm' in capsys.readouterr().err


def test_a_codec_that_no_gpu_knows_is_left_to_the_cpu(tmp_path):
    path = write_video(tmp_path / 'a.mov', moving(3), codec='prores_ks', pixel_format='yuv422p10le')
    frames, reader = read(path, True)
    assert frames == read(path, False)[0]
    assert reader.note.startswith(f'{path}: NVDEC cannot decode it, the CPU does: ')


def test_the_gpu_is_the_one_that_was_chosen(case, monkeypatch):
    asked = []

    def accelerator(kind: str, **options) -> HWAccel:
        asked.append(options['device'])
        return no_gpu(kind, **options)

    def added(self, container, encoding, *more):
        asked.append(encoding.options.get('gpu'))
        return add(self, container, encoding, *more)

    add = VideoWriter._added
    monkeypatch.setattr(reader_module, 'HWAccel', accelerator)
    monkeypatch.setattr(VideoWriter, '_added', added)
    flags = {'video_src': case.src, 'video_bgr': case.bgr, 'video_bgr_mode': 'median', 'output_dir': case.out,
             'output_format': 'video', 'nvidia_codecs': ['encode', 'decode'], 'resize_bgr': False, 'audio': False,
             'video_quality': 18}  # fmt: skip
    options = dict.fromkeys(field.name for field in fields(VideoSettings)) | flags
    for device, number in (('cuda:1', '1'), ('cuda', '0'), ('auto', '0')):
        settings = VideoSettings.from_options(options | {'device': device}, {'pha': 'jpg'})
        with VideoInputs(settings) as inputs:
            open_outputs(inputs, {})
        assert asked == [number, number, None]
        asked.clear()


def test_a_failed_attempt_leaves_no_file_open(tmp_path, monkeypatch):
    opened = []

    class Container:
        """A real one that tells whether it was closed."""

        def __init__(self, real):
            self.real, self.closed = real, False
            opened.append(self)

        def __getattr__(self, name):
            return getattr(self.real, name)

        def close(self):
            self.closed = True
            self.real.close()

    make = writer._container
    monkeypatch.setattr(writer, '_container', lambda *words: Container(make(*words)))
    with VideoWriter(tmp_path / 'a.mp4', 'video', SIZE, Fraction(1, 1000), Fraction(25), Colour(), nvenc=True):
        assert [container.closed for container in opened] == [True, False]
