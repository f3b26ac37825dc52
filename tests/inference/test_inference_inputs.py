"""Which plate belongs to which picture: every rule, and every mistake with its message."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.files import IMAGES
from common.network import NetworkSettings, RefinerSettings
from inference.images.inputs import Job, find_jobs
from inference.options import Threads, share_cores
from inference.processes import Shard, process_shard


def make(folder: Path, *names: str, size: tuple[int, int] = (8, 6)) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.zeros((size[1], size[0], 3), np.uint8))
    return folder


def pairs(tmp_path: Path, resize: bool = False, out: str = 'out') -> tuple[dict[str, str], list[str]]:
    """Plate by picture name, both below their folders, and the problems."""
    jobs, problems, _ = find_jobs(tmp_path / 'src', tmp_path / 'bgr', tmp_path / out, resize)
    found = ((job.name, job.bgr) for job in jobs)
    return {name: bgr.relative_to(tmp_path / 'bgr').as_posix() for name, bgr in found if bgr}, problems


def test_the_same_path_wins_over_the_folder_and_the_suffix_does_not_matter(tmp_path: Path) -> None:
    make(tmp_path / 'src', 'cam/1.jpg', 'cam/2.JPG', 'x.y.png')
    make(tmp_path / 'bgr', 'cam/1.png', 'cam.jpg', 'x.y.webp')
    assert pairs(tmp_path) == ({'cam/1': 'cam/1.png', 'cam/2': 'cam.jpg', 'x.y': 'x.y.webp'}, [])


def test_the_nearest_folder_wins(tmp_path: Path) -> None:
    make(tmp_path / 'src', 'a/1.png', 'a/b/1.png', 'a/b/c/1.png', 'a/d/1.png')
    make(tmp_path / 'bgr', 'a.png', 'a/b/empty.png')
    expected = {'a/1': 'a.png', 'a/b/1': 'a/b/empty.png', 'a/b/c/1': 'a/b/empty.png', 'a/d/1': 'a.png'}
    assert pairs(tmp_path) == (expected, [])


def test_a_single_plate_in_the_folder_serves_all(tmp_path: Path) -> None:
    make(tmp_path / 'src', 'a/1.png', '2.png')
    make(tmp_path / 'bgr', 'wall/plate.png')
    assert pairs(tmp_path) == ({'2': 'wall/plate.png', 'a/1': 'wall/plate.png'}, [])


def test_a_plate_that_belongs_to_something_does_not_serve_the_rest(tmp_path: Path) -> None:
    make(tmp_path / 'src', 'cam01/1.png', 'cam02/1.png', 'cam02/2.png')
    make(tmp_path / 'bgr', 'cam01.png')
    matched, (problem,) = pairs(tmp_path)
    assert matched == {'cam01/1': 'cam01.png'}
    assert f'--images-bgr {tmp_path / "bgr"}: no plate for 2 of 3 pictures (cam02/1, cam02/2)' in problem


def test_a_pictures_own_plate_is_not_its_folders(tmp_path: Path) -> None:
    make(tmp_path / 'src', 'cam/1.png', 'cam/2.png')
    make(tmp_path / 'bgr', 'cam/1.png', 'other.png')
    matched, (problem,) = pairs(tmp_path)
    assert matched == {'cam/1': 'cam/1.png'}
    assert 'no plate for 1 of 2 pictures (cam/2)' in problem


def test_unmatched_pictures_are_counted_and_some_are_named(tmp_path: Path) -> None:
    make(tmp_path / 'src', *(f'{i}.png' for i in range(9)))
    make(tmp_path / 'bgr', 'x.png', 'y.png')
    _, (problem,) = pairs(tmp_path)
    assert 'no plate for 9 of 9 pictures (0, 1, 2, 3, 4 and 4 more)' in problem
    assert problem.endswith('or as many plates as pictures, not 2 and 9')


def test_ambiguous_plates_and_outputs_are_named(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', 'a.png', 'a.jpg', 'b.png')
    bgr = make(tmp_path / 'bgr', 'a.png', 'b.png', 'b.jpg')
    _, (outputs, plates) = pairs(tmp_path)
    assert f'{src}/a.jpg and {src}/a.png' in outputs
    assert f'{bgr}/b.jpg and {bgr}/b.png' in plates


def test_plates_and_results_inside_the_source_folder_are_no_sources(tmp_path: Path) -> None:
    make(tmp_path / 'src', '1.png', '2.png', 'plates/p.png', 'out/com/1.png')
    jobs, problems, _ = find_jobs(tmp_path / 'src', tmp_path / 'src/plates', tmp_path / 'src/out', False)
    assert problems == []
    assert [job.name for job in jobs] == ['1', '2']
    jobs, problems, _ = find_jobs(tmp_path / 'src', tmp_path / 'src/1.png', tmp_path / 'src/out', False)
    assert [job.name for job in jobs] == ['2', 'plates/p']


def test_sources_inside_the_plate_folder_are_no_plates(tmp_path: Path) -> None:
    make(tmp_path / 'bgr', 'p.png', 'src/1.png')
    jobs, problems, _ = find_jobs(tmp_path / 'bgr/src', tmp_path / 'bgr', tmp_path / 'out', False)
    assert (jobs, problems) == ([Job('1', tmp_path / 'bgr/src/1.png', tmp_path / 'bgr/p.png', (8, 6))], [])


@pytest.mark.parametrize('empty', ['src', 'bgr'])
def test_an_empty_folder_is_a_problem(tmp_path: Path, empty: str) -> None:
    for name in ('src', 'bgr'):
        make(tmp_path / name, *([] if name == empty else ['a.png']))
        (tmp_path / name).mkdir(exist_ok=True)
    assert pairs(tmp_path)[1] == [f'--images-{empty} {tmp_path / empty}: no pictures found ({IMAGES})']


def test_sizes_are_those_of_the_upright_picture_and_must_agree(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', 'a.png', 'b.png', size=(8, 6))
    bgr = make(tmp_path / 'bgr', 'a.png', 'b.png', size=(6, 8))
    jobs, (problem,), _ = find_jobs(src, bgr, tmp_path / 'out', False)
    assert {job.size for job in jobs} == {(8, 6)}
    assert f'{src}/a.png is 8x6, its plate {bgr}/a.png 6x8; {src}/b.png is 8x6' in problem
    assert find_jobs(src, bgr, tmp_path / 'out', True)[1] == []


def test_an_unreadable_plate_is_a_problem_and_an_unreadable_picture_is_left_to_the_run(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', 'a.png')
    (src / 'b.png').write_text('no picture')
    plate = tmp_path / 'plate.png'
    plate.write_text('no picture')
    jobs, (problem,), _ = find_jobs(src, plate, tmp_path / 'out', False)
    assert [(job.name, job.size) for job in jobs] == [('a', (8, 6)), ('b', None)]
    assert str(plate) in problem


def test_folders_of_equal_count_without_a_common_name_are_paired_in_sorted_order(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', 'b/2.png', 'a.png', 'c.jpg')
    bgr = make(tmp_path / 'bgr', 'z.png', 'x.png', 'w/y.png')
    jobs, problems, (note,) = find_jobs(src, bgr, tmp_path / 'out', False)
    assert problems == []
    found = {job.name: job.bgr and job.bgr.relative_to(bgr).as_posix() for job in jobs}
    assert found == {'a': 'w/y.png', 'b/2': 'x.png', 'c': 'z.png'}
    pairs_named = f'{src}/a.png with {bgr}/w/y.png ... {src}/c.jpg with {bgr}/z.png'
    rule = 'the 3 plates are paired in the order of the numbers in their names'
    assert note == f'--images-bgr {bgr}: no names match, so {rule}: {pairs_named}'
    make(bgr, 'a.png')
    (bgr / 'z.png').unlink()
    _, (problem,), _ = find_jobs(src, bgr, tmp_path / 'out', False)  # one name matches: then order is no guide
    assert 'no plate for 2 of 3 pictures (b/2, c)' in problem


def test_a_dangling_link_fails_alone(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', 'a.png')
    (src / 'b.png').symlink_to(tmp_path / 'gone.png')
    plate = make(tmp_path, 'plate.png') / 'plate.png'
    jobs, problems, _ = find_jobs(src, plate, tmp_path / 'out', False)
    assert ([(job.name, job.size) for job in jobs], problems) == ([('a', (8, 6)), ('b', None)], [])
    (tmp_path / 'bgr').mkdir()
    (tmp_path / 'bgr/p.png').symlink_to(tmp_path / 'lost.png')
    _, (problem,), _ = find_jobs(src, tmp_path / 'bgr', tmp_path / 'out', False)
    assert str(tmp_path / 'bgr/p.png') in problem


@pytest.mark.parametrize('out', ['shots', 'shots/../shots', 'link'])
def test_results_of_an_earlier_run_are_neither_sources_nor_plates(tmp_path: Path, out: str) -> None:
    shots = make(tmp_path / 'shots', '1.png', 'com/1.png', 'pha/1.jpg', 'err/x.jpg')
    make(shots, 'plates/com/1.png', 'plates/fgr/1.png', 'plates/p.png')
    (tmp_path / 'link').symlink_to(shots)
    jobs, problems, _ = find_jobs(shots, shots / '../shots/plates/p.png', tmp_path / out, False)
    assert ([job.name for job in jobs], problems) == (['1', 'plates/com/1', 'plates/fgr/1'], [])
    jobs, problems, _ = find_jobs(shots / '1.png', tmp_path / 'shots/plates', shots / 'com/../plates', False)
    assert ([job.bgr.name for job in jobs], problems) == (['p.png'], [])


def test_a_source_folder_with_two_names_is_still_one(tmp_path: Path) -> None:
    make(tmp_path / 'bgr', 'p.png', 'src/1.png')
    (tmp_path / 'link').symlink_to(tmp_path / 'bgr')
    jobs, problems, _ = find_jobs(tmp_path / 'link/src', tmp_path / 'bgr', tmp_path / 'out', False)
    assert ([(job.name, job.bgr.name) for job in jobs], problems) == ([('1', 'p.png')], [])


def test_a_picture_is_not_its_own_plate(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', 'a.png', 'b.png')
    (tmp_path / 'link.png').symlink_to(src / 'a.png')
    for picture, plate in ((src / 'a.png', src / 'a.png'), (src / 'a.png', tmp_path / 'link.png'), (src, src)):
        _, (problem,), _ = find_jobs(picture, plate, tmp_path / 'out', False)
        assert problem.startswith(f'--images-bgr {plate}: these are both picture and plate: {src}/a.png')


def test_files_of_other_formats_are_counted(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', 'a.png', 'b.bmp', 'sub/c.BMP', 'out/d.gif')
    (src / 'notes').write_text('')
    (src / '.hidden.txt').write_text('')
    plate = make(tmp_path, 'plate.png') / 'plate.png'
    jobs, problems, notes = find_jobs(src, plate, src / 'out', False)
    assert ([job.name for job in jobs], problems) == (['a'], [])
    assert notes == [f'--images-src {src}: not {IMAGES}, so left out: 2 .bmp, 1 without suffix']
    (src / 'a.png').unlink()
    _, (problem,), _ = find_jobs(src, plate, src / 'out', False)
    assert problem.endswith(f'no pictures found ({IMAGES}), but it holds 2 .bmp, 1 without suffix')
    _, problems, _ = find_jobs(src / 'b.bmp', src / 'b.bmp', tmp_path / 'out', False)
    assert [problem.split(':')[0] for problem in problems] == [
        f'--images-src {src}/b.bmp',
        f'--images-bgr {src}/b.bmp',
    ]


def test_the_share_of_a_process_comes_from_torchrun() -> None:
    assert process_shard({}) == Shard(0, 1, 0, 1)
    told = {'RANK': '5', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '4'}
    assert process_shard(told) == Shard(5, 8, 1, 4)


def test_cores_are_shared_by_the_processes_of_a_machine_and_by_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(16), raising=False)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    hd, large = 1920 * 1080, 3840 * 2160

    def share(device: str, batches: int, pixels: int, processes: int = 1, **more: Any) -> Threads:
        return share_cores(device, batches, pixels, processes=processes, **more)

    full = NetworkSettings('mattingrefine', 'mobilenetv2', RefinerSettings(refine_mode='full'))
    assert share('cuda', 1000, large) == Threads(16, 1, 0)
    assert share('cuda', 1000, large, 4, num_workers=3) == Threads(3, 1, 0)
    assert share('cpu', 1000, hd) == Threads(8, 16, 1)
    assert share('cpu', 1000, hd, 8) == Threads(1, 2, 1)
    assert share('cpu', 1000, large) == Threads(8, 4, 4)
    assert share('cpu', 1000, large, 10_000) == Threads(1, 1, 1)
    assert share('cpu', 1, hd) == Threads(8, 1, 16)
    assert share('cpu', 3, hd) == Threads(8, 3, 5)
    assert share('cpu', 1000, hd, compiled=True) == Threads(8, 1, 16)
    assert share('cpu', 1000, hd, network=NetworkSettings('mattingbase', 'mobilenetv2')) == Threads(8, 2, 8)
    assert share('cpu', 1000, hd, network=full) == Threads(8, 4, 4)
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    assert share('cpu', 1000, hd) == Threads(1, 2, 1)
    assert share('cpu', 1000, hd, 4) == Threads(2, 4, 1)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(128), raising=False)
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert share('cpu', 1000, hd) == Threads(16, 16, 8)
