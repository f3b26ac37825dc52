"""Films that are no files: a URL, and standard input, in which nothing can be sought."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.video_case import COUNT, case, loaded_once
from support.videos import moving, noise, times_of, write_video

import inference.video.containers as containers
from inference.video.outputs import _record
from inference.video.reader import VideoReader

__all__ = ['case', 'loaded_once']


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files, on this machine alone."""
    with ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@contextmanager
def piped(path: Path) -> Iterator[None]:
    """A file's bytes come from standard input, through a pipe."""
    kept, (end, begin) = os.dup(0), os.pipe()
    os.dup2(end, 0)
    os.close(end)

    def feed() -> None:
        with open(begin, 'wb') as pipe:
            pipe.write(path.read_bytes())

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        yield
    finally:
        os.dup2(kept, 0)  # closes the pipe, so that nothing waits for a reader
        os.close(kept)
        feeding.join()


def test_a_url_is_a_film_and_its_plate(case, tmp_path, capsys):
    with served(tmp_path) as address:
        picture, case.src = f'{address}/{case.bgr.name}', f'{address}/{case.src.name}'
        case.bgr = case.src
        assert case.run() == 0
        case.bgr = picture
        assert case.run('-y') == 2
    assert times_of(case.out / 'pha.mp4') == times_of(tmp_path / 'src.mp4')
    assert f'{picture}: not a film, for which FFmpeg takes it; of pictures, files of jpg' in capsys.readouterr().err


def test_a_url_that_does_not_answer_is_one_line(case, tmp_path, capsys, monkeypatch):
    with served(tmp_path) as address:
        case.src = f'{address}/none.mp4'
        assert case.run() == 2
    error = capsys.readouterr().err
    assert f'{address}/none.mp4: cannot be read as a video: Server returned 404 Not Found' in error
    assert case.run() == 2  # nobody listens now
    assert error.count('\n') == capsys.readouterr().err.count('\n') == 1
    monkeypatch.setattr(containers, 'PATIENCE', 0.2)
    with ThreadingHTTPServer(('127.0.0.1', 0), Quiet) as silent:  # it takes connections, and never answers
        case.src = f'http://127.0.0.1:{silent.server_port}/film.mp4'
        assert case.run() == 2
    assert 'no answer for 0.2 seconds' in capsys.readouterr().err


def test_a_film_comes_through_a_pipe(case, tmp_path, capsys):
    times = [0, 40, 1000, 1001, 1501, 1541, 1581, 1621, 1661, 1701, 1741, 1781]
    film = write_video(tmp_path / 'film.mkv', moving(COUNT), times)
    case.src, case.bgr = '-', case.src
    with piped(film):
        assert case.run('--video-bgr-mode', 'each', types=('fgr',)) == 0
    assert times_of(case.out / 'fgr.mp4') == times_of(film)
    assert '-: standard input is read once, so its sound is left out' in capsys.readouterr().err


def test_pictures_of_a_pipe_are_never_gone_on_with():
    assert _record({'video_src': '-'}) != _record({'video_src': '-'})


def test_what_is_whole_cannot_be_told_from_a_pipe(case, capsys):
    case.src = '-'
    assert case.run('--skip-existing') == 2
    assert '--skip-existing: compares with the video' in capsys.readouterr().err


@pytest.mark.parametrize('flags', [('--video-bgr', '-'), ('--video-bgr-time', 0)])
def test_a_pipe_cannot_be_read_twice(case, capsys, flags):
    case.src, case.bgr = '-', None
    assert case.run(*flags) == 2
    assert (
        'standard input can be read once: give the plate as a picture or a file of its own' in capsys.readouterr().err
    )


def test_a_pipe_without_an_index_first_is_one_line(tmp_path):
    film = write_video(tmp_path / 'film.mp4', [noise(seed) for seed in range(60)], crf=1)
    with piped(film), pytest.raises(ValueError, match=r'must have its index first \(faststart\)'):
        VideoReader('-')
