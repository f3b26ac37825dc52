"""inference_webcam.py: what it refuses, and how it ends where something is lost or it is stopped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from support.captures import Capture, capture, film, flat
from support.in_process import handlers
from support.inference_case import files, room, save
from support.webcam_case import loaded_once, no_network, pyvirtualcam, run, screen

from inference.matte import NotFiniteError
from inference.webcam import display
from inference.webcam.live import Live

__all__ = ['capture', 'handlers', 'loaded_once', 'no_network', 'pyvirtualcam', 'run', 'screen']
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.mark.usefixtures('no_network')
def test_no_display_is_said_before_anything_is_opened(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, capture: Capture
) -> None:
    monkeypatch.setattr('sys.platform', 'linux')
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    assert run() == 2
    message = 'there is no display to show pictures on: neither DISPLAY nor WAYLAND_DISPLAY is set; --headless N writes'
    assert capsys.readouterr().err == f'error: {message} pictures instead\n'
    monkeypatch.setenv('DISPLAY', ':9876')
    assert run() == 2  # and the process lives
    message = capsys.readouterr().err
    assert message.startswith('error: no window can be opened on display :9876: ') or 'this OpenCV has no' in message
    # What the build without windows says, and one that has not even the names.
    for trial in ('raise SystemExit("error: (-2) The function is not implemented. Rebuild")', 'import cv2; cv2.none()'):
        monkeypatch.setattr(display, 'TRIAL', trial)
        assert run() == 2
        assert 'opencv-python-headless; pip install -c constraints.txt opencv-python;' in capsys.readouterr().err
    assert capture.reads == 0


@pytest.mark.usefixtures('no_network')
def test_all_problems_are_reported_in_one_message(run: Any, tmp_path: Path, capsys: Any) -> None:
    flags = [
        '--video-src',
        'film.mp4',
        '--video-bgr',
        'plate.png',
        '--video-target-bgr',
        'sea.png',
        '--resolution',
        1280,
        8,
    ]
    assert run(*flags, '--headless', 0, '--model-backbone-scale', 2) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: 6 problems:\n')
    for named in (
        '--video-src film.mp4: no such',
        '--video-bgr plate.png: no such',
        '--video-target-bgr sea.png: no such',
    ):
        assert named in message
    for named in ('--resolution 1280 8: must', '--headless 0: must', '--model-backbone-scale 2.0: must'):
        assert named in message
    (tmp_path / 'file').touch()
    assert run('--video-src', '0', '--headless', 1, '--output-dir', 'file/out') == 2
    assert '--output-dir file/out: ' in capsys.readouterr().err


@pytest.mark.usefixtures('no_network')
def test_what_cannot_be_used_is_refused(run: Any, tmp_path: Path, capsys: Any) -> None:
    path = film(tmp_path / 'film.avi', [room(0)])
    plate = save(tmp_path / 'plate.png', room(0, 48, 32))
    headless = ('--headless', 1, '--output-dir', 'out')
    assert run('--video-src', path, '--video-bgr', plate, *headless) == 2
    assert f'error: --video-bgr {plate}: is 48x32, but {path} gives 96x64\n' == capsys.readouterr().err
    assert run('--video-src', path, '--video-target-bgr', path, *headless) == 2
    assert str(path) in capsys.readouterr().err
    small = film(tmp_path / 'small.avi', [flat(1, 32, 8)])
    assert run('--video-src', small, *headless) == 2
    assert f'error: --video-src {small}: 32x8 is too small; it must be at least 16 each\n' == capsys.readouterr().err
    (tmp_path / 'text.avi').write_text('no film')
    assert run('--video-src', 'text.avi', *headless) == 2
    assert capsys.readouterr().err == 'error: --video-src text.avi: cannot be opened; OpenCV reads no video in it\n'
    assert not (tmp_path / 'out').exists()


def test_without_a_virtual_camera_there_is_a_line_how_to_get_one(
    run: Any, screen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, request: Any
) -> None:
    monkeypatch.setitem(sys.modules, 'pyvirtualcam', None)
    path = film(tmp_path / 'film.avi', [flat(1, 1024, 32)])
    assert run('--video-src', path, '--virtual-camera') == 2
    assert 'pip install pyvirtualcam' in capsys.readouterr().err
    request.getfixturevalue('pyvirtualcam')
    assert run('--video-src', path, '--virtual-camera') == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --virtual-camera: 'v4l2loopback' backend: no device found; it needs ")
    assert message.count('\n') == 1


def test_a_lost_camera_is_one_line_and_code_1(
    run: Any, screen: Any, capture: Capture, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture.give(room(0), room(0), cv2.error('no such device'))
    assert run('--video-src', '0') == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        'note: --resolution 1280 720: 0 gives 96x64, which is used',
        'error: stopped: 0: no such device',
    ]
    assert screen.last.closed
    assert capture.done[-1] == ('release',)
    capture.give(room(0), *[None] * 9)
    assert run('--video-src', 'rtsp://camera', '--headless', 5, '--output-dir', 'out') == 1
    assert 'error: stopped: rtsp://camera: gives no more pictures' in capsys.readouterr().err
    assert files(Path('out')) == {'com_0000.png'}


@pytest.mark.usefixtures('handlers')
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(
    run: Any, screen: Any, capture: Capture, capsys: Any, number: signal.Signals, code: int
) -> None:
    capture.repeat = room(0)
    screen.keys = ['b', '', '', lambda: os.kill(os.getpid(), number)]
    assert run('--video-src', '0') == code
    assert capsys.readouterr().err.splitlines()[-1] == 'stopped'
    assert screen.last.closed
    assert capture.done[-1] == ('release',)


def test_results_that_are_not_finite_end_it_with_a_line(
    run: Any, screen: Any, capture: Capture, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(live: Live, more: bool) -> Iterator[Any]:
        raise NotFiniteError('not finite in float16; use --precision float32')

    monkeypatch.setattr(Live, 'done', broken)
    capture.repeat = room(0)
    assert run('--video-src', '0') == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        'error: stopped: not finite in float16; use --precision float32'
    )
