"""inference_images.py through its main, with small random networks whose outputs cover the whole range."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import inference_images
from inference import Matte, Matting
from inference.alignment import align_plate
from inference.writers import PictureWriter
from model import MattingBase, MattingRefine

WIDTH, HEIGHT = 96, 64
ROOT = Path(inference_images.__file__).parent


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights of both networks; alpha, error and the refined cells vary over each picture."""
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(3)
    paths = {}
    for name, model in (
        ('mattingbase', MattingBase('mobilenetv2')),
        ('mattingrefine', MattingRefine('mobilenetv2', refine_sample_pixels=800)),
    ):
        spread_out(model.eval())
        paths[name] = folder / f'{name}.pth'
        torch.save(model.state_dict(), paths[name])
    return paths


@torch.no_grad()
def spread_out(model: MattingBase | MattingRefine) -> None:
    """Whatever the first weights are: alpha and error of a picture then lie around 0.5 and 0.3."""
    bgr = room(0)
    pictures = [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (photo(bgr, 1), bgr)]
    rescale(model, model.decoder.conv4, {0: (0.5, 0.25), 4: (0.3, 0.15)}, pictures)
    if not isinstance(model, MattingRefine):
        assert model(*pictures)[2].std() > 0.05
        return
    rescale(model, model.refiner.conv4, {0: (0.5, 0.25)}, pictures)
    pha, _, _, _, err_sm, ref_sm = model(*pictures)
    assert pha.std() > 0.1
    assert err_sm.std() > 0.05
    assert 0 < ref_sm.mean() < 1


def rescale(
    model: torch.nn.Module,
    conv: torch.nn.Conv2d,
    aims: dict[int, tuple[float, float]],
    pictures: list[torch.Tensor],
) -> None:
    """Gives channels of a convolution's output on the pictures the mean and the standard deviation aimed at."""
    outputs: list[torch.Tensor] = []
    hook = conv.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(*pictures)
    hook.remove()
    assert conv.bias is not None
    for channel, (mean, deviation) in aims.items():
        measured = outputs[0][:, channel]
        factor = deviation / measured.std()
        conv.weight[channel] *= factor
        conv.bias[channel] = (conv.bias[channel] - measured.mean()) * factor + mean


def room(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A textured plate, uint8 RGB."""
    blotches = np.random.default_rng(seed).integers(30, 226, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)


def photo(bgr: np.ndarray, seed: int) -> np.ndarray:
    """The plate with a disc of another texture before it."""
    mask = np.zeros(bgr.shape[:2], np.uint8)
    cv2.circle(mask, (bgr.shape[1] // 2, bgr.shape[0] // 2), min(bgr.shape[:2]) // 4, 255, -1)
    return cv2.copyTo(room(100 + seed, bgr.shape[1], bgr.shape[0]), mask, bgr.copy())


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return path


def read(path: Path) -> np.ndarray:
    """As saved: grey (H, W), RGB or RGBA (H, W, C)."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    if picture.ndim == 2:
        return picture
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def through_jpeg(picture: np.ndarray) -> np.ndarray:
    """A picture after it was a JPEG of the default quality."""
    turned = picture[..., ::-1] if picture.ndim == 3 else picture
    decoded = cv2.imdecode(cv2.imencode('.jpg', turned, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_UNCHANGED)
    return decoded[..., ::-1] if picture.ndim == 3 else decoded


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


class Case:
    """A folder with pictures, plates and an output folder, and the script run on it."""

    def __init__(self, folder: Path, checkpoints: dict[str, Path]):
        self.src, self.bgr, self.out = folder / 'src', folder / 'bgr', folder / 'out'
        self.checkpoints = checkpoints

    def run(self, *flags: object, model_type: str = 'mattingrefine', types: tuple[str, ...] = ('pha',)) -> int:
        fixed = {
            '--model-type': model_type,
            '--model-backbone': 'mobilenetv2',
            '--model-checkpoint': self.checkpoints[model_type],
            '--model-refine-sample-pixels': 800,
            '--images-src': self.src,
            '--images-bgr': self.bgr,
            '--output-dir': self.out,
            '--device': 'cpu',
            '--num-workers': 2,
        }
        words = [str(word) for pair in fixed.items() for word in pair]
        return inference_images.main([*words, '--output-types', *types, *map(str, flags)])

    def matting(self, model_type: str = 'mattingrefine') -> Matting:
        refine = {'refine_sample_pixels': 800} if model_type == 'mattingrefine' else {}
        return Matting.from_checkpoint(self.checkpoints[model_type], device='cpu', **refine)


@pytest.fixture
def case(tmp_path: Path, checkpoints: dict[str, Path]) -> Case:
    return Case(tmp_path, checkpoints)


@pytest.fixture
def pair(case: Case) -> Case:
    """One plate for two pictures, one of them in a sub-folder."""
    bgr = room(0)
    case.bgr = save(case.bgr / 'plate.png', bgr)
    save(case.src / 'a.png', photo(bgr, 1))
    save(case.src / 'shots/b.0001.png', photo(bgr, 2))
    return case


def test_a_folder_gives_the_published_files_with_the_predictors_numbers(pair: Case) -> None:
    types = ('com', 'pha', 'fgr', 'err', 'ref')
    assert pair.run(types=types) == 0
    names = ['a', 'shots/b.0001']
    formats = {'com': 'png', 'pha': 'jpg', 'fgr': 'jpg', 'err': 'jpg', 'ref': 'jpg'}
    assert files(pair.out) == {f'{kind}/{name}.{formats[kind]}' for kind in types for name in names}
    for name in names:
        matte = pair.matting()(pair.src / f'{name}.png', pair.bgr, err=True, ref=True)
        assert matte.pha.std() > 30
        assert 0 < np.count_nonzero(matte.ref) < matte.ref.size
        assert np.array_equal(read(pair.out / f'com/{name}.png'), matte.com)
        for kind in types[1:]:
            assert np.array_equal(read(pair.out / f'{kind}/{name}.jpg'), through_jpeg(getattr(matte, kind))), kind


def test_the_cut_out_is_the_foreground_where_alpha_is_not_0() -> None:
    pha = np.array([[0, 1, 255]], np.uint8)
    fgr = np.array([[[9, 8, 7], [6, 5, 4], [3, 2, 1]]], np.uint8)
    assert Matte(pha, fgr).com.tolist() == [[[0, 0, 0, 0], [6, 5, 4, 1], [3, 2, 1, 255]]]
    assert fgr[0, 0].tolist() == [9, 8, 7]


def test_one_file_with_one_plate(pair: Case) -> None:
    pair.src = pair.src / 'shots/b.0001.png'
    assert pair.run() == 0
    assert files(pair.out) == {'pha/b.0001.jpg'}


def test_mattingbase_predicts_err_but_refines_nothing(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.run(model_type='mattingbase', types=('pha', 'err', 'ref')) == 2
    assert 'error: --output-types ref: mattingbase refines nothing' in capsys.readouterr().err
    assert not pair.out.exists()
    assert pair.run('--output-format', 'pha=png', 'err=png', model_type='mattingbase', types=('pha', 'err')) == 0
    matte = pair.matting('mattingbase')(pair.src / 'a.png', pair.bgr, err=True)
    assert np.array_equal(read(pair.out / 'pha/a.png'), matte.pha)
    assert np.array_equal(read(pair.out / 'err/a.png'), matte.err)


def test_a_rig_has_a_plate_per_camera(case: Case) -> None:
    plates = {'cam01': room(1), 'cam02': room(2), 'cam02/tele': room(3)}
    save(case.bgr / 'cam01.png', plates['cam01'])
    save(case.bgr / 'cam02/empty.png', plates['cam02'])
    save(case.bgr / 'cam02/tele/empty.png', plates['cam02/tele'])
    for camera, bgr in plates.items():
        for i in range(2):
            save(case.src / camera / f'frame_{i}.png', photo(bgr, i))
    assert case.run('--output-format', 'pha=png') == 0
    assert len(files(case.out)) == 6
    for camera, bgr in plates.items():
        matte = case.matting()(case.src / camera / 'frame_1.png', bgr)
        assert np.array_equal(read(case.out / 'pha' / camera / 'frame_1.png'), matte.pha)


def test_a_plate_of_its_own_for_each_picture(case: Case) -> None:
    for i in range(3):
        save(case.bgr / f'{i}.png', room(i))
        save(case.src / f'{i}.png', photo(room(i), i))
    assert case.run('--output-format', 'pha=png', '--batch-size', 2) == 0
    for i in range(3):
        expected = case.matting()(case.src / f'{i}.png', room(i)).pha
        assert np.abs(read(case.out / f'pha/{i}.png').astype(int) - expected).max() <= 1


def test_sizes_that_differ_are_refused_or_resized(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    save(pair.bgr, room(0, 2 * WIDTH, 2 * HEIGHT))
    assert pair.run() == 2
    message = capsys.readouterr().err
    assert f'{pair.src}/a.png is 96x64, its plate {pair.bgr} 192x128' in message
    assert 'b.0001.png is 96x64' in message
    assert '--resize-bgr' in message
    assert not pair.out.exists()
    assert pair.run('--resize-bgr', '--output-format', 'pha=png') == 0
    matting = pair.matting()
    matte = matting.submit([matting.staged(photo(room(0), 1))], [matting.plate(pair.bgr, (WIDTH, HEIGHT))]).result()[0]
    assert np.array_equal(read(pair.out / 'pha/a.png'), matte.pha)


def test_pictures_that_cannot_be_read_are_named_and_the_others_done(
    pair: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    (pair.src / 'broken.png').write_text('no picture')
    whole = save(pair.src / 'cut.jpg', room(0)).read_bytes()
    (pair.src / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    save(pair.src / 'tiny.png', room(0)[:8, :8])
    assert pair.run('--resize-bgr') == 1
    captured = capsys.readouterr()
    for name in ('broken.png', 'cut.jpg', 'tiny.png'):
        assert f'failed: {pair.src / name}: ' in captured.err
    assert 'at least 16 x 16' in captured.err
    assert files(pair.out) == {'pha/a.jpg', 'pha/shots/b.0001.jpg'}
    assert captured.out.splitlines()[-1].startswith('2 pictures done, 3 failed, ')


def test_nothing_found_is_an_error(pair: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair.src = tmp_path / 'empty'
    pair.src.mkdir()
    (pair.src / 'notes.txt').write_text('')
    assert pair.run() == 2
    assert f'error: --images-src {pair.src}: no pictures found' in capsys.readouterr().err


def test_all_problems_are_reported_in_one_message(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ['--model-backbone-scale', 0.7, '--batch-size', 0, '--png-compression', 11, '--jpeg-quality', 0]
    flags += ['--output-format', 'com=jpg', 'pha=gif', 'alpha', '--num-workers', -1, '--model-refine-threshold', 2]
    flags += ['--model-checkpoint', 'missing.pth', '--precision', 'float16', '--images-bgr', 'nowhere']
    flags += ['--model-refine-sample-pixels', 5]
    assert pair.run(*flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f'error: {len(lines) - 1} problems:'
    expected = ['--model-checkpoint missing.pth', '--model-backbone-scale 0.7', '--model-refine-sample-pixels 5']
    expected += ['--model-refine-threshold 2.0', '--num-workers -1', '--precision float16', '--output-format com=jpg']
    expected += ['--output-format pha=gif', '--output-format alpha', '--png-compression 11', '--jpeg-quality 0']
    expected += ['--images-bgr nowhere', '--batch-size 0']
    assert [line.split(':')[0].strip() for line in lines[1:]] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there_is_said_so(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.run('--device', 'cuda') == 2
    assert 'error: --device cuda: there is none on this machine' in capsys.readouterr().err


def test_formats_and_qualities(pair: Case) -> None:
    formats = ['com=webp', 'pha=png', 'fgr=webp', 'ref=png']
    types = ('com', 'pha', 'fgr', 'ref')
    assert pair.run('--output-format', *formats, '--jpeg-quality', 100, '--png-compression', 9, types=types) == 0
    matte = pair.matting()(pair.src / 'a.png', pair.bgr, ref=True)
    com = read(pair.out / 'com/a.webp')
    assert np.array_equal(com[..., 3], matte.pha)
    assert np.array_equal(com[matte.pha > 0], matte.com[matte.pha > 0])
    assert np.array_equal(read(pair.out / 'pha/a.png'), matte.pha)
    assert np.array_equal(read(pair.out / 'fgr/a.webp'), matte.fgr)
    assert np.array_equal(read(pair.out / 'ref/a.png'), matte.ref)
    small = (pair.out / 'pha/a.png').stat().st_size
    assert pair.run('--output-format', 'pha=png', '--png-compression', 0, '-y') == 0
    assert (pair.out / 'pha/a.png').stat().st_size > small


def test_an_output_folder_in_use_is_refused_and_kept(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    note = pair.out / 'pha/note.txt'
    note.parent.mkdir(parents=True)
    note.write_text('mine')
    save(pair.out / 'pha/a.jpg', room(7))
    assert pair.run() == 2
    message = capsys.readouterr().err
    assert f'--output-dir {pair.out}: not empty' in message
    assert '-y' in message
    assert files(pair.out) == {'pha/note.txt', 'pha/a.jpg'}
    assert pair.run('-y') == 0
    assert note.read_text() == 'mine'
    assert files(pair.out) == {'pha/note.txt', 'pha/a.jpg', 'pha/shots/b.0001.jpg'}
    assert read(pair.out / 'pha/a.jpg').ndim == 2


def test_sources_are_never_overwritten(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    pair.src = save(pair.out / 'pha/a.jpg', photo(room(0), 1)).parent
    before = (pair.src / 'a.jpg').read_bytes()
    assert pair.run('-y') == 2
    assert f'{pair.src / "a.jpg"} is one of the pictures to read' in capsys.readouterr().err
    assert (pair.src / 'a.jpg').read_bytes() == before


def test_a_folder_that_cannot_be_made_ends_the_run_at_once(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        save(pair.src / f'more/{i}.png', photo(room(0), i))
    pair.out.mkdir()
    (pair.out / 'pha').write_text('in the way')
    start = time.monotonic()
    assert pair.run('-y') == 1
    assert time.monotonic() - start < 20
    captured = capsys.readouterr()
    (error,) = [line for line in captured.err.splitlines() if line.startswith('error')]
    assert error.startswith(f'error: stopped: {pair.out}/pha/')
    assert 'cannot be written: ' in error
    assert 'Traceback' not in captured.err
    assert files(pair.out) == {'pha'}


def test_a_full_disk_leaves_no_half_picture(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if 'fgr' in path.parts:
            whole(path, data[:10])
            raise OSError(errno.ENOSPC, 'No space left on device')
        return whole(path, data)

    monkeypatch.setattr(Path, 'write_bytes', full)
    assert pair.run(types=('pha', 'fgr')) == 1
    assert 'cannot be written: No space left on device' in capsys.readouterr().err
    assert all(name.startswith('pha/') and not name.endswith('.tmp') for name in files(pair.out))


def test_what_cannot_be_encoded_raises(tmp_path: Path) -> None:
    wide = np.zeros((1, 20_000), np.uint8)
    writer = PictureWriter(tmp_path, {'pha': 'webp'})
    with pytest.raises(OSError, match=r'pha/wide\.webp'):
        writer.write('wide', Matte(wide, wide))
    assert files(tmp_path) == set()


def test_an_interrupt_ends_the_run_cleanly(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Matting, 'submit', interrupted)
    assert pair.run() == 130
    assert 'stopped' in capsys.readouterr().err


def test_pictures_whose_plate_does_not_fit_are_named_and_counted(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    good, moved = room(1, 320, 240), room(2, 320, 240)
    save(case.bgr / 'good.png', good)
    save(case.bgr / 'moved.png', np.roll(moved, 8, 1))
    for i in range(3):
        save(case.src / f'good/{i}.png', photo(good, i))
        save(case.src / f'moved/{i}.png', photo(moved, i))
    assert case.run() == 0
    errors = capsys.readouterr().err
    assert errors.count('of the width') == 3
    for i in range(3):
        (line,) = [line for line in errors.splitlines() if f'{case.src}/moved/{i}.png' in line]
        assert '-2.5% of the width' in line
    assert f'the plate does not fit 3 of 6 pictures: {case.bgr / "moved.png"} (3)' in errors


def test_alignment_moves_the_plate_or_says_why_not(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    scene = room(1, 400, 280)
    for i in range(150):  # corners for the features
        x, y = np.random.default_rng(i).integers(0, (380, 260))
        scene[y : y + 12, x : x + 9] = room(i + 5, 9, 12)
    src, bgr = photo(scene[20:260, 20:340], 1), np.ascontiguousarray(scene[20:260, 26:346])
    save(case.src / 'moved.png', src)
    save(case.bgr / 'moved.png', bgr)
    wall = np.full((64, 96, 3), 140, np.uint8)
    save(case.src / 'wall.png', photo(wall, 1))
    save(case.bgr / 'wall.png', wall)
    assert case.run('--preprocess-alignment', '--output-format', 'pha=png') == 0
    errors = capsys.readouterr().err
    assert f'{case.src / "wall.png"} with {case.bgr / "wall.png"}: the plate is used unaligned: ' in errors
    assert 'the plate is used unaligned for 1 of 2 pictures' in errors
    assert 'does not fit' not in errors
    aligned = align_plate(src, bgr)
    assert aligned.homography is not None
    assert np.array_equal(read(case.out / 'pha/moved.png'), case.matting()(src, aligned.bgr).pha)
    assert np.array_equal(read(case.out / 'pha/wall.png'), case.matting()(photo(wall, 1), wall).pha)


def test_two_processes_share_a_folder_completely(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bgr = room(0)
    case.bgr = save(case.bgr / 'plate.png', bgr)
    for i in range(5):
        save(case.src / f'{i}.png', photo(bgr, i))
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    assert case.run() == 0
    assert files(case.out) == {'pha/1.jpg', 'pha/3.jpg'}
    assert capsys.readouterr().out.startswith('process 1: 2 pictures done')
    monkeypatch.setenv('RANK', '0')  # comes late: what the other wrote meanwhile is no reason to refuse
    assert case.run() == 0
    assert files(case.out) == {f'pha/{i}.jpg' for i in range(5)}
    assert case.run() == 2  # but its own files of an earlier run are
    assert 'not empty' in capsys.readouterr().err


@pytest.mark.parametrize(('width', 'height'), [(17, 16), (50, 33), (97, 63)])
@pytest.mark.parametrize('model_type', ['mattingbase', 'mattingrefine'])
def test_any_size_works(case: Case, width: int, height: int, model_type: str) -> None:
    bgr = room(0, width, height)
    case.bgr = save(case.bgr / 'plate.png', bgr)
    save(case.src / 'a.png', photo(bgr, 1))
    types = ('com', 'err') if model_type == 'mattingbase' else ('com', 'err', 'ref')
    assert case.run(model_type=model_type, types=types) == 0
    for name in files(case.out):
        assert read(case.out / name).shape[:2] == (height, width)


def test_mixed_sizes_in_batches_give_the_same_as_one_by_one(case: Case) -> None:
    sizes = [(64, 48), (96, 64), (64, 48), (96, 64), (64, 48)]
    for i, size in enumerate(sizes):
        bgr = room(0, *size)
        save(case.bgr / f'{i}.png', bgr)
        save(case.src / f'{i}.png', photo(bgr, i))
    assert case.run('--output-format', 'pha=png', '--batch-size', 4) == 0
    for i in range(len(sizes)):
        expected = case.matting()(case.src / f'{i}.png', case.bgr / f'{i}.png').pha
        found = read(case.out / f'pha/{i}.png')
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_bfloat16_stays_close(pair: Case) -> None:
    assert pair.run('--precision', 'bfloat16', '--output-format', 'pha=png') == 0
    expected = pair.matting()(pair.src / 'a.png', pair.bgr).pha
    found = read(pair.out / 'pha/a.png')
    assert not np.array_equal(found, expected)
    assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    ('model_type', 'backbone', 'given', 'held'),
    [
        ('mattingrefine', 'mobilenetv2', 'mattingbase', 'mattingbase with mobilenetv2'),
        ('mattingbase', 'mobilenetv2', 'mattingrefine', 'mattingrefine with mobilenetv2'),
        ('mattingbase', 'resnet50', 'mattingbase', 'mattingbase with mobilenetv2'),
    ],
)
def test_weights_of_another_network_are_named(
    pair: Case, capsys: pytest.CaptureFixture[str], model_type: str, backbone: str, given: str, held: str
) -> None:
    weights = pair.checkpoints[given]
    assert pair.run('--model-checkpoint', weights, '--model-backbone', backbone, model_type=model_type) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: {weights} holds weights of {held}, not of {model_type} with {backbone}: use ')
    assert not pair.out.exists()


def test_a_file_without_weights_is_refused(pair: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(3)}, tmp_path / 'other.pth')
    (tmp_path / 'text.pth').write_text('hello')
    for name in ('other.pth', 'text.pth'):
        assert pair.run('--model-checkpoint', tmp_path / name) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'error: {tmp_path / name}: not ')


def test_a_refiner_of_kernel_1_names_its_flag(pair: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save(MattingRefine('mobilenetv2', refine_kernel_size=1).state_dict(), tmp_path / 'one.pth')
    assert pair.run('--model-checkpoint', tmp_path / 'one.pth') == 2
    assert 'use --model-refine-kernel-size 1' in capsys.readouterr().err
    assert pair.run('--model-checkpoint', tmp_path / 'one.pth', '--model-refine-kernel-size', 1) == 0
    assert Matting.from_checkpoint(tmp_path / 'one.pth', device='cpu').model.refiner.kernel_size == 1


def test_the_published_spelling_of_a_flag_works() -> None:
    flags = ['--model-type', 'mattingrefine', '--model-backbone', 'resnet50', '--model-checkpoint', 'm.pth']
    flags += ['--images-src', 's', '--images-bgr', 'b', '--output-dir', 'o', '--output-type', 'com', 'fgr', 'pha']
    assert inference_images.parse(flags).output_types == ['com', 'fgr', 'pha']


def test_pictures_without_a_common_name_are_paired_and_that_is_said(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        save(case.bgr / f'plate{i}.png', room(i))
        save(case.src / f'photo{i}.png', photo(room(i), i))
    assert case.run('--output-format', 'pha=png') == 0
    assert capsys.readouterr().err.count('the 2 plates are paired in sorted order') == 1
    for i in range(2):
        assert np.array_equal(read(case.out / f'pha/photo{i}.png'), case.matting()(photo(room(i), i), room(i)).pha)


def test_a_picture_too_small_fails_alone_and_a_strip_does_not(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    save(pair.src / 'dot.png', room(0)[:1, :1])
    save(pair.src / 'strip.png', room(0, 8000, 16))
    assert pair.run('--resize-bgr') == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('failed')]
    assert line == f'failed: {pair.src}/dot.png: 1x1 is too small: pictures must be at least 16 x 16'
    assert files(pair.out) == {'pha/a.jpg', 'pha/shots/b.0001.jpg', 'pha/strip.jpg'}


def test_a_cut_off_plate_is_said_once(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        save(case.src / f'{i}.png', photo(room(0), i))
    case.bgr = save(case.bgr / 'plate.jpg', room(0))
    whole = case.bgr.read_bytes()
    case.bgr.write_bytes(whole[: len(whole) // 2])
    assert case.run() == 1
    captured = capsys.readouterr()
    assert captured.err.count(f'failed: {case.bgr}: ') == 1
    assert f'failed: 3 pictures, because of their plate {case.bgr}' in captured.err
    assert '0 pictures done, 3 failed' in captured.out


def test_results_that_are_not_finite_fail(pair: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    weights = torch.load(pair.checkpoints['mattingrefine'], weights_only=True)
    weights['decoder.conv4.bias'][0] = float('nan')
    torch.save(weights, tmp_path / 'nan.pth')
    assert pair.run('--model-checkpoint', tmp_path / 'nan.pth', '--precision', 'bfloat16') == 1
    assert f'failed: {pair.src}/a.png: not finite in bfloat16; use --precision float32\n' in capsys.readouterr().err
    assert not pair.out.exists()


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB'),
        MemoryError(),
    ],
)
def test_a_batch_without_memory_fails_alone(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    submit, calls = Matting.submit, []

    def first_fails(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return submit(*arguments)

    monkeypatch.setattr(Matting, 'submit', first_fails)
    assert pair.run() == 1
    captured = capsys.readouterr().err
    assert f'failed: {pair.src}/a.png: too little memory: lower --batch-size' in captured
    assert 'Traceback' not in captured
    assert files(pair.out) == {'pha/shots/b.0001.jpg'}


def test_a_model_without_memory_is_one_line(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Matting, 'from_checkpoint', full)
    assert pair.run() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: too little memory for {pair.checkpoints["mattingrefine"]}: ')


def test_other_errors_of_the_machine_are_not_hidden(pair: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(Matting, 'submit', broken)
    with pytest.raises(RuntimeError, match='illegal memory access'):
        pair.run()


def test_names_of_the_longest_length_are_written(case: Case) -> None:
    case.bgr = save(case.bgr / 'plate.png', room(0))
    save(case.src / f'{"n" * 251}.png', photo(room(0), 1))
    assert case.run() == 0
    assert files(case.out) == {f'pha/{"n" * 251}.jpg'}


def test_another_processs_source_is_not_overwritten(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case.bgr = save(case.bgr / 'plate.png', room(0))
    save(case.out / 'pha/a.jpg', photo(room(0), 1))
    case.src = case.out / 'pha'
    save(case.src / 'c.png', photo(room(0), 1))
    (case.src / 'b.jpg').symlink_to(case.src / 'c.png')
    before = (case.src / 'c.png').read_bytes()
    monkeypatch.setenv('WORLD_SIZE', '3')
    monkeypatch.setenv('RANK', '1')  # its picture is b.jpg; c.png is that of process 2
    assert case.run('-y') == 2
    assert 'is one of the pictures to read' in capsys.readouterr().err
    assert (case.src / 'c.png').read_bytes() == before


def test_help_answers_within_a_second_and_without_torch() -> None:
    code = (
        'import sys, inference_images\n'
        'try:\n    inference_images.main(["--help"])\n'
        'except SystemExit as end:\n    sys.exit(end.code or ("torch" in sys.modules) * 3)\n'
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - start < 1
    assert done.returncode == 0, done.stderr
    assert '--preprocess-alignment' in done.stdout
