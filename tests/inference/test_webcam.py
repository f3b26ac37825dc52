"""inference_webcam.py: pictures without a window, keys in a window, other programs' camera, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch
from support.captures import Capture, capture, film, flat, frames
from support.inference_case import HEIGHT, WIDTH, files, photo, read, room, save

import inference_webcam
from inference import Matting, backends
from inference.compositing import composite, covering
from inference.matte import Matte, NotFiniteError
from inference.webcam import viewer, window
from inference.webcam.camera import Shot
from inference.webcam.live import FIT_EVERY, FrameRate, Live
from inference.webcam.viewer import Viewer

__all__ = ['capture']
pytestmark = pytest.mark.usefixtures('one_thread')

WHITE = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
HINT = 'Step out of the picture, then press B'


class FakeWindow:
    """Notes what is shown; `keys` are pressed one after the other, a function is called first."""

    keys: ClassVar[list[Any]] = []
    last: FakeWindow

    def __init__(self, title: str = '', size: tuple[int, int] = (WIDTH, HEIGHT)):
        FakeWindow.last = self
        self.size, self.shown, self.closed, self.toggled = size, [], False, 0
        self._keys = list(self.keys)

    def show(self, picture: np.ndarray, above: str = '', below: Any = ()) -> None:
        assert picture.dtype == np.uint8
        assert not self.closed
        self.shown.append((picture, above, list(below)))

    def key(self) -> str:
        key = self._keys.pop(0) if self._keys else ''
        return key() if callable(key) else key

    def toggle_full_screen(self) -> None:
        self.toggled += 1

    def close(self) -> None:
        self.closed = True


class FakeCamera:
    """Gives these pictures, one for each look, and ends."""

    live = True

    def __init__(self, pictures: list[np.ndarray], held: list[str] | None = None):
        self._shots = deque(Shot(picture, number) for number, picture in enumerate(pictures))
        self.waiting, self.locks, self._held = False, 0, held or []

    def latest(self, timeout: float) -> Shot | None:
        return self._shots.popleft() if self._shots else None

    def lock(self) -> list[str]:
        self.locks += 1
        return self._held


@pytest.fixture(scope='module')
def matting(checkpoints: dict[str, Path]) -> Matting:
    return Matting.from_checkpoint(checkpoints['mattingrefine'], device='cpu', refine_sample_pixels=800)


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """An empty room for ten pictures, and somebody else in each of five more."""
    return [room(0)] * 10 + [photo(room(0), seed) for seed in range(1, 6)]


@pytest.fixture
def run(checkpoints: dict[str, Path], in_tmp: Path) -> Callable[..., int]:
    def call(*flags: object) -> int:
        words = ['--model-type', 'mattingrefine', '--model-backbone', 'mobilenetv2', '--device', 'cpu']
        words += ['--model-checkpoint', str(checkpoints['mattingrefine']), '--model-refine-sample-pixels', '800']
        return inference_webcam.main([*words, *map(str, flags)])

    return call


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> type[FakeWindow]:
    """A display; its windows are fake."""
    monkeypatch.setattr(window, 'display_problem', lambda: None)
    monkeypatch.setattr(window, 'Window', FakeWindow)
    monkeypatch.setattr(FakeWindow, 'keys', [])
    return FakeWindow


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def watch(matting: Matting, pictures: list[np.ndarray], keys: list[str], **named: Any) -> tuple[FakeWindow, Live]:
    live, shown = Live(matting, WHITE), FakeWindow()
    shown._keys = keys
    assert Viewer(FakeCamera(pictures), live, shown, **named).run() == len(shown.shown)
    return shown, live


def test_headless_writes_what_the_network_gives(run: Any, matting: Matting, pictures: Any, tmp_path: Path) -> None:
    plate = save(tmp_path / 'plate.png', room(0))
    target = save(tmp_path / 'target.png', room(7, 4 * WIDTH, 2 * HEIGHT))
    path = film(tmp_path / 'film.avi', pictures[9:], rate=200)
    flags = ('--source', path, '--headless', 4, '--output-dir', 'out', '--plate', plate)
    assert run(*flags, '--target-bgr', target) == 0
    assert files(tmp_path / 'out') == {f'com_000{i}.png' for i in range(4)}
    backdrop = covering(read(target), (WIDTH, HEIGHT))
    for i, src in enumerate(frames(path)[:4]):
        expected = composite(matting(src, room(0)), backdrop)
        assert np.array_equal(read(tmp_path / f'out/com_000{i}.png'), expected)
    assert not np.array_equal(read(tmp_path / 'out/com_0001.png'), read(tmp_path / 'out/com_0002.png'))


def test_headless_takes_the_first_picture_for_the_plate(
    run: Any, matting: Matting, pictures: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / 'film.avi', pictures[9:12], rate=200)
    flags = ('--source', path, '--headless', 5, '--output-dir', 'out', '--view', 'pha')
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
    assert '--output-dir out: holds pha_000' in capsys.readouterr().err
    assert before == {name: (tmp_path / 'out' / name).stat().st_mtime_ns for name in files(tmp_path / 'out')}
    assert run(*flags, '-y') == 0
    assert before.keys() == files(tmp_path / 'out')
    assert before != {name: (tmp_path / 'out' / name).stat().st_mtime_ns for name in files(tmp_path / 'out')}


def test_a_film_in_a_window(
    run: Any, screen: Any, matting: Matting, pictures: Any, tmp_path: Path, capsys: Any
) -> None:
    path = film(tmp_path / 'film.avi', pictures, rate=50)
    screen.keys = ['b']
    assert run('--source', path) == 0
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
    assert np.array_equal(shown[-1][0], composite(matting(seen[-1], seen[0]), WHITE))
    assert HINT not in shown[-1][2]
    assert 'camera' not in [thread.name for thread in threading.enumerate()]


def test_the_plate_is_taken_when_b_is_pressed_and_anew(matting: Matting, pictures: Any) -> None:
    empty, other, *people = [room(0), room(1), *pictures[10:]]
    shown, _ = watch(matting, [empty, people[0], other, people[1], people[2]], ['b', '', 'b', 'x', 'q', 'b'])
    assert len(shown.shown) == 5
    expected = [
        empty,
        composite(matting(people[0], empty), WHITE),
        composite(matting(other, empty), WHITE),
        composite(matting(people[1], other), WHITE),
        composite(matting(people[2], other), WHITE),
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
    com, pha, src = composite(matte, WHITE), np.dstack([matte.pha] * 3), person
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


def test_a_plate_that_does_not_fit_is_said_on_the_picture(matting: Matting) -> None:
    bright = np.clip(room(0) * 1.3, 0, 255).astype(np.uint8)
    shown, live = watch(matting, [room(0), bright, *[room(0)] * FIT_EVERY], ['b'])
    misfit, advice = shown.shown[1][2][-2:]
    assert misfit.startswith('the background is exposed otherwise than the plate (red +')
    assert advice == 'Step out of the picture and press B to take the plate anew'
    assert shown.shown[FIT_EVERY][2][-2:] == [misfit, advice]
    assert misfit not in shown.shown[FIT_EVERY + 1][2]
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
        live.put(Shot(flat(10 + number), number))
        shown.append([one.shot.number for one in live.done(more)])
    # With another picture there already, one is always kept; with none, nobody waits for a result that is there.
    assert shown == [[], [0], [1], [2, 3], [4]]
    starts = 'start 10,start 11,done 10,start 12,done 11,start 13,done 12,done 13,start 14,done 14'
    assert ','.join(gpu.log) == starts


def test_composite_and_covering() -> None:
    rng = np.random.default_rng(0)
    fgr, target = rng.integers(0, 256, (2, 64, 96, 3), np.uint8)
    pha = rng.choice(np.array([0, 1, 100, 128, 254, 255], np.uint8), (64, 96))
    made = composite(Matte(pha, fgr), target)
    share = pha[..., None] / 255
    assert np.abs(made - (fgr * share + target * (1 - share))).max() <= 1
    assert np.array_equal(made[pha == 0], target[pha == 0])
    assert np.array_equal(made[pha == 255], fgr[pha == 255])
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, 30:50] = 200
    assert np.array_equal(covering(wide, (20, 20)), np.full((20, 20, 3), 200))
    assert np.array_equal(covering(wide, (40, 40)), np.full((40, 40, 3), 200))
    assert covering(wide, (30, 70)).shape == (70, 30, 3)


def test_frame_rate() -> None:
    rate = FrameRate()
    rate.tick(0)
    assert rate.value == 0
    rate.tick(5)
    assert rate.value == pytest.approx(0.2)
    for i in range(1, 31):
        rate.tick(5 + i / 20)
    assert rate.value == pytest.approx(20)


class OtherCamera:
    """Stands in for pyvirtualcam.Camera; the real one refuses other shapes, too."""

    made: ClassVar[list[OtherCamera]] = []

    def __init__(self, width: int, height: int, fps: float):
        if width > 1000:
            raise RuntimeError("'v4l2loopback' backend: no device\nfound")
        self.size, self.rate, self.sent, self.closed, self.device = (width, height), fps, [], False, '/dev/video9'
        self.made.append(self)

    def send(self, picture: np.ndarray) -> None:
        assert picture.shape == (self.size[1], self.size[0], 3)
        self.sent.append(picture)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pyvirtualcam(monkeypatch: pytest.MonkeyPatch) -> type[OtherCamera]:
    stand_in = types.ModuleType('pyvirtualcam')
    stand_in.Camera = OtherCamera  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'pyvirtualcam', stand_in)
    monkeypatch.setattr(OtherCamera, 'made', [])
    return OtherCamera


def test_other_programs_see_what_is_shown_but_never_the_room(
    run: Any, screen: Any, pyvirtualcam: type[OtherCamera], pictures: Any, tmp_path: Path, capsys: Any
) -> None:
    path = film(tmp_path / 'film.avi', pictures, rate=8)
    screen.keys = ['', 'b']
    assert run('--source', path, '--virtual-camera', '--mirror') == 0
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
    run: Any, pyvirtualcam: type[OtherCamera], pictures: Any, tmp_path: Path
) -> None:
    path = film(tmp_path / 'film.avi', pictures[9:12], rate=200)
    assert run('--source', path, '--headless', 3, '--output-dir', 'out', '--virtual-camera') == 0
    (other,) = pyvirtualcam.made
    assert [np.array_equal(sent, read(tmp_path / f'out/com_000{i}.png')) for i, sent in enumerate(other.sent)] == [
        True
    ] * 3


def test_without_a_virtual_camera_there_is_a_line_how_to_get_one(
    run: Any, screen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, request: Any
) -> None:
    monkeypatch.setitem(sys.modules, 'pyvirtualcam', None)
    path = film(tmp_path / 'film.avi', [flat(1, 1024, 32)])
    assert run('--source', path, '--virtual-camera') == 2
    assert 'pip install pyvirtualcam' in capsys.readouterr().err
    request.getfixturevalue('pyvirtualcam')
    assert run('--source', path, '--virtual-camera') == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --virtual-camera: 'v4l2loopback' backend: no device found; it needs ")
    assert message.count('\n') == 1


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the network takes seconds: what is refused is refused before."""
    monkeypatch.setattr(backends, 'load', lambda *_: pytest.fail('the network was loaded'))


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
    monkeypatch.setattr(window, 'TRIAL', 'raise SystemExit("error: (-2) The function is not implemented. Rebuild")')
    assert run() == 2
    assert 'pip install opencv-python;' in capsys.readouterr().err
    assert capture.reads == 0


@pytest.mark.usefixtures('no_network')
def test_all_problems_are_reported_in_one_message(run: Any, tmp_path: Path, capsys: Any) -> None:
    flags = ['--source', 'film.mp4', '--plate', 'plate.png', '--target-bgr', 'sea.png', '--resolution', 1280, 8]
    assert run(*flags, '--headless', 0, '--model-backbone-scale', 2) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: 6 problems:\n')
    for named in ('--source film.mp4: no such', '--plate plate.png: no such', '--target-bgr sea.png: no such'):
        assert named in message
    for named in ('--resolution 1280 8: must', '--headless 0: must', '--model-backbone-scale 2.0: must'):
        assert named in message
    (tmp_path / 'file').touch()
    assert run('--source', '0', '--headless', 1, '--output-dir', 'file/out') == 2
    assert '--output-dir file/out: ' in capsys.readouterr().err


@pytest.mark.usefixtures('no_network')
def test_what_cannot_be_used_is_refused(run: Any, tmp_path: Path, capsys: Any) -> None:
    path = film(tmp_path / 'film.avi', [room(0)])
    plate = save(tmp_path / 'plate.png', room(0, 48, 32))
    headless = ('--headless', 1, '--output-dir', 'out')
    assert run('--source', path, '--plate', plate, *headless) == 2
    assert f'error: --plate {plate}: is 48x32, but {path} gives 96x64\n' == capsys.readouterr().err
    assert run('--source', path, '--target-bgr', path, *headless) == 2
    assert str(path) in capsys.readouterr().err
    small = film(tmp_path / 'small.avi', [flat(1, 32, 8)])
    assert run('--source', small, *headless) == 2
    assert f'error: --source {small}: 32x8 is too small; it must be at least 16 each\n' == capsys.readouterr().err
    (tmp_path / 'text.avi').write_text('no film')
    assert run('--source', 'text.avi', *headless) == 2
    assert capsys.readouterr().err == 'error: --source text.avi: cannot be opened; OpenCV reads no video in it\n'
    assert not (tmp_path / 'out').exists()


def test_a_lost_camera_is_one_line_and_code_1(
    run: Any, screen: Any, capture: Capture, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture.give(room(0), room(0), cv2.error('no such device'))
    assert run('--source', '0') == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        'note: --resolution 1280 720: 0 gives 96x64, which is used',
        'error: stopped: 0: no such device',
    ]
    assert screen.last.closed
    assert capture.done[-1] == ('release',)
    capture.give(room(0), *[None] * 9)
    assert run('--source', 'rtsp://camera', '--headless', 5, '--output-dir', 'out') == 1
    assert 'error: stopped: rtsp://camera: gives no more pictures' in capsys.readouterr().err
    assert files(Path('out')) == {'com_0000.png'}


@pytest.mark.usefixtures('handlers')
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(
    run: Any, screen: Any, capture: Capture, capsys: Any, number: signal.Signals, code: int
) -> None:
    capture.repeat = room(0)
    screen.keys = ['b', '', '', lambda: os.kill(os.getpid(), number)]
    assert run('--source', '0') == code
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
    assert run('--source', '0') == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        'error: stopped: not finite in float16; use --precision float32'
    )


def test_a_camera_can_be_headless(run: Any, capture: Capture, matting: Matting, pictures: Any, capsys: Any) -> None:
    capture.repeat = room(0)
    assert run('--source', '0', '--resolution', WIDTH, HEIGHT, '--headless', 2, '--output-dir', 'out') == 0
    assert capsys.readouterr().err == ''
    assert np.array_equal(read(Path('out/com_0001.png')), composite(matting(room(0), room(0)), WHITE))


def test_words_on_a_picture() -> None:
    picture = np.full((180, 320, 3), 200, np.uint8)
    written = window.with_words(picture, '9.9 fps', ['a line', 'word ' * 40])
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
    assert np.array_equal(window.with_words(picture, '', []), picture)
    assert window.with_words(picture[:20, :30], '9.9 fps', ['word ' * 40]).shape == (20, 30, 3)


def test_keys_of_a_real_window(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, visible, images = [-1, 27, ord('B'), ord('2'), ord('x'), ord('x')], [1.0], []
    monkeypatch.setattr(cv2, 'namedWindow', lambda *_: None)
    monkeypatch.setattr(cv2, 'resizeWindow', lambda *_: None)
    monkeypatch.setattr(cv2, 'waitKey', lambda _: codes.pop(0))
    monkeypatch.setattr(cv2, 'getWindowProperty', lambda *_: visible[0])
    monkeypatch.setattr(cv2, 'imshow', lambda title, image: images.append(image))
    shown = window.Window('title', (96, 64))
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


def test_help_answers_at_once() -> None:
    code = (
        'import sys, inference_webcam\ntry: inference_webcam.main(["--help"])\nexcept SystemExit: pass\n'
        'sys.exit(bool({"torch", "cv2", "numpy"} & set(sys.modules)))'
    )
    folder = Path(inference_webcam.__file__).parent
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flag in ('--source', '--hide-fps', '--resolution W H', '--headless N', '--virtual-camera'):
        assert flag in done.stdout


@pytest.mark.usefixtures('no_network')
def test_numbers_are_cameras_and_all_else_is_opened_by_its_name(
    run: Any, monkeypatch: pytest.MonkeyPatch, capture: Capture
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: opened.append(source) or capture)
    capture.opens = False
    for source in ('3', '/dev/video7', 'rtsp://camera/1'):
        assert run('--source', source, '--headless', 1, '--output-dir', 'out') == 2
    assert opened == [3, '/dev/video7', 'rtsp://camera/1']
