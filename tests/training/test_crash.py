"""kill -9 and signals at random moments of real training: the run goes on, and ends as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from collections import Counter

import pytest
from support.runs import (
    FULL,
    FULL_STEPS,
    assert_same_curves,
    assert_same_run,
    curve,
    flags,
    names,
    phase,
    record,
    server,
    temporaries,
    wait_for,
    whole,
)

AUTO = {'model_last_checkpoint': 'auto'}
PHASES = ('start-up', 'training', 'validation', 'saving')
CHECKPOINTS = 'checkpointing.manager:Checkpoints'
TINY = ('tiny',)
STOPS = {'SIGTERM': 143, 'SIGINT': 130, 'SIGUSR1': 138}


def reach(attempt, marks, target, g):
    """Lets a run come to a moment of a phase, or to any moment; False if it ended before."""
    if target == 'any':
        return attempt.poll(g.uniform(0, 5)) is None
    if target == 'start-up':
        return attempt.poll(g.uniform(0, 0.2)) is None
    word, count = ('+saving' if target == 'saving' else target), g.choice((1, 1, 2))
    begun = wait_for(lambda: marks.exists() and marks.read_text().split().count(word) >= count, attempt)
    return begun and attempt.poll(g.uniform(0, 0.3)) is None


def cut_often(folder, targets, g, cut, *sabotage):
    """Starts a run, cuts it in phase after phase, and lets it end.

    Args:
        folder: the current one of the run.
        targets: list of phases to cut it in, from the last; those that are left over are of a run that ended before.
        g: the generator of moments.
        cut: is given the attempt and its marks, ends it, and returns the phase that it was in.
        sabotage: of each attempt.

    Returns:
        The phases it was cut in.
    """
    cuts, number = [], 0
    while True:
        number += 1
        marks = folder / f'marks-{number}'
        words = flags('cut', **FULL, **AUTO)
        attempt = server().start(folder, words, ['mark_phases', str(marks)], *sabotage)
        if not targets or not reach(attempt, marks, targets[-1], g):
            assert attempt.wait() == 0, attempt.text()
            return cuts
        targets.pop()
        at = cut(attempt, marks)
        if attempt.code != 0:
            cuts.append(at)


def kill(attempt, marks):
    attempt.send(signal.SIGKILL)
    assert attempt.wait() in (-signal.SIGKILL, 0)
    return phase(marks)


def assert_killed_run_is_whole(folder, kills):
    whole_run, run = whole() / 'checkpoint/whole', folder / 'checkpoint/cut'
    assert_same_run(whole_run, run)
    assert_same_curves(whole() / 'log/whole', folder / 'log/cut', FULL_STEPS)
    # What a kill leaves between the files' names and their record: one checkpoint at most.
    assert len([name for name in names(run) if '.state.pth.aside' in name]) <= kills


@pytest.mark.slow
def test_a_run_killed_in_every_phase_ends_as_the_uninterrupted_one(tmp_path):
    cuts = cut_often(tmp_path, ['saving', 'validation', 'training', 'start-up'], random.Random(35), kill)
    assert len(cuts) == 4
    assert_killed_run_is_whole(tmp_path, len(cuts))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_killed_at_fifty_moments_end_as_the_uninterrupted_one(tmp_path):
    g, seen, chain = random.Random(0), Counter(), 0
    while seen.total() < 50:
        targets = [g.choice((*PHASES, 'any', 'any', 'any')) for _ in range(min(6, 50 - seen.total()))]
        chain += 1
        folder = tmp_path / f'{chain}'
        folder.mkdir()
        cuts = cut_often(folder, targets, g, kill)
        assert_killed_run_is_whole(folder, len(cuts))
        seen.update(cuts)
        shutil.rmtree(folder)
    assert all(seen[phase] >= 4 for phase in PHASES), seen


def stop_by(name, attempt, marks, seconds):
    """Sends a run a signal and checks how it ends; notes the time that this took and returns the phase it was in."""
    number, sent, at = getattr(signal, name), time.monotonic(), phase(marks)
    if name == 'SIGINT':
        # As a terminal does: the loader's workers get it too.
        os.killpg(attempt.pid, number)
    else:
        attempt.send(number)
    code, text = attempt.wait(30), attempt.text()
    seconds.append(time.monotonic() - sent)
    words = marks.read_text().split() if marks.exists() else []
    if 'after step' in text or ('training' in words and 'end' not in words):
        assert code == STOPS[name]
        assert f'stopped by {name} after step' in text
        assert 'go on with --model-last-checkpoint auto' in text
    elif 'end' in words:
        # It came when the run was complete: in time to kill the process, or not even that.
        assert 'at step 5, epoch 1' in text or 'step 6, epoch 2' in text
        assert code in (0, STOPS[name], -number)
    else:
        assert code in (STOPS[name], -number)
        assert 'Traceback' not in text
    return at


def stop_often(folder, targets, g, *sabotage):
    """Stops runs by signals in these phases until all are used up, each to the end of the run; returns the phases."""
    seen, seconds, chain, stops = Counter(), [], 0, list(STOPS)
    while targets:
        chain += 1
        few = [targets.pop() for _ in range(min(4, len(targets)))]
        run = folder / f'{chain}'
        run.mkdir()

        def cut(attempt, marks):
            stops.append(stops.pop(0))
            return stop_by(stops[-1], attempt, marks, seconds)

        cuts = cut_often(run, few, g, cut, *sabotage)
        targets += few
        extra = {f'epoch-{step // 3}-iter-{step}' for step in range(FULL_STEPS)}
        # Steps at which a signal came are among the newest two too.
        expected = whole(*sabotage)
        assert_same_run(expected / 'checkpoint/whole', run / 'checkpoint/cut', extra, {'epoch-1-iter-3'})
        assert_same_curves(expected / 'log/whole', run / 'log/cut', FULL_STEPS)
        seen.update(cuts)
        shutil.rmtree(run)
    # A step takes half a second, and a save as long, on a machine that does nothing else.
    assert max(seconds) < 10
    return seen


def test_a_run_stopped_in_every_phase_ends_as_the_uninterrupted_one(tmp_path):
    stop_often(tmp_path, ['saving', 'validation', 'training'], random.Random(0), TINY)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_stopped_at_thirty_moments_end_as_the_uninterrupted_one(tmp_path):
    g = random.Random(1)
    seen = stop_often(tmp_path, [g.choice((*PHASES[1:], 'any')) for _ in range(30)], g)
    assert all(seen[phase] >= 3 for phase in PHASES[1:]), seen


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ('name', 'workers'),
    [('SIGINT', 1)]
    + [pytest.param(name, n, marks=SLOW) for name in STOPS for n in (0, 1) if (name, n) != ('SIGINT', 1)],
)
def test_a_signal_before_the_first_step_ends_the_run_too(tmp_path, name, workers):
    number = getattr(signal, name)
    in_rehearsal = ['signal_in', 'training.loop', 'validate', 1, number]
    words = flags('run', num_workers=workers, **AUTO)
    attempt = server().start(tmp_path, words, TINY, in_rehearsal)
    assert attempt.wait(20) in (128 + number, -number)
    assert 'Traceback' not in attempt.text()
    assert server().run(tmp_path, words, TINY)[0] == 0


@pytest.mark.parametrize('name', ['SIGTERM', pytest.param('SIGINT', marks=SLOW), pytest.param('SIGUSR1', marks=SLOW)])
def test_a_second_signal_ends_at_once_even_while_a_save_hangs(tmp_path, name):
    number, marks = getattr(signal, name), tmp_path / 'marks'
    words = flags('run', num_workers=1, checkpoint_interval=1, **AUTO)
    attempt = server().start(
        tmp_path, words, TINY, ['mark_phases', str(marks)], ['slow_fsync', 600], ['repeats_end', 0.5]
    )
    assert wait_for(lambda: marks.exists() and '+saving' in marks.read_text(), attempt)
    attempt.send(number)
    assert attempt.poll(1) is None
    sent = time.monotonic()
    attempt.send(number)
    assert attempt.wait(10) == 128 + number
    assert time.monotonic() - sent < 2
    assert server().run(tmp_path, words, TINY)[0] == 0
    assert not temporaries(tmp_path / 'checkpoint/run')


# At steps 2 and 5 an epoch ends and the interval is due: one checkpoint under two names.
TWO_NAMES = {'checkpoint_interval': 3, 'log_valid_interval': 100, 'num_workers': 0}


@pytest.mark.parametrize('last', [3, 6], ids=['end of an epoch', 'end of the run'])
def test_what_a_signal_cut_off_is_made_up_for(tmp_path, last):
    words = flags('cut', **{**FULL, **TWO_NAMES}, **AUTO)
    assert server().run(tmp_path, words, TINY, ['signal_at', last, signal.SIGTERM])[0] == 143
    cut = tmp_path / 'checkpoint/cut'
    assert record(cut, f'epoch-{last // 3 - 1}-iter-{last - 1}')['reason'] == 'SIGTERM'
    assert server().run(tmp_path, words, TINY)[0] == 0
    expected = whole(TINY, **TWO_NAMES)
    assert names(cut) == names(expected / 'checkpoint/whole')
    assert_same_run(expected / 'checkpoint/whole', cut)
    assert_same_curves(expected / 'log/whole', tmp_path / 'log/cut', FULL_STEPS)


def kill_in(owner, name, count, slow=True):
    return pytest.param(owner, name, count, marks=[pytest.mark.slow] * slow, id=f'{name} {count}')


# Of the two saves each commits two records, then refreshes the links.
@pytest.mark.parametrize(
    ('owner', 'name', 'count'),
    [
        kill_in(CHECKPOINTS, 'save', 1),
        kill_in(CHECKPOINTS, '_commit', 1, slow=False),
        kill_in(CHECKPOINTS, '_commit_record', 1),
        kill_in(CHECKPOINTS, '_link', 1),
        kill_in(CHECKPOINTS, '_commit_record', 2, slow=False),
        kill_in('checkpointing.links', 'refresh', 1),
        kill_in(CHECKPOINTS, 'save', 2),
        kill_in(CHECKPOINTS, '_commit', 2, slow=False),
        kill_in(CHECKPOINTS, '_commit_record', 3),
        kill_in(CHECKPOINTS, '_link', 2),
        kill_in(CHECKPOINTS, '_commit_record', 4),
        kill_in('checkpointing.links', 'refresh', 2, slow=False),
    ],
)
def test_a_kill_inside_a_save_leaves_no_trace(tmp_path, owner, name, count):
    words, killed = flags('cut', **{**FULL, **TWO_NAMES}, **AUTO), ['signal_in', owner, name, count, signal.SIGKILL]
    assert server().run(tmp_path, words, TINY, killed)[0] == -signal.SIGKILL
    code, text = server().run(tmp_path, words, TINY)
    assert code == 0, text
    cut = tmp_path / 'checkpoint/cut'
    assert_same_run(whole(TINY, **TWO_NAMES) / 'checkpoint/whole', cut)
    assert not [name for name in names(cut) if name.endswith('.tmp')]


def test_a_validation_that_is_made_up_for_is_logged_once_though_killed(tmp_path):
    words = flags('cut', **{**FULL, **TWO_NAMES}, **AUTO)
    assert server().run(tmp_path, words, TINY, ['signal_at', 3, signal.SIGTERM])[0] == 143
    killed = ['signal_in', CHECKPOINTS, '_commit', 1, signal.SIGKILL]
    assert server().run(tmp_path, words, TINY, killed)[0] == -signal.SIGKILL
    assert server().run(tmp_path, words, TINY)[0] == 0
    assert [step for step, _ in curve('cut', 'valid_loss', tmp_path / 'log')] == [2, 5]


def test_an_exception_that_nobody_expected_ends_the_process(tmp_path):
    words = flags('run', num_workers=1)
    code, text = server().run(tmp_path, words, TINY, ['raise_in', CHECKPOINTS, '_write', 1])
    assert code == 1
    assert 'error: RuntimeError: unexpected; the traceback is in log/run/error-' in text
    assert 'Traceback' not in text
