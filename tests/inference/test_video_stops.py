"""inference_video.py: what is left where a run stops, and sequences that go on."""

from __future__ import annotations

import itertools
import os
import shutil
import signal

import pytest
from support.in_process import handlers
from support.inference_case import files
from support.video_case import COUNT, case, interrupted_at, loaded_once
from support.videos import moving, pictures_of, write_video

__all__ = ['case', 'handlers', 'loaded_once']
pytestmark = pytest.mark.usefixtures('handlers')


def test_a_cut_sequence_goes_on(case, capsys):
    flags = ('--output-format', 'image_sequences', '--picture-format', 'pha=png', '-y')
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
    flags = ('--output-format', 'image_sequences', '--picture-format', 'pha=png', '-y')
    assert case.run(*flags, '--model-refine-mode', 'full') == 0
    old = [path.read_bytes() for path in sorted((case.out / 'pha').glob('*.png'))]
    with interrupted_at(4):
        assert case.run(*flags) == 130
    assert case.run(*flags) == 0
    new = [path.read_bytes() for path in sorted((case.out / 'pha').glob('*.png'))]
    assert all(one != other for one, other in zip(old, new))


@pytest.mark.parametrize('output_format', ['video', 'prores4444', 'webm'])
def test_ctrl_c_leaves_files_that_play(case, capsys, output_format):
    case.src = write_video(case.src, moving(40))
    with interrupted_at(6):
        assert case.run('--output-format', output_format, types=('com', 'pha')) == 130
    assert 'stopped: what was done, if anything, is kept and plays' in capsys.readouterr().err
    suffix = {'video': 'mp4', 'prores4444': 'mov', 'webm': 'webm'}[output_format]
    assert files(case.out) == {f'com.{suffix}', f'pha.{suffix}'}
    lengths = {len(pictures_of(case.out / f'{kind}.{suffix}')) for kind in ('com', 'pha')}
    assert len(lengths) == 1
    assert 6 <= lengths.pop() < 40


def test_a_cut_file_gives_what_it_has(case, capsys):
    whole = write_video(case.src.with_suffix('.mkv'), moving(60), g='10').read_bytes()
    case.src = case.src.with_suffix('.mkv')
    case.src.write_bytes(whole[: len(whole) // 2])
    assert case.run() == 1
    err = capsys.readouterr().err
    assert f'warning: {case.src}: ends after' in err
    assert len(pictures_of(case.out / 'pha.mp4')) == len(pictures_of(case.src)) > 5


def test_a_disk_that_runs_full_stops_while_files_can_be_finished(case, capsys, monkeypatch):
    usage, calls = shutil.disk_usage('.'), []

    def shrinking(folder):
        calls.append(folder)
        return usage._replace(free=10**12 if len(calls) <= 6 else 10**6)

    monkeypatch.setattr('common.files.shutil.disk_usage', shrinking)
    assert case.run(types=('com', 'pha')) == 1
    assert 'only 1 MB are free; what was done is kept and plays' in capsys.readouterr().err
    assert [len(pictures_of(case.out / f'{kind}.mp4')) for kind in ('com', 'pha')] == [6, 6]


def test_a_background_that_breaks_stops_the_run_and_keeps_what_is_done(case, capsys, tmp_path, monkeypatch):
    target = write_video(tmp_path / 'target.mp4', moving(4))
    from inference.video import inputs

    repeated = inputs.repeated

    def breaking(path, **reading):
        yield from itertools.islice(repeated(path, **reading), 5)
        raise ValueError(f'{path}: cannot be read as a video')

    monkeypatch.setattr(inputs, 'repeated', breaking)
    assert case.run('--video-target-bgr', target, types=('com',)) == 1
    assert 'error: stopped: frame 5: --video-target-bgr' in capsys.readouterr().err
    assert 1 <= len(pictures_of(case.out / 'com.mp4')) <= 5  # but for the few that were on their way


def test_a_signal_between_computing_and_finishing_loses_nothing(case, monkeypatch):
    from inference.video.outputs import VideoFiles

    finish = VideoFiles.finish

    def struck(self, complete):
        os.kill(os.getpid(), signal.SIGINT)
        return finish(self, complete)

    monkeypatch.setattr(VideoFiles, 'finish', struck)
    assert case.run() == 130
    assert len(pictures_of(case.out / 'pha.mp4')) == COUNT


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
    assert len(pictures_of(case.out / 'pha.mp4')) == 4
