"""A dry run does what a run does, once, says what the whole run will take, and leaves no trace."""

import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import sabotage
from support.runs import flags, record

import train_base
import training.dry_run
from checkpointing.record import read_records
from common.files import Disk
from training.distributed import Ranks
from training.dry_run import Trial
from training.settings import TrainingSettings

RUN = Path('checkpoint/run')
AUTO = {'model_last_checkpoint': 'auto'}


@pytest.fixture
def tiny(in_tmp, monkeypatch):
    """The script trains a small network; temporary files go to a folder of their own, of a short path."""
    sabotage.tiny(monkeypatch.setattr)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, 'tempdir', folder)
        yield in_tmp
        assert os.listdir(folder) == []


def tree(folder='.'):
    """All that lies in a folder, with content, inode and time of every file."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(Path(folder).rglob('*'))
    }


def test_nothing_of_it_stays(tiny, capsys):
    assert train_base.main(flags('run', dry_run=True, max_steps=5, ema_decay=0.9, num_workers=1)) == 0
    out = capsys.readouterr().out
    assert 'new run with new weights' in out
    assert 'dry run: a step, a validation and a checkpoint are done, and nothing of them stays' in out
    assert '  whole run    5 steps with validation after 2 of them: about ' in out
    assert '  checkpoints  4, of which the weights of 4 and the training state of 2 stay: ' in out
    assert list(tiny.iterdir()) == []


def test_a_run_that_goes_on_is_neither_locked_nor_touched(tiny, capsys):
    assert train_base.main(flags('run', max_steps=4)) == 0
    before, log = tree(), capsys.readouterr().out
    assert 'saved' in log
    assert train_base.main(flags('run', dry_run=True, **AUTO)) == 0
    out = capsys.readouterr().out
    assert 'continuing this run from epoch-1-iter-3.pth: step 4, epoch 1, 100.0 % of the parameters' in out
    assert 'whole run    2 steps' in out
    assert tree() == before
    assert train_base.main(flags('run', dry_run=True, max_steps=4, **AUTO)) == 0
    assert 'dry run: nothing to do, 4 steps are done' in capsys.readouterr().out
    assert tree() == before


def test_it_refuses_what_the_run_would_refuse(tiny, capsys):
    assert train_base.main(flags('run', max_steps=4)) == 0
    before = tree()
    for changed, message in (
        ({**AUTO, 'seed': 1}, 'seed: 0 in the checkpoint, 1 now'),
        ({}, 'already holds epoch-0-iter-1.pth of another run'),
        ({**AUTO, 'monitor': 'iou'}, '--monitor valid_iou'),
    ):
        assert train_base.main(flags('run', dry_run=True, **changed)) == 2
        assert message in capsys.readouterr().err
    assert tree() == before


def test_a_damaged_checkpoint_is_passed_over_and_not_set_aside(tiny, capsys):
    assert train_base.main(flags('run', max_steps=4)) == 0
    (RUN / 'epoch-1-iter-3.pth').write_bytes(b'damaged')
    before = tree()
    assert train_base.main(flags('run', dry_run=True, **AUTO)) == 0
    assert 'continuing this run from epoch-0.pth: step 3' in capsys.readouterr().out
    assert tree() == before


def test_a_save_that_fails_ends_it_with_one_line(tiny, capsys, monkeypatch):
    def full(self, path):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Disk, 'create', full)
    assert train_base.main(flags('run', dry_run=True)) == 2
    assert capsys.readouterr().err == 'error: dry run: the checkpoint could not be saved\n'


@pytest.mark.parametrize(
    ('place', 'name'), [('rehearse', 'SIGINT'), ('_train_step', 'SIGTERM'), ('_save', 'SIGINT'), ('_save', 'SIGUSR1')]
)
def test_a_signal_ends_it_in_one_line_without_a_trace(tiny, capfd, monkeypatch, place, name):
    real = getattr(training.dry_run, place)

    def stop(*arguments, **more):
        result = real(*arguments, **more)
        signal.raise_signal(signal.Signals[name])
        return result

    monkeypatch.setattr(training.dry_run, place, stop)
    assert train_base.main(flags('run', dry_run=True)) == 128 + signal.Signals[name]
    assert capfd.readouterr().err == f'stopped by {name}; nothing of the dry run stays\n'
    assert list(tiny.iterdir()) == []


def test_the_largest_crop_is_tried_twice(tiny, monkeypatch):
    real, seen, runs = training.dry_run._train_step, [], []

    def step(run, batches, *rest):
        batches = list(batches)
        seen.append([tuple(batch.mattes.shape[1:3]) for batch in batches])
        runs.append(run)
        return real(run, iter(batches), *rest)

    monkeypatch.setattr(training.dry_run, '_train_step', step)
    assert train_base.main(flags('run', dry_run=True, accumulate=2, max_steps=3, epoch_end=9, batch_size=2)) == 0
    crops = [runs[0].batches.plan.crop(step) for step in range(3)]
    largest = max(crops, key=lambda crop: crop[0] * crop[1])
    assert seen == [[largest, largest]] * 2


@pytest.mark.parametrize(
    ('workers', 'a_step', 'whole'),
    # Half of the largest crop is the mean. Pictures are read beside the step, or before it where nobody else does.
    [(4, '2.5 s on average', '2 min'), (2, '5 s on average', '4 min'), (0, '12.5 s on average', '11 min')],
)
def test_times_follow_from_the_trial(tiny, capsys, monkeypatch, workers, a_step, whole):
    trial = Trial((60, 62), 0.5, 0.7, {'weights': 10**9, 'state': 2 * 10**9}, 20.0, 5.0, 8.0, 1.0, 3e9)
    monkeypatch.setattr(training.dry_run, '_try', lambda run: trial)
    monkeypatch.setattr(Disk, 'free', lambda self, folder: 50 * 10**9)
    words = {'num_workers': workers, 'synthetic_size': 200, 'epoch_end': 1, 'checkpoint_interval': 10}
    assert train_base.main(flags('run', dry_run=True, checkpoint_keep=1, **words)) == 0
    out = capsys.readouterr().out
    assert (
        f'a step       {a_step}; at the largest crop, 62 x 60, 5 s to compute and {20 / max(1, workers):.3g} s' in out
    )
    assert (
        f'memory       3.00 GB{f", beside {workers} processes that read pictures" if workers else ""}, at that' in out
    )
    # 50 steps, a validation of 8 s, saves of 1 s after 10, 20, 30, 40 and 50; states of the newest two and the best.
    assert (
        'checkpoints  5, of which the weights of 2 and the training state of 2 stay: 6.00 GB; 50.00 GB are free' in out
    )
    assert f'whole run    50 steps with validation after 1 of them: about {whole}' in out


@pytest.mark.parametrize(('changed', 'seconds'), [({}, 1), ({'ema_decay': 0.9}, 2), ({'valid_samples': 10}, 1.5)])
def test_a_validation_takes_as_long_as_its_batches(tiny, monkeypatch, changed, seconds):
    trials = []
    monkeypatch.setattr(training.dry_run, '_timed', lambda ranks, work: (work(), 1.0))
    monkeypatch.setattr(training.dry_run, '_tell', lambda run, start, trial, directory: trials.append(trial))
    assert train_base.main(flags('run', dry_run=True, **changed)) == 0
    assert (trials[0].validating, trials[0].computing) == (seconds, 1.0)


def test_too_small_a_disk_is_said(tiny, capsys, monkeypatch):
    trial = Trial((60, 62), 0.5, 0.7, {'weights': 10**9}, 1.0, 1.0, 1.0, 1.0, 3e9)
    monkeypatch.setattr(training.dry_run, '_try', lambda run: trial)
    monkeypatch.setattr(Disk, 'free', lambda self, folder: 10**9)
    assert train_base.main(flags('run', dry_run=True)) == 0
    assert ': 4.00 GB; 1.00 GB are free, which is TOO LITTLE\n' in capsys.readouterr().out


def test_of_a_gpu_its_own_memory_is_told(tiny, capsys, monkeypatch):
    gpu = Ranks(torch.device('cuda'))
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda _: SimpleNamespace(total_memory=80 * 10**9))
    trial = Trial((60, 62), 0.5, 0.7, {}, 1.0, 1.0, 1.0, 1.0, 11e9)
    monkeypatch.setattr(training.dry_run, '_try', lambda run: trial)
    real = training.dry_run._tell
    monkeypatch.setattr(training.dry_run, '_tell', lambda run, *rest: real(replace(run, ranks=gpu), *rest))
    assert train_base.main(flags('run', dry_run=True)) == 0
    assert 'memory       11.00 GB of 80.00 GB, at that crop' in capsys.readouterr().out


@pytest.mark.parametrize('changed', [
    {}, {'checkpoint_keep': 2, 'checkpoint_best': 2}, {'checkpoint_keep': 1, 'checkpoint_keep_every': 3},
    {'checkpoint_keep': 1, 'checkpoint_keep_states': 3, 'log_valid_interval': 2, 'monitor_mode': 'max'},
])  # fmt: skip
def test_the_checkpoints_it_counts_are_those_that_stay_at_worst(tiny, monkeypatch, changed):
    words = flags(
        'run', **{'synthetic_size': 32, 'epoch_end': 1, 'checkpoint_interval': 1, 'log_valid_interval': 1, **changed}
    )
    scores = iter(range(100))
    sign = -1 if 'monitor_mode' in changed else 1
    monkeypatch.setattr('training.loop.validate', lambda *_: {'loss': sign * float(next(scores))})
    counted = []
    real = training.dry_run.kept_files
    monkeypatch.setattr(training.dry_run, 'kept_files', lambda *args: counted.append(real(*args)) or counted[-1])
    assert train_base.main([*words, '--dry-run']) == 0
    assert train_base.main(words) == 0
    there = {kind: len({r.step for r in read_records(RUN) if r.has(RUN, kind)}) for kind in ('weights', 'state')}
    assert {kind: counted[0][kind] for kind in there} == there


def test_the_flag_is_not_one_of_the_runs_identity(tiny):
    settings = TrainingSettings.from_options(vars(train_base.parse(flags('run', dry_run=True))))
    assert settings.run.dry_run
    assert train_base.main(flags('run', max_steps=1)) == 0
    assert torch.load(RUN / 'last.pth', weights_only=True)
    assert record(RUN, 'epoch-0-iter-0')['options']['dry_run'] is False
