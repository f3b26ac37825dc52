"""Cameras: the newest picture, never waiting for the driver; what is dropped, held, lost; films in their place."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.captures import Capture, capture, film, flat, frames, wait_for

from inference.webcam import camera as module
from inference.webcam.camera import Camera, CameraLostError

__all__ = ['capture']
SIZE = (640, 480)
LOST = [None] * module.RETRIES
SOON = 60.0  # seconds until a hanging test fails; all it waits for happens at once


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == 'camera']


def number_of(camera: Camera, timeout: float = SOON) -> int:
    shot = camera.latest(timeout)
    assert shot is not None
    return shot.number


def test_the_newest_picture_is_handed_out_and_late_ones_are_counted(capture: Capture) -> None:
    capture.give(flat(10))
    with Camera(0, SIZE) as camera:
        assert camera.waiting
        shot = camera.latest(SOON)
        assert shot is not None
        assert shot.number == 0
        assert np.array_equal(shot.picture, flat(10))
        capture.give(flat(20), flat(30), flat(40))
        capture.until(5)
        shot = camera.latest(SOON)
        assert shot is not None
        assert shot.number == 3
        assert np.array_equal(shot.picture, flat(40))
        assert camera.dropped == 2
        assert not camera.waiting
        capture.give(flat(50))
        assert number_of(camera) == 4  # waits for it
        assert camera.dropped == 2
        capture.give(*LOST)
    assert threads() == []


def test_pictures_from_before_anybody_looked_are_not_counted(capture: Capture) -> None:
    capture.give(flat(1), flat(2), flat(3))
    with Camera(0, SIZE) as camera:
        capture.until(4)
        assert number_of(camera) == 2
        assert camera.dropped == 0
        capture.give(*LOST)


def test_a_driver_that_blocks_does_not_block_the_picture(capture: Capture) -> None:
    capture.give(flat(10))
    with Camera(0, SIZE) as camera:
        first = camera.latest(SOON)
        assert camera.latest(timeout=0.05) is first
        capture.give(flat(20))
        assert number_of(camera) == 1
        capture.give(*LOST)


def test_a_driver_that_hangs_does_not_hang_the_end(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'CLOSING_SECONDS', 0.1)
    capture.give(flat(10))
    camera = Camera(0, SIZE)
    camera.close()
    hanging = [thread for thread in threading.enumerate() if thread.name == 'camera']
    assert [thread.daemon for thread in hanging] == [True]
    capture.give(flat(20))
    wait_for(lambda: threads() == [])
    assert capture.done[-1] == ('release',)


def test_a_camera_is_asked_for_a_size_and_a_film_is_not(capture: Capture, tmp_path: Path) -> None:
    capture.give(flat(1), *LOST)
    with Camera('rtsp://camera', SIZE) as camera:
        assert camera.live
        assert camera.size == (32, 24)
        assert camera.rate == 30
    asked = {name: value for name, value, _ in capture.done[:-1]}
    assert (asked[cv2.CAP_PROP_FRAME_WIDTH], asked[cv2.CAP_PROP_FRAME_HEIGHT]) == SIZE
    capture.done.clear()
    capture.properties[cv2.CAP_PROP_FPS] = 1e6
    capture.give(flat(1), None)
    (tmp_path / 'a.avi').touch()
    with Camera(str(tmp_path / 'a.avi'), SIZE) as camera:
        assert not camera.live
        assert camera.rate == 30
    assert capture.done == [('release',)]


def test_a_damaged_picture_is_no_lost_camera_but_many_are(capture: Capture) -> None:
    capture.give(flat(1), None, None, flat(2))
    with Camera('rtsp://camera', SIZE) as camera:
        capture.until(5)
        assert number_of(camera) == 1
        capture.give(*LOST)
        with pytest.raises(CameraLostError, match=r'^rtsp://camera: gives no more pictures; was it unplugged\?$'):
            camera.latest(SOON)
        assert capture.reads == 4 + module.RETRIES
    assert threads() == []


@pytest.mark.skipif(not Path('/dev/null').exists(), reason='Linux alone shows cameras as files')
def test_a_camera_whose_device_is_gone_is_lost_at_once(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('sys.platform', 'linux')
    capture.give(flat(1), None, flat(1))  # some drivers repeat their last picture
    with Camera(987, SIZE) as camera:
        assert number_of(camera) == 0
        with pytest.raises(CameraLostError, match='unplugged'):
            camera.latest(SOON)
        assert capture.reads == 2


def test_a_silent_camera_counts_as_lost(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    capture.give(flat(1))
    with Camera(0, SIZE) as camera:
        monkeypatch.setattr(module, 'PATIENCE', 0.1)
        assert number_of(camera) == 0
        with pytest.raises(CameraLostError, match='no picture for 0 seconds'):
            camera.latest(timeout=0.3)
        capture.give(flat(2))


def test_what_the_driver_raises_is_the_reason(capture: Capture) -> None:
    capture.give(flat(1), cv2.error('frame is bad'))
    with Camera(0, SIZE) as camera:
        assert number_of(camera) == 0
        with pytest.raises(CameraLostError, match='0: frame is bad'):
            camera.latest(SOON)
    capture.give(flat(1), flat(1, width=64))
    with Camera(0, SIZE) as camera:
        assert number_of(camera) == 0
        with pytest.raises(CameraLostError, match='pictures of 64x24 follow others of another size'):
            camera.latest(SOON)


def test_a_camera_without_pictures_is_refused(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'PATIENCE', 0.1)
    monkeypatch.setattr(module, 'CLOSING_SECONDS', 0.1)
    with pytest.raises(ValueError, match=r'^0: opened, but gives no picture$'):
        Camera(0, SIZE)
    capture.give(flat(1))
    wait_for(lambda: threads() == [])


def test_what_cannot_be_opened_is_named_with_the_cameras_there_are(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    capture.opens = False
    monkeypatch.setattr('sys.platform', 'linux')
    monkeypatch.setattr('glob.glob', lambda pattern: ['/dev/video3', '/dev/video2'])
    with pytest.raises(
        ValueError, match=r'^0: cannot be opened; the cameras here are /dev/video2, /dev/video3; another'
    ):
        Camera(0, SIZE)
    monkeypatch.setattr('glob.glob', lambda pattern: [])
    with pytest.raises(ValueError, match=r'^0: cannot be opened; there is no camera$'):
        Camera(0, SIZE)
    (tmp_path / 'a.mp4').touch()
    with pytest.raises(ValueError, match=r'a\.mp4: cannot be opened; OpenCV reads no video in it'):
        Camera(str(tmp_path / 'a.mp4'), SIZE)


AUTO, EXPOSURE = cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_EXPOSURE
AUTO_WB, WB = cv2.CAP_PROP_AUTO_WB, cv2.CAP_PROP_WB_TEMPERATURE


def test_exposure_is_held_as_it_is_and_freed_in_the_end(capture: Capture) -> None:
    capture.repeat = flat(1)
    capture.properties |= {AUTO: 3.0, EXPOSURE: 157.0, AUTO_WB: 1.0, WB: 4600.0}
    with Camera(0, SIZE) as camera:
        capture.done.clear()
        assert camera.lock(SOON) == ['exposure', 'white balance']
        held = [(AUTO, 1.0), (EXPOSURE, 157.0), (AUTO_WB, 0.0), (WB, 4600.0)]
        assert capture.done == [(*setting, 'camera') for setting in held]
        assert camera.lock(SOON) == ['exposure', 'white balance']
        assert len(capture.done) == 4  # nothing was left to do
    assert capture.done[4:] == [(AUTO, 3.0, 'camera'), (AUTO_WB, 1.0, 'camera'), ('release',)]


def test_what_a_driver_does_not_hold_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = Capture(refused=[AUTO_WB])
    stand_in.repeat = flat(1)
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: stand_in)
    with Camera(0, SIZE) as camera:
        stand_in.done.clear()
        assert camera.lock(SOON) == ['exposure']
        assert stand_in.done == [(AUTO, 1.0, 'camera')]  # its value cannot be read, so it is not set either
    other = Capture('DSHOW')
    other.repeat = flat(1)
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: other)
    with Camera(0, SIZE) as camera:
        assert camera.lock(SOON) == []


def test_a_driver_that_does_not_answer_holds_nothing(capture: Capture) -> None:
    capture.give(flat(1))
    with Camera(0, SIZE) as camera:
        assert camera.lock(timeout=0.05) == []
        capture.give(flat(2))


def test_every_picture_of_a_film_is_handed_out(tmp_path: Path) -> None:
    path = film(tmp_path / 'a.avi', [flat(10 * i) for i in range(20)])
    expected = frames(path)
    assert len(expected) == 20
    with Camera(str(path), SIZE, every=True) as camera:
        assert camera.rate == 25
        shots = []
        while (shot := camera.latest(SOON)) is not None:
            shots.append(shot)
            time.sleep(0.002 * (len(shots) % 3))
        assert camera.latest(SOON) is None
        assert camera.dropped == 0
    assert [shot.number for shot in shots] == list(range(20))
    assert all(np.array_equal(shot.picture, frame) for shot, frame in zip(shots, expected))
    assert threads() == []


def test_a_film_plays_at_its_rate_from_the_first_look(tmp_path: Path) -> None:
    path = film(tmp_path / 'a.avi', [flat(10 * i) for i in range(6)], rate=20)
    with Camera(str(path), SIZE) as camera:
        time.sleep(0.3)  # as long as the film: nothing of it is over
        begin = time.monotonic()
        assert number_of(camera) == 0
        numbers = []
        while (shot := camera.latest(SOON)) is not None:
            numbers.append(shot.number)
        took = time.monotonic() - begin
        assert camera.dropped == 5 - len(numbers)
    assert numbers[-1] == 5  # the last one is never dropped
    assert sorted(set(numbers)) == numbers
    assert took > 0.24


def test_closing_a_film_that_nobody_looks_at(tmp_path: Path) -> None:
    path = film(tmp_path / 'a.avi', [flat(10 * i) for i in range(6)])
    for every in (False, True):
        with Camera(str(path), SIZE, every):
            pass
        assert threads() == []
