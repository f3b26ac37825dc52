"""Two and three processes against one, on the CPU."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support import ranks
from support.runs import ROOT, flags, load, names

from training.distributed import Ranks, launch

HERE = Path(__file__).parents[1]


@pytest.fixture
def paths(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}:{HERE}')


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp('alone')
    ranks.one_step(folder, 1)
    return {norm: torch.load(folder / f'{norm}-1-1-0.pt') for norm in ('frozen', 'learning')}


@pytest.mark.parametrize(
    ('world', 'accumulate'),
    [(2, 1), (1, 3), pytest.param(3, 1, marks=pytest.mark.slow), pytest.param(2, 2, marks=pytest.mark.slow)],
)
def test_ranks_have_the_same_samples_gradient_and_batchnorm_as_one(tmp_path, paths, alone, world, accumulate):
    if world > 1:
        assert launch([str(HERE / 'support/ranks.py'), str(tmp_path), str(accumulate)], world) == 0
    else:
        ranks.one_step(tmp_path, accumulate)
    for norm, expected in alone.items() if accumulate == 1 else [('frozen', alone['frozen'])]:
        seen = [torch.load(tmp_path / f'{norm}-{world}-{accumulate}-{rank}.pt') for rank in range(world)]
        assert sorted(n for part in seen for n in part['names']) == sorted(expected['names'])
        for part in seen:
            for name, gradient in expected['gradient'].items():
                scale = gradient.abs().max().clamp(min=1e-3)  # that of a bias before BatchNorm is 0
                assert (part['gradient'][name] - gradient).abs().max() < 1e-3 * scale, (norm, name)
            for name, buffer in expected['statistics'].items():
                torch.testing.assert_close(part['statistics'][name], buffer, rtol=1e-5, atol=1e-6)
                assert torch.equal(part['statistics'][name], seen[0]['statistics'][name])


@pytest.mark.slow
def test_the_script_trains_on_two_ranks(in_tmp, paths):
    assert launch([str(ROOT / 'train_base.py'), *flags('run', max_steps=4, valid_samples=3)], 2) == 0
    assert 'epoch-1-iter-3.pth' in names('checkpoint/run')
    assert load('checkpoint/run/epoch-1-iter-3.state.pth')['progress']['step'] == 4
    arguments = flags('run', max_steps=5, valid_samples=3, model_last_checkpoint='auto')
    assert launch([str(ROOT / 'train_base.py'), *arguments], 2) == 0
    assert load('checkpoint/run/epoch-1-iter-4.state.pth')['progress']['step'] == 5


@pytest.mark.slow
def test_torchrun_passes_on_sigusr1_if_asked_to(in_tmp, paths):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    command += ['--signals-to-handle', 'SIGTERM,SIGINT,SIGHUP,SIGUSR1', HERE / 'support/tiny_base.py']
    arguments = flags('run', epoch_end=500, checkpoint_interval=10**6)
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith('step 1 of'):
                process.send_signal(signal.SIGUSR1)
                break
        rest = process.stdout.read()
        assert process.wait(120) != 0
    assert 'stopped by SIGUSR1' in rest
    assert 'go on with --model-last-checkpoint auto' in rest


@pytest.mark.slow
def test_torchrun_works_too(in_tmp, paths):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    done = subprocess.run([*command, ROOT / 'train_base.py', *flags('run', max_steps=2)], check=False)
    assert done.returncode == 0
    assert 'epoch-0-iter-1.pth' in names('checkpoint/run')


def test_signals_close_together_reach_all_ranks_as_one_and_one_saves(in_tmp, paths):
    program = 'import sys; from training.distributed import launch; sys.exit(launch(sys.argv[1:], 2))'
    arguments = flags('run', epoch_end=500, checkpoint_interval=10**6)
    command = [sys.executable, '-c', program, HERE / 'support/tiny_base.py', *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith('step 1 of'):
                for _ in range(3):
                    process.send_signal(signal.SIGTERM)
                    time.sleep(0.02)
                break
        rest = process.stdout.read()
        assert process.wait(120) == 143
    assert 'stopped by SIGTERM' in rest
    assert 'go on with --model-last-checkpoint auto' in rest


def two_ranks():
    store = dist.HashStore()
    return [Ranks(torch.device('cpu'), rank, 2, store) for rank in (0, 1)]


def test_ranks_wait_for_the_first_by_its_notes_and_no_collective_that_gives_up():
    """There is no process group here, so that any collective would fail."""
    first, second = two_ranks()
    done, waiting, go_on = [], threading.Event(), threading.Event()
    for turn in range(2):
        waiting.clear()
        go_on.clear()

        def work(turn=turn):
            waiting.set()
            assert go_on.wait(60)
            done.append(f'first {turn}')

        slow = threading.Thread(target=first.in_turn, args=(work,))
        quick = threading.Thread(target=second.in_turn, args=(lambda turn=turn: done.append(f'second {turn}'),))
        quick.start()
        slow.start()
        assert waiting.wait(60)
        assert quick.is_alive()
        go_on.set()
        slow.join(60)
        quick.join(60)
    assert done == ['first 0', 'second 0', 'first 1', 'second 1']


def test_ranks_do_not_wait_for_a_first_one_that_has_failed():
    first, second = two_ranks()
    ended = []

    def wait():
        with pytest.raises(dist.DistError, match='another rank has ended'):
            second.in_turn(lambda: ended.append('never'))
        ended.append('heard')

    quick = threading.Thread(target=wait)
    quick.start()
    assert first.told_by_first(75) == 0
    quick.join(60)
    assert ended == ['heard']
    assert second.told_by_first(2, seconds=0) == 75  # so that they end alike


IN_TURN = """
import datetime, time
import torch.distributed as dist
from training.distributed import join_ranks, leave_ranks
ranks = join_ranks('cpu')
ranks.agree(1)
dist.distributed_c10d._set_pg_timeout(datetime.timedelta(milliseconds=50))
ranks.in_turn(lambda: time.sleep(0.5 * ranks.first))
dist.distributed_c10d._set_pg_timeout(datetime.timedelta(minutes=1))
assert ranks.agree(ranks.rank) == [1]
leave_ranks()
"""


@pytest.mark.slow
def test_the_first_rank_may_take_longer_than_a_collective_of_gloo(in_tmp, paths):
    (in_tmp / 'in_turn.py').write_text(IN_TURN)
    assert launch([str(in_tmp / 'in_turn.py')], 2) == 0


def test_a_rank_that_fails_ends_the_others(in_tmp, paths):
    (in_tmp / 'half.py').write_text(
        'import os, sys, time\nif os.environ["RANK"] == "1":\n    sys.exit(3)\ntime.sleep(100)\n'
    )
    assert launch([str(in_tmp / 'half.py')], 2) in (3, 143)


SLOW_TO_SAVE = """
import pathlib, signal, time
def save(number, _):
    time.sleep(4)
    pathlib.Path('saved').touch()
    raise SystemExit(128 + number)
signal.signal(signal.SIGTERM, save)
pathlib.Path('ready').touch()
time.sleep(100)
"""


def test_ranks_may_take_their_time_to_save(in_tmp, paths, monkeypatch):
    monkeypatch.setenv('TORCH_ELASTIC_SHUTDOWN_TIMEOUT', '1')  # instead of 30, as long as nothing else is said
    monkeypatch.setenv('TMPDIR', str(in_tmp))
    (in_tmp / 'rank.py').write_text(SLOW_TO_SAVE)
    program = 'import sys; from training.distributed import launch; sys.exit(launch(["rank.py"], 1))'
    with subprocess.Popen([sys.executable, '-c', program]) as process:
        deadline = time.monotonic() + 60
        while not (in_tmp / 'ready').exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert (in_tmp / 'saved').exists()
    assert not list(in_tmp.glob('torchelastic_*'))
