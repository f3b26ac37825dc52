"""What evaluate.py prints and writes, and that a part of it that fails costs nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.evaluate_case import NAMES, disc, evaluated, make_set, refused
from support.inference_case import Case, read
from support.pictures import save

import evaluate
import evaluation.tables as evaluation_tables
from evaluation.report.build import ReportPictures
from evaluation.results import Results
from inference.coarse import coarse_only

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def testset(tmp_path: Path) -> Path:
    return make_set(tmp_path / 'set')


def test_the_report_shows_the_networks_own_alphas(
    tmp_path: Path, testset: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ReportPictures] = []

    def spy(results: list[Results], pictures: Any, sort_by: str, title: str) -> bytes:
        assert sort_by == 'mse'
        seen.extend(pictures(row.model, 'b') for row in results)
        return b'page'

    monkeypatch.setattr('evaluation.report.build.report_bytes', spy)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    page = tmp_path / 'page.html'
    evaluated(
        tmp_path, '--checkpoint', case.checkpoints['mattingrefine'], '--testset', testset, '--base-only', '--report',
        page, '--model-refine-sample-pixels', 800, '--metrics', 'conn', 'mse', '--sort', 'mse',
    )  # fmt: skip
    assert page.read_bytes() == b'page'
    assert [*(tmp_path / 'temporary').iterdir()] == []
    pair = testset / 'src/b.png', testset / 'bgr/b.png'
    network = case.matting()
    for pictures, matting in zip(seen, (network, coarse_only(network)), strict=True):
        assert np.array_equal(pictures.pred_pha, matting(*pair).pha)
        assert np.array_equal(pictures.true_pha, read(testset / 'pha/b.png'))
        assert np.array_equal(pictures.src, read(testset / 'src/b.png'))


def test_a_whole_run_prints_and_writes_everything(
    tmp_path: Path, testset: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    page, table = tmp_path / 'page.html', tmp_path / 'table.csv'
    run = ('--checkpoint', case.checkpoints['mattingbase'], '--testset', testset)
    (row,) = evaluated(tmp_path, *run, '--report', page, '--csv', table, '--per-picture', '--sort', 'sad')
    captured = capsys.readouterr()
    assert 'mattingbase with mobilenetv2; on cpu in float32' in captured.err
    lines = captured.out.splitlines()
    worst = sorted(NAMES, key=lambda name: -row.figures[name]['sad'])
    assert [line.split()[0] for line in lines[1:4]] == worst
    assert lines[5].split() == ['pictures', 'SAD', 'MSE', 'Grad', 'Conn', 'FG-MSE', 'MAD']
    assert lines[8].startswith(
        'Over the pixels that are unknown in the trimap, FG-MSE over the subject; SAD x 0.001, MSE'
    )
    assert b'shots/c.01' in page.read_bytes()
    assert len(table.read_text().splitlines()) == 1 + 3 * 6
    assert [f'{tmp_path / name}: written' in captured.err for name in ('found.json', 'table.csv', 'page.html')] == [
        True
    ] * 3
    assert 'written' not in captured.out
    assert 'exists' in refused(capsys, *run, '--csv', table)


def test_a_page_that_fails_costs_nothing_else(
    tmp_path: Path, testset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = evaluation_tables.show

    def show(text: str) -> None:
        assert (tmp_path / 'x.json').exists()
        assert (tmp_path / 'x.csv').exists()
        (testset / 'src/b.png').unlink(missing_ok=True)
        shown(text)

    monkeypatch.setattr(evaluation_tables, 'show', show)
    files = [word for kind in ('json', 'csv', 'report') for word in (f'--{kind}', str(tmp_path / f'x.{kind}'))]
    assert evaluate.main(['--predictions', str(testset / 'pha'), '--truth', str(testset), *files]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(f'error: --report: {testset}/src/b.png: ')
    assert 'set/pha' in captured.out
    assert not (tmp_path / 'x.report').exists()


def test_a_file_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, testset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.suffix == '.json':
            raise OSError(f'{path}: cannot be written: No space left on device')
        path.write_bytes(data)

    monkeypatch.setattr('common.files.write_atomic', full)
    files = [word for kind in ('json', 'csv') for word in (f'--{kind}', str(tmp_path / f'x.{kind}'))]
    assert evaluate.main(['--predictions', str(testset / 'pha'), '--truth', str(testset), *files]) == 1
    captured = capsys.readouterr()
    problem = f'error: --json: {tmp_path}/x.json: cannot be written: No space left on device'
    assert captured.err.splitlines()[-1] == problem
    assert 'set/pha' in captured.out
    assert (tmp_path / 'x.csv').exists()


@pytest.mark.parametrize('closed', [True, False])
def test_neither_a_closed_pipe_nor_an_unprintable_name_costs_files(
    tmp_path: Path, testset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    (testset / 'pha').rename(tmp_path / 'mattés')
    command = ['--predictions', tmp_path / 'mattés', '--truth', tmp_path / 'mattés', '--metrics', 'mad']
    command += ['--json', tmp_path / 'x.json', '--report', tmp_path / 'x.html']
    reading, writing = os.pipe()
    if closed:
        os.close(reading)
    stdout = os.fdopen(writing, 'w', encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', stdout)
    assert evaluate.main([*map(str, command)]) == 0
    stdout.close()  # what is left is written now, as at the end of a process
    assert 'Broken' not in capsys.readouterr().err
    if not closed:
        with os.fdopen(reading, 'rb') as table:
            assert b'matt\\xe9s' in table.read()
    assert (tmp_path / 'x.json').exists()
    assert (tmp_path / 'x.html').exists()


def test_rows_of_equal_short_names_are_all_there(
    tmp_path: Path, testset: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ('best.pth', 'best.pt', 'v1.2.pth', 'v1.3.pth')]
    for path in paths:
        path.write_bytes(case.checkpoints['mattingbase'].read_bytes())
    words = [*map(str, ('--checkpoint', *paths, '--testset', testset))]
    folder = tmp_path.name
    assert [*evaluate.prepared(evaluate.parse(words)).networks] == [
        str(paths[0]),
        str(paths[1]),
        f'{folder}/v1.2',
        f'{folder}/v1.3',
    ]
    monkeypatch.chdir(testset / 'pha')
    (row,) = evaluated(tmp_path, '--predictions', '.', '--truth', testset, '--metrics', 'sad')
    assert row.model == 'set/pha'


def test_earlier_results_stand_beside_new_ones(
    tmp_path: Path, testset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for level in (0, 128):
        for name in NAMES:
            save(tmp_path / f'{level}/pha/{name}.png', np.full((64, 96), level, np.uint8))
    run = ('--truth', testset, '--predictions')
    old = tmp_path / 'old.json'
    (earlier,) = evaluated(tmp_path, *run, tmp_path / '0')
    (tmp_path / 'found.json').rename(old)
    both = evaluated(tmp_path, *run, tmp_path / '0', tmp_path / '128', '--results', old)
    folder = tmp_path.name
    assert [row.model for row in both] == [f'{folder}/0', f'{folder}/128', f'{folder}/0 (old.json)']
    assert both[0] == earlier
    assert both[2].figures == earlier.figures != both[1].figures
    capsys.readouterr()
    assert evaluate.main(['--results', str(old)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == [earlier.model, '3']
    problem = refused(capsys, *run, tmp_path / '128', '--results', old, '--scaling', 'dim')
    assert problem == (
        f'error: --results {old}: was scored with --scaling bmv2, not dim, so its figures cannot be compared\n'
    )
    assert 'old.json: given twice' in refused(capsys, '--results', old, old)
    for path in (testset / 'pha/d.png', tmp_path / '128/pha/d.png'):
        save(path, disc())
    evaluated(tmp_path, '--truth', testset / 'pha', '--predictions', tmp_path / '128', '--results', old)
    assert (
        'was scored on another test set, so differences are over pictures of equal name alone, of which there are 3'
        in (capsys.readouterr().err)
    )
