"""The flags about checkpoints through the real script: when one is made, which are kept, who may write to a folder."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from support import sabotage
from support.runs import flags, load, names, record, server, wait_for

import train_base
import train_refine
import training.loop
from checkpointing.record import read_records
from common.files import Disk, digest
from model import MattingBase

RUN = Path('checkpoint/run')
AUTO = {'model_last_checkpoint': 'auto'}
# An epoch of eight steps, a checkpoint and a validation after each.
EIGHT = {'synthetic_size': 32, 'epoch_end': 1, 'checkpoint_interval': 1, 'log_valid_interval': 1}


@pytest.fixture
def tiny(in_tmp, monkeypatch):
    """The script trains a small network."""
    sabotage.tiny(monkeypatch.setattr)


def score(monkeypatch, *losses):
    """Validations give these losses, one after the other; the rehearsal comes before them."""
    given = iter([9.0, *losses])
    monkeypatch.setattr(
        training.loop, 'validate', lambda *_: {'loss': next(given), 'mse': 0.0, 'sad': 0.0}
    )  # fmt: skip


def after_step(monkeypatch, action):
    """Calls a function with the number of steps done, after each step."""
    real = training.loop._train_step

    def train_step(run, *rest):
        result = real(run, *rest)
        action(run.state.progress.step)
        return result

    monkeypatch.setattr(training.loop, '_train_step', train_step)


def steps_with(kind):
    """The steps of which the run's folder has a file of that kind."""
    return sorted({r.step for r in read_records(RUN) if r.has(RUN, kind)})


def reasons():
    return {r.name: r.reason for r in read_records(RUN)}


@pytest.mark.parametrize(
    ('interval', 'expected'),
    [
        (100, {'epoch-0-iter-2': 'minutes', 'epoch-0-iter-5': 'minutes', 'epoch-0-iter-6': 'end'}),
        (4, {'epoch-0-iter-2': 'minutes', 'epoch-0-iter-3': 'interval', 'epoch-0-iter-6': 'end'}),
        (2, {'epoch-0-iter-1': 'interval', 'epoch-0-iter-3': 'interval', 'epoch-0-iter-5': 'interval',
             'epoch-0-iter-6': 'end'}),
    ],
)  # fmt: skip
def test_checkpoint_minutes_count_from_the_last_checkpoint_of_any_kind(tiny, monkeypatch, interval, expected):
    clock, real = [0.0], time.monotonic
    monkeypatch.setattr(time, 'monotonic', lambda: real() + clock[0])
    after_step(monkeypatch, lambda step: clock.__setitem__(0, 60.0 * step))
    words = {**EIGHT, 'checkpoint_interval': interval, 'log_valid_interval': 100, 'max_steps': 7}
    assert train_base.main(flags('run', checkpoint_minutes=2.5, **words)) == 0
    assert reasons() == expected


def test_epochs_between_checkpoints(tiny):
    words = {'synthetic_size': 4, 'epoch_end': 6, 'checkpoint_interval': 100, 'log_valid_interval': 100}
    assert train_base.main(flags('run', checkpoint_epoch_interval=2, **words)) == 0
    assert reasons() == {'epoch-1': 'epoch', 'epoch-3': 'epoch', 'epoch-5': 'epoch'}
    assert train_base.main(flags('odd', checkpoint_epoch_interval=4, **words)) == 0
    assert [n for n in names('checkpoint/odd') if n.endswith('.json')] == ['epoch-3.json', 'epoch-5.json']
    assert record('checkpoint/odd', 'epoch-5')['metrics'].keys() == {
        'valid_loss', 'valid_sad', 'valid_mse', 'valid_mad', 'valid_grad', 'valid_fg_mse',
    }  # fmt: skip


def test_best_every_and_pinned_are_spared_by_keep(tiny, monkeypatch):
    words = flags('run', **EIGHT, checkpoint_keep=2, checkpoint_keep_every=3, **AUTO)
    score(monkeypatch, 0.9, 0.8)
    assert train_base.main([*words, '--max-steps', '2']) == 0
    (RUN / 'epoch-0-iter-0.pin').touch()
    (RUN / 'epoch-0-iter-77.pth').write_bytes(b'of somebody')
    score(monkeypatch, 0.7, 0.1, 0.6, 0.5, 0.4, 0.3)
    assert train_base.main(words) == 0
    # 0 is pinned, 2 and 5 end three steps, 3 is the best, 6 and 7 are the newest.
    assert steps_with('weights') == [0, 2, 3, 5, 6, 7]
    assert steps_with('state') == [0, 6, 7]
    assert (RUN / 'best.pth').samefile(RUN / 'epoch-0-iter-3.pth')
    assert (RUN / 'last.pth').samefile(RUN / 'epoch-0.pth')
    assert (RUN / 'epoch-0-iter-77.pth').read_bytes() == b'of somebody'
    assert not any(n.startswith('epoch-0-iter-1') for n in names(RUN))
    assert all(digest(RUN / r.files['weights'].name) == r.files['weights'].sha256 for r in read_records(RUN))


def test_states_of_the_newest_three(tiny):
    assert train_base.main(flags('run', **EIGHT, checkpoint_keep_states=3)) == 0
    assert steps_with('weights') == list(range(8))
    assert steps_with('state') == [5, 6, 7]


def test_the_best_two_have_links_that_follow_them(tiny, monkeypatch):
    words = flags('run', **EIGHT, checkpoint_keep=1, checkpoint_best=2, **AUTO)
    words += ['--checkpoint-best-name', 'best-{epoch:02d}-{valid_loss:.2f}']
    score(monkeypatch, 0.5, 0.4, 0.6, 0.3, 0.45)
    assert train_base.main([*words, '--max-steps', '5']) == 0
    links = [n for n in names(RUN) if n.startswith('best')]
    assert links == ['best-00-0.30.pth', 'best-00-0.40.pth', 'best.pth']
    assert steps_with('weights') == [1, 3, 4]
    score(monkeypatch, 0.2, float('nan'), 0.9)
    assert train_base.main(words) == 0
    links = [n for n in names(RUN) if n.startswith('best')]
    assert links == ['best-00-0.20.pth', 'best-00-0.30.pth', 'best.pth']
    assert (RUN / 'best-00-0.20.pth').samefile(RUN / 'epoch-0-iter-5.pth')
    assert (RUN / 'best-00-0.30.pth').samefile(RUN / 'epoch-0-iter-3.pth')
    assert (RUN / 'best.pth').samefile(RUN / 'epoch-0-iter-5.pth')
    assert not (RUN / 'epoch-0-iter-1.pth').exists()


@pytest.mark.parametrize(
    ('mode', 'expected'),
    [('min', {'epoch-0-iter-0': 'best', 'epoch-0-iter-4': 'best', 'epoch-0': 'epoch'}),
     ('max', {'epoch-0-iter-0': 'best', 'epoch-0-iter-2': 'best', 'epoch-0': 'epoch'})],
)  # fmt: skip
def test_the_best_validation_gets_a_checkpoint_that_was_not_due(tiny, monkeypatch, mode, expected):
    score(monkeypatch, 0.5, 0.5, 0.6, float('inf'), 0.4, float('nan'), 0.45, 0.55)
    words = {**EIGHT, 'checkpoint_interval': 100}
    assert train_base.main(flags('run', **words, monitor_mode=mode)) == 0
    assert reasons() == expected
    assert [r.step for r in read_records(RUN) if r.reason == 'best'] == sorted(steps_with('weights'))[:2]


def test_nothing_worse_than_the_threshold_is_called_best(tiny, monkeypatch):
    score(monkeypatch, 0.5, 0.4, 0.6, 0.35)
    words = {**EIGHT, 'checkpoint_interval': 100, 'checkpoint_epoch_interval': 100}
    assert train_base.main(flags('run', **words, monitor_threshold=0.38, max_steps=4)) == 0
    assert reasons() == {'epoch-0-iter-3': 'end'}
    score(monkeypatch, 0.5, 0.4, 0.6, 0.55)
    assert train_base.main(flags('other', **words, monitor_threshold=0.38, max_steps=4)) == 0
    assert [name for name in names('checkpoint/other') if name.startswith(('best', 'last'))] == ['last.pth']


@pytest.mark.parametrize(
    ('template', 'message'),
    [
        ('best', 'needs a field by name'), ('best-{}', 'needs a field by name'), ('{epoch', "expected '}'"),
        ('epoch-{epoch}', 'does not begin with "epoch-"'), ('.{step}', 'a dot'), ('a/{step}', 'without separators'),
        # Known only when the validation has been rehearsed.
        ('best-{valid_iou:.3f}', '{valid_iou} is not one of epoch, name, step, valid_fg_mse, valid_grad, valid_loss, '
         'valid_mad, valid_mse, valid_sad'),
        ('best-{valid_ema_loss:.3f}', '{valid_ema_loss} is not one of'),
    ],
)  # fmt: skip
def test_bad_templates_are_refused_before_anything_is_written(tiny, capsys, template, message):
    assert train_base.main(flags('run', checkpoint_best_name=template)) == 2
    err = capsys.readouterr().err
    assert f'--checkpoint-best-name {template}: ' in err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not RUN.exists()


@pytest.mark.parametrize(
    'template',
    [pytest.param('best-{epoch:q}'), pytest.param('best-{valid_loss:d}'),
     'best-{step.x}', 'best-{step[0]}'],
)  # fmt: skip
def test_templates_that_cannot_be_filled_in_are_refused(tiny, capsys, template):
    assert train_base.main(flags('run', checkpoint_best_name=template, max_steps=1)) == 2
    assert f'--checkpoint-best-name {template}: ' in capsys.readouterr().err


@pytest.fixture
def slurm(in_tmp, monkeypatch):
    """A SLURM job, whose scontrol writes down what it is asked for."""
    folder = in_tmp / 'bin'
    folder.mkdir()
    (folder / 'scontrol').write_text(
        f'#!/bin/sh\necho "$@" >> {in_tmp}/asked\ncat {in_tmp}/error >&2 && exit 1 || exit 0\n'
    )
    (folder / 'scontrol').chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    monkeypatch.setenv('SLURM_JOB_ID', '17')
    return in_tmp / 'asked'


def stop_and_requeue(monkeypatch, number=signal.SIGUSR1):
    after_step(monkeypatch, lambda step: os.kill(os.getpid(), number) if step == 2 else None)
    return train_base.main(flags('run', requeue=True, **AUTO))


def test_requeue_after_the_signal_of_the_time_limit(tiny, slurm, monkeypatch, capsys):
    assert stop_and_requeue(monkeypatch) == 138
    assert slurm.read_text() == 'requeue 17\n'
    assert 'job 17 is back in the queue' in capsys.readouterr().out
    assert train_base.main(flags('run', requeue=True, **AUTO)) == 0


def test_requeue_of_a_task_of_a_job_array(tiny, slurm, monkeypatch):
    monkeypatch.setenv('SLURM_ARRAY_JOB_ID', '12')
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '3')
    assert stop_and_requeue(monkeypatch) == 138
    assert slurm.read_text() == 'requeue 12_3\n'


def test_requeue_that_fails_says_why(tiny, slurm, monkeypatch, capsys):
    (slurm.parent / 'error').write_text('slurm_requeue error: Access denied')
    assert stop_and_requeue(monkeypatch) == 138
    assert 'job 17 could not be put back in the queue: slurm_requeue error: Access denied' in capsys.readouterr().out
    assert reasons() == {'epoch-0-iter-1': 'SIGUSR1'}


def test_no_requeue_without_a_checkpoint_nor_after_another_signal(tiny, slurm, monkeypatch, capsys):
    with monkeypatch.context() as full:
        full.setattr(Disk, 'free', lambda *_: 0)
        assert stop_and_requeue(full) == 138
    assert 'stopped by SIGUSR1 after step 1; NOT saved' in capsys.readouterr().out
    assert stop_and_requeue(monkeypatch, signal.SIGTERM) == 143
    assert reasons() == {'epoch-0-iter-1': 'SIGTERM'}
    assert not slurm.exists()


def test_requeue_needs_a_job_and_auto(tiny, capsys):
    assert train_base.main(flags('run', requeue=True)) == 2
    err = capsys.readouterr().err
    assert '--requeue: this is not a SLURM job (SLURM_JOB_ID is not set); leave the flag out' in err
    assert '--requeue: needs --model-last-checkpoint auto' in err


def test_start_weights_begin_a_run_and_are_left_alone_when_it_goes_on(in_tmp, capsys):
    torch.manual_seed(0)
    torch.save(MattingBase('mobilenetv2').state_dict(), 'base.pth')
    words = flags('run', model_start_weights='base.pth', batch_size=2, model_refine_sample_pixels=320, **AUTO)
    assert train_refine.main([*words, '--max-steps', '1']) == 0
    out = capsys.readouterr().out
    assert 'new run with weights from base.pth' in out
    assert '99.7 % of the parameters' in out
    assert train_refine.main([*words, '--max-steps', '2']) == 0
    out = capsys.readouterr().out
    assert 'continuing this run from epoch-0-iter-0.pth: step 1' in out
    assert 'base.pth' not in out


@pytest.mark.parametrize(
    ('words', 'message'),
    [({'model_start_weights': 'no.pth', **AUTO}, '--model-start-weights no.pth: no such file'),
     ({'model_start_weights': 'no.pth'}, '--model-start-weights no.pth: only with --model-last-checkpoint auto')],
)  # fmt: skip
def test_start_weights_are_checked_before(in_tmp, capsys, words, message):
    assert train_base.main(flags('run', **words)) == 2
    assert message in capsys.readouterr().err


def test_one_training_in_a_folder_at_a_time(in_tmp):
    words, tiny, impatient = flags('run', **EIGHT, **AUTO), ['tiny'], ['impatient', 0.3]
    first = server().start(in_tmp, words, tiny, ['hang_at', 3, 'hangs'])
    assert wait_for(Path('hangs').exists, first)
    before = {name: (RUN / name).stat().st_mtime_ns for name in names(RUN)}
    for more in ([], ['--model-last-checkpoint', 'checkpoint/run/last.pth']):
        code, text = server().run(in_tmp, [*words, *more], tiny, impatient)
        assert code == 2
        (line,) = [line for line in text.splitlines() if line.startswith('error')]
        assert f'another training (process {first.pid} on ' in line
        assert 'Traceback' not in text
    assert {name: (RUN / name).stat().st_mtime_ns for name in names(RUN)} == before
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    code, text = server().run(in_tmp, words, tiny, impatient)
    assert code == 0
    assert 'continuing this run from epoch-0-iter-1.pth: step 2' in text
    assert 'nothing to do' in server().run(in_tmp, words, tiny, impatient)[1]


def test_a_disk_without_room_costs_one_checkpoint(tiny, monkeypatch, capsys):
    free = iter([10**12, 3_000_000, 3_000_000])
    monkeypatch.setattr(Disk, 'free', lambda *_: next(free, 10**12))
    assert train_base.main(flags('run', **EIGHT, max_steps=4)) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if 'could not save' in line]
    assert 'could not save checkpoint/run/epoch-0-iter-1: [Errno 28] No space left on device' in line
    assert 'about 4 MB are needed, 3 MB are free; older checkpoints are untouched, training goes on' in line
    assert steps_with('weights') == [0, 2, 3]
    assert [r.step for r in read_records(RUN) if r.problem(RUN) is None] == [2, 3]
    assert load(RUN / 'epoch-0-iter-0.pth').keys() == load(RUN / 'last.pth').keys()
