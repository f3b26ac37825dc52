"""evaluate.py through its main: its figures, what it prints and writes, and the coarse result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.evaluate_case import NAMES, add, disc, evaluated, make_set
from support.inference_case import Case, photo, read, room, with_record
from support.pictures import save
from support.testset_case import make_sources

import evaluate
import inference_images
import make_testset
from common.network import RefinerSettings
from evaluation import rows as scored_rows
from evaluation.testset.layout import find_testset
from inference import Matting
from inference.coarse import Coarse, coarse_only
from inference.pipeline import Pipeline
from metrics import matting as metrics
from metrics.trimap import trimap, unknown

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def testset(tmp_path: Path) -> Path:
    return make_set(tmp_path / 'set')


def test_a_network_has_the_figures_of_the_files_that_inference_writes(
    tmp_path: Path, testset: Path, case: Case
) -> None:
    refine, base = case.checkpoints['mattingrefine'], case.checkpoints['mattingbase']
    flags = ('--testset', testset, '--model-refine-sample-pixels', 800)
    rows = evaluated(tmp_path, '--checkpoint', base, refine, *flags)
    case.src, case.bgr, formats = testset / 'src', testset / 'bgr', ('--picture-format', 'pha=png', 'fgr=png')
    for name in ('mattingbase', 'mattingrefine'):
        case.out = tmp_path / name
        assert case.run(*formats, model_type=name, types=('pha', 'fgr')) == 0
    files = evaluated(
        tmp_path, '--predictions', tmp_path / 'mattingbase', tmp_path / 'mattingrefine', '--truth', testset
    )
    assert [row.figures for row in rows] == [row.figures for row in files]
    assert [*rows[0].figures] == NAMES
    assert rows[0].metrics == ['sad', 'mse', 'grad', 'conn', 'fg_mse', 'mad']
    assert rows[0].figures != rows[1].figures
    assert all(value > 0 for row in rows for found in row.figures.values() for value in found.values())


def test_each_network_has_a_row_in_each_precision(testset: Path, case: Case) -> None:
    checkpoints = [str(case.checkpoints[name]) for name in ('mattingbase', 'mattingrefine')]
    flags = ['--checkpoint', *checkpoints, '--testset', str(testset), '--precision', 'float32', 'bfloat16', 'float32']
    networks = evaluate.prepared(evaluate.parse(flags)).networks
    assert [network.precision for network in networks.values()] == ['float32', 'bfloat16'] * 2
    assert [name.rpartition(' ')[2] for name in networks] == ['(float32)', '(bfloat16)'] * 2
    assert [str(network.path) for network in networks.values()] == [path for path in checkpoints for _ in range(2)]


def test_by_default_a_checkpoint_has_the_figures_of_the_files_that_inference_writes_from_it(
    tmp_path: Path, testset: Path, case: Case
) -> None:
    # Trained with other settings than those that are published for the size, and than the defaults of the network.
    settings = RefinerSettings(backbone_scale=0.5, refine_sample_pixels=400)
    path = with_record(case.checkpoints['mattingrefine'], tmp_path / 'run/best.pth', 96, settings)
    words = ('--images-src', testset / 'src', '--images-bgr', testset / 'bgr', '--output-dir', tmp_path / 'out')
    more = ('--output-types', 'pha', 'fgr', '--picture-format', 'pha=png', 'fgr=png')
    assert inference_images.main([*map(str, ('--model-checkpoint', path, *words, *more))]) == 0
    (row,) = evaluated(tmp_path, '--checkpoint', path, '--testset', testset)
    (of_files,) = evaluated(tmp_path, '--predictions', tmp_path / 'out', '--truth', testset)
    assert row.figures == of_files.figures
    (other,) = evaluated(tmp_path, '--checkpoint', path, '--testset', testset, '--model-backbone-scale', 0.25)
    assert other.figures != row.figures


def test_the_published_codes_fg_mse_is_over_the_unknown_region(tmp_path: Path, testset: Path) -> None:
    save(testset / 'trimap/a.png', np.where(np.arange(96) < 48, 128, 255).astype(np.uint8)[None].repeat(64, 0))
    for name in NAMES:
        save(tmp_path / f'out/pha/{name}.png', read(testset / f'pha/{name}.png'))
        save(tmp_path / f'out/fgr/{name}.png', room(5))
    flags = ('--predictions', tmp_path / 'out', '--truth', testset, '--scaling', 'raw')
    (row,) = evaluated(tmp_path, *flags, '--metrics', 'fg_mse', 'fg_mse_bmv2')
    true = read(testset / 'pha/a.png')
    error = np.square(room(5) / 255 - read(testset / 'fgr/a.png') / 255) * (true > 0)[..., None]
    assert row.figures['a']['fg_mse_bmv2'] == pytest.approx(error[:, :48].mean(), rel=1e-12)
    assert row.figures['a']['fg_mse'] == pytest.approx(error[true > 0].mean(), rel=1e-12)
    assert 'fg_mse_bmv2' not in evaluated(tmp_path, *flags)[0].metrics


def test_figures_are_those_of_the_metrics_over_the_unknown_region(tmp_path: Path, testset: Path, case: Case) -> None:
    matting = case.matting('mattingbase')
    mattes = {name: matting(testset / f'src/{name}.png', testset / f'bgr/{name}.png') for name in NAMES}
    for name, matte in mattes.items():
        save(tmp_path / f'out/pha/{name}.png', matte.pha)
        save(tmp_path / f'out/fgr/{name}.png', matte.fgr)
    plain = ('--predictions', tmp_path / 'out', '--truth', testset, '--scaling')
    (row,) = evaluated(tmp_path, *plain, 'raw')
    (whole,) = evaluated(tmp_path, *plain, 'raw', '--region', 'whole')
    (scaled,) = evaluated(tmp_path, *plain, 'bmv2')
    matte = mattes['a']
    true = read(testset / 'pha/a.png')
    error, region = np.abs(matte.pha / 255 - true / 255), unknown(trimap(true))
    assert 0 < region.sum() < region.size / 2
    assert row.figures['a']['sad'] == pytest.approx(error[region].sum(), rel=1e-12)
    assert row.figures['a']['mse'] == pytest.approx(np.square(error[region]).mean(), rel=1e-12)
    assert whole.figures['a']['sad'] == pytest.approx(error.sum(), rel=1e-12)
    colour = np.square(matte.fgr / 255 - read(testset / 'fgr/a.png') / 255)
    assert row.figures['a']['fg_mse'] == pytest.approx(colour[true > 0].mean(), rel=1e-12)
    assert row.figures['a']['fg_mse'] == whole.figures['a']['fg_mse']
    assert scaled.figures['a'] == {
        name: value * metrics.SCALINGS['bmv2'][name] for name, value in row.figures['a'].items()
    }
    assert row.settings['region'] == 'unknown'
    save(testset / 'trimap/a.png', np.where(np.arange(96) < 48, 128, 255).astype(np.uint8)[None].repeat(64, 0))
    (with_file,) = evaluated(tmp_path, *plain, 'raw')
    assert with_file.figures['a']['sad'] == pytest.approx(error[:, :48].sum(), rel=1e-12)
    assert with_file.figures['b'] == row.figures['b']


@pytest.mark.parametrize(('width', 'height'), [(96, 64), (97, 63)])
def test_the_coarse_result_is_the_networks_enlarged(case: Case, width: int, height: int) -> None:
    matting = case.matting()
    bgr = room(0, width, height)
    pictures = [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (photo(bgr, 1), bgr)]
    with torch.inference_mode():
        _, _, pha_sm, fgr_sm, err_sm, _ = matting.network_for((height, width))(*pictures)
        pha, fgr, *small, ref_sm = Coarse(matting)(*pictures)
    for x, found in ((pha_sm, pha), (fgr_sm, fgr)):
        expected = F.interpolate(x, (height + -height % 4, width + -width % 4), mode='bilinear')
        assert torch.equal(found, expected[..., :height, :width])
    assert all(torch.equal(x, y) for x, y in zip(small, (pha_sm, fgr_sm, err_sm)))
    assert ref_sm.shape == (1, 1, 16, -(-width // 4))
    assert not ref_sm.any()
    coarse = coarse_only(matting)(photo(bgr, 1), bgr, err=True, ref=True)
    assert np.array_equal(coarse.pha, (pha[0, 0] * 255 + 0.5).byte().numpy())
    assert coarse.pha.std() > 10
    assert not np.array_equal(matting(photo(bgr, 1), bgr).pha, coarse.pha)
    with pytest.raises(ValueError, match='MattingBase refines nothing'):
        coarse_only(case.matting('mattingbase'))


def test_base_only_adds_a_row_for_what_refines(tmp_path: Path, testset: Path, case: Case) -> None:
    both = [case.checkpoints[name] for name in ('mattingbase', 'mattingrefine')]
    rows = evaluated(tmp_path, '--checkpoint', *both, '--testset', testset, '--base-only', '--metrics', 'sad')
    folder = both[0].parent.name
    assert [row.model for row in rows] == [
        f'{folder}/mattingbase', f'{folder}/mattingrefine', f'{folder}/mattingrefine (base only)'
    ]  # fmt: skip
    assert rows[1].figures != rows[2].figures
    assert rows[2].settings == {**rows[1].settings, 'refined': False}
    coarse = coarse_only(Matting.from_checkpoint(both[1], device='cpu'))(testset / 'src/b.png', testset / 'bgr/b.png')
    true = read(testset / 'pha/b.png')
    sad = (np.abs(coarse.pha / 255 - true / 255) * unknown(trimap(true))).sum() / 1000
    assert rows[2].figures['b']['sad'] == pytest.approx(sad, rel=1e-12)


def frames(folder: Path, name: str, numbers: Iterable[int], more: float = 0) -> list[np.ndarray]:
    """A clip whose subject moves, faster with `more`; its alphas."""
    for number in numbers:
        add(folder, f'{name}/{number}', seed=number, x=0.3 + number * (1 / 30 + more))
    return [read(folder / f'pha/{name}/{number}.png') for number in numbers]


def test_clips_have_dtssd_over_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / 'set'
    numbers = (1, 2, 9, 10, 11)
    true = frames(folder, 'walk', numbers)
    frames(folder, 'run', (4, 5))
    add(folder, 'alone/1', seed=3)
    out = tmp_path / 'out'
    frames(out, 'walk', numbers, more=0.02)
    frames(out, 'run', (4, 5))
    add(out, 'alone/1', seed=3)
    (row,) = evaluated(tmp_path, '--predictions', out, '--truth', folder, '--clips', '--scaling', 'raw')
    assert row.clips['walk'] == [f'walk/{number}' for number in numbers]
    assert [*row.clip_figures] == ['alone', 'run', 'walk']
    pred = [read(out / f'pha/walk/{number}.png') for number in numbers]
    region = torch.from_numpy(np.stack([unknown(trimap(x)) for x in true]))[:, None]
    expected = metrics.dtssd(*(torch.from_numpy(np.stack(x))[:, None].double() / 255 for x in (pred, true)), region)
    assert row.clip_figures['walk']['dtssd'] == pytest.approx(expected.mean().item(), rel=1e-12)
    assert math.isnan(row.clip_figures['alone']['dtssd'])
    assert 'dtssd' not in row.figures['walk/1']
    (stills,) = evaluated(tmp_path, '--predictions', out, '--truth', folder)
    assert (stills.clips, stills.clip_figures) == ({}, {})


def test_sets_that_know_their_clips(tmp_path: Path, case: Case) -> None:
    folder = tmp_path / 'set'
    frames(folder, 'walk', (1, 2))
    add(folder, 'still', seed=3)
    save(folder / 'bgr/walk.png', room(1))
    for number in (1, 2):
        (folder / f'bgr/walk/{number}.png').unlink()
    (row,) = evaluated(tmp_path, '--checkpoint', case.checkpoints['mattingbase'], '--testset', folder)
    assert row.clips == {'walk': ['walk/1', 'walk/2']}
    assert row.clip_figures['walk']['dtssd'] > 0
    assert [*row.figures] == ['still', 'walk/1', 'walk/2']


def test_plain_folders_of_alphas(tmp_path: Path, testset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predicted = tmp_path / 'mine'
    for name in NAMES:
        save(predicted / f'{name}.jpg', np.full((64, 96), 128, np.uint8))
    save(predicted / 'more.png', disc())
    (row,) = evaluated(tmp_path, '--predictions', predicted, '--truth', testset / 'pha', '--region', 'whole')
    assert row.metrics == ['sad', 'mse', 'grad', 'conn', 'mad']  # there are no foregrounds
    assert row.figures['a']['mad'] == pytest.approx(np.abs(disc() / 255 - 128 / 255).mean() * 1000, rel=1e-12)
    errors = capsys.readouterr().err
    assert '1 pictures without a truth are left out: more' in errors
    assert '.jpg may be lossy' in errors


def test_subjects_of_a_made_set_reach_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sources(tmp_path / 'in')
    folders = [word for kind in ('fgr', 'pha', 'bgr') for word in (f'--{kind}', str(tmp_path / 'in' / kind))]
    folder = tmp_path / 'set'
    assert make_testset.main([*folders, '--backgrounds-per-foreground', '2', '--output-dir', str(folder)]) == 0
    (row,) = evaluated(tmp_path, '--predictions', folder / 'pha', '--truth', folder)
    subjects = {f'{name}-0{i}': f'{name}.png' for name in ('ann', 'shots/b.1', 'zoe') for i in (0, 1)}
    assert row.subjects == subjects
    assert row.settings['manifest_sha256'] == hashlib.sha256((folder / 'manifest.json').read_bytes()).hexdigest()
    assert json.loads((tmp_path / 'found.json').read_text())['results'][0]['means']['mad']['groups'] == 3
    assert [truth.subject for truth in find_testset(folder)] == [*subjects.values()]


@pytest.mark.parametrize('at_once', [1, 3 * 96 * 64, 2**24])
def test_few_large_pictures_are_scored_at_once(
    tmp_path: Path, testset: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    threads = []
    ahead = Pipeline.ahead

    def spy(self: Pipeline, work: Any, items: Any, count: int) -> Any:
        threads.append(count)
        return ahead(self, work, items, count)

    monkeypatch.setattr(scored_rows, 'PIXELS_AT_ONCE', at_once)
    monkeypatch.setattr(Pipeline, 'ahead', spy)
    evaluated(tmp_path, '--predictions', testset / 'pha', '--truth', testset, '--num-workers', 7)
    assert threads == [min(7, max(1, at_once // (96 * 64)))] * 2


def test_predictions_need_neither_plates_nor_foregrounds_that_are_not_asked_for(tmp_path: Path, testset: Path) -> None:
    predicted = tmp_path / 'out'
    for name in NAMES:
        save(predicted / f'pha/{name}.png', disc())
    save(predicted / 'fgr/a.png', room(0))
    (testset / 'bgr/b.png').unlink()
    save(testset / 'bgr/shots.png', room(0))
    (testset / 'bgr/shots/c.01.png').unlink()
    (row,) = evaluated(tmp_path, '--predictions', predicted, '--truth', testset, '--metrics', 'sad')
    assert [*row.figures] == NAMES
    assert row.clips == {'shots': ['shots/c.01']}
