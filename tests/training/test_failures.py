"""An error in a training: the last whole step is saved, one line says what to do, and the run goes on from there."""

import errno
import math
import os
from types import SimpleNamespace

import pytest
import torch
from support import small_run
from support.runs import FULL, FULL_STEPS, assert_same, assert_same_curves, assert_same_run, flags, names, server, whole
from support.small_run import END, Batch, finish, make_run

import training.loop
from checkpointing.manager import Checkpoints
from checkpointing.record import read_records
from checkpointing.resume import decide
from common.signals import StopRequest
from training.distributed import Ranks
from training.failures import explain
from training.logs import Logger
from training.loop import TrainingStopped, fit
from training.meters import BadSteps, Meter
from training.progress import Display
from training.state import EMA, TrainingState

TINY = ('tiny',)
# Whatever a step calls, in the order of its calls.
BEFORE = [
    (training.loop, '_train_step'), (small_run.Batch, 'to'), (small_run.Net, 'forward'), (small_run.Loud, '__init__'),
    (torch.Tensor, 'backward'), (torch.amp.GradScaler, 'unscale_'), (training.loop, 'get_total_norm'),
    (BadSteps, 'note'),
]  # fmt: skip
# When weights, moments, loss scale or average are changed by then: step 4 is bad, and changes the loss scale first.
CHANGING = {
    (torch.amp.GradScaler, 'step'): lambda step, late: late and step != 4,
    (torch.optim.Adam, 'step'): lambda step, late: late,
    (torch.amp.GradScaler, 'update'): lambda step, late: late or step != 4,
    (torch.optim.Adam, 'zero_grad'): lambda *_: True, (EMA, 'update'): lambda *_: True,
    (torch, '_foreach_lerp_'): lambda *_: True,
}  # fmt: skip
AFTER = [
    (Ranks, 'agree'), (BadSteps, 'counts'), (BadSteps, 'look'), (Meter, 'report'), (Logger, 'scalars'),
    (Meter, 'show'), (Display, 'due'), (training.loop, '_finish_step'), (training.loop, 'validate'),
    (Checkpoints, 'standing'), (Logger, 'validation'), (training.loop, '_save'),
    (Checkpoints, 'save'), (Checkpoints, '_write'), (Checkpoints, '_commit'), (Checkpoints, 'would_be_kept'),
    (TrainingState, 'weights'), (TrainingState, 'state_dict'), (Meter, 'restart'),
]  # fmt: skip


def fail(monkeypatch, owner, name, run, step, late):
    """The first call of a function from a step on raises, before or after it has done its work."""
    real, fired = getattr(owner, name), []

    def wrapped(*arguments, **more):
        due = run.state.progress.step >= step and not fired and training_has_begun
        if due:
            fired.append(run.state.progress.step)
        if due and not late:
            raise RuntimeError('something unforeseen')
        result = real(*arguments, **more)
        if due:
            raise RuntimeError('something unforeseen')
        return result

    training_has_begun = []
    begun = training.loop._train

    def train(*arguments):
        training_has_begun.append(True)
        return begun(*arguments)

    monkeypatch.setattr(training.loop, '_train', train)
    monkeypatch.setattr(owner, name, wrapped)
    return fired


def steps_logged(run):
    """Every step is looked at, logged and validated, so that each of its functions is called."""
    run.settings = type(run.settings)(**{**vars(run.settings), 'log_train_loss_interval': 1})
    run.schedule = type(run.schedule)(
        type(run.schedule.settings)(**{**vars(run.schedule.settings), 'log_valid_interval': 2}), 100
    )
    return run


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    return finish(steps_logged(make_run(tmp_path_factory.mktemp('uninterrupted'), seed=0)))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ('step', 'late'),
    [
        pytest.param(4, False, id='at its begin'),
        pytest.param(1, False, id='at its begin in the second step', marks=SLOW),
        pytest.param(4, True, id='at its end', marks=SLOW),
    ],
)
@pytest.mark.parametrize(
    ('owner', 'name'), [*BEFORE, *CHANGING, *AFTER], ids=lambda item: getattr(item, '__name__', item)
)
def test_an_error_at_any_place_of_a_step_costs_at_most_that_step(
    tmp_path, monkeypatch, uninterrupted, owner, name, step, late
):
    run = steps_logged(make_run(tmp_path, seed=0, interval=3))
    with monkeypatch.context() as patch:
        fired = fail(patch, owner, name, run, step, late)
        with pytest.raises(TrainingStopped, match='something unforeseen') as stopped:
            finish(run)
    last, text = run.state.progress.step - 1, str(stopped.value)
    assert fired, 'the place was not reached'
    assert '\n' not in text
    if CHANGING.get((owner, name), lambda *_: False)(step, late):
        assert f'step {last} is NOT saved' in text
    else:
        assert f'step {last} is saved: go on with --model-last-checkpoint auto' in text
        assert read_records(tmp_path)[-1].step == last
    (trace,) = (tmp_path / 'log').glob('error-*.txt')
    assert 'Traceback' in trace.read_text()
    assert 'something unforeseen' in trace.read_text()

    resume = decide('auto', tmp_path, 'base', {})
    again = steps_logged(make_run(tmp_path, seed=0 if resume.record is None else 1, interval=3))
    if resume.content is not None:
        again.state.load_state_dict(resume.content.state, resume.content.weights, resume.content.ema)
        again.resumed = resume.record
    resumed = finish(again)
    assert END - 1 in resumed
    for done in resumed:
        assert_same(vars(resumed[done]), vars(uninterrupted[done]), f'step {done}')


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path, monkeypatch):
    run = make_run(tmp_path, seed=0, interval=3)

    def spoil(*arguments):
        if run.state.progress.step == 5:
            run.state.module.last.bias.data[0] = float('nan')
            raise RuntimeError('CUDA error: an illegal memory access was encountered')
        return real(*arguments)

    real = small_run.Batch.to
    monkeypatch.setattr(small_run.Batch, 'to', spoil)
    with pytest.raises(TrainingStopped, match='step 4 is NOT saved: its weights are not finite'):
        finish(run)
    assert [record.step for record in read_records(tmp_path)] == [2]


def go_on(folder, seed=1):
    """The run that goes on from the newest checkpoint in its folder."""
    run, resume = make_run(folder, seed, interval=100), decide('auto', folder, 'base', {})
    run.state.load_state_dict(resume.content.state, resume.content.weights, resume.content.ema)
    run.resumed = resume.record
    return run


def test_a_loss_scale_that_fell_to_nothing_is_not_saved_over_a_good_one(tmp_path, monkeypatch):
    run = make_run(tmp_path, seed=0, interval=3)
    real = small_run.Batch.to

    def fall(self, device):
        if self.step == 5:
            run.state.scaler._scale.fill_(2.0**-20)
        return real(self, device)

    monkeypatch.setattr(small_run.Batch, 'to', fall)
    with pytest.raises(TrainingStopped, match='NOT saved: its loss scale has fallen to nothing'):
        finish(run)
    monkeypatch.undo()
    assert END - 1 in finish(go_on(tmp_path))


def test_a_run_goes_on_after_ten_steps_without_a_finite_loss(tmp_path, monkeypatch):
    run = make_run(tmp_path, seed=0, interval=100)
    monkeypatch.setitem(small_run.LOUD, 2, float('nan'))
    monkeypatch.setattr('training.meters.BAD_STEPS_IN_A_ROW', 3)
    with pytest.raises(TrainingStopped, match='3 steps in a row without a finite loss'):
        finish(run)
    assert END - 1 in finish(go_on(tmp_path))


def test_a_run_that_fails_in_its_first_step_saves_nothing_of_another(tmp_path, monkeypatch):
    run = make_run(tmp_path, seed=0, interval=100)
    run.state.progress.step = 5  # as --epoch-start says for weights from elsewhere
    monkeypatch.setattr(small_run.Batch, 'to', lambda self, _: self if self.step == 1000 else 1 / 0)
    with pytest.raises(TrainingStopped, match='no step was done'):
        finish(run)
    assert read_records(tmp_path) == []


def test_a_save_that_fails_too_is_said_and_the_first_error_is_named(tmp_path, monkeypatch):
    run = make_run(tmp_path, seed=0, interval=100)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = small_run.Batch.to
    monkeypatch.setattr(small_run.Batch, 'to', lambda self, d: full() if self.step == 2 else real(self, d))
    monkeypatch.setattr(run.checkpoints.disk, 'create', full)
    with pytest.raises(TrainingStopped, match=r'is full.*step 1 is NOT saved: the disk would not take it'):
        finish(run)


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (RuntimeError('DataLoader worker (pid(s) 7, 8) exited unexpectedly'), 'lower --num-workers'),
        (RuntimeError('unable to write to file </torch_7_123_0>: No space left on device (28)'), '--shm-size'),
        (ConnectionResetError(104, 'Connection reset by peer'), 'a process that reads pictures was killed'),
        (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.\nMore'), 'lower --batch-size'),
        (MemoryError(), 'lower --batch-size'),
        (OSError(errno.EMFILE, 'Too many open files'), 'ulimit -n'),
        (RuntimeError('Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback\n'
                      'RuntimeError: unable to write to file </torch_7_1_0>: No space left on device (28)'),
         '(RuntimeError: unable to write'),
        (RuntimeError('Caught KeyError in DataLoader worker process 0.\nOriginal Traceback\n  File "a"\nKeyError: 7'),
         'KeyError: 7'),
        (IndexError('list index out of range'), 'IndexError: list index out of range'),
    ],
)  # fmt: skip
def test_an_error_is_explained_in_one_line(error, words):
    assert words in explain(error)
    assert '\n' not in explain(error)


def killed_worker(folder, *sabotage):
    """Kills a process that reads pictures in the fourth step, and lets the run go on; returns what was printed."""
    words = flags('cut', **FULL, model_last_checkpoint='auto')
    code, text = server().run(folder, words, *sabotage, ['kill_worker_at', 4])
    assert code == 1, text
    assert server().run(folder, words, *sabotage)[0] == 0
    return text


@SLOW
def test_a_run_whose_worker_was_killed_ends_as_the_uninterrupted_one(tmp_path):
    text = killed_worker(tmp_path, TINY)
    assert 'Traceback' not in text
    assert [line for line in text.splitlines() if 'error' in line] == [
        next(line for line in text.splitlines() if line.startswith('error: a process that reads pictures was killed'))
    ]
    assert 'is saved: go on with --model-last-checkpoint auto' in text
    expected, cut = whole(TINY), tmp_path / 'checkpoint/cut'
    extra = {f'epoch-{step // 3}-iter-{step}' for step in range(FULL_STEPS)}
    assert_same_run(expected / 'checkpoint/whole', cut, extra, {'epoch-1-iter-3'})
    assert_same_curves(expected / 'log/whole', tmp_path / 'log/cut', FULL_STEPS)
    assert any(name.startswith('error-') for name in names(tmp_path / 'log/cut'))


class Unreadable(torch.utils.data.Dataset):
    """A data set whose worker finds no library."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')


def test_a_library_that_a_worker_lacks_is_named():
    with pytest.raises(ImportError) as caught:
        next(iter(torch.utils.data.DataLoader(Unreadable(), num_workers=1)))
    said = explain(caught.value)
    assert said.startswith('libGL.so.1, a library of the system, is missing for ')
    assert said.endswith('pip install -c constraints.txt opencv-python-headless')


def mirror(ended, lost=False):
    """One that notes how its end is waited for."""

    def end(urgent, most):
        ended.append((urgent(), most))

    return SimpleNamespace(lost=lost, start=lambda _: None, behind=float, end=end)


def test_a_run_that_another_machine_has_taken_over_ends(tmp_path):
    run = make_run(tmp_path, seed=0)
    run.batches = map(Batch, range(END))
    ended = []
    run.mirror = mirror(ended, lost=True)
    with pytest.raises(TrainingStopped, match='another training has taken this run over'):
        fit(run, StopRequest())
    assert ended == [(False, math.inf)]
    assert run.state.progress.step == 1


def test_a_run_whose_last_words_fail_gives_back_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    run, ended, closed = make_run(tmp_path, seed=0), [], []
    run.batches = map(Batch, range(END))
    run.mirror = mirror(ended)

    def fail():
        raise OSError('the disk of curves is full')

    monkeypatch.setattr(run.logger, 'flush', fail)
    for part in (run.logger, run.checkpoints):
        monkeypatch.setattr(part, 'close', lambda part=part, close=part.close: (closed.append(part), close()))
    with pytest.raises(OSError, match='the disk of curves is full'):
        fit(run, StopRequest())
    assert ended == [(False, 20.0)]  # torchrun would wait no longer
    assert closed == [run.checkpoints, run.logger]
