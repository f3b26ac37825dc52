"""A run that an earlier version began goes on: bit for bit, with its records, pins, links and curve.

tests/data/begun_by_0.1 holds such a run of the small network, stopped by SIGTERM after step 4 of 9, and in `expected`
what that version gave without the stop. begun_with_format_1 was written by the first version of all, and
begun_before_validation by the last one whose records did not know the validation samples; both end at step 3 of 5.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.runs import assert_same, curve, flags, load, names, record, server, table

from checkpointing.record import read_records
from training import state

DATA = Path(__file__).parents[1] / 'data/begun_by_0.1'
WORDS = {
    'ema_decay': 0.9, 'clip_grad': 1, 'lr_schedule': 'cosine', 'warmup_steps': 2, 'batch_size': 2, 'accumulate': 2,
    'log_valid_interval': 2, 'checkpoint_interval': 2, 'checkpoint_keep': 3, 'checkpoint_best': 2, 'epoch_end': 3,
    'checkpoint_best_name': 'best-{step}-{valid_loss:.4f}', 'recipe': None,
}  # fmt: skip


@pytest.fixture(scope='module')
def continued(tmp_path_factory):
    """A folder in which the run has gone on to its end."""
    folder = tmp_path_factory.mktemp('older')
    shutil.copytree(DATA / 'run', folder / 'checkpoint/run')
    shutil.copytree(DATA / 'tensorboard', folder / 'log/run')
    words = flags('run', model_last_checkpoint='auto', **WORDS)
    code, text = server().run(folder, words, ['tiny'])
    assert code == 0, text
    assert 'continuing this run from epoch-1-iter-4.pth' in text
    assert 'base stage by the recipe published' in text
    assert 'crop-multiple' not in text
    return folder


@pytest.fixture(scope='module')
def tolerance(tmp_path_factory):
    """0 where this processor gives the figures of the one that the run began on, to the bit; else rounding."""
    folder = tmp_path_factory.mktemp('anew')
    anew = {**WORDS, 'checkpoint_keep': None, 'max_steps': 5, 'lr_schedule': 'constant', 'crop_multiple': 1}
    anew['recipe'] = 'published'
    code, text = server().run(folder, flags('run', **anew), ['tiny'])
    assert code == 0, text
    first, again = load(DATA / 'run/epoch-0.pth'), load(folder / 'checkpoint/run/epoch-0.pth')
    return 0.0 if all(torch.equal(first[name], again[name]) for name in first) else 1e-5


@pytest.mark.parametrize('name', ['epoch-2.pth', 'epoch-2.ema.pth', 'epoch-2.state.pth'])
def test_it_ends_as_it_would_have_ended(continued, tolerance, name):
    expected, found = (load(folder / name) for folder in (DATA / 'expected', continued / 'checkpoint/run'))
    if tolerance == 0:
        assert_same(expected, found)
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_its_curve_goes_on(continued, tolerance):
    for tag, points in json.loads((DATA / 'expected/curves.json').read_text()).items():
        found = curve('run', tag, continued / 'log')
        assert [step for step, _ in found] == [step for step, _ in points], tag
        assert [value for _, value in found] == pytest.approx([value for _, value in points], abs=tolerance, rel=0)


def test_its_table_of_curves_has_what_tensorboard_shows(continued):
    rows = table(continued / 'log/run')
    for tag in ('loss', 'valid_loss', 'learning_rate/decoder'):
        expected = [(step, pytest.approx(value, rel=1e-5)) for step, value in curve('run', tag, continued / 'log')]
        assert [(int(row['step']), float(row[tag])) for row in rows if row[tag]] == expected
    assert rows[0]['step'] == '0'


def test_its_records_pins_and_links_count(continued, tolerance):
    run = continued / 'checkpoint/run'
    records = read_records(run)
    assert {r.run for r in records} == {record(DATA / 'run', 'epoch-1-iter-4')['run']}
    assert records[-1].options['crop_multiple'] == 1  # crops of any size, as that version made them
    # The pin keeps what the newest three and the best two no longer would; the step of the signal is not kept.
    assert {r.name for r in records} == {'epoch-0', 'epoch-1-iter-5', 'epoch-1', 'epoch-2-iter-7', 'epoch-2'}
    expected = record(DATA / 'expected', 'epoch-2')['metrics']
    assert record(run, 'epoch-2')['metrics'] == pytest.approx(expected, abs=100 * tolerance, rel=0)
    best = [
        f'best-{r.step}-{r.metrics["valid_loss"]:.4f}.pth' for r in records if r.name in ('epoch-2-iter-7', 'epoch-2')
    ]
    assert [name for name in names(run) if name.startswith('best-')] == sorted(best)
    assert (run / 'best.pth').samefile(run / 'epoch-2.pth')
    assert (run / 'last.pth').samefile(run / 'epoch-2.pth')
    assert not [name for name in names(run) if 'aside' in name or name.endswith('.tmp')]


def test_other_crops_than_before_are_told(tmp_path):
    shutil.copytree(DATA / 'run', tmp_path / 'checkpoint/run')
    words = flags('run', model_last_checkpoint='auto', dry_run=True, crop_multiple=16, **WORDS)
    code, text = server().run(tmp_path, words, ['tiny'])
    assert code == 0, text
    assert 'from step 5 on: --crop-multiple 1 -> 16 (crops have other sizes)' in text


@pytest.mark.parametrize('begun', ['with_format_1', 'before_validation'])
def test_runs_of_the_first_versions_go_on(tmp_path, begun):
    run = shutil.copytree(DATA.parent / f'begun_{begun}', tmp_path / 'checkpoint/run')
    words = {'ema_decay': 0.9, 'precision': 'float32', 'log_valid_interval': 2, 'recipe': None}
    words = flags('run', model_last_checkpoint='auto', **words)
    code, text = server().run(tmp_path, words, ['tiny'])
    assert code == 0, text
    assert 'the record of epoch-1-iter-3 does not know validation: taken as now' in text
    assert 'continuing this run from epoch-1-iter-3.pth: step 4, epoch 1' in text
    records = read_records(run)
    assert [r.step for r in records] == [3, 5, 5]
    assert len({r.run for r in records}) == 1
    # What these versions gave without the stop; training has changed by rounding since.
    assert records[-1].metrics['valid_loss'] == pytest.approx(0.5089, abs=2e-4)
    assert records[-1].metrics['valid_ema_loss'] == pytest.approx(0.5097, abs=2e-4)
    assert not [name for name in names(run) if 'aside' in name or 'damaged' in name]


@pytest.mark.parametrize(
    ('asked', 'recorded', 'device', 'fast', 'expected'),
    [
        ('auto', None, 'cpu', True, torch.float32),
        ('auto', 'auto', 'cpu', True, torch.bfloat16),
        ('auto', 'auto', 'cpu', False, torch.float32),
        ('auto', 'auto', 'cuda', True, torch.bfloat16),
        ('auto', 'auto', 'cuda', False, torch.float16),
        ('auto', 'bfloat16', 'cpu', False, torch.bfloat16),
        ('auto', 'float16', 'cpu', False, torch.float32),
        ('float32', 'bfloat16', 'cpu', True, torch.float32),
    ],
)
def test_auto_keeps_the_precision_of_the_run(monkeypatch, asked, recorded, device, fast, expected):
    monkeypatch.setattr(state, 'fast_in_bfloat16', lambda _: fast)
    before = {} if recorded is None else {'precision': recorded}
    assert state.precision_of(asked, before, torch.device(device)) is expected
