"""One wish to stop, however many signals it arrives as; what a process does about it depends on what it has to save."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.runs import ROOT

HEAD = 'import signal, sys, time\nfrom common import signals\n'
WORK = """
with signals.StopSignals({}) as stop:
    print('ready', flush=True)
    while not stop.number:
        time.sleep(0.01)
    time.sleep({})
print('done', flush=True)
"""
TRAINING = """
with signals.listening() as stop:
    stop.awaited = {}
    print('ready', flush=True)
    while not stop:
        time.sleep(0.01)
    time.sleep({})
    print('saved', flush=True)
sys.exit(128 + stop.number)
"""


# The tests themselves may run under nohup.
HUNG_UP = 'signal.signal(signal.SIGHUP, signal.{})\n'


def run(program, *numbers, apart=0.0, repeat_seconds=5.0, hung_up='SIG_DFL'):
    """Runs a program, sends it signals one after the other, and returns its exit code and what it printed."""
    program = f'{HEAD}{HUNG_UP.format(hung_up)}signals.REPEAT_SECONDS = {repeat_seconds}\n{program}'
    with subprocess.Popen(
        [sys.executable, '-c', program], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout.readline() == 'ready\n'
        for number in numbers:
            os.kill(process.pid, number)
            time.sleep(apart)
        text = process.stdout.read()
        return process.wait(20), text


SAVING = '{}: saving once this step is done; a second signal after {} s ends at once\n'


@pytest.mark.parametrize('apart', [0.0, 0.005, 0.02, 0.2])
@pytest.mark.parametrize('second', [signal.SIGTERM, signal.SIGINT])
def test_signals_close_together_are_one(apart, second):
    code, text = run(TRAINING.format(True, 0.7), signal.SIGTERM, second, second, apart=apart)
    # Of signals that wait together the system hands over the lowest number first.
    first = signal.Signals(code - 128)
    assert first in (signal.SIGTERM, second)
    assert text == SAVING.format(first.name, 5) + 'saved\n'


def test_a_signal_that_comes_much_later_ends_at_once():
    code, text = run(TRAINING.format(True, 60), signal.SIGTERM, signal.SIGINT, apart=0.3, repeat_seconds=0.2)
    assert (code, text) == (130, SAVING.format('SIGTERM', 0))


def test_timeout_which_sends_two_signals_lets_a_training_save():
    program = f'{HEAD}{TRAINING.format(True, 0.3)}'
    done = subprocess.run(
        ['timeout', '1', sys.executable, '-c', program], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.stdout == 'ready\nsaved\n'


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1'])
def test_before_the_first_step_a_signal_ends_a_training_at_once_in_one_line(name):
    number = getattr(signal, name)
    code, text = run(TRAINING.format(False, 60), number)
    assert (code, text) == (128 + number, f'stopped by {name} before the first step\n')


IMPORTING = """
with signals.listening() as stop:
    print('ready', flush=True)
    try:
        while True:
            try:
                time.sleep(0.01)
            except BaseException:  # as an import may take it
                pass
    finally:
        print('cleaned up')
"""


def test_no_code_can_swallow_a_signal_before_the_first_step():
    assert run(IMPORTING, signal.SIGINT) == (130, 'stopped by SIGINT before the first step\n')


def test_other_ranks_say_nothing(monkeypatch):
    monkeypatch.setenv('RANK', '1')
    assert run(TRAINING.format(False, 60), signal.SIGINT) == (130, '')


@pytest.mark.parametrize('program', [TRAINING.format(True, 0.1), WORK.format('lambda _: None', 0.1)])
def test_a_closed_terminal_is_a_signal_unless_nohup_was_asked_for(program):
    code, text = run(program, signal.SIGHUP)
    assert code in (0, 129)
    assert text.endswith(('saved\n', 'done\n'))
    code, text = run(program, signal.SIGHUP, signal.SIGTERM, apart=0.1, hung_up='SIG_IGN')  # as nohup leaves it
    assert code in (0, 143)
    assert 'SIGHUP' not in text


UNTIL_STOPPED = """
def work():
    print('ready', flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass  # swallowed, as a callback of the interpreter would
    time.sleep(60)
sys.exit(signals.run_until_stopped(work, 'stopped'))
"""


def test_an_interrupt_that_was_swallowed_does_not_make_a_script_unstoppable():
    code, _ = run(UNTIL_STOPPED, signal.SIGINT, signal.SIGINT, apart=0.3, repeat_seconds=0.2)
    assert code == 130


def test_handlers_come_back_where_no_signal_came():
    from common.signals import StopSignals, listening

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with listening(), StopSignals():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_repeat_does_not_tear_down_what_is_left_to_do_after_the_block():
    program = TRAINING.format(True, 0).replace('sys.exit', 'time.sleep(0.6)\nprint("closed")\nsys.exit')
    code, text = run(program, signal.SIGTERM, signal.SIGTERM, apart=0.3)
    assert (code, text.splitlines()[1:]) == (143, ['saved', 'closed'])
