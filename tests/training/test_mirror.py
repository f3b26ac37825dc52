"""A run whose machine and disk go away goes on from its mirror in S3, and ends as the uninterrupted one."""

import math
import random
import re
import shutil
import signal

import pytest
from support.runs import FULL, FULL_STEPS, assert_same_curves, assert_same_run, flags, server, wait_for, whole
from support.s3 import FAULTS, SECRET, s3_server

for package in ('moto', 's3fs'):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[test-all]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SABOTAGE = (['tiny'], ['short_lease'])
PATIENCE = 600  # seconds, on a busy machine
QUICK = {**FULL, 'num_workers': 0}


@pytest.fixture(scope='module')
def s3():
    with s3_server() as found:
        yield found


class Machine:
    """A computer that trains, and loses its disk."""

    def __init__(self, s3, folder, name, **changed):
        self.proxy, self.environment = s3
        self.folder, self.url, self.changed = folder, f's3://bucket/{name}', changed
        self.texts, self.sabotage = [], SABOTAGE

    def start(self, **changed):
        chosen = {**QUICK, 'model_last_checkpoint': 'auto', 'checkpoint_mirror': self.url, **self.changed, **changed}
        attempt = server().start(self.folder, flags('cut', **chosen), *self.sabotage, environment=self.environment)
        self.proxy.victim = attempt.pid
        return attempt

    def run(self, **changed):
        attempt = self.start(**changed)
        code = attempt.wait(PATIENCE)
        self.texts.append(attempt.text())
        return code, attempt.text()

    def wipe(self):
        for name in ('checkpoint', 'log'):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def assert_ended_as_uninterrupted(self, end=FULL_STEPS):
        """Weights, training state, figures and curves, of which all but the newest checkpoint may go with a disk."""
        expected = whole(('tiny',), **{**QUICK, **self.changed})
        (self.folder / 'checkpoint/cut/best.pth').unlink()
        others = {f'epoch-{step // 3}-iter-{step}' for step in range(end)} | {f'epoch-{n}' for n in range(end // 3 - 1)}
        assert_same_run(expected / 'checkpoint/whole', self.folder / 'checkpoint/cut', others, {*others, 'best'})
        assert_same_curves(expected / 'log/whole', self.folder / 'log/cut', end)


PARTS = 8


@pytest.fixture(scope='module')
def requests(s3, tmp_path_factory):
    """How many requests an undisturbed run makes."""
    machine = Machine(s3, tmp_path_factory.mktemp('first'), 'first')
    machine.proxy.arm()
    code, text = machine.run()
    assert code == 0, text
    assert 'safe: the mirror s3://bucket/first/cut holds step 5' in text
    machine.assert_ended_as_uninterrupted()
    assert len(machine.proxy.done) > 30
    return len(machine.proxy.done)


@pytest.mark.parametrize('part', range(PARTS))
def test_a_kill_at_every_request_with_a_wiped_disk_costs_nothing(s3, requests, tmp_path, part):
    for number in range(1 + part, requests + 1, PARTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        machine = Machine(s3, folder, f'kill-{number}')
        machine.proxy.arm(number, 'kill')
        code, text = machine.run()
        assert code in (-signal.SIGKILL, 0), text
        if code:
            machine.wipe()
            machine.proxy.arm()
            code, text = machine.run()
            assert code == 0, text
        machine.assert_ended_as_uninterrupted()


@pytest.mark.parametrize('fault', FAULTS)
def test_a_request_that_fails_costs_nothing(s3, requests, tmp_path, fault):
    for number in range(1 + FAULTS.index(fault), requests + 1, len(FAULTS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        machine = Machine(s3, folder, f'{fault}-{number}')
        machine.proxy.arm(number, fault)
        code, text = machine.run()
        if code in (2, 75):  # before training
            assert len(text.splitlines()) <= 3
            assert 'is writing to this mirror' not in text  # nobody else is
            code, text = machine.run()
        assert code == 0, text
        assert '\nsafe: the mirror' in text
        machine.wipe()
        machine.proxy.arm()
        code, text = machine.run()
        assert (code, 'nothing to do: 6 steps are done' in text) == (0, True), text
        machine.assert_ended_as_uninterrupted()


@pytest.mark.parametrize('fault', FAULTS)
def test_a_store_that_goes_away_for_good_costs_the_steps_since(s3, requests, tmp_path, fault):
    for number in range(12 + FAULTS.index(fault), requests, 2 * len(FAULTS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        machine = Machine(s3, folder, f'away-{fault}-{number}')
        machine.proxy.arm(number, fault, times=math.inf)
        code, text = machine.run(mirror_grace=0.5)
        safe = '\nsafe: the mirror' in text
        assert (code, safe or '\nNOT safe: the mirror' in text) == (0, True), text  # training itself goes on to its end
        machine.wipe()
        machine.proxy.arm()
        code, text = machine.run()
        assert (code, 'nothing to do: 6 steps are done' in text or not safe) == (0, True), text
        machine.assert_ended_as_uninterrupted()


def test_preempted_fifty_times_with_a_wiped_disk_it_ends_as_the_uninterrupted_one(s3, tmp_path):
    longer = {'epoch_end': 4000, 'lr_schedule': None, 'checkpoint_interval': 1, 'log_valid_interval': 5}
    machine = Machine(s3, tmp_path, 'fifty', **longer)
    machine.proxy.arm()
    draws = random.Random(0)
    for preempted in range(50):
        more = len(machine.proxy.done) + draws.randrange(8, 60)
        attempt = machine.start()
        alive = wait_for(lambda more=more: len(machine.proxy.done) >= more, attempt, PATIENCE)
        assert alive, attempt.text()[-3000:]
        attempt.send(signal.SIGKILL if preempted % 3 else signal.SIGTERM)
        assert attempt.wait(PATIENCE) in (-signal.SIGKILL, 143), attempt.text()[-3000:]
        machine.wipe()
    reached = max(map(int, re.findall(r'PUT \S+-iter-(\d+)\.json', '\n'.join(machine.proxy.done))))
    machine.changed['epoch_end'] = reached // 3 + 2
    code, text = machine.run()
    assert code == 0, text
    machine.assert_ended_as_uninterrupted(3 * machine.changed['epoch_end'])


@pytest.mark.parametrize('late', [False, True], ids=['never', 'in time'])
def test_a_store_that_takes_nothing_is_waited_for_at_the_end_alone(s3, requests, tmp_path, late):
    """And then no longer than the grace, unless it takes the rest meanwhile."""
    machine = Machine(s3, tmp_path, f'held-{late}')
    machine.proxy.arm(requests // 2, 'held', times=math.inf)
    attempt = machine.start(mirror_grace=60 if late else 0.5)
    assert wait_for(lambda: 'done: 6 steps' in attempt.text(), attempt, PATIENCE)
    assert wait_for(lambda: machine.proxy.held, attempt, PATIENCE)  # the mirror may be behind
    if late:
        attempt.send(signal.SIGTERM)
        assert wait_for(lambda: 'waiting up to 60 s for the mirror' in attempt.text(), attempt, PATIENCE)
        release = machine.proxy.go_on
        machine.proxy.arm()
        release.set()
    assert attempt.wait(PATIENCE) == 0, attempt.text()
    assert ('\nsafe: the mirror' if late else '\nNOT safe: the mirror') in attempt.text()
    machine.proxy.go_on.set()
    machine.wipe()
    machine.proxy.arm()
    code, text = machine.run()
    assert (code, 'nothing to do: 6 steps are done' in text or not late) == (0, True), text
    machine.assert_ended_as_uninterrupted()


def test_a_signal_while_a_store_takes_nothing_ends_in_the_grace(s3, tmp_path):
    machine = Machine(s3, tmp_path, 'signal')
    machine.proxy.arm()
    attempt = machine.start(epoch_end=4000, mirror_grace=0.5)
    assert wait_for(lambda: 'is in the mirror' in attempt.text(), attempt, PATIENCE)
    machine.proxy.arm(1, 'held', times=math.inf)
    assert wait_for(lambda: machine.proxy.held, attempt, PATIENCE)
    attempt.send(signal.SIGTERM)
    assert attempt.wait(PATIENCE) == 143, attempt.text()
    assert '\nNOT safe: the mirror s3://bucket/signal/cut holds step' in attempt.text()
    machine.proxy.go_on.set()
    machine.proxy.arm()


@pytest.mark.parametrize('ahead', [-100_000, 0, 100_000])
def test_two_machines_with_one_run_are_kept_apart(s3, tmp_path, ahead):
    """Whatever their clocks say."""
    (tmp_path / 'one').mkdir()
    (tmp_path / 'other').mkdir()
    one, other = (Machine(s3, tmp_path / name, f'apart{ahead}') for name in ('one', 'other'))
    other.sabotage = (*SABOTAGE, ['clock', ahead])
    one.proxy.arm()
    first = one.start(epoch_end=4000)
    assert wait_for(lambda: 'is in the mirror' in first.text(), first, PATIENCE)
    code, text = other.run()
    assert code == 75
    assert 'is writing to this mirror. Wait for its end' in text.splitlines()[-1]
    assert not (tmp_path / 'other/checkpoint/cut').exists()
    first.send(signal.SIGTERM)
    assert first.wait(PATIENCE) == 143
    code, text = other.run(epoch_end=4000, max_steps=1)
    assert (code, f'comes from the mirror s3://bucket/apart{ahead}/cut' in text) == (0, True), text


@pytest.mark.parametrize(
    ('url', 'changed', 'problem', 'expected'),
    [
        ('s3://nowhere/x', {}, 's3://nowhere/x/cut: not there: The specified bucket does not exist', 2),
        ('s3://me:S3cr3t@host/x', {}, 's3://***@host/x/cut: Parameter validation failed: Invalid bucket name "***', 2),
        ('s3://bucket/x', {'AWS_ENDPOINT_URL': 'http://127.0.0.1:9'}, 's3://bucket/x/cut: Could not connect', 75),
    ],
)
def test_a_useless_store_is_one_line_before_training(s3, tmp_path, url, changed, problem, expected):
    words = flags('cut', **QUICK, checkpoint_mirror=url)
    code, text = server().run(tmp_path, words, ['tiny'], environment={**s3[1], **changed})
    assert code == expected
    assert text.splitlines()[-1].startswith(f'error: {problem}')
    assert len(text.splitlines()) == 1
    assert not (tmp_path / 'checkpoint/cut').exists()


@pytest.mark.parametrize(
    ('fault', 'problem'),
    [
        ('skewed', 'denied: The difference between the request time and the current time is too large.'),
        ('expired', 'denied: The provided token has expired.'),
        ('throttled', '[Errno 16] Please reduce your request rate.'),
    ],
)
def test_a_store_that_refuses_is_one_line_before_training(s3, tmp_path, fault, problem):
    machine = Machine(s3, tmp_path, 'refused')
    machine.proxy.arm(1, fault, times=math.inf)
    code, text = machine.run()
    assert (code, text) == (75, f'error: s3://bucket/refused/cut: {problem}\n')


def test_credentials_stay_with_the_client(s3, tmp_path):
    for fault in (None, *FAULTS):
        machine = Machine(s3, tmp_path, f'secret-{fault}')
        machine.proxy.arm(20, fault, times=math.inf) if fault else machine.proxy.arm()
        machine.run(mirror_grace=0.5)
        assert not any(SECRET in text for text in machine.texts)
        for path in tmp_path.rglob('*'):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
        machine.wipe()
