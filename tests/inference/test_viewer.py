"""Live matting in a window: keys, views, stills, the words on the picture, and the order of a GPU's work."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.captures import flat
from support.inference_case import files, read, room
from support.webcam_case import HINT, WHITE, FakeCamera, FakeWindow, matting, pictures

from inference import Matting
from inference.matte import Matte
from inference.webcam import display, viewer
from inference.webcam.camera import CameraFrame
from inference.webcam.live import Live
from inference.webcam.viewer import FrameRate, Viewer

__all__ = ['matting', 'pictures']
pytestmark = pytest.mark.usefixtures('one_thread')


def watch(matting: Matting, pictures: list[np.ndarray], keys: list[str], **named: Any) -> tuple[FakeWindow, Live]:
    live, shown = Live(matting, WHITE), FakeWindow()
    shown._keys = keys
    assert Viewer(FakeCamera(pictures), live, shown, **named).run() == len(shown.shown)
    return shown, live


def test_the_plate_is_taken_when_b_is_pressed_and_anew(matting: Matting, pictures: Any) -> None:
    empty, other, *people = [room(0), room(1), *pictures[10:]]
    shown, _ = watch(matting, [empty, people[0], other, people[1], people[2]], ['b', '', 'b', 'x', 'q', 'b'])
    assert len(shown.shown) == 5
    expected = [
        empty,
        matting(people[0], empty).composite(WHITE),
        matting(other, empty).composite(WHITE),
        matting(people[1], other).composite(WHITE),
        matting(people[2], other).composite(WHITE),
    ]
    assert all(np.array_equal(picture, aim) for (picture, _, _), aim in zip(shown.shown, expected))


@pytest.mark.parametrize('key', ['q', 'esc'])
def test_quit(matting: Matting, pictures: Any, key: str) -> None:
    shown, _ = watch(matting, pictures, ['', key])
    assert len(shown.shown) == 2


def test_the_plate_waits_until_the_exposure_is_settled(matting: Matting) -> None:
    rooms = [room(seed) for seed in range(9)]
    camera, live, shown = FakeCamera(rooms, held=['exposure']), Live(matting, WHITE), FakeWindow()
    shown._keys = ['', 'b']
    Viewer(camera, live, shown).run()
    assert camera.locks == 1
    assert live.plate is not None
    assert np.array_equal(live.plate.pixels, rooms[1 + viewer.SETTLE])
    assert [np.array_equal(picture, rooms[i]) for i, (picture, _, _) in enumerate(shown.shown)] == [True] * 6 + [
        False
    ] * 3
    assert 'held: exposure' in shown.shown[2][2]


def test_views(matting: Matting, pictures: Any) -> None:
    person = pictures[10]
    shown, _ = watch(matting, [room(0)] + [person] * 7, ['b', '2', '3', '1', 'v', 'v', 'v'])
    matte = matting(person, room(0))
    com, pha, src = matte.composite(WHITE), np.dstack([matte.pha] * 3), person
    for (picture, _, _), aim in zip(shown.shown, [room(0), com, pha, src, com, pha, src, com], strict=True):
        assert np.array_equal(picture, aim)


def test_a_mirror_has_left_and_right_exchanged_and_words_left_alone(
    matting: Matting, pictures: Any, in_tmp: Path
) -> None:
    shown, _ = watch(matting, pictures[:1], ['s'], mirror=True, show_rate=False)
    picture, rate, words = shown.shown[0]
    assert np.array_equal(picture, room(0)[:, ::-1])
    assert rate == ''
    assert words == [HINT, viewer.KEYS]
    assert np.array_equal(read(in_tmp / 'still_0000.png'), room(0))


def test_stills_replace_nothing(matting: Matting, pictures: Any, tmp_path: Path) -> None:
    (tmp_path / 'still_0000.png').write_text('mine')
    keys = ['b', 's', 's', 'f']
    shown, _ = watch(matting, [room(0), pictures[10], pictures[11], pictures[12]], keys, folder=tmp_path)
    assert (tmp_path / 'still_0000.png').read_text() == 'mine'
    assert np.array_equal(read(tmp_path / 'still_0001.png'), shown.shown[1][0])
    assert np.array_equal(read(tmp_path / 'still_0002.png'), shown.shown[2][0])
    assert files(tmp_path) == {f'still_000{i}.png' for i in range(3)}
    assert f'saved {tmp_path}/still_0001.png' in shown.shown[2][2]
    assert shown.toggled == 1


def test_a_still_that_cannot_be_saved_ends_nothing(matting: Matting, pictures: Any, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    shown, _ = watch(matting, pictures[:3], ['s'], folder=tmp_path / 'file')
    assert len(shown.shown) == 3
    assert shown.shown[1][2][0].startswith('not saved: ')


def test_a_plate_that_does_not_fit_is_said_on_the_picture(matting: Matting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('inference.webcam.live.FIT_EVERY', 4)
    bright = np.clip(room(0) * 1.3, 0, 255).astype(np.uint8)
    shown, live = watch(matting, [room(0), bright, *[room(0)] * 4], ['b'])
    misfit, advice = shown.shown[1][2][-2:]
    assert misfit.startswith('the background is exposed otherwise than the plate (red +')
    assert advice == 'Step out of the picture and press B to take the plate anew'
    assert shown.shown[4][2][-2:] == [misfit, advice]
    assert misfit not in shown.shown[5][2]
    assert live.misfit == []


class Promise:
    """A picture that a GPU works on."""

    def __init__(self, picture: np.ndarray, log: list[str]):
        self._picture, self._log = picture, log

    def matte(self, index: int) -> Matte:
        self._log.append(f'done {self._picture[0, 0, 0]}')
        return Matte(self._picture[..., 0], self._picture)


class Gpu:
    """A predictor whose device works while others do."""

    device = torch.device('cuda')

    def __init__(self) -> None:
        self.log: list[str] = []

    def plate(self, picture: np.ndarray) -> Any:
        return types.SimpleNamespace(pixels=picture)

    def staged(self, picture: np.ndarray) -> np.ndarray:
        return picture

    def submit(self, pictures: list[np.ndarray], plates: list[Any]) -> Promise:
        self.log.append(f'start {pictures[0][0, 0, 0]}')
        return Promise(pictures[0], self.log)


def test_a_gpu_starts_on_the_next_picture_before_the_last_is_shown() -> None:
    gpu = Gpu()
    live = Live(gpu, flat(0), view='pha')  # type: ignore[arg-type]
    live.take_plate(flat(0))
    shown = []
    for number, more in enumerate([True, True, True, False, False]):
        live.put(CameraFrame(flat(10 + number), number))
        shown.append([int(one.picture[0, 0, 0]) - 10 for one in live.done(more)])
    # With another picture there already, one is always kept; with none, nobody waits for a result that is there.
    assert shown == [[], [0], [1], [2, 3], [4]]
    starts = 'start 10,start 11,done 10,start 12,done 11,start 13,done 12,done 13,start 14,done 14'
    assert ','.join(gpu.log) == starts


def test_frame_rate() -> None:
    rate = FrameRate()
    assert rate.tick(0) == 0
    assert rate.tick(5) == pytest.approx(0.2)
    assert [rate.tick(5 + i / 20) for i in range(1, 31)][-1] == pytest.approx(20)


def test_words_on_a_picture() -> None:
    picture = np.full((180, 320, 3), 200, np.uint8)
    written = display.with_words(picture, '9.9 fps', ['a line', 'word ' * 40])
    assert (picture == 200).all()
    changed = (written != 200).any((1, 2))
    bars = np.flatnonzero(np.diff(changed.astype(int)))
    assert len(bars) == 2  # one bar above, one below
    assert changed[0]
    assert changed[-1]
    assert changed.sum() > 60  # the long line is broken
    assert (written[0, 200:] == 200).all()  # the upper bar is as long as its words
    assert (written == 66).any()
    assert written.max() > 200
    assert np.array_equal(display.with_words(picture, '', []), picture)
    assert display.with_words(picture[:20, :30], '9.9 fps', ['word ' * 40]).shape == (20, 30, 3)


def test_keys_of_a_real_window(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, visible, images = [-1, 27, ord('B'), ord('2'), ord('x'), ord('x')], [1.0], []
    monkeypatch.setattr(cv2, 'namedWindow', lambda *_: None)
    monkeypatch.setattr(cv2, 'resizeWindow', lambda *_: None)
    monkeypatch.setattr(cv2, 'waitKey', lambda _: codes.pop(0))
    monkeypatch.setattr(cv2, 'getWindowProperty', lambda *_: visible[0])
    monkeypatch.setattr(cv2, 'imshow', lambda title, image: images.append(image))
    shown = display.Window('title', (96, 64))
    assert [shown.key() for _ in range(4)] == ['', 'esc', 'b', '2']
    visible[0] = 0.0
    assert shown.key() == 'q'

    def gone(*_: Any) -> None:
        raise cv2.error('NULL guiReceiver (please create a window)')

    monkeypatch.setattr(cv2, 'getWindowProperty', gone)  # as Qt does when its last window is closed
    monkeypatch.setattr(cv2, 'destroyWindow', gone)
    assert shown.key() == 'q'
    shown.close()
    shown.show(flat(10))
    assert images[0][0, 0].tolist() == [245, 5, 10]  # OpenCV wants blue first
