"""What is said of a mirror before anything is loaded."""

import pytest
from support.runs import flags

import train_base
import train_refine
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
