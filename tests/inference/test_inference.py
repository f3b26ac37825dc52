"""inference_images.py through its main: what it writes."""

from __future__ import annotations

import numpy as np
import pytest
from support.inference_case import Case, files, photo, read, room, save, through_jpeg

import inference_images
from inference import Matte
from inference.plates.alignment import align_plate

pytestmark = pytest.mark.usefixtures('one_thread')


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
    assert pair.run('--picture-format', 'pha=png', 'err=png', model_type='mattingbase', types=('pha', 'err')) == 0
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
    assert case.run('--picture-format', 'pha=png') == 0
    assert len(files(case.out)) == 6
    for camera, bgr in plates.items():
        matte = case.matting()(case.src / camera / 'frame_1.png', bgr)
        assert np.array_equal(read(case.out / 'pha' / camera / 'frame_1.png'), matte.pha)


def test_a_plate_of_its_own_for_each_picture(case: Case) -> None:
    for i in range(3):
        save(case.bgr / f'{i}.png', room(i))
        save(case.src / f'{i}.png', photo(room(i), i))
    assert case.run('--picture-format', 'pha=png', '--batch-size', 2) == 0
    for i in range(3):
        expected = case.matting()(case.src / f'{i}.png', room(i)).pha
        assert np.abs(read(case.out / f'pha/{i}.png').astype(int) - expected).max() <= 1


def test_formats_and_qualities(pair: Case) -> None:
    formats = ['com=webp', 'pha=png', 'fgr=webp', 'ref=png']
    types = ('com', 'pha', 'fgr', 'ref')
    assert pair.run('--picture-format', *formats, '--jpeg-quality', 100, '--png-compression', 9, types=types) == 0
    matte = pair.matting()(pair.src / 'a.png', pair.bgr, ref=True)
    com = read(pair.out / 'com/a.webp')
    assert np.array_equal(com[..., 3], matte.pha)
    assert np.array_equal(com[matte.pha > 0], matte.com[matte.pha > 0])
    assert np.array_equal(read(pair.out / 'pha/a.png'), matte.pha)
    assert np.array_equal(read(pair.out / 'fgr/a.webp'), matte.fgr)
    assert np.array_equal(read(pair.out / 'ref/a.png'), matte.ref)
    small = (pair.out / 'pha/a.png').stat().st_size
    assert pair.run('--picture-format', 'pha=png', '--png-compression', 0, '-y') == 0
    assert (pair.out / 'pha/a.png').stat().st_size > small


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
    assert case.run('--preprocess-alignment', '--picture-format', 'pha=png') == 0
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


@pytest.mark.parametrize('model_type', ['mattingbase', 'mattingrefine'])
def test_any_size_works(case: Case, model_type: str) -> None:
    sizes = [(17, 16), (50, 33), (97, 63)]
    for width, height in sizes:
        bgr = room(0, width, height)
        save(case.bgr / f'{width}x{height}.png', bgr)
        save(case.src / f'{width}x{height}.png', photo(bgr, 1))
    types = ('com', 'err') if model_type == 'mattingbase' else ('com', 'err', 'ref')
    assert case.run(model_type=model_type, types=types) == 0
    assert len(files(case.out)) == len(sizes) * len(types)
    for width, height in sizes:
        for path in case.out.glob(f'*/{width}x{height}.*'):
            assert read(path).shape[:2] == (height, width)


def test_mixed_sizes_in_batches_give_the_same_as_one_by_one(case: Case) -> None:
    sizes = [(64, 48), (96, 64), (64, 48), (96, 64), (64, 48)]
    for i, size in enumerate(sizes):
        bgr = room(0, *size)
        save(case.bgr / f'{i}.png', bgr)
        save(case.src / f'{i}.png', photo(bgr, i))
    assert case.run('--picture-format', 'pha=png', '--batch-size', 4) == 0
    for i in range(len(sizes)):
        expected = case.matting()(case.src / f'{i}.png', case.bgr / f'{i}.png').pha
        found = read(case.out / f'pha/{i}.png')
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_bfloat16_stays_close(pair: Case) -> None:
    assert pair.run('--precision', 'bfloat16', '--picture-format', 'pha=png') == 0
    expected = pair.matting()(pair.src / 'a.png', pair.bgr).pha
    found = read(pair.out / 'pha/a.png')
    assert not np.array_equal(found, expected)
    assert np.abs(found.astype(int) - expected).mean() < 4


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
    assert case.run('--picture-format', 'pha=png') == 0
    assert capsys.readouterr().err.count('the 2 plates are paired in the order of the numbers in their names') == 1
    for i in range(2):
        assert np.array_equal(read(case.out / f'pha/photo{i}.png'), case.matting()(photo(room(i), i), room(i)).pha)


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


def test_names_of_the_longest_length_are_written(case: Case) -> None:
    case.bgr = save(case.bgr / 'plate.png', room(0))
    save(case.src / f'{"n" * 251}.png', photo(room(0), 1))
    assert case.run() == 0
    assert files(case.out) == {f'pha/{"n" * 251}.jpg'}
