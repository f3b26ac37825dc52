"""Films that are no files: a URL, and standard input, in which nothing can be sought."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.video_case import COUNT, case, loaded_once
from support.videos import moving, noise, square, times_of, write_video

import inference.video.containers as containers
from inference.video.outputs import _record
from inference.video.reader import VideoReader

__all__ = ['case', 'loaded_once']


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path, handler: type[SimpleHTTPRequestHandler] = Quiet) -> Iterator[str]:
    """The address of a server of a folder's files, on this machine alone."""
    with ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@contextmanager
def piped(path: Path, pause: float = 0) -> Iterator[None]:
    """A file's bytes come from standard input, through a pipe, some with pauses, in seconds."""
    kept, (taken, given) = os.dup(0), os.pipe()
    os.dup2(taken, 0)
    os.close(taken)

    def feed() -> None:
        with open(given, 'wb') as pipe:
            data = path.read_bytes()
            for begin, end in itertools.pairwise([0, *range(len(data) // 2, len(data) // 2 + 3000, 1000), None]):
                pipe.write(data[begin:end])
                pipe.flush()
                time.sleep(pause)

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


class Impatient(Quiet):
    """A server that knows ranges, and drops whom it has waited for once."""

    protocol_version = 'HTTP/1.1'
    drops = 0

    def do_GET(self) -> None:
        data = (Path(self.directory) / self.path[1:]).read_bytes()
        start = int(self.headers.get('Range', 'bytes=0-')[6:].split('-')[0])
        self.send_response(206)
        self.send_header('Content-Length', str(len(data) - start))
        self.send_header('Content-Range', f'bytes {start}-{len(data) - 1}/{len(data)}')
        self.end_headers()
        half = len(data) // 2
        if start < half:
            Impatient.drops += 1
            self.close_connection = True
        self.wfile.write(data[start : half if start < half else None])


def test_a_server_that_drops_a_connection_is_asked_for_the_rest(tmp_path):
    film = write_video(tmp_path / 'film.ts', [noise(seed) for seed in range(20)])
    with served(tmp_path, Impatient) as address, VideoReader(f'{address}/{film.name}') as reader:
        assert len([*reader]) == 20
        assert reader.damage is None
    assert Impatient.drops


def test_a_pipe_may_take_longer_for_a_frame_than_a_server(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, 'PATIENCE', 0.1)
    film = write_video(tmp_path / 'film.mkv', [noise(seed) for seed in range(20)], crf=1)
    with piped(film, pause=0.3), VideoReader('-', nvdec=True) as reader:
        assert len([*reader]) == 20
        assert reader.note == '-: NVDEC would read it twice, the CPU decodes'


def test_a_list_of_parts_is_a_film(tmp_path):
    film = write_video(tmp_path / 'film.m3u8', moving(COUNT), g='4')
    with VideoReader(film) as reader:
        assert [square(frame.pixels()) for frame in reader] == [2 * index + 4 for index in range(COUNT)]
    assert {'rtsp', 'sdp', 'dash', 'concat'} < containers.FILMS


def test_a_film_comes_through_a_pipe(case, tmp_path, capsys):
    times = [0, 40, 1000, 1001, 1501, 1541, 1581, 1621, 1661, 1701, 1741, 1781]
    film = write_video(tmp_path / 'film.mkv', moving(COUNT), times)
    case.src, case.bgr = '-', case.src
    with piped(film):
        assert case.run('--video-bgr-mode', 'each', types=('fgr',)) == 0
    assert times_of(case.out / 'fgr.mp4') == times_of(film)
    assert '-: standard input is read once, so its sound is left out' in capsys.readouterr().err


@pytest.mark.parametrize('flags', [{'video_src': '-'}, {'video_bgr': 'http://127.0.0.1/plate.mp4'}])
def test_pictures_of_what_may_be_another_film_are_never_gone_on_with(flags):
    assert _record(flags) != _record(flags)


def test_what_is_whole_cannot_be_told_from_a_pipe(case, capsys):
    case.src = '-'
    assert case.run('--skip-existing') == 2
    assert '--skip-existing: compares with the video' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'named'), [(('--video-bgr', '-'), '--video-bgr'), (('--video-bgr-time', 0), '--video-src')]
)
def test_a_pipe_cannot_be_read_twice(case, capsys, flags, named):
    case.src, case.bgr = '-', None
    assert case.run(*flags) == 2
    assert (
        f'{named} -: standard input can be read once: give the plate as a picture or a file of its own'
        in capsys.readouterr().err
    )


def test_a_pipe_without_an_index_first_is_one_line(tmp_path):
    film = write_video(tmp_path / 'film.mp4', [noise(seed) for seed in range(60)], crf=1)
    with piped(film), pytest.raises(ValueError, match=r'must have its index first \(faststart\)'):
        VideoReader('-')
