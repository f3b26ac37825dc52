"""checkpoints.py prune and pin: what they take, what they leave alone, what they refuse; and rules for all commands."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoint_folders import ROOT, call, contents, flip, foreign, make, names

from checkpointing.inventory import freed
from checkpointing.record import File, Record
from common.files import digest


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


def test_prune_removes_what_was_set_aside_of_the_run_itself(run, capsys):
    own, other = run / 'epoch-0-iter-3.pth.aside', run / 'epoch-0-iter-9.pth.aside'
    own.write_bytes((run / 'epoch-0-iter-3.pth').read_bytes())
    foreign(other)
    assert f'would remove {own.name}' in call(capsys, 'prune', run, '--dry-run')[1]
    code, out, _ = call(capsys, 'prune', run)
    assert (code, own.exists(), other.exists()) == (0, False, True)
    assert f'left alone: {other.name}' in out


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
    for given in (('--keep', 9), ('--best', 9), ('--every', 1), ('--keep-states', 9)):
        assert call(capsys, 'prune', *given)[1].splitlines()[-1] == '  0 files, 0 B'


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
    assert '--monitor sda: not one of loss' in err


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
        'import sys, pathlib, checkpointing.lock as l; lock = l.FolderLock(pathlib.Path(sys.argv[1])); lock.take(); '
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


def test_looking_and_marking_do_without_torch(run):
    probe = 'import sys, checkpoints; sys.exit(checkpoints.main(sys.argv[1:]) or "torch" in sys.modules)'
    for words in (['list'], ['verify'], ['prune'], ['pin', run / 'best.pth']):
        command = [sys.executable, '-c', probe, *words]
        subprocess.run(command, env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True, capture_output=True)
