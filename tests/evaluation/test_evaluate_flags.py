"""evaluate.py: what it refuses, what it takes where flags are left out, and how it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.evaluate_case import NAMES, add, disc, evaluated, make_set, refused
from support.inference_case import Case, room
from support.pictures import save

import evaluate
from checkpointing.record import File, Record
from common.stores import path_of
from evaluation import plan
from evaluation.networks import find_networks
from evaluation.tables import TITLES
from metrics import matting as metrics

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def testset(tmp_path: Path) -> Path:
    return make_set(tmp_path / 'set')


def test_what_does_not_fit_is_listed_in_one_message(
    tmp_path: Path, testset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / 'first', tmp_path / 'second'
    save(first / 'pha/a.png', disc())
    save(first / 'pha/b.png', disc(32, 32))
    for name in NAMES:
        save(second / f'pha/{name}.png', disc())
    save(second / 'fgr/a.png', room(0))
    error = refused(capsys, '--predictions', first, second, tmp_path / 'none', '--truth', testset)
    assert error.splitlines() == [
        'error: 4 problems:',
        f'  --predictions {first}/pha: 1 of 3 pictures are missing: shots/c.01',
        f'  --predictions sizes differ: {testset}/pha/b.png is 96x64, {first}/pha/b.png 32x32',
        f'  --predictions {second}/fgr: 2 of 3 pictures are missing: b, shots/c.01; only fg_mse needs them',
        f'  --predictions {tmp_path}/none: no such folder',
    ]
    (second / 'pha/a.jpg').write_bytes(b'')
    assert 'a.png: of one name' in refused(capsys, '--predictions', second, '--truth', testset)
    (testset / 'pha/b.png').write_bytes(b'no picture')
    assert f'{testset}/pha/b.png: cannot be read' in refused(capsys, '--predictions', first, '--truth', testset)
    (tmp_path / 'empty').mkdir()
    assert 'no pictures in it' in refused(capsys, '--predictions', first, '--truth', tmp_path / 'empty')


def test_flags_that_make_no_sense_are_refused_together(
    tmp_path: Path, testset: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    base, refine = case.checkpoints['mattingbase'], case.checkpoints['mattingrefine']
    (tmp_path / 'there.json').touch()
    there = tmp_path / 'there.json'
    error = refused(
        capsys, '--predictions', tmp_path, tmp_path, '--batch-size', 0, '--base-only', '--num-workers', -1,
        '--json', there, '--csv', tmp_path / 'no/x.csv', '--report', there, '--sort', 'dtssd',
    )  # fmt: skip
    for part in (
        '--predictions: needs --truth', 'given twice', '--batch-size 0', '--base-only: needs --checkpoint',
        'there.json: exists', 'there is no folder', 'two of them name one file', '--num-workers -1', '--sort dtssd',
    ):  # fmt: skip
        assert part in error, part
    assert 'nothing to score' in refused(capsys)
    error = refused(capsys, '--checkpoint', 'x.pth', '--testset', tmp_path / 'nowhere')
    assert '--checkpoint x.pth: no such file' in error
    assert '--testset' in error  # at once, before the network is read
    assert 'nowhere: no such folder' in error
    both = ('--checkpoint', base, '--testset', testset, '--predictions', testset, '--truth', testset)
    assert 'one at a time' in refused(capsys, *both)
    run = ('--testset', testset, '--checkpoint')
    assert 'no checkpoint has a refiner' in refused(capsys, *run, base, '--model-backbone-scale', 0.5)
    assert 'must be above 0 and at most 0.5' in refused(capsys, *run, refine, '--model-backbone-scale', 0.75)
    assert '--metrics dtssd: there are no clips' in refused(capsys, *run, refine, '--metrics', 'dtssd')
    assert '--sort grad: is not computed' in refused(capsys, *run, refine, '--metrics', 'sad', '--sort', 'grad')
    (tmp_path / 'x.pth').write_bytes(b'none')
    assert f'--checkpoint {tmp_path}/x.pth' in refused(capsys, *run, refine, tmp_path / 'x.pth')
    (testset / 'bgr/b.png').unlink()
    assert f'--testset {testset}: 1 pictures are missing: bgr/b' in refused(capsys, *run, refine)
    assert '--predictions sizes' not in refused(capsys, *run, refine)


def test_flags_that_would_do_nothing_are_refused(
    tmp_path: Path, testset: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path, '--predictions', testset / 'pha', '--truth', testset, '--metrics', 'sad')
    earlier = ('--results', tmp_path / 'found.json')
    capsys.readouterr()
    for flag in (['--scaling', 'bmv2'], ['--region', 'unknown'], ['--metrics', 'sad'], ['--clips']):
        assert f'{flag[0]}: cannot change the figures of --results' in refused(capsys, *earlier, *flag)
    assert '--sort sad: sorts pictures; add --per-picture' in refused(capsys, *earlier, '--sort', 'sad')
    problem = refused(capsys, *earlier, '--sort', 'mse', '--per-picture')
    assert problem == 'error: --sort mse: is not in --results; choose one of sad\n'
    run = ('--testset', testset, '--checkpoint', case.checkpoints['mattingrefine'])
    for flag, mode in (('threshold 0.5', 'thresholding'), ('sample-pixels 800', 'sampling')):
        words = f'--model-refine-{flag}'
        ignored = refused(capsys, *run, *words.split(), '--model-refine-mode', 'full')
        assert ignored == (
            f'error: {words}: is read with --model-refine-mode {mode} alone; give that, too, or leave it out\n'
        )
    assert '--model-refine-threshold 0.5' in refused(capsys, *run, '--model-refine-threshold', '0.5')


def test_checkpoints_that_do_not_fit_are_found_before_anything_is_scored(
    tmp_path: Path, testset: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    good = case.checkpoints['mattingrefine']
    state = torch.load(good, weights_only=True)
    shorter = {name: tensor for name, tensor in state.items() if name != 'refiner.conv1.weight'}
    other = {**state, 'decoder.conv4.weight': state['decoder.conv4.weight'][:5]}
    for name, content in (('shorter', shorter), ('other', other)):
        torch.save(content, tmp_path / f'{name}.pth')
    error = refused(
        capsys, '--testset', testset, '--checkpoint', good, tmp_path / 'shorter.pth', tmp_path / 'other.pth'
    ).splitlines()
    assert error[0] == 'error: 2 problems:'
    assert error[1].endswith('it holds MattingRefine mobilenetv2; 1 missing: refiner.conv1.weight')
    assert error[2].endswith('it holds MattingRefine mobilenetv2; 1 of another shape: decoder.conv4.weight')
    assert all(f'--checkpoint {tmp_path}' in line for line in error[1:])


def test_pictures_that_are_too_small_or_differ_within_a_clip_are_found_before(
    tmp_path: Path, testset: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (96, 15):
        add(testset, f'walk/{size}', 0, size, size)
    run = ('--testset', testset, '--checkpoint', case.checkpoints['mattingbase'], '--metrics', 'sad')
    assert refused(capsys, *run) == (
        f'error: --testset {testset}: networks need 16x16 pixels; {testset}/src/walk/15.png is 15x15\n'
    )
    files = ('--predictions', testset / 'pha', '--truth', testset, '--clips')
    assert refused(capsys, *files) == (
        'error: --truth: frames of 1 clips differ in size: walk/15 is 15x15, walk/96 is 96x96; leave out --clips, or '
        'name --metrics without dtssd\n'
    )
    evaluated(tmp_path, *files, '--metrics', 'mad')
    capsys.readouterr()
    (testset / 'manifest.json').write_text('{"format": "matting test set", "version": 1, "pictures": []}')
    assert 'manifest.json: lists no pictures' in refused(capsys, *run)


def test_settings_are_as_given_or_as_trained_or_as_published(tmp_path: Path, case: Case) -> None:
    path = tmp_path / 'run/epoch-3.pth'
    path.parent.mkdir()
    path.write_bytes(case.checkpoints['mattingrefine'].read_bytes())
    ((network,), problems) = find_networks([path], {}, (1920, 1080))
    assert problems == []
    assert (network.about['backbone_scale'], network.about['refine_sample_pixels']) == (0.25, 80_000)
    assert (
        'as published for hd: backbone scale 0.25, refine mode sampling, refine sample pixels 80000' in network.report
    )
    for still, scale in ((True, 0.25), (False, 0.125)):
        ((network,), _) = find_networks([path], {}, (3840, 2160), still)
        assert (network.about['backbone_scale'], network.about['refine_sample_pixels']) == (scale, 320_000)
    sha256 = network.about['checkpoint_sha256']
    identity = {'backbone scale': 0.5, 'refine mode': 'thresholding', 'refine sample pixels': 20_000,
                'refine threshold': 0.3, 'refine kernel size': 3}  # fmt: skip
    weights = {'weights': File('epoch-3.pth', path.stat().st_size, sha256)}
    record = Record('run1', 'refine', 'epoch-3', 400, 3, {}, 'epoch', identity, weights)
    (tmp_path / 'run/epoch-3.json').write_bytes(record.to_bytes())
    best = tmp_path / 'run/best.pth'
    os.link(path, best)
    ((network,), problems) = find_networks([best], {'backbone_scale': 0.125}, (1920, 1080))
    assert problems == []
    assert network.settings.refiner.refine_threshold == 0.3
    assert network.report.endswith(
        'as given: backbone scale 0.125 (0.5 as trained); as trained: refine mode thresholding, refine threshold 0.3'
    )
    about = {'run': 'run1', 'epoch': 3, 'step': 400, 'refine_kernel_size': 3, 'backbone': 'mobilenetv2'}
    assert about.items() <= network.about.items()


def test_a_damaged_picture_ends_the_run_and_nothing_is_written(
    tmp_path: Path, testset: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    source = testset / 'src/b.png'
    source.write_bytes(source.read_bytes()[:-2000])
    run = ['--checkpoint', case.checkpoints['mattingbase'], '--testset', testset, '--csv', tmp_path / 'x.csv']
    assert evaluate.main([*map(str, run)]) == 1
    assert f'error: stopped: {source}: cannot be read' in capsys.readouterr().err
    assert not (tmp_path / 'x.csv').exists()


def test_ctrl_c_ends_with_a_line(
    tmp_path: Path, testset: Path, case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(items: Iterable[Any], *_: Any) -> Iterable[Any]:
        for item in items:
            os.kill(os.getpid(), signal.SIGINT)
            yield item

    monkeypatch.setattr('evaluation.rows.progress', interrupted)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = ['--checkpoint', case.checkpoints['mattingbase'], '--testset', testset, '--csv', tmp_path / 'x.csv']
    try:
        assert evaluate.main([*map(str, run)]) == 130
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers):
            signal.signal(number, handler)
    assert capsys.readouterr().err.endswith('stopped: files are written at the end, whole or not at all\n')
    assert not (tmp_path / 'x.csv').exists()


def test_the_flags_know_all_metrics_and_scalings() -> None:
    assert tuple(TITLES) == evaluate.METRICS
    assert tuple(metrics.SCALINGS) == evaluate.SCALINGS


def test_rows_of_urls_have_the_names_of_their_files():
    urls = [path_of(f's3://bucket/{folder}/best.pth') for folder in ('a/base', 'b/base', 'a/refine')]
    assert plan._row_names(urls) == ['s3://bucket/a/base/best.pth', 's3://bucket/b/base/best.pth', 'refine/best']
