"""checkpoints.py on small folders made by the real saving: what it says, what it refuses, what it leaves alone."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import checkpoints
import weight_files
from training.checkpoint import Checkpoints, Point
from training.content import Content
from training.disk import Disk, digest
from training.inventory import freed
from training.record import File, Record
from training.retention import Policy

ROOT = Path(__file__).parents[1]
LOSSES = {1: 0.5, 3: 0.25, 5: math.nan, 7: 0.75}
OPERATIONS = [name for name in vars(Disk) if not name.startswith('_')]


def content(step, ema=False):
    weights = {'w': torch.arange(64.0) + step, 'n': torch.tensor(step)}
    moments = {'w': {'exp_avg': torch.full((64,), 0.5), 'step': torch.tensor(1.0)}}
    state = {'format': 1, 'progress': {'step': step + 1}, 'optimizer': moments, 'scaler': {}, 'ema_updates': None}
    return Content(weights, state, {'w': weights['w'] + 100, 'n': weights['n']} if ema else None)


def make(folder, losses=None, run='run', stage='base', ema=False, **options):
    """A run saved after the steps of `losses`; options as in a record, which the saving itself does not follow."""
    made = Checkpoints(folder, stage, run, {}, Policy(), options)
    for step, loss in (losses or LOSSES).items():
        metrics = {'valid_loss': loss, **({'valid_ema_loss': -loss} if ema else {})}
        made.save({f'epoch-0-iter-{step}': 'interval'}, Point(step, 0, metrics), content(step, ema))
        assert made.settle()
    return folder


@pytest.fixture
def run(in_tmp):
    """checkpoint/run with weights of steps 1, 3, 5, 7 and the states of 5 and 7; the best is 3."""
    return make(Path('checkpoint/run'))


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != '.lock'}


def load(path):
    return torch.load(path, weights_only=True)


def call(capsys, *words):
    """Runs the script; returns its exit code, what it printed and what it complained about."""
    capsys.readouterr()
    code = checkpoints.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert 'Traceback' not in captured.err
    return code, captured.out, captured.err


def flip(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 4
    path.unlink()
    path.write_bytes(data)


def test_list_says_what_is_kept_and_why(run, capsys):
    code, out, _ = call(capsys, 'list')
    assert code == 0
    rows = [' '.join(line.split()) for line in out.splitlines()]
    assert rows[1] == 'base run run'
    assert rows[2] == 'name step epoch valid_loss size kept because verified'
    kinds = [row.partition(' kB ')[2] for row in rows[3:7]]
    assert kinds == [
        'all are kept yes', 'best, all are kept yes', *['to resume from, all are kept yes'] * 2,
    ]  # fmt: skip
    assert [row.split()[:4] for row in rows[3:7]] == [
        ['epoch-0-iter-1', '1', '0', '0.5'], ['epoch-0-iter-3', '3', '0', '0.25'],
        ['epoch-0-iter-5', '5', '0', 'nan'], ['epoch-0-iter-7', '7', '0', '0.75'],
    ]  # fmt: skip
    assert rows[7:] == ['best.pth is epoch-0-iter-3.pth', 'last.pth is epoch-0-iter-7.pth']


def test_list_follows_the_runs_own_policy(in_tmp, capsys):
    make(Path('checkpoint/run'), checkpoint_keep=1, monitor='valid_sad', checkpoint_keep_states=2)
    _, out, _ = call(capsys, 'list', '--json')
    (folder,) = json.loads(out)
    (only,) = folder['runs']
    assert (only['policy']['keep'], only['policy']['monitor']) == (1, 'valid_sad')
    why = {made['name']: (made['kept'], made['metric']) for made in only['checkpoints']}
    assert why == {
        'epoch-0-iter-1': ([], None),
        'epoch-0-iter-3': ([], None),
        'epoch-0-iter-5': (['to resume from'], None),
        'epoch-0-iter-7': (['to resume from', 'newest 1'], None),
    }
    assert 'goes when pruned' in call(capsys, 'list')[1]


def test_list_measures_each_file_once(run, capsys):
    (folder,) = json.loads(call(capsys, 'list', '--json')[1])
    own = sum(path.stat().st_size for path in run.iterdir() if path.name not in ('best.pth', 'last.pth'))
    assert folder['size'] == own
    newest = folder['runs'][0]['checkpoints'][-1]
    assert newest['size'] == sum((run / f'epoch-0-iter-7{s}').stat().st_size for s in ('.pth', '.state.pth'))
    assert folder['runs'][0]['checkpoints'][2]['metric'] is None


def test_list_sees_damage_fast_only_by_size(run, capsys):
    flip(run / 'epoch-0-iter-1.pth')
    (run / 'epoch-0-iter-5.state.pth').write_bytes(b'')
    (run / 'epoch-0-iter-7.state.pth').unlink()
    lines = {line.split()[0]: line for line in call(capsys, 'list')[1].splitlines() if 'iter' in line}
    assert 'DAMAGED: epoch-0-iter-1.pth: does not have the sha256' in lines['epoch-0-iter-1']
    assert lines['epoch-0-iter-3'].endswith('yes')
    assert 'DAMAGED: epoch-0-iter-5.state.pth: 0 bytes instead of' in lines['epoch-0-iter-5']
    assert 'DAMAGED: epoch-0-iter-7.state.pth: missing' in lines['epoch-0-iter-7']
    lines = {line.split()[0]: line for line in call(capsys, 'list', '--fast')[1].splitlines() if 'iter' in line}
    assert lines['epoch-0-iter-1'].endswith('not read')
    assert 'DAMAGED' in lines['epoch-0-iter-5']
    assert 'DAMAGED' in lines['epoch-0-iter-7']


def test_what_a_cut_deletion_has_left_is_no_damage(in_tmp, capsys):
    run = make(Path('checkpoint/run'), checkpoint_keep=1)
    (run / 'epoch-0-iter-1.pth').unlink()
    assert call(capsys, 'verify')[0] == 0
    (line,) = [line for line in call(capsys, 'list')[1].splitlines() if 'iter-1 ' in line]
    assert 'goes when pruned' in line
    assert call(capsys, 'prune', '--keep', 9)[0] == 0
    assert 'epoch-0-iter-1.json' not in names(run)
    (run / 'epoch-0-iter-7.pth').unlink()
    code, out, _ = call(capsys, 'verify')
    assert code == 1
    assert 'epoch-0-iter-7.pth: DAMAGED: missing' in out


def test_list_mentions_all_that_is_no_checkpoint(run, capsys):
    torch.save({'w': torch.zeros(3)}, run / 'mine.pth')
    (run / 'epoch-9.json').write_text('{')
    shutil.copy(run / 'epoch-0-iter-3.json', run / 'epoch-8.json')
    (run / 'epoch-4.json.damaged').write_text('x')
    (run / 'epoch-4.pth.aside').write_text('xx')
    (run / '.epoch-4.pth.run.tmp').write_text('xxx')
    (run / 'epoch-0-iter-3.pin').touch()
    (run / 'notes.txt').write_text('mine')
    shutil.copy(run / 'epoch-0-iter-1.pth', run / 'copy.pth')
    (folder,) = json.loads(call(capsys, 'list', '--json')[1])
    what = {other['name']: other['what'] for other in folder['others']}
    assert list(what) == [
        '.epoch-4.pth.run.tmp', 'epoch-4.json.damaged', 'epoch-4.pth.aside', 'epoch-8.json', 'epoch-9.json', 'mine.pth',
    ]  # fmt: skip
    assert what['mine.pth'] == 'weights without a record'
    assert what['epoch-8.json'] == 'a copy of the record of epoch-0-iter-3'
    assert 'not a checkpoint record' in what['epoch-9.json']
    assert folder['links'] == {
        'best.pth': 'epoch-0-iter-3.pth', 'copy.pth': 'epoch-0-iter-1.pth', 'last.pth': 'epoch-0-iter-7.pth',
    }  # fmt: skip
    fast = {
        other['name']: other['what'] for other in json.loads(call(capsys, 'list', '--json', '--fast')[1])[0]['others']
    }
    assert fast['copy.pth'] == 'weights without a record (or a copy; not read)'


def test_runs_and_stages_of_one_folder_are_listed_apart(in_tmp, capsys):
    folder = make(Path('checkpoint/run'), {1: 0.5})
    make(folder, {2: 0.1}, stage='refine')
    make(folder, {4: 0.2}, run='other')
    (found,) = json.loads(call(capsys, 'list', '--json')[1])
    listed = {(run['run'], run['stage']): [made['name'] for made in run['checkpoints']] for run in found['runs']}
    assert listed == {
        ('run', 'base'): ['epoch-0-iter-1'],
        ('run', 'refine'): ['epoch-0-iter-2'],
        ('other', 'base'): ['epoch-0-iter-4'],
    }
    best = [run['checkpoints'][0]['kept'][0] for run in found['runs']]
    assert best == ['best'] * 3


def test_list_of_nothing(in_tmp, capsys):
    code, _, err = call(capsys, 'list')
    assert (code, err) == (2, 'error: checkpoint: no such folder\n')
    Path('checkpoint/empty').mkdir(parents=True)
    assert call(capsys, 'list')[:2] == (0, 'no checkpoints in checkpoint\n')


def test_show_weights_with_their_record(run, capsys):
    _, out, _ = call(capsys, 'show', run / 'best.pth')
    assert 'whole, by the sha256 of its record' in out
    assert 'state_dict: an unknown network' in out
    assert '2 tensors (1 float32, 1 int64): 65 values, 0 BatchNorm statistics' in out
    assert 'weights of epoch-0-iter-3: base run run, step 3, epoch 0' in out
    assert 'reason: interval' in out
    assert 'metrics: valid_loss 0.25' in out


def test_show_a_training_state(run, capsys):
    _, out, _ = call(capsys, 'show', run / 'epoch-0-iter-7.state.pth')
    assert 'training state of format 1\n  optimizer: exp_avg, step of 1 parameters' in out
    assert "progress {'step': 8}, scaler {}" in out
    assert 'state of epoch-0-iter-7' in out


def test_show_names_tensors_that_are_not_finite(in_tmp, capsys):
    torch.save({'module.a': torch.tensor([1, math.nan, math.inf]), 'module.b': torch.ones(1)}, 'foreign.pth')
    _, out, _ = call(capsys, 'show', 'foreign.pth')
    assert "state_dict with prefix 'module.'" in out
    assert 'NOT FINITE: 2 values of a' in out
    assert 'run' not in out


def foreign(name, **options):
    torch.save({'w': torch.arange(999.0)}, name, **options)
    return Path(name)


def without_checksums(name):
    torch.serialization.set_crc32_options(False)
    try:
        return foreign(name)
    finally:
        torch.serialization.set_crc32_options(True)


def test_verify_says_how_it_knows(run, capsys):
    foreign('zip.pth')
    foreign('legacy.pth', _use_new_zipfile_serialization=False)
    without_checksums('plain.pth')
    save_file({'w': torch.ones(3)}, 'a.safetensors')
    torch.save(torch.nn.Linear(1, 1), 'pickled.pth', _use_new_zipfile_serialization=False)
    code, out, _ = call(capsys, 'verify', run, *sorted(Path().glob('*.*')))
    said = {Path(line.partition(': ')[0]).name: line.partition(': ')[2] for line in out.splitlines()[:-1]}
    own = 'whole, by the sha256 of its record'
    plain = 'readable; no checksum in this kind of file'
    assert {said[f'epoch-0-iter-{step}.pth'] for step in LOSSES} == {own}
    assert said['epoch-0-iter-7.state.pth'] == said['epoch-0-iter-5.state.pth'] == own
    assert said['zip.pth'] == "whole, by the archive's checksums"
    assert said['legacy.pth'] == said['plain.pth'] == said['a.safetensors'] == plain
    assert said['pickled.pth'].startswith('not read: holds more than tensors')
    assert (code, out.splitlines()[-1]) == (0, '11 files, 0 damaged')


@pytest.mark.parametrize(
    ('name', 'spoil', 'why'),
    [
        ('epoch-0-iter-1.pth', flip, 'does not have the sha256 of its record'),
        ('epoch-0-iter-7.state.pth', flip, 'does not have the sha256 of its record'),
        ('epoch-0-iter-3.pth', lambda path: path.write_bytes(path.read_bytes()[:-1]), 'bytes instead of'),
        ('epoch-0-iter-3.pth', Path.unlink, 'missing'),
        ('epoch-0-iter-7.state.pth', Path.unlink, 'missing'),
        ('epoch-0-iter-1.json', lambda path: path.write_bytes(path.read_bytes()[:-9]), 'not a checkpoint record'),
        ('epoch-0-iter-1.json', lambda path: flip(path, 40), 'record'),
        ('zip.pth', flip, 'does not have its checksum'),
        ('zip.pth', lambda path: path.write_bytes(path.read_bytes()[:-30]), 'a damaged archive'),
        ('zip.pth', lambda path: flip(path, 0), 'not a weight file'),
        ('zip.pth', lambda path: path.write_bytes(b''), 'not a weight file'),
        ('legacy.pth', lambda path: path.write_bytes(path.read_bytes()[:99]), 'not a weight file, or a damaged one'),
        ('a.safetensors', lambda path: path.write_bytes(path.read_bytes()[:-1]), 'not a weight file, or a damaged one'),
    ],
)
def test_verify_finds_damage(run, capsys, name, spoil, why):
    foreign(run / 'zip.pth')
    foreign(run / 'legacy.pth', _use_new_zipfile_serialization=False)
    save_file({'w': torch.ones(3)}, run / 'a.safetensors')
    assert call(capsys, 'verify')[0] == 0
    spoil(run / name)
    code, out, _ = call(capsys, 'verify')
    damaged = [line for line in out.splitlines() if 'DAMAGED' in line and line.startswith(str(run / name))]
    assert code == 1
    assert len(damaged) == 1
    assert why in damaged[0]
    if name != 'epoch-0-iter-7.state.pth' or (run / name).exists():
        assert call(capsys, 'verify', run / name)[0] == 1


def test_a_link_that_outlived_its_file_is_judged_by_itself(run, capsys):
    flip(run / 'epoch-0-iter-3.pth')
    assert call(capsys, 'verify', run / 'best.pth')[0] == 0
    assert call(capsys, 'verify', run / 'epoch-0-iter-3.pth')[0] == 1


def test_states_that_the_policy_removed_are_not_missed(run, capsys):
    assert not (run / 'epoch-0-iter-1.state.pth').exists()
    code, out, _ = call(capsys, 'verify')
    assert code == 0
    assert 'iter-1.state' not in out


def test_verify_of_a_file_that_is_not_there(run, capsys):
    code, out, err = call(capsys, 'verify', run, 'nowhere.pth')
    assert (code, out) == (2, '')
    assert 'nowhere.pth: no such file' in err


def test_diff(in_tmp, capsys):
    torch.save({'a': torch.tensor([1.0, 2]), 'b': torch.ones(4), 'n': torch.tensor(1), 'x': torch.ones(1)}, 'a.pth')
    torch.save({'a': torch.tensor([1.0, 4]), 'b': torch.tensor([1, 1, 1, -4.0]), 'n': torch.tensor(9)}, 'b.pth')
    code, out, _ = call(capsys, 'diff', 'a.pth', 'b.pth')
    assert code == 1
    rows = [line.split() for line in out.splitlines()]
    assert rows[2] == ['b', '5', '1.25', '25', '%']
    assert rows[3] == ['a', '2', '0.5', '50', '%']
    assert 'and 1 counters, such as n, by up to 8' in out
    assert 'only in a.pth: x' in out
    assert 'and 1 more (--top)' in call(capsys, 'diff', 'a.pth', 'b.pth', '--top', 1)[1]
    found = json.loads(call(capsys, 'diff', 'a.pth', 'b.pth', '--json')[1])
    assert [d['name'] for d in found['different']] == ['n', 'b', 'a']
    assert (found['equal'], found['only_first']) == (False, ['x'])


def test_diff_of_equals_and_of_nothing(run, capsys):
    code, out, _ = call(capsys, 'diff', run / 'epoch-0-iter-3.pth', run / 'best.pth')
    assert (code, out) == (0, '2 tensors in both, 0 with other values\n')
    code, _, err = call(capsys, 'diff', run / 'best.pth', 'nowhere.pth')
    assert (code, err) == (2, 'error: nowhere.pth: no such weight file\n')
    assert call(capsys, 'diff', run / 'best.pth', run / 'epoch-0-iter-7.state.pth')[0] == 2


def averaged(capsys, *words):
    code, out, err = call(capsys, 'average', *words, '-o', 'mean.pth')
    assert code == 0, err
    return load('mean.pth'), json.loads(Path('mean.provenance.json').read_text()), out


def test_average_of_files_takes_counters_from_the_newest_checkpoint(run, capsys):
    # Given in another order than they were written.
    mean, made, out = averaged(capsys, run / 'epoch-0-iter-7.pth', run / 'epoch-0-iter-1.pth', run / 'best.pth')
    assert torch.equal(mean['w'], ((3 * torch.arange(64.0).double() + 1 + 3 + 7) / 3).float())
    assert mean['n'] == 7
    assert [member['step'] for member in made['members']] == [1, 3, 7]
    assert made['members'][1]['sha256'] == digest(run / 'epoch-0-iter-3.pth')
    assert made['members'][1]['metrics'] == {'valid_loss': 0.25}
    assert (made['file'], made['sha256']) == ('mean.pth', digest(Path('mean.pth')))
    assert made['size'] == Path('mean.pth').stat().st_size
    assert made['torch'] == torch.__version__
    assert made['how'] == 'mean of 3 in float64, dtypes and counters of the last'
    assert 'wrote mean.pth' in out


def test_average_of_foreign_files_takes_the_last_as_the_newest(in_tmp, capsys):
    for name, value in (('a', 5), ('b', 3)):
        torch.save({'w': torch.tensor([float(value)]), 'n': torch.tensor(value)}, f'{name}.pth')
    mean, made, _ = averaged(capsys, 'a.pth', 'b.pth')
    assert (mean['w'].item(), mean['n'].item()) == (4, 3)
    assert 'run' not in made['members'][0]


@pytest.mark.parametrize(
    ('words', 'steps'),
    [
        (['--best', 2], [1, 3]),
        (['--best', 3], [1, 3, 7]),
        (['--last', 2], [5, 7]),
        (['--best', 2, '--ema'], [1, 7]),
        (['--last', 3, '--ema', '--run', 'checkpoint/run'], [3, 5, 7]),
    ],
)
def test_average_of_the_best_and_of_the_last(in_tmp, capsys, words, steps):
    make(Path('checkpoint/run'), ema=True)
    mean, made, _ = averaged(capsys, *words)
    assert [member['step'] for member in made['members']] == steps
    extra = 100 if '--ema' in words else 0
    assert mean['w'][0].item() == pytest.approx(sum(steps) / len(steps) + extra)
    metric = 'valid_ema_loss' if '--ema' in words else 'valid_loss'
    assert list(made['members'][0]['metrics']) == [metric]


def test_an_average_can_be_verified_and_shown(run, capsys):
    averaged(capsys, '--last', 2)
    assert call(capsys, 'verify', 'mean.pth')[1].startswith('mean.pth: whole, by the sha256 of its provenance')
    assert 'provenance: file mean.pth' in call(capsys, 'show', 'mean.pth')[1]
    flip(Path('mean.pth'))
    code, out, _ = call(capsys, 'verify', 'mean.pth')
    assert code == 1
    assert 'does not have the size and sha256 of its provenance' in out


def test_an_average_in_the_runs_folder_is_known_there(run, capsys):
    assert call(capsys, 'average', '--last', 2, '-o', run / 'mean.pth')[0] == 0
    (folder,) = json.loads(call(capsys, 'list', '--json')[1])
    assert folder['others'][0]['what'] == 'an average, with its provenance beside it'
    assert call(capsys, 'verify')[0] == 0


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'give files, or --best K, or --last K'),
        (['a.pth', '--last', 2], 'give files, or --best K, or --last K'),
        (['a.pth', 'a2.pth', '--ema'], '--run and --ema: only with --best or --last'),
        (['--best', 1], '--best 1: must be at least 2'),
        (['--best', 4], '4 checkpoints are asked for, and 3 have weights and a finite valid_loss'),
        (['--last', 5], '5 checkpoints are asked for, and 4 have weights'),
        (['--last', 2, '--ema'], '2 checkpoints are asked for, and 0 have ema'),
        (['--best', 2, '--monitor', 'valid_iou'], 'and 0 have weights and a finite valid_iou'),
        (['--last', 2, '--run', 'nowhere'], 'nowhere: no such folder'),
        (['--last', 2, '--batch-norm', 'reestimate'], '--batch-norm reestimate: needs --dataset-name'),
        (['--last', 2, '--dataset-name', 'synthetic'], 'weights of no matting network'),
        (['a.pth'], 'at least two files, not 1'),
        (['a.pth', 'nowhere.pth'], 'nowhere.pth: no such file'),
        (['a.pth', 'link.pth'], 'link.pth and a.pth are one file'),
        (['a.pth', 'other.pth'], 'other.pth is of another network than a.pth'),
        (['a.pth', 'nan.pth'], 'nan.pth has values that are not finite, in w'),
        (['a.pth', 'broken.pth'], 'broken.pth: damaged: '),
        (['a.pth', 'checkpoint/run/epoch-0-iter-7.state.pth'], 'it is the training state beside a checkpoint'),
        (
            ['checkpoint/run/best.pth', 'checkpoint/run/epoch-0-iter-1.pth'],
            'epoch-0-iter-1.pth: damaged: does not have',
        ),
    ],
)
def test_averages_that_are_refused_write_nothing(run, capsys, words, message):
    for name, state in {
        'a': {'w': torch.ones(3)}, 'a2': {'w': torch.zeros(3)}, 'other': {'v': torch.ones(3)},
        'nan': {'w': torch.full((3,), math.nan)},
    }.items():  # fmt: skip
        torch.save(state, f'{name}.pth')
    os.link('a.pth', 'link.pth')
    flip(foreign('broken.pth'))
    flip(run / 'epoch-0-iter-1.pth')
    before = names('.')
    code, _, err = call(capsys, 'average', *words, '-o', 'mean.pth')
    assert code == 2
    assert message in err
    assert names('.') == before


@pytest.mark.parametrize('command', [['average', 'a.pth', 'b.pth'], ['convert', 'a.pth']])
@pytest.mark.parametrize(
    ('out', 'message'),
    [
        ('there.pth', 'there.pth: exists; choose another name, or write over it with -y'),
        ('a.pth', 'a.pth: is one of the inputs'),
        ('folder.pth', 'folder.pth: exists; choose another name'),
        ('nowhere/out.pth', 'there is no folder nowhere'),
        ('out.bin', "the suffix '.bin' is not one of .pth, .safetensors"),
        ('checkpoint/run/epoch-7.pth', 'training uses this name in the folder of a run'),
        ('checkpoint/run/best.pth', 'best.pth: exists'),
        ('checkpoint/run/last.pth', 'last.pth: exists'),
    ],
)
def test_outputs_that_are_refused(run, capsys, command, out, message):
    for name in ('a', 'b', 'there'):
        foreign(f'{name}.pth')
    Path('folder.pth').mkdir()
    before = (contents(run), names('.'), Path('there.pth').read_bytes())
    code, _, err = call(capsys, *command, '-o', out)
    assert code == 2
    assert message in err
    if out.startswith('checkpoint'):
        assert 'training uses this name' in call(capsys, *command, '-o', out, '-y')[2]
    if out in ('a.pth', 'folder.pth'):
        assert call(capsys, *command, '-o', out, '-y')[0] == 2
    assert (contents(run), names('.'), Path('there.pth').read_bytes()) == before


def test_writing_over_takes_the_old_provenance_along(in_tmp, capsys):
    for name, value in (('a', 1.0), ('b', 3.0)):
        torch.save({'w': torch.tensor([value])}, f'{name}.pth')
    averaged(capsys, 'a.pth', 'b.pth')
    assert call(capsys, 'convert', 'a.pth', '-o', 'mean.pth', '-y')[0] == 0
    assert load('mean.pth')['w'].item() == 1
    assert not Path('mean.provenance.json').exists()
    averaged(capsys, 'a.pth', 'b.pth', '-y')
    assert call(capsys, 'convert', 'mean.pth', '-o', 'mean.safetensors')[0] == 0
    assert Path('mean.provenance.json').exists()
    before = names('.')
    code, _, err = call(capsys, 'average', 'a.pth', 'b.pth', '-o', 'mean.safetensors', '-y')
    assert code == 2
    assert 'mean.provenance.json is there and speaks of another file' in err
    assert names('.') == before


class FailingDisk(Disk):
    """Raises at the n-th file operation."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name not in OPERATIONS:
            return value

        def operation(*arguments):
            self.count += 1
            if self.count == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return value(*arguments)

        return operation


def test_a_failing_disk_leaves_the_old_file_or_the_new_one(in_tmp):
    old, new = {'w': torch.zeros(9)}, {'w': torch.ones(9)}
    counting = FailingDisk(-1)
    weight_files.write_weights(Path('out.pth'), old, {'how': 'x'}, counting)
    assert counting.count >= 8
    for at in range(1, counting.count + 2):
        weight_files.write_weights(Path('out.pth'), old)
        with pytest.raises(OSError, match='No space left') if at <= counting.count else nullcontext():
            weight_files.write_weights(Path('out.pth'), new, {'how': 'y'}, FailingDisk(at))
        assert load('out.pth')['w'].tolist() in ([0] * 9, [1] * 9)
        assert set(names('.')) <= {'out.pth', 'out.provenance.json'}


def test_the_content_is_on_the_disk_before_the_name(in_tmp):
    done = []

    class Telling(Disk):
        def fsync(self, file):
            done.append(f'fsync {Path(file.name).suffix}')
            super().fsync(file)

        def replace(self, source, target):
            done.append(f'replace {target.name}')
            super().replace(source, target)

        def fsync_folder(self, folder):
            done.append('folder')
            super().fsync_folder(folder)

    weight_files.write_weights(Path('out.pth'), {'w': torch.zeros(9)}, {'how': 'x'}, Telling())
    assert done == ['fsync .tmp', 'replace out.pth', 'folder', 'fsync .tmp', 'replace out.provenance.json', 'folder']


def test_a_disk_that_gives_back_something_else_changes_nothing(in_tmp):
    class Lying(Disk):
        def fsync(self, file):
            super().fsync(file)
            (temporary,) = Path().glob('.*.tmp')
            data = temporary.read_bytes()
            at = data.index(torch.full((9,), 3.0).numpy().tobytes())
            temporary.write_bytes(data[:at] + b'\1' + data[at + 1 :])

    weight_files.write_weights(Path('out.pth'), {'w': torch.zeros(9)})
    with pytest.raises(OSError, match='gives back something else than was written'):
        weight_files.write_weights(Path('out.pth'), {'w': torch.full((9,), 3.0)}, None, Lying())
    assert load('out.pth')['w'].sum() == 0
    assert names('.') == ['out.pth']


def test_prune_does_what_the_dry_run_says(run, capsys):
    before = names(run)
    code, said, _ = call(capsys, 'prune', run, '--keep', 1, '--dry-run')
    assert (code, names(run)) == (0, before)
    code, done, _ = call(capsys, 'prune', run, '--keep', 1)
    assert code == 0
    assert done == said.replace('would remove', 'removes')
    # 5 and 7 are there to resume from, 3 is the best.
    gone = ['epoch-0-iter-1.json', 'epoch-0-iter-1.pth']
    assert sorted(set(before) - set(names(run))) == gone
    assert [line.split()[1].rstrip(',') for line in done.splitlines()[1:3]] == gone[::-1]
    assert '2 files, ' in done
    assert call(capsys, 'verify')[0] == 0


def test_prune_by_flags_instead_of_the_runs_policy(in_tmp, capsys):
    run = make(Path('checkpoint/run'), {s: 10 - s for s in range(8)}, checkpoint_keep=6, checkpoint_keep_states=2)
    (run / 'epoch-0-iter-0.pin').touch()
    assert call(capsys, 'prune')[0] == 0
    assert [r for r in range(8) if (run / f'epoch-0-iter-{r}.pth').exists()] == [0, 2, 3, 4, 5, 6, 7]
    words = ['--keep', 1, '--best', 1, '--monitor', 'valid_loss', '--monitor-mode', 'max', '--every', 4]
    assert call(capsys, 'prune', run, *words)[0] == 0
    # 0 is pinned and has the highest loss, 3 and 7 are the first of 4 and 8 steps, 6 and 7 are there to resume from.
    assert [r for r in range(8) if (run / f'epoch-0-iter-{r}.pth').exists()] == [0, 3, 6, 7]
    assert call(capsys, 'pin', '--remove', run / 'epoch-0-iter-0.pth')[0] == 0
    assert call(capsys, 'prune', run, *words[:4])[0] == 0
    assert [r for r in range(8) if (run / f'epoch-0-iter-{r}.pth').exists()] == [6, 7]


def test_prune_where_everything_is_kept_says_so(run, capsys):
    code, out, _ = call(capsys, 'prune')
    assert code == 0
    assert 'keeps the weights of all' in out
    assert '0 files, 0 B; --keep N, --best K and --keep-states N say what to keep' in out


def test_prune_leaves_what_is_not_the_runs(run, capsys):
    foreign(run / 'epoch-0-iter-0.pth')
    (run / '.x.run.tmp').write_text('x')
    make(run, {0: 1.0, 2: 1.0}, run='other')
    others = {
        name: data
        for name, data in contents(run).items()
        if 'iter-0' in name or 'iter-2' in name or name == '.x.run.tmp'
    }
    code, out, _ = call(capsys, 'prune', run, '--keep', 1)
    assert code == 0
    assert others.items() <= contents(run).items()
    assert 'left alone: .x.run.tmp, 1 B: a temporary file' in out
    assert 'left alone: epoch-0-iter-0.pth.aside' in out
    assert [(run / f'epoch-0-iter-{step}.pth').exists() for step in (1, 3, 5, 7)] == [False, True, True, True]


@pytest.mark.parametrize('kind', ['.pth', '.state.pth'])
def test_prune_refuses_while_the_newest_is_damaged_but_not_for_other_runs(run, capsys, kind):
    make(run, {2: 0.3, 4: 0.2, 6: 0.1, 8: 0.4}, run='other')
    flip(run / f'epoch-0-iter-8{kind}')
    code, _, err = call(capsys, 'prune', run, '--keep', 1)
    assert code == 2
    assert f'run other: its newest checkpoint is damaged (epoch-0-iter-8{kind} does not have the sha256' in err
    assert [(run / f'epoch-0-iter-{step}.pth').exists() for step in (1, 2, 3, 4)] == [False, True, True, True]


def test_prune_by_an_unknown_metric_would_remove_the_best_and_is_refused(run, capsys):
    before = contents(run)
    code, _, err = call(capsys, 'prune', run, '--keep', 1, '--monitor', 'valid_sda')
    assert (code, contents(run)) == (2, before)
    assert '--monitor valid_sda: not one of valid_loss' in err


def test_prune_takes_the_links_from_what_it_removes(run, capsys):
    (run / 'best.pth').unlink()
    (run / 'best.pth').hardlink_to(run / 'epoch-0-iter-1.pth')
    assert call(capsys, 'prune', run, '--keep', 1)[0] == 0
    linked = {path.name for path in run.glob('epoch-*.pth') if path.samefile(run / 'best.pth')}
    assert linked
    assert not list(run.glob('*.aside'))


def test_prune_stays_in_its_folder(run, capsys):
    mine = foreign('mine.pth')
    record = Record.read(run / 'epoch-0-iter-1.json')
    record = replace(record, files={'weights': File('../../mine.pth', mine.stat().st_size, digest(mine))})
    (run / 'epoch-0-iter-1.json').write_bytes(record.to_bytes())
    code, out, _ = call(capsys, 'prune', '--keep', 1)
    assert code == 0
    assert 'names files outside of its folder' in out
    assert mine.exists()


def test_prune_is_refused_while_a_training_has_the_folder(run, capsys):
    hold = (
        'import sys, pathlib, training.lock; lock = training.lock.FolderLock(pathlib.Path(sys.argv[1])); lock.take(); '
        'print("held", flush=True); sys.stdin.read()'
    )
    command = [sys.executable, '-c', hold, run.resolve()]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == 'held\n'
        before = contents(run)
        code, _, err = call(capsys, 'prune', run, '--keep', 1)
        assert (code, contents(run)) == (2, before)
        assert f'another training (process {holder.pid} on' in err
        assert call(capsys, 'prune', run, '--keep', 1, '--dry-run')[0] == 0
        holder.communicate()
    assert call(capsys, 'prune', run, '--keep', 1)[0] == 0


def test_prune_asks_which_run(run, capsys):
    make(Path('checkpoint/second'))
    code, _, err = call(capsys, 'prune', '--keep', 1)
    assert code == 2
    assert 'checkpoint: which run? There are 2 (checkpoint/run, checkpoint/second); give a folder' in err
    Path('nothing').mkdir()
    assert 'nothing: holds no checkpoint with a record' in call(capsys, 'prune', 'nothing')[2]
    assert names('nothing') == []


def test_what_has_another_name_is_not_freed(in_tmp):
    for name in 'abc':
        Path(name).write_bytes(b'x' * 100)
    os.link('a', 'a2')
    os.link('b', 'b2')
    assert freed([Path('a'), Path('b'), Path('b2'), Path('c')]) == 200


def test_a_pin_keeps_weights_and_state(run, capsys):
    code, out, _ = call(capsys, 'pin', run / 'last.pth', run / 'epoch-0-iter-1.pth')
    assert (code, out) == (0, 'epoch-0-iter-7 is pinned\nepoch-0-iter-1 is pinned\n')
    assert call(capsys, 'pin', run / 'last.pth')[1] == 'epoch-0-iter-7 was pinned already\n'
    make(run, {9: 1.0, 11: 1.0})
    call(capsys, 'prune', '--keep', 1)
    left = [name for name in names(run) if name.startswith('epoch') and 'json' not in name]
    assert left == [
        'epoch-0-iter-1.pin', 'epoch-0-iter-1.pth', 'epoch-0-iter-11.pth', 'epoch-0-iter-11.state.pth',
        'epoch-0-iter-3.pth', 'epoch-0-iter-7.pin', 'epoch-0-iter-7.pth', 'epoch-0-iter-7.state.pth',
        'epoch-0-iter-9.pth', 'epoch-0-iter-9.state.pth',
    ]  # fmt: skip
    assert 'pinned' in call(capsys, 'list')[1]
    assert call(capsys, 'pin', '--remove', run / 'epoch-0-iter-1.pth')[1] == 'epoch-0-iter-1 is no longer pinned\n'
    assert call(capsys, 'pin', '--remove', run / 'epoch-0-iter-1.pth')[1] == 'epoch-0-iter-1 was not pinned\n'
    call(capsys, 'prune', '--keep', 1)
    assert not (run / 'epoch-0-iter-1.pth').exists()


def test_only_checkpoints_can_be_pinned(run, capsys):
    foreign(run / 'mine.pth')
    for path in (run / 'mine.pth', run / 'nowhere.pth'):
        code, _, err = call(capsys, 'pin', run / 'best.pth', path)
        assert code == 2
        assert f'{path}: no checkpoint with a record' in err
        assert not list(run.glob('*.pin'))


def test_links_are_known_where_there_are_no_hard_links(run, capsys):
    copy = (run / 'best.pth').read_bytes()
    (run / 'best.pth').unlink()
    (run / 'best.pth').write_bytes(copy)
    assert call(capsys, 'pin', run / 'best.pth')[1] == 'epoch-0-iter-3 is pinned\n'
    assert 'best.pth is epoch-0-iter-3.pth' in call(capsys, 'list')[1]


def test_convert_to_half_precision_safetensors_and_back(run, capsys):
    wrapped = {
        'state_dict': {'module.w': torch.tensor([1.0, 2.0**-30, 0.1]), 'module.n': torch.tensor(70000)},
        'epoch': 3,
    }
    torch.save(wrapped, 'in.pth')
    code, out, _ = call(capsys, 'convert', 'in.pth', '-o', 'out.safetensors', '--precision', 'float16')
    assert code == 0
    assert "in.pth: state_dict under 'state_dict' with prefix 'module.', an unknown network" in out
    assert 'wrote out.safetensors: 2 tensors, 1 cast to float16; read back and compared' in out
    assert 'too small for float16, now 0: 1 values, in 1 tensors such as w' in out
    with safe_open('out.safetensors', 'pt') as file:
        assert file.metadata() == {'format': 'pt'}
        assert sorted(file.keys()) == ['n', 'w']
        assert file.get_tensor('w').dtype == torch.float16
    assert call(capsys, 'convert', 'out.safetensors', '-o', 'back.pth', '--precision', 'float32')[0] == 0
    back = load('back.pth')
    assert back['w'].tolist() == [1, 0, torch.tensor(0.1).half().item()]
    assert (back['w'].dtype, back['n'].item()) == (torch.float32, 70000)
    assert zipfile.is_zipfile('back.pth')


@pytest.mark.parametrize(
    ('file', 'words', 'message'),
    [
        (
            'large.pth',
            ['--precision', 'float16'],
            '--precision float16: w: 1 values are too large for float16, up to 70000',
        ),
        ('nowhere.pth', [], 'nowhere.pth: no such file'),
        ('text.pth', [], 'text.pth: damaged: not a weight file'),
        ('broken.pth', [], 'broken.pth: damaged: '),
        ('checkpoint/run/epoch-0-iter-1.pth', [], 'damaged: does not have the sha256 of its record'),
        ('checkpoint/run/epoch-0-iter-7.state.pth', [], 'it is the training state'),
    ],
)
def test_what_cannot_be_converted_writes_nothing(run, capsys, file, words, message):
    torch.save({'w': torch.tensor([7e4, 1])}, 'large.pth')
    Path('text.pth').write_text('text')
    flip(foreign('broken.pth'))
    flip(run / 'epoch-0-iter-1.pth')
    before = names('.')
    code, _, err = call(capsys, 'convert', file, '-o', 'out.pth', *words)
    assert code == 2
    assert message in err
    assert names('.') == before


@pytest.mark.parametrize(
    'words', [['prune', '--keep-states', 1], ['prune', '--keep', 0], ['diff', 'a', 'b', '--top', 0]]
)
def test_numbers_are_checked_first(in_tmp, capsys, words):
    code, _, err = call(capsys, *words)
    assert code == 2
    assert 'must be at least' in err


def test_records_are_never_changed(run, capsys):
    before = contents(run)
    for words in (['list'], ['verify'], ['show', run / 'best.pth'], ['average', '--last', 2, '-o', 'mean.pth']):
        assert call(capsys, *words)[0] == 0
    assert contents(run) == before
    assert Record.read(run / 'epoch-0-iter-7.json').problem(run) is None


def test_help_and_list_do_without_torch(run):
    start = time.perf_counter()
    out = subprocess.run(
        [sys.executable, ROOT / 'checkpoints.py', '--help'], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 5
    assert 'convert' in out.stdout
    probe = 'import sys, checkpoints; sys.exit(checkpoints.main(sys.argv[1:]) or "torch" in sys.modules)'
    for words in (['list'], ['verify'], ['prune'], ['pin', run / 'best.pth']):
        command = [sys.executable, '-c', probe, *words]
        subprocess.run(command, env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True, capture_output=True)
