"""A person hears of a training from its first step on, by the clock and not by steps."""

import io
import logging
from types import SimpleNamespace

import pytest
from support.small_run import END, finish, make_run

import training.progress
from training.logs import Logger
from training.meters import Meter
from training.progress import LINE_SECONDS, Display, validation_line


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(training.progress, 'time', SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal is sent."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(training.progress, 'sys', SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def tell(display, done, **more):
    if display.due():
        display.step(done, **{'loss': 0.5, 'rate': 8.0, 'waiting': 0.25, **more})


def test_the_first_step_is_told_at_once_and_later_ones_every_thirty_seconds(clock, lines):
    display = Display(start=10, end=110, epoch_steps=20)
    clock.now += 7
    for done in range(11, 100):
        tell(display, done)
        clock.now += 2
    assert lines()[:2] == [
        'step 11 of 110, epoch 0: loss 0.5000, 8.0 samples/s, waiting for data 25%, 00:07 elapsed, ? left',
        # The first step, which took longer, does not count: 84 steps of 2 s are left.
        'step 26 of 110, epoch 1: loss 0.5000, 8.0 samples/s, waiting for data 25%, 00:37 elapsed, 02:48 left',
    ]
    assert len(lines()) == 1 + 88 * 2 // 30


def test_a_terminal_has_a_bar_that_is_renewed_every_second(clock, terminal, lines):
    display = Display(0, 50, 100)
    for done in range(1, 31):
        tell(display, done)
        clock.now += 0.1
    shown = [text for text in terminal.getvalue().split('\r') if 'epoch 0' in text]
    assert [text.split(',')[0] for text in shown] == ['step 1/50', 'step 11/50', 'step 21/50']
    assert 'epoch 0, 00:02<00:02, loss 0.5000, 8.0 samples/s, waiting 25% |' in shown[-1]
    display.close()
    assert terminal.getvalue().endswith('\r')
    assert lines() == []


def test_a_validation_tells_how_far_it_is(clock, lines):
    display, batches = Display(0, 9, 9), ['a', 'b', 'c', 'd']
    tell(display, 4)
    Meter().show(display, 5, None)  # which is not told
    passed = []
    for batch in display.validating(batches):
        passed.append(batch)
        clock.now += 20
    assert passed == batches
    assert lines()[1:] == ['step 5/9, validation: batch 2 of 4, 00:40 left']


def test_a_validation_before_the_first_step_tells_by_the_clock_too(clock, lines):
    display = Display(3, 9, 9)
    for _ in display.validating(range(100)):
        clock.now += 1
    assert [line.partition('batch ')[2] for line in lines()] == [
        '0 of 100, ? left', '30 of 100, 01:10 left', '60 of 100, 00:40 left', '90 of 100, 00:10 left',
    ]  # fmt: skip
    tell(display, 4)
    assert lines()[-1].startswith('step 4 of 9')


def test_a_terminal_sees_every_batch_of_a_validation(clock, terminal):
    display = Display(0, 9, 9)
    for _ in display.validating(['a', 'b'], 'validation of the average'):
        clock.now += 1
    assert 'step 0/9, validation of the average: batch 0 of 2, ? left' in terminal.getvalue()
    assert 'step 0/9, validation of the average: batch 1 of 2, 00:01 left' in terminal.getvalue()


def test_a_slow_first_step_says_that_it_is_under_way_until_it_is_done(monkeypatch):
    said = []
    over = SimpleNamespace(wait=lambda seconds: said.append(seconds) or len(said) > 3)
    monkeypatch.setattr(training.progress.log, 'info', lambda *words: said.append(words[:2]))
    training.progress._remind('first step', over)
    under_way = ('%s under way for %s', 'first step')
    assert said == [10, under_way, LINE_SECONDS, under_way, LINE_SECONDS][: len(said)]
    assert len(said) == 5 or said[-1] == LINE_SECONDS


@pytest.mark.parametrize('end', ['step', 'validation', 'close', 'next'])
def test_nothing_is_said_to_be_under_way_any_longer(monkeypatch, end):
    begun = []
    monkeypatch.setattr(training.progress, '_remind', lambda what, over: begun.append((what, over)))
    display = Display(0, 9, 9)
    display.under_way('first step')
    while not begun:
        pass
    what, over = begun[0]
    assert (what, over.is_set()) == ('first step', False)
    {
        'step': lambda: tell(display, 1),
        'validation': lambda: list(display.validating(['a'])),
        'close': display.close,
        'next': lambda: display.under_way('something else'),
    }[end]()
    assert over.is_set()


def test_other_ranks_say_nothing(lines, terminal):
    display = Display(0, 9, 9, first=False)
    display.under_way('first step')
    tell(display, 1)
    assert list(display.validating(['a'])) == ['a']
    assert (lines(), terminal.getvalue()) == ([], '')


def test_a_run_tells_of_its_first_step_and_of_its_end(tmp_path, lines):
    run = make_run(tmp_path, seed=0)
    run.logger = Logger(tmp_path / 'log', 0, END)
    finish(run)
    steps = [line for line in lines() if line.startswith('step ')]
    assert [line.partition(':')[0] for line in steps] == [f'step 1 of {END}, epoch 0']
    done = next(line for line in lines() if line.startswith('done: '))
    assert done.startswith(f'done: {END} steps in 00:0')


METRICS = {'valid_grad': 5.0, 'valid_loss': 0.25, 'valid_mad': 66.4, 'valid_sad': 1.7}


@pytest.mark.parametrize(
    ('best', 'before', 'words'),
    [
        (True, None, 'the best so far (the first)'),
        (True, 0.5, 'the best so far (before: valid_loss 0.50000 since step 7, epoch 1)'),
        (False, 0.1, 'best so far: valid_loss 0.10000 since step 7, epoch 1'),
        (False, None, 'best so far: none'),
    ],
)
def test_a_validation_begins_with_what_decides(best, before, words):
    record = before and SimpleNamespace(metrics={'valid_loss': before}, step=7, epoch=1)
    line = validation_line(9, 2, METRICS, 'valid_loss', best, record)
    others = 'valid_grad 5.00000, valid_mad 66.40000e-3, valid_sad 1.70000e3 px'
    assert line == f'valid_loss 0.25000 at step 9, epoch 2, {words}; {others}'


def test_units_are_those_of_the_average_too():
    line = validation_line(9, 2, {'valid_ema_sad': 2.0, **METRICS}, 'valid_ema_sad', True, None)
    assert line.startswith('valid_ema_sad 2.00000e3 px at step 9')
