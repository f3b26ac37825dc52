"""inference_video.py on small videos: frame for frame, in time, with sound and alpha, plates and backgrounds."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from support.inference_case import files, read, save
from support.video_case import COUNT, case, loaded_once, plate
from support.videos import HEIGHT, RATE, TICK, WIDTH, decoded, moving, pictures_of, times_of, write_video

from inference.plates.alignment import AlignmentResult
from inference.predictor import Matting
from inference.video.colour import Colour
from inference.video.reader import VideoReader
from inference.video.writer import VideoWriter

__all__ = ['case', 'loaded_once']


def test_frame_for_frame_in_time(case):
    times = [i * 40 + (i % 3) * 7 for i in range(COUNT)]
    case.src = write_video(case.src, moving(COUNT), times)
    assert case.run('--video-quality', 0, types=('com', 'pha', 'fgr')) == 0
    assert files(case.out) == {'com.mp4', 'pha.mp4', 'fgr.mp4'}
    mattes = case.mattes()
    for kind in ('com', 'pha', 'fgr'):
        assert times_of(case.out / f'{kind}.mp4') == times_of(case.src)
    for frame, matte in zip(pictures_of(case.out / 'pha.mp4'), mattes):
        assert np.abs(frame[..., 0].astype(int) - matte.pha).max() <= 2
    for frame, matte in zip(pictures_of(case.out / 'com.mp4'), mattes):
        alpha = matte.pha[..., None] / 255
        expected = alpha * matte.fgr + (1 - alpha) * (120, 255, 155)
        assert np.abs(cv2.blur(frame, (2, 2)).astype(float) - cv2.blur(expected, (2, 2))).mean() < 4


def test_pictures_are_exactly_the_mattes(case, tmp_path):
    flags = ('--output-format', 'image_sequences', '--picture-format', 'pha=png', 'fgr=png')
    assert case.run(*flags, '--batch-size', 5, types=('com', 'pha', 'fgr')) == 0
    names = {f'{kind}/{i:06d}.png' for kind in ('com', 'pha', 'fgr') for i in range(COUNT)}
    times = {f'{kind}/timestamps.txt' for kind in ('com', 'pha', 'fgr')}
    assert files(case.out) == names | times | {'sequence.json'}
    for i, matte in enumerate(case.mattes()):
        assert np.abs(read(case.out / f'pha/{i:06d}.png').astype(int) - matte.pha).max() <= 1
        assert np.abs(read(case.out / f'com/{i:06d}.png')[..., 3].astype(int) - matte.pha).max() <= 1


@pytest.mark.parametrize(('output_format', 'suffix'), [('prores4444', 'mov'), ('webm', 'webm')])
def test_com_carries_alpha(case, output_format, suffix):
    assert case.run('--output-format', output_format, '--video-quality', 4, types=('com', 'pha')) == 0
    frames = [frame.to_ndarray(format='rgba') for frame in decoded(case.out / f'com.{suffix}')]
    assert len(frames) == COUNT == len(pictures_of(case.out / f'pha.{suffix}'))
    for frame, matte in zip(frames, case.mattes()):
        assert np.abs(frame[..., 3].astype(int) - matte.pha).mean() < (1.5 if suffix == 'mov' else 8)
        solid = cv2.erode(matte.pha, np.ones((3, 3))) > 128
        assert np.abs(frame[solid][:, :3].astype(int) - matte.fgr[solid]).mean() < 12


def test_timecode_and_date_are_the_sources(case):
    recorded = {'creation_time': '2024-05-06T07:08:09.000000Z', 'timecode': '10:20:30:12'}
    case.src = case.src.with_suffix('.mov')
    writer = VideoWriter(case.src, 'video', (WIDTH, HEIGHT), TICK, RATE, Colour(), recorded=recorded)
    with writer:
        for i, pixels in enumerate(moving(2)):
            writer.write(writer.prepared(pixels), i)
    assert case.run('--output-format', 'prores4444', types=('pha',)) == 0
    with VideoReader(case.out / 'pha.mov') as reader:
        assert reader.recorded == recorded


def test_sound_goes_into_com_alone(case):
    tone = (np.sin(np.arange(4096)) * 8000).astype(np.int16)[None]
    case.src = write_video(case.src, moving(COUNT), audio=[tone])
    assert case.run(types=('com', 'pha')) == 0

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    assert packets(case.out / 'com.mp4') == packets(case.src) != []
    with av.open(str(case.out / 'pha.mp4')) as container:
        assert not container.streams.audio
    assert case.run('--no-audio', '-y', types=('com',)) == 0
    with av.open(str(case.out / 'com.mp4')) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(
    ('flags', 'plate_of'),
    [
        (('--video-bgr-time', 0.28), lambda pictures: [pictures[7]] * COUNT),
        (('--video-bgr', 'itself'), lambda pictures: [np.rint(np.median(pictures, 0)).astype(np.uint8)] * COUNT),
        (('--video-bgr', 'itself', '--video-bgr-mode', 'each'), lambda pictures: pictures),
    ],
)
def test_plates_that_are_videos(case, flags, plate_of):
    case.bgr = None
    flags = [case.src if flag == 'itself' else flag for flag in flags]
    assert case.run(*flags, '--output-format', 'image_sequences', '--picture-format', 'pha=png') == 0
    pictures = pictures_of(case.src)
    for i, matte in enumerate(case.mattes(plate_of(pictures))):
        assert np.abs(read(case.out / f'pha/{i:06d}.png').astype(int) - matte.pha).max() <= 1


def test_other_sizes(case, capsys):
    case.bgr = save(case.bgr, cv2.resize(plate(), (WIDTH // 2, HEIGHT // 2)))
    assert case.run() == 2
    assert 'sizes differ (--resize-bgr resizes the plate)' in capsys.readouterr().err
    assert not case.out.exists()
    assert case.run('--resize-bgr', '--video-resize', 62, 38) == 0
    assert pictures_of(case.out / 'pha.mp4')[0].shape == (38, 62, 3)


@pytest.mark.parametrize('moves', [False, True])
def test_what_the_subject_is_set_before(case, tmp_path, moves):
    red, blue = (np.full((20, 60, 3), colour, np.uint8) for colour in ((200, 20, 20), (20, 20, 200)))
    target = write_video(tmp_path / 'target.mp4', [red, blue]) if moves else save(tmp_path / 'target.png', red)
    flags = ('--output-format', 'image_sequences', '--video-target-bgr', target)
    assert case.run(*flags, types=('com',)) == 0
    for i, matte in enumerate(case.mattes()):
        com = read(case.out / f'com/{i:06d}.png')
        alpha = matte.pha[..., None] / 255
        back = (20, 20, 200) if moves and i % 2 else (200, 20, 20)
        assert np.abs(com - (alpha * matte.fgr + (1 - alpha) * back)).max() < (8 if moves else 3)


class Follower:
    """Stands in for `SteadyPlate`: gives the plate, brightened by as many levels as frames were seen."""

    def __init__(self, bgr):
        self.bgr, self.seen = bgr, 0

    def aligned(self, src):
        assert src.shape == self.bgr.shape
        self.seen += 1
        warning = 'the plate stays: nothing matches' if self.seen % 4 == 0 else None
        return AlignmentResult(self.bgr + np.uint8(self.seen), None, 0, warning)


def test_the_plate_is_aligned_to_every_frame_in_order_and_goes_on_so(case, capsys, monkeypatch):
    monkeypatch.setattr('inference.video.stages.SteadyPlate', Follower)
    flags = ('--output-format', 'image_sequences', '--picture-format', 'pha=png', '--preprocess-alignment', '-y')
    assert case.run(*flags, '--num-workers', 3) == 0
    err = capsys.readouterr().err
    assert 'warning: frame 3: the plate stays: nothing matches' in err
    assert 'could not be aligned anew to 3 of 12 frames' in err
    mattes = case.mattes([plate() + np.uint8(i + 1) for i in range(COUNT)])
    pictures = sorted((case.out / 'pha').glob('*.png'))
    for path, matte in zip(pictures, mattes, strict=True):
        assert np.abs(read(path).astype(int) - matte.pha).max() <= 1
    whole = [path.read_bytes() for path in pictures]
    for path in pictures[7:]:
        path.unlink()
    assert case.run(*flags) == 0
    assert [path.read_bytes() for path in pictures] == whole


def test_alignment_end_to_end(case):
    assert case.run('--preprocess-alignment') == 0
    assert len(pictures_of(case.out / 'pha.mp4')) == COUNT


def test_a_plate_of_another_scene_is_reported(case, capsys):
    case.bgr = save(case.bgr, 255 - plate())
    assert case.run() == 0
    assert 'warning: frame 0: only ' in capsys.readouterr().err


def test_a_plate_that_is_shorter_is_held_and_said(case, capsys, tmp_path, monkeypatch):
    case.bgr = write_video(tmp_path / 'plates.mp4', moving(COUNT)[:5])
    plates, convert = [], Matting.plate
    monkeypatch.setattr(Matting, 'plate', lambda *args: plates.append(convert(*args)) or plates[-1])
    assert case.run('--video-bgr-mode', 'each') == 0
    assert 'ended 7 frames early; its last frame was held' in capsys.readouterr().err
    assert len(plates) == 5


def test_a_source_that_begins_late_begins_at_once(case):
    """Times count from where the file begins, with picture or sound."""
    case.src = write_video(case.src.with_suffix('.mkv'), moving(COUNT), [5000 + 40 * i for i in range(COUNT)])
    assert case.run() == 0
    assert times_of(case.out / 'pha.mp4') == [Fraction(i, 25) for i in range(COUNT)]


def test_pixels_that_are_not_square_stay_so(case):
    with av.open(str(case.src), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for picture in moving(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode(None))
    for resize, expected in (((), Fraction(4, 3)), (('--video-resize', 64, 64), Fraction(1))):
        assert case.run('-y', *resize) == 0
        with VideoReader(case.out / 'pha.mp4') as reader:
            assert reader.pixel_aspect == expected


def test_pictures_that_are_not_of_this_video_are_named(case, capsys):
    flags = ('--output-format', 'image_sequences', '-y')
    assert case.run(*flags) == 0
    case.src = write_video(case.src, moving(COUNT)[:8])
    capsys.readouterr()
    assert case.run(*flags) == 0
    assert 'holds 4 pictures that are not of this video, such as' in capsys.readouterr().err
    assert len(list((case.out / 'pha').glob('*.jpg'))) == COUNT


def test_rotated_and_full_range_sources_come_out_alike(case):
    upright = moving(3)
    lying = [np.ascontiguousarray(np.rot90(frame)) for frame in upright]
    case.src = write_video(case.src, lying, rotation=-90, colour=(1, True), time_base=Fraction(1, 600))
    assert case.run('--video-quality', 2, types=('fgr',)) == 0
    with VideoReader(case.out / 'fgr.mp4') as reader, VideoReader(case.src) as source:
        assert (reader.width, reader.height, reader.time_base) == (WIDTH, HEIGHT, source.time_base)
        assert (reader.colour.matrix, reader.colour.full_range) == (1, True)
