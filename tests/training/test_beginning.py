"""How a run begins: which weights it takes, where it writes, who reads its pictures; said, or refused early."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from support import sabotage
from support.runs import ROOT, flags, load, names

import model.pretrained
import train_base
import train_refine
from checkpointing.record import read_records
from dataset import loaders
from model.weights import LoadReport
from training.data import open_data
from training.distributed import Ranks
from training.options import from_scratch_problems
from training.settings import TrainingSettings

AUTO = {'model_last_checkpoint': 'auto'}


@pytest.fixture
def pretrained(in_tmp, monkeypatch):
    """The script trains a small network, of which pretrained weights are all 0.5; returns which were read."""
    sabotage.tiny(monkeypatch.setattr)
    read = []

    def initialize(network, weights):
        read.append(weights if isinstance(weights, str) else weights.path.name)
        network.load_state_dict({name: torch.full_like(t, 0.5) for name, t in network.state_dict().items()})
        return LoadReport(f'the weights of {read[-1]}', 5, 7, 71.0, (), (), ())

    monkeypatch.setattr(model.pretrained, 'initialize', initialize)
    torch.save({'weight': torch.zeros(1)}, 'pretrained.pth')
    return read


@pytest.mark.parametrize('source', ['imagenet', 'pretrained.pth'])
def test_pretrained_weights_begin_a_run_and_are_not_read_when_it_goes_on(pretrained, capsys, source):
    words = {'model_pretrain_initialization': source, 'learning_rate_scale': 1e-9, 'ema_decay': 0.999, **AUTO}
    assert train_base.main(flags('run', max_steps=1, **words)) == 0
    begin = 'new run with pretrained weights from the weights of'
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if 'weights from' in line] == [
        f'{begin} {source}: 5 of 7 tensors, 71.0 % of the parameters'
    ]
    assert pretrained == [source]
    for kind in ('', '.ema'):
        weights = load(f'checkpoint/run/epoch-0-iter-0{kind}.pth')
        torch.testing.assert_close(weights['decoder.weight'], torch.full((37, 8, 3, 3), 0.5))
    assert train_base.main(flags('run', max_steps=2, **words)) == 0
    assert pretrained == [source]
    assert 'pretrained' not in capsys.readouterr().out


def test_pretrained_weights_are_not_read_where_others_are_taken(pretrained, capsys):
    torch.manual_seed(3)
    state = sabotage.Tiny().state_dict()
    torch.save(state, 'other.pth')
    words = {'model_pretrain_initialization': 'imagenet', 'learning_rate_scale': 1e-9, 'ema_decay': 0.9}
    assert train_base.main(flags('run', max_steps=1, model_last_checkpoint='other.pth', **words)) == 0
    assert pretrained == []
    assert 'new run with weights from other.pth' in (out := capsys.readouterr().out)
    assert 'pretrained' not in out
    # The average begins with them, too.
    for kind in ('', '.ema'):
        weights = load(f'checkpoint/run/epoch-0-iter-0{kind}.pth')
        torch.testing.assert_close(weights['decoder.weight'], state['decoder.weight'])


def test_a_newer_checkpoint_of_another_disk_ends_the_start_before_weights_are_read(pretrained, monkeypatch, capsys):
    monkeypatch.setattr(Ranks, 'gather', lambda _, value: [value, (3, 'b')] if isinstance(value[0], int) else [value])
    assert train_base.main(flags('run', **AUTO, model_pretrain_initialization='imagenet')) == 2
    assert 'run on b holds step 3, and the first rank knows of no checkpoint' in capsys.readouterr().err
    assert pretrained == []


MISSING = (
    'the refine stage begins with the weights of a base checkpoint, such as checkpoint/base/best.pth, or with '
    '"starter"; --from-scratch begins without, and learns far worse\n'
)


def without_torch(script, words, folder):
    """Runs a script in a process; returns its exit code, what it printed to stderr, and whether it imported torch."""
    code = f'import sys, {script}\ncode = {script}.main({words!r})\nprint("torch" in sys.modules)\nsys.exit(code)'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, done.stdout == 'True\n'


def test_refine_without_weights_is_refused_before_anything_is_imported(in_tmp):
    found = without_torch('train_refine', flags('run'), in_tmp)
    assert found == (2, f'error: --model-last-checkpoint: missing; {MISSING}', False)
    why = f'--model-start-weights: missing; checkpoint/run holds nothing to go on from, and {MISSING}'
    assert without_torch('train_refine', flags('run', **AUTO), in_tmp) == (2, f'error: {why}', False)
    assert list(in_tmp.iterdir()) == []


def test_refine_from_scratch_is_asked_for_and_goes_on(in_tmp, capsys):
    words = flags('run', batch_size=2, model_refine_sample_pixels=320, max_steps=1, valid_samples=1)
    assert train_refine.main([*words, '--from-scratch']) == 0
    assert 'new run with new weights' in capsys.readouterr().out
    words[words.index('--max-steps') + 1] = '2'
    assert train_refine.main([*words, '--model-last-checkpoint', 'auto']) == 0
    assert 'continuing this run from epoch-0-iter-0.pth' in capsys.readouterr().out
    assert [record.step for record in read_records(Path('checkpoint/run'))] == [0, 1]


@pytest.mark.parametrize(
    ('changed', 'problem'),
    [
        ({'model_last_checkpoint': 'base.pth'}, None),
        ({'model_last_checkpoint': 'must'}, None),
        ({**AUTO, 'model_start_weights': 'base.pth'}, None),
        ({'from_scratch': True}, None),
        ({'from_scratch': True, **AUTO}, None),
        (AUTO, 'base has only a run of the base stage'),
        (
            {'model_last_checkpoint': 'base.pth', 'from_scratch': True},
            '--from-scratch: not together with --model-last-',
        ),
        (
            {'model_start_weights': 'base.pth', 'from_scratch': True, **AUTO},
            'together with --model-start-weights base.pth',
        ),
    ],
)
def test_what_the_refine_stage_may_begin_with(run, monkeypatch, changed, problem):
    monkeypatch.setattr(train_refine.cli, 'raise_problems', lambda problems: None)
    args = train_refine.parse(flags('run', **changed))
    found = from_scratch_problems(args)
    assert bool(found) == (problem is not None)
    if changed is not AUTO and found:
        assert problem in found[0]
    # A record that cannot be read is an error of its own.
    (run / 'epoch-7.json').write_text('{')
    (run / 'epoch-7.pth').touch()
    assert from_scratch_problems(train_refine.parse(flags('run', **AUTO))) == []


@pytest.mark.parametrize('flag', ['checkpoint-dir', 'log-dir'])
@pytest.mark.parametrize(
    ('folder', 'problem'),
    [
        ('file/deep/er', '{0} is a file, not a folder'),
        ('link/deep', '{0} is a link to a folder that is not there'),
        ('/proc/mine', 'nothing can be written to /proc (No such file or directory)'),
        ('n' * 300, 'nothing can be written to {1}/run (File name too long)'),
        ('taken', '{0}/run is a file, not a folder'),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_refused_with_its_flag(in_tmp, capsys, flag, folder, problem):
    if folder == '/proc/mine' and not Path('/proc/self').exists():
        pytest.skip('this system has no /proc')
    Path('file').touch()
    Path('link').symlink_to('nowhere')
    Path('taken').mkdir()
    Path('taken/run').touch()
    before = sorted(in_tmp.rglob('*'))
    assert train_base.main([*flags('run'), f'--{flag}', folder]) == 2
    expected = problem.format(in_tmp / folder.split('/')[0] if '/' in folder else folder, folder)
    assert capsys.readouterr().err == f'error: --{flag} {folder}: {expected}\n'
    assert sorted(in_tmp.rglob('*')) == before


def test_folders_are_looked_at_before_anything_is_imported(in_tmp):
    Path('file').touch()
    words = [*flags('run'), '--log-dir', 'file', '--checkpoint-dir', 'file']
    code, text, imported = without_torch('train_base', words, in_tmp)
    assert (code, imported) == (2, False)
    for flag in ('--checkpoint-dir', '--log-dir'):
        assert f'{flag} file: {in_tmp / "file"} is a file, not a folder\n' in text


def test_other_ranks_do_not_look_at_folders_that_the_first_one_writes_to(in_tmp, monkeypatch):
    Path('file').touch()
    monkeypatch.setenv('RANK', '1')
    train_base.parse([*flags('run'), '--log-dir', 'file'])


def test_folders_that_can_be_made_are_not_made_by_looking(in_tmp):
    train_base.parse([*flags('run'), '--log-dir', 'a/b', '--checkpoint-dir', 'c'])
    assert names(in_tmp) == []


def test_a_temporary_folder_in_which_loader_processes_would_wait_for_ever_is_refused(in_tmp, monkeypatch):
    for length, workers, message in (
        (71, 1, 'set TMPDIR=/tmp'),
        (71, None, 'set TMPDIR=/tmp'),
        (71, 0, ''),
        (70, 1, ''),
    ):
        monkeypatch.setattr(tempfile, 'tempdir', '/' + 't' * (length - 1))
        words = flags('run', num_workers=workers)
        if message:
            with pytest.raises(ValueError, match=message):
                train_base.parse(words)
        else:
            train_base.parse(words)


@pytest.mark.parametrize(('asked', 'found'), [(40, 40), (3, 3), (0, 0), (None, 6)])
def test_each_rank_has_as_many_workers_as_were_asked_for(in_tmp, monkeypatch, asked, found):
    monkeypatch.setattr(loaders, 'cores', lambda: 24)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    settings = TrainingSettings.from_options(vars(train_base.parse(flags('run', num_workers=asked, valid_samples=8))))
    ranks = Ranks(torch.device('cpu'), 0, 2)
    data = open_data(settings.data, ranks, (0.4, 1), 1)
    assert data.training_batches(ranks, 0, 1).loader.num_workers == found
    assert data.validation_batches(ranks).loader.num_workers == found


@pytest.mark.parametrize(('cores', 'world', 'workers'), [(64, 1, 16), (24, 4, 6), (2, 4, 1)])
def test_workers_suit_the_cores_of_a_rank(monkeypatch, cores, world, workers):
    monkeypatch.setattr(loaders, 'cores', lambda: cores)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(world))
    assert loaders.default_workers() == workers
