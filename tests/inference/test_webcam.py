"""inference_webcam.py end to end: pictures without a window, a film in a window, other programs' camera."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.captures import Capture, capture, film, frames
from support.inference_case import HEIGHT, WIDTH, files, read, room, save
from support.webcam_case import (
    HINT,
    WHITE,
    FakeVirtualCamera,
    loaded_once,
    matting,
    no_network,
    pictures,
    pyvirtualcam,
    run,
    screen,
)

from inference import Matting
from inference.compositing import covering
from inference.webcam import viewer

__all__ = ['capture', 'loaded_once', 'matting', 'no_network', 'pictures', 'pyvirtualcam', 'run', 'screen']
pytestmark = pytest.mark.usefixtures('one_thread')


def test_headless_writes_what_the_network_gives(run: Any, matting: Matting, pictures: Any, tmp_path: Path) -> None:
    plate = save(tmp_path / 'plate.png', room(0))
    target = save(tmp_path / 'target.png', room(7, 4 * WIDTH, 2 * HEIGHT))
    path = film(tmp_path / 'film.avi', pictures[9:], rate=200)
    flags = ('--video-src', path, '--headless', 4, '--output-dir', 'out', '--video-bgr', plate)
    assert run(*flags, '--video-target-bgr', target) == 0
    assert files(tmp_path / 'out') == {f'com_000{i}.png' for i in range(4)}
    backdrop = covering(read(target), (WIDTH, HEIGHT))
    for i, src in enumerate(frames(path)[:4]):
        expected = matting(src, room(0)).composite(backdrop)
        assert np.array_equal(read(tmp_path / f'out/com_000{i}.png'), expected)
    assert not np.array_equal(read(tmp_path / 'out/com_0001.png'), read(tmp_path / 'out/com_0002.png'))


def test_headless_takes_the_first_picture_for_the_plate(
    run: Any, matting: Matting, pictures: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / 'film.avi', pictures[9:12], rate=200)
    flags = ('--video-src', path, '--headless', 5, '--output-dir', 'out', '--view', 'pha')
    assert run(*flags) == 0
    captured = capsys.readouterr()
    assert f'note: {path} ended after 3 of 5 pictures' in captured.err
    assert captured.out.splitlines()[-1].startswith('3 pictures written, 0 dropped, ')
    assert files(tmp_path / 'out') == {'pha_0000.png', 'pha_0001.png', 'pha_0002.png'}
    seen = frames(path)
    for i, src in enumerate(seen):
        grey = matting(src, seen[0]).pha
        assert np.array_equal(read(tmp_path / f'out/pha_000{i}.png'), np.dstack([grey] * 3))
    before = {name: (tmp_path / 'out' / name).stat().st_mtime_ns for name in files(tmp_path / 'out')}
    assert run(*flags) == 2
    assert '--output-dir out: not empty (it holds pha_000' in capsys.readouterr().err
    assert before == {name: (tmp_path / 'out' / name).stat().st_mtime_ns for name in files(tmp_path / 'out')}
    assert run(*flags, '-y') == 0
    assert before.keys() == files(tmp_path / 'out')
    assert before != {name: (tmp_path / 'out' / name).stat().st_mtime_ns for name in files(tmp_path / 'out')}


def test_a_film_in_a_window(
    run: Any, screen: Any, matting: Matting, pictures: Any, tmp_path: Path, capsys: Any
) -> None:
    path = film(tmp_path / 'film.avi', pictures, rate=50)
    screen.keys = ['b']
    assert run('--video-src', path) == 0
    captured = capsys.readouterr()
    assert 'pictures shown' in captured.out
    assert captured.err == ''
    shown, seen = screen.last.shown, frames(path)
    assert screen.last.size == (WIDTH, HEIGHT)
    assert screen.last.closed
    first, rate, words = shown[0]
    assert np.array_equal(first, seen[0])
    assert words == [HINT, viewer.KEYS]
    assert rate.endswith(' fps')
    # The last picture of a film is never dropped, and the first ten are equal: whichever was taken for the plate.
    assert np.array_equal(shown[-1][0], matting(seen[-1], seen[0]).composite(WHITE))
    assert HINT not in shown[-1][2]
    assert 'camera' not in [thread.name for thread in threading.enumerate()]


def test_other_programs_see_what_is_shown_but_never_the_room(
    run: Any, screen: Any, pyvirtualcam: type[FakeVirtualCamera], pictures: Any, tmp_path: Path, capsys: Any
) -> None:
    path = film(tmp_path / 'film.avi', pictures, rate=8)
    screen.keys = ['', 'b']
    assert run('--video-src', path, '--virtual-camera', '--mirror') == 0
    assert 'other programs find the result as /dev/video9' in capsys.readouterr().out
    (other,) = pyvirtualcam.made
    assert (other.size, other.rate, other.closed) == ((WIDTH, HEIGHT), 8, True)
    shown = screen.last.shown
    hints = [HINT in words for _, _, words in shown]
    assert len(other.sent) == len(shown)
    assert 0 < sum(hints) < len(shown)
    for sent, (picture, _, _), hint in zip(other.sent, shown, hints):
        assert np.array_equal(sent, WHITE if hint else picture[:, ::-1])


def test_headless_feeds_other_programs_too(
    run: Any, pyvirtualcam: type[FakeVirtualCamera], pictures: Any, tmp_path: Path
) -> None:
    path = film(tmp_path / 'film.avi', pictures[9:12], rate=200)
    assert run('--video-src', path, '--headless', 3, '--output-dir', 'out', '--virtual-camera') == 0
    (other,) = pyvirtualcam.made
    assert [np.array_equal(sent, read(tmp_path / f'out/com_000{i}.png')) for i, sent in enumerate(other.sent)] == [
        True
    ] * 3


def test_a_camera_can_be_headless(run: Any, capture: Capture, matting: Matting, pictures: Any, capsys: Any) -> None:
    capture.repeat = room(0)
    assert run('--video-src', '0', '--resolution', WIDTH, HEIGHT, '--headless', 2, '--output-dir', 'out') == 0
    assert capsys.readouterr().err == ''
    assert np.array_equal(read(Path('out/com_0001.png')), matting(room(0), room(0)).composite(WHITE))


@pytest.mark.usefixtures('no_network')
def test_numbers_are_cameras_and_all_else_is_opened_by_its_name(
    run: Any, monkeypatch: pytest.MonkeyPatch, capture: Capture
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: opened.append(source) or capture)
    capture.opens = False
    for source in ('3', '/dev/video7', 'rtsp://camera/1'):
        assert run('--video-src', source, '--headless', 1, '--output-dir', 'out') == 2
    assert opened == [3, '/dev/video7', 'rtsp://camera/1']
