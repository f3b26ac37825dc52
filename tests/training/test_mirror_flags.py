"""What is said of a mirror before anything is loaded."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from support import sabotage
from support.runs import flags, load

import checkpoints
import train_base
import train_refine
from checkpointing.content import Content
from checkpointing.manager import Checkpoints, Point
from checkpointing.mirror.keeping import Keeping
from checkpointing.record import read_records
from common import cli, signals
from common.stores import path_of
from training.settings import TrainingSettings


@pytest.mark.parametrize(
    ('changed', 'problem'),
    [
        ({'checkpoint_mirror': 's3x://bucket'}, '--checkpoint-mirror s3x://bucket: Protocol not known: s3x'),
        (
            {'checkpoint_mirror': 'checkpoint', 'checkpoint_dir': 'checkpoint'},
            '--checkpoint-mirror checkpoint: is --checkpoint-dir itself; give another folder',
        ),
        ({'mirror_grace': -1}, '--mirror-grace -1.0: must be at least 0'),
    ],
)
def test_a_useless_mirror_is_one_line(tmp_path, monkeypatch, changed, problem):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='--') as raised:
        train_base.parse(flags('run', **changed))
    assert str(raised.value) == problem


def test_records_hold_the_url_without_its_password():
    args = train_base.parse(flags('run', checkpoint_mirror='memory://user:S3cr3t@host/x'))
    settings = TrainingSettings.from_options(vars(args))
    assert settings.options['checkpoint_mirror'] == 'memory://***@host/x'
    assert settings.run.checkpoint_mirror == 'memory://user:S3cr3t@host/x'


def test_a_refine_stage_may_go_on_from_its_mirror_on_an_empty_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = flags('run', model_last_checkpoint='auto', checkpoint_mirror=tmp_path / 'store')
    with pytest.raises(ValueError, match='--model-start-weights: missing'):
        train_refine.parse(words)
    (tmp_path / 'store/run').mkdir(parents=True)
    (tmp_path / 'store/run/epoch-0.json').touch()
    train_refine.parse(words)


def test_a_url_of_no_use_hides_no_other_problem():
    words = flags('run', model_last_checkpoint='auto', checkpoint_mirror='s3x://bucket', batch_size=0)
    with pytest.raises(ValueError, match='2 problems') as raised:
        train_refine.parse(words)
    assert '--batch-size 0: must be at least 2' in str(raised.value)
    assert '--checkpoint-mirror s3x://bucket: Protocol not known' in str(raised.value)


def test_an_older_checkpoint_than_the_mirror_holds_is_refused_as_in_a_folder(in_tmp, monkeypatch, capsys):
    sabotage.tiny(monkeypatch.setattr)
    given = {'checkpoint_mirror': in_tmp / 'store', 'checkpoint_interval': 1, 'checkpoint_epoch_interval': 9}
    (in_tmp / 'store').mkdir()
    older = 'checkpoint/run/epoch-0-iter-0.pth'
    assert train_base.main(flags('run', max_steps=1, **given)) == 0
    shutil.copytree('checkpoint/run', 'of-step-0')
    assert train_base.main(flags('run', max_steps=2, **given, model_last_checkpoint=older)) == 0  # none is newer yet
    shutil.rmtree('checkpoint/run')
    shutil.copytree('of-step-0', 'checkpoint/run')
    held = {path: path.read_bytes() for path in in_tmp.rglob('*.json')}
    for more in ([], ['--dry-run']):
        capsys.readouterr()
        assert train_base.main([*flags('run', max_steps=3, **given, model_last_checkpoint=older), *more]) == 2
        assert capsys.readouterr().err == (
            f'error: --model-last-checkpoint {older}: this run has got further, to epoch-0-iter-1.pth in its mirror. '
            'Go on from there with "auto", or start a new run from these weights with another --model-name\n'
        )
    assert {path: path.read_bytes() for path in in_tmp.rglob('*.json')} == held


@pytest.mark.parametrize('flag', ['model_start_weights', 'model_last_checkpoint'])
def test_a_new_run_takes_weights_from_the_mirror_of_another(in_tmp, monkeypatch, capsys, flag):
    sabotage.tiny(monkeypatch.setattr)
    torch.manual_seed(3)
    weights = sabotage.Tiny().state_dict()
    url = f'file://{in_tmp}/store/first'
    made = Checkpoints(Path('first'), 'base', 'first', {})
    made.save({'epoch-0': 'end'}, Point(0, 0), Content(weights, {}))
    made.settle()
    (in_tmp / 'store').mkdir()
    assert checkpoints.main(['sync', 'first', url]) == 0
    given = {'model_last_checkpoint': 'auto', flag: f'{url}/last.pth', 'learning_rate_scale': 1e-9}
    capsys.readouterr()
    assert train_base.main(flags('run', max_steps=1, **given)) == 0
    assert f'new run with weights from {url}/last.pth (' in capsys.readouterr().out
    assert not path_of(f'{url}/last.pth').exists()  # once the network has them
    torch.testing.assert_close(load('checkpoint/run/last.pth')['decoder.weight'], weights['decoder.weight'])
    assert read_records(Path('checkpoint/run'))[-1].options[flag] == f'{url}/last.pth'
    assert train_base.main(flags('other', **{**given, flag: f'{url}/epoch-7.pth'})) == 2
    assert capsys.readouterr().err == f'error: {url}: holds no epoch-7.pth; there are epoch-0.pth, epoch-0.state.pth\n'
    assert train_base.main(flags('other', **{**given, flag: url})) == 2
    problem = 'a URL, but of no .pth file in the mirror of a run'
    assert capsys.readouterr().err == f'error: {cli.flag(flag)} {url}: {problem}\n'


def test_a_signal_while_a_finished_run_is_sent_is_waited_for(in_tmp, monkeypatch, capsys):
    def end(self, urgent, most):
        if not urgent():
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(urgent())
            self.close()

    sabotage.tiny(monkeypatch.setattr)
    monkeypatch.setattr(signals, 'end_at_once', lambda _: ended.append('at once'))
    (in_tmp / 'store').mkdir()
    given = {'checkpoint_mirror': in_tmp / 'store', 'max_steps': 1}
    assert train_base.main(flags('run', **given)) == 0
    monkeypatch.setattr(Keeping, 'end', end)
    ended = []
    assert train_base.main(flags('run', **given, model_last_checkpoint='auto')) == 0
    assert 'nothing to do: 1 step' in capsys.readouterr().out
    assert ended == [True]
