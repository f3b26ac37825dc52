"""checkpoints.py list, show, verify and diff: what they say, and that they change nothing."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.checkpoint_folders import LOSSES, ROOT, call, flip, foreign, make, names, without_checksums

from checkpointing.inventory import freed, runs, size_on_disk
from checkpointing.record import _sealed


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


def test_copies_count_each_where_there_are_no_hard_links(run, monkeypatch):
    paths = [run / 'epoch-0-iter-1.pth', run / 'copy.pth']
    shutil.copy(*paths)
    size = 2 * paths[0].stat().st_size
    assert (size_on_disk(paths), freed(paths)) == (size, size)
    # Such file systems may give all files one number.
    real = os.stat

    def numbered(path, **more):
        found = list(real(path, **more))
        found[1] = 0
        return os.stat_result(found)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'stat', numbered)
        assert (size_on_disk(paths), freed(paths)) == (size, size)


def test_runs_are_listed_in_the_order_of_instants(in_tmp, monkeypatch):
    folder = Path('checkpoint/shared')
    # The second wrote at 03:45 UTC.
    for run, written in (('early', '2026-10-25T03:30:00+0000'), ('late', '2026-10-24T23:45:00-0400')):
        monkeypatch.setattr(time, 'strftime', lambda _, text=written: text)
        make(folder, {1 if run == 'early' else 3: 0.5}, run=run)
    assert [found.run for found in runs(folder)] == ['early', 'late']


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
    (run / 'epoch-9.pth').write_bytes(b'its weights')
    (run / 'epoch-5.json').write_text('notes')
    (run / 'epoch-notes.json').write_text('{')
    (run / 'epoch-6.json').write_text('{"loss": 0.5}')
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
        '.epoch-4.pth.run.tmp', 'epoch-4.json.damaged', 'epoch-4.pth.aside', 'epoch-8.json', 'epoch-9.json',
        'epoch-9.pth', 'mine.pth',
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


def test_what_was_never_a_record_or_is_one_of_another_version_is_no_damage(run, capsys):
    newer = run / 'epoch-9.json'
    record = json.loads((run / 'epoch-0-iter-3.json').read_text())
    del record['sha256']
    newer.write_bytes(_sealed({**record, 'format': 3}))
    (run / 'epoch-notes.json').write_text('{')
    code, out, _ = call(capsys, 'verify', newer, run / 'epoch-notes.json', run)
    assert (code, 'DAMAGED' in out) == (0, False)
    assert 'a record of format 3, of another version of the toolkit' in out
    assert 'epoch-9.json' in call(capsys, 'list')[1]


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


UNUSUAL = {
    'float32 meta': lambda tensor: tensor.to('meta'),
    'qint8 quantized': lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    'float32 sparse_coo': torch.Tensor.to_sparse,
    'float32 sparse_csr': torch.Tensor.to_sparse_csr,
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', UNUSUAL)
def test_unusual_tensors_are_shown_and_not_computed_with(in_tmp, capsys, kind):
    odd = {'odd': UNUSUAL[kind](torch.ones(4, 4)), 'plain': torch.tensor([math.nan])}
    torch.save(odd, 'odd.pth')
    torch.save({'optimizer': {}, 'rest': odd}, 'odd.state.pth')
    for file in ('odd.pth', 'odd.state.pth'):
        code, out, _ = call(capsys, 'show', file)
        assert code == 0
        assert f'2 tensors (1 {kind}, 1 float32): 17 values' in out
        assert out.count('NOT FINITE: 1 values of ') == 1
    for words in (('convert', 'odd.pth', '-o', 'o.pth'), ('convert', 'odd.pth', '-o', 'o.safetensors'),
                  ('diff', 'odd.pth', 'odd.pth'), ('average', 'odd.pth', foreign('o.pth'), '-o', 'x.pth')):  # fmt: skip
        code, _, err = call(capsys, *words, *(['-y'] if '-o' in words else []))
        assert (code, err.count('\n')) == (2, 1)
        assert f'odd ({kind.split()[1]})' in err


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
    assert (code, err) == (2, 'error: nowhere.pth: no such file\n')
    assert call(capsys, 'diff', run / 'best.pth', run / 'epoch-0-iter-7.state.pth')[0] == 2


@pytest.mark.parametrize('words', [['show'], ['diff', 'best.pth'], ['convert', '-o', 'new.pth']])
def test_a_folder_is_not_a_damaged_file(run, capsys, words):
    code, out, err = call(capsys, words[0], run, *words[1:])
    assert (code, out) == (2, '')
    assert f'{run}: a folder, not a file; give a file in it, such as {run / "best.pth"}' in err


def test_links_are_known_where_there_are_no_hard_links(run, capsys):
    copy = (run / 'best.pth').read_bytes()
    (run / 'best.pth').unlink()
    (run / 'best.pth').write_bytes(copy)
    assert call(capsys, 'pin', run / 'best.pth')[1] == 'epoch-0-iter-3 is pinned\n'
    assert 'best.pth is epoch-0-iter-3.pth' in call(capsys, 'list')[1]


def test_a_stop_leaves_time_to_remove_what_is_unfinished(in_tmp):
    # As the script and not as its `main`: until that, Ctrl-C ends it without a word.
    code = (
        'import os, runpy, signal, sys\n'
        'from checkpointing import cli\n'
        'def parse(*_):\n'
        '    try:\n'
        '        os.kill(os.getpid(), signal.SIGINT)\n'
        '    finally:\n'
        '        print("cleaned up")\n'
        'cli.parse = parse\n'
        f'runpy.run_path({str(ROOT / "checkpoints.py")!r}, run_name="__main__")\n'
    )
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, 'cleaned up\n')
    assert done.stderr == 'stopped: files are written whole or not at all\n'
