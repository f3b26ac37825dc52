"""inference_video.py on small videos: frame for frame, in time, with sound and alpha, and what a stop leaves."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from support.inference_case import files, read, save
from support.videos import HEIGHT, WIDTH, moving, times_of, write_video

import inference_video
from inference import Matting
from inference.plates.alignment import AlignmentResult
from inference.video.reader import VideoReader

COUNT = 12


def plate() -> np.ndarray:
    """What `moving` moves before."""
    return np.median(moving(36), axis=0).astype(np.uint8)


class Case:
    """A video, its plate and an output folder, and the script run on them."""

    def __init__(self, folder: Path, checkpoint: Path):
        self.checkpoint, self.out = checkpoint, folder / 'out'
        self.src = write_video(folder / 'src.mp4', moving(COUNT))
        self.bgr: Path | None = save(folder / 'plate.png', plate())

    def run(self, *flags: object, types: tuple[str, ...] = ('pha',)) -> int:
        fixed = {
            '--model-type': 'mattingrefine',
            '--model-backbone': 'mobilenetv2',
            '--model-checkpoint': self.checkpoint,
            '--model-refine-sample-pixels': 800,
            '--video-src': self.src,
            '--video-bgr': self.bgr,
            '--output-dir': self.out,
            '--device': 'cpu',
        }
        words = [str(word) for pair in fixed.items() if pair[1] is not None for word in pair]
        return inference_video.main([*words, '--output-types', *types, *map(str, flags)])

    def pictures(self) -> list[np.ndarray]:
        with VideoReader(self.src) as reader:
            return [frame.pixels() for frame in reader]

    def mattes(self, plates: list[np.ndarray] | None = None) -> list:
        matting = Matting.from_checkpoint(self.checkpoint, device='cpu', refine_sample_pixels=800)
        pictures = self.pictures()
        return [matting(src, bgr) for src, bgr in zip(pictures, plates or [plate()] * len(pictures))]


@pytest.fixture
def case(tmp_path, checkpoints):
    return Case(tmp_path, checkpoints['mattingrefine'])


def decoded(path: Path) -> list[np.ndarray]:
    with VideoReader(path) as reader:
        return [frame.pixels() for frame in reader]


def with_alpha(path: Path) -> list[np.ndarray]:
    """RGBA of each frame; FFmpeg's own VP9 decoder would leave alpha out."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = av.CodecContext.create('libvpx-vp9', 'r') if path.suffix == '.webm' else stream.codec_context
        packets = list(container.demux(stream))
        frames = [frame for packet in packets if packet.size for frame in decoder.decode(packet)]
        return [frame.to_ndarray(format='rgba') for frame in [*frames, *decoder.decode(None)]]


def test_frame_for_frame_in_time(case):
    times = [i * 40 + (i % 3) * 7 for i in range(COUNT)]
    case.src = write_video(case.src, moving(COUNT), times)
    assert case.run('--video-quality', 0, types=('com', 'pha', 'fgr')) == 0
    assert files(case.out) == {'com.mp4', 'pha.mp4', 'fgr.mp4'}
    mattes = case.mattes()
    for kind in ('com', 'pha', 'fgr'):
        assert times_of(case.out / f'{kind}.mp4') == times_of(case.src)
    for frame, matte in zip(decoded(case.out / 'pha.mp4'), mattes):
        assert np.abs(frame[..., 0].astype(int) - matte.pha).max() <= 2
    for frame, matte in zip(decoded(case.out / 'com.mp4'), mattes):
        alpha = matte.pha[..., None] / 255
        expected = alpha * matte.fgr + (1 - alpha) * (120, 255, 155)
        assert np.abs(cv2.blur(frame, (2, 2)).astype(float) - cv2.blur(expected, (2, 2))).mean() < 4


def test_pictures_are_exactly_the_mattes(case, tmp_path):
    flags = ('--output-format', 'image_sequences', '--sequence-format', 'pha=png', 'fgr=png')
    assert case.run(*flags, '--batch-size', 5, types=('com', 'pha', 'fgr')) == 0
    names = {f'{kind}/{i:06d}.png' for kind in ('com', 'pha', 'fgr') for i in range(COUNT)}
    assert files(case.out) == names | {'sequence.json'}
    for i, matte in enumerate(case.mattes()):
        assert np.abs(read(case.out / f'pha/{i:06d}.png').astype(int) - matte.pha).max() <= 1
        assert np.abs(read(case.out / f'com/{i:06d}.png')[..., 3].astype(int) - matte.pha).max() <= 1


def test_a_cut_sequence_goes_on(case, capsys):
    flags = ('--output-format', 'image_sequences', '--sequence-format', 'pha=png', '-y')
    assert case.run(*flags) == 0
    pictures = sorted((case.out / 'pha').glob('*.png'))
    whole = [path.read_bytes() for path in pictures]
    for path in pictures[5:]:
        path.unlink()
    kept = [path.stat().st_mtime_ns for path in pictures[:5]]
    assert case.run(*flags[:-1]) == 2
    assert 'go on with a sequence that was cut' in capsys.readouterr().err
    assert case.run(*flags) == 0
    assert 'goes on with this sequence' in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in pictures[:5]] == kept
    assert [path.read_bytes() for path in pictures] == whole

    assert case.run(*flags, '--model-refine-sample-pixels', 1600) == 0
    assert 'other settings, so all pictures are made anew' in capsys.readouterr().err
    assert all(path.stat().st_mtime_ns > before for path, before in zip(pictures, kept))


def test_pictures_of_other_settings_are_not_taken_for_done(case):
    """A run with other settings that is cut: the pictures it has not reached are the old ones, and must be replaced."""
    flags = ('--output-format', 'image_sequences', '--sequence-format', 'pha=png', '-y')
    assert case.run(*flags, '--model-refine-mode', 'full') == 0
    old = [path.read_bytes() for path in sorted((case.out / 'pha').glob('*.png'))]
    with interrupted_at(4):
        assert case.run(*flags) == 130
    assert case.run(*flags) == 0
    new = [path.read_bytes() for path in sorted((case.out / 'pha').glob('*.png'))]
    assert all(one != other for one, other in zip(old, new))


class interrupted_at:
    """While the block runs, the script gets a SIGINT once so many frames are done."""

    def __init__(self, frames: int):
        self.frames = frames

    def __enter__(self):
        from inference.video.job import Findings

        self.add = add = Findings.add

        def counted(findings, shot):
            lines = add(findings, shot)
            if findings.done == self.frames:
                os.kill(os.getpid(), signal.SIGINT)
            return lines

        Findings.add = counted

    def __exit__(self, *_):
        from inference.video.job import Findings

        Findings.add = self.add


@pytest.mark.parametrize('output_format', ['video', 'prores4444', 'webm'])
def test_ctrl_c_leaves_files_that_play(case, capsys, output_format):
    case.src = write_video(case.src, moving(40))
    before = signal.getsignal(signal.SIGINT)
    try:
        with interrupted_at(6):
            assert case.run('--output-format', output_format, types=('com', 'pha')) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert 'stopped: what was done, if anything, is kept and plays' in capsys.readouterr().err
    suffix = {'video': 'mp4', 'prores4444': 'mov', 'webm': 'webm'}[output_format]
    assert files(case.out) == {f'com.{suffix}', f'pha.{suffix}'}
    lengths = {len(decoded(case.out / f'{kind}.{suffix}')) for kind in ('com', 'pha')}
    assert len(lengths) == 1
    assert 6 <= lengths.pop() < 40


@pytest.mark.parametrize(('output_format', 'suffix'), [('prores4444', 'mov'), ('webm', 'webm')])
def test_com_carries_alpha(case, output_format, suffix):
    assert case.run('--output-format', output_format, '--video-quality', 4, types=('com', 'pha')) == 0
    frames = with_alpha(case.out / f'com.{suffix}')
    assert len(frames) == COUNT == len(decoded(case.out / f'pha.{suffix}'))
    for frame, matte in zip(frames, case.mattes()):
        assert np.abs(frame[..., 3].astype(int) - matte.pha).mean() < (1.5 if suffix == 'mov' else 8)
        solid = cv2.erode(matte.pha, np.ones((3, 3))) > 128
        assert np.abs(frame[solid][:, :3].astype(int) - matte.fgr[solid]).mean() < 12


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


def test_a_cut_file_gives_what_it_has(case, capsys):
    whole = write_video(case.src.with_suffix('.mkv'), moving(60), g='10').read_bytes()
    case.src = case.src.with_suffix('.mkv')
    case.src.write_bytes(whole[: len(whole) // 2])
    assert case.run() == 1
    err = capsys.readouterr().err
    assert f'warning: {case.src}: ends after' in err
    assert len(decoded(case.out / 'pha.mp4')) == len(case.pictures()) > 5


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
    assert case.run(*flags, '--output-format', 'image_sequences', '--sequence-format', 'pha=png') == 0
    pictures = case.pictures()
    for i, matte in enumerate(case.mattes(plate_of(pictures))):
        assert np.abs(read(case.out / f'pha/{i:06d}.png').astype(int) - matte.pha).max() <= 1


def test_other_sizes(case, capsys):
    case.bgr = save(case.bgr, cv2.resize(plate(), (WIDTH // 2, HEIGHT // 2)))
    assert case.run() == 2
    assert 'sizes differ (--resize-bgr resizes the plate)' in capsys.readouterr().err
    assert not case.out.exists()
    assert case.run('--resize-bgr', '--video-resize', 62, 38) == 0
    assert decoded(case.out / 'pha.mp4')[0].shape == (38, 62, 3)


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
    flags = ('--output-format', 'image_sequences', '--sequence-format', 'pha=png', '--preprocess-alignment', '-y')
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
    assert len(decoded(case.out / 'pha.mp4')) == COUNT


def test_a_plate_of_another_scene_is_reported(case, capsys):
    case.bgr = save(case.bgr, 255 - plate())
    assert case.run() == 0
    assert 'warning: frame 0: only ' in capsys.readouterr().err


def test_a_plate_that_is_shorter_is_held_and_said(case, capsys, tmp_path):
    case.bgr = write_video(tmp_path / 'plates.mp4', moving(COUNT)[:5])
    assert case.run('--video-bgr-mode', 'each') == 0
    assert 'ended 7 frames early; its last frame was held' in capsys.readouterr().err


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
    assert len(list((case.out / 'pha').iterdir())) == COUNT


def test_a_disk_that_runs_full_stops_while_files_can_be_finished(case, capsys, monkeypatch):
    usage, calls = shutil.disk_usage('.'), []

    def shrinking(folder):
        calls.append(folder)
        return usage._replace(free=10**12 if len(calls) <= 6 else 10**6)

    monkeypatch.setattr('common.files.shutil.disk_usage', shrinking)
    assert case.run(types=('com', 'pha')) == 1
    assert 'only 1 MB are free; what was done is kept and plays' in capsys.readouterr().err
    assert [len(decoded(case.out / f'{kind}.mp4')) for kind in ('com', 'pha')] == [6, 6]


def test_a_background_that_breaks_stops_the_run_and_keeps_what_is_done(case, capsys, tmp_path, monkeypatch):
    target = write_video(tmp_path / 'target.mp4', moving(4))
    from inference.video import inputs

    repeated = inputs.repeated

    def breaking(path):
        yield from itertools.islice(repeated(path), 5)
        raise ValueError(f'{path}: cannot be read as a video')

    monkeypatch.setattr(inputs, 'repeated', breaking)
    assert case.run('--video-target-bgr', target, types=('com',)) == 1
    assert 'error: stopped: frame 5: --video-target-bgr' in capsys.readouterr().err
    assert 1 <= len(decoded(case.out / 'com.mp4')) <= 5  # but for the few that were on their way


def test_a_signal_between_computing_and_finishing_loses_nothing(case, monkeypatch):
    from inference.video.outputs import VideoFiles

    finish = VideoFiles.finish

    def struck(self, complete):
        os.kill(os.getpid(), signal.SIGINT)
        return finish(self, complete)

    monkeypatch.setattr(VideoFiles, 'finish', struck)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert case.run() == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(decoded(case.out / 'pha.mp4')) == COUNT


def test_a_picture_that_is_to_be_read_is_not_among_those_written(case, capsys):
    case.bgr = save(case.out / 'fgr/000000.png', plate())
    before = case.bgr.read_bytes()
    assert case.run('--output-format', 'image_sequences', '-y', types=('fgr',)) == 2
    assert 'is to be read; choose another folder' in capsys.readouterr().err
    assert case.bgr.read_bytes() == before


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
        (('--sequence-format', 'pha=png'), 'needs --output-format image_sequences'),
        (('--video-target-bgr', '.'), 'a folder, not a file'),
        (('--video-target-bgr', __file__), 'only com shows it'),
    ],
)
def test_flags_that_contradict_each_other(case, capsys, flags, message):
    assert case.run(*flags) == 2
    assert message in capsys.readouterr().err


def test_what_is_to_be_read_is_never_written_over(case, capsys):
    case.out.mkdir()
    case.src = case.src.rename(case.out / 'pha.mp4')
    before = case.src.read_bytes()
    assert case.run('-y') == 2
    assert 'is to be read; choose another folder' in capsys.readouterr().err
    assert case.src.read_bytes() == before


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


def test_a_frame_that_fails_stops_the_run_and_keeps_the_others(case, capsys, monkeypatch):
    from inference.matte import NotFiniteError, Pending

    matte, calls = Pending.matte, []

    def failing(self, index):
        calls.append(index)
        if len(calls) == 5:
            raise NotFiniteError('not finite in float32; the weights are damaged')
        return matte(self, index)

    monkeypatch.setattr(Pending, 'matte', failing)
    assert case.run('--num-workers', 1) == 1
    assert 'error: stopped: frame 4: not finite' in capsys.readouterr().err
    assert len(decoded(case.out / 'pha.mp4')) == 4


def test_rotated_and_full_range_sources_come_out_alike(case):
    upright = moving(3)
    lying = [np.ascontiguousarray(np.rot90(frame)) for frame in upright]
    case.src = write_video(case.src, lying, rotation=-90, colour=(1, True), time_base=Fraction(1, 600))
    assert case.run('--video-quality', 2, types=('fgr',)) == 0
    with VideoReader(case.out / 'fgr.mp4') as reader, VideoReader(case.src) as source:
        assert (reader.width, reader.height, reader.time_base) == (WIDTH, HEIGHT, source.time_base)
        assert (reader.colour.matrix, reader.colour.full_range) == (1, True)
