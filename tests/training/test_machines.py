"""Several machines, each with a disk of its own: they agree on one start, one data set, one checkpoint."""

import signal
import threading
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from support.machines import Machines
from support.runs import assert_same, end_ranks, flags, load, samples_by_step, start_ranks
from support.s3 import s3_server

import train_base
import train_refine
from checkpointing.record import CheckpointError, read_records
from checkpointing.resume import newest_step
from common import rendezvous
from training import agreement, distributed
from training.distributed import Ranks

# Two epochs of three steps of six samples.
SIX = {'synthetic_size': 18, 'batch_size': 6, 'valid_samples': 3, 'checkpoint_interval': 1, 'ema_decay': 0.9}
AUTO = {'model_last_checkpoint': 'auto'}


def in_threads(*functions):
    """What functions return that run at once."""
    found = [None] * len(functions)

    def call(index):
        found[index] = functions[index]()

    threads = [threading.Thread(target=call, args=(index,), daemon=True) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def test_ranks_of_a_start_meet_and_none_of_an_earlier_one():
    store = dist.HashStore()
    words = set()
    # Machines come and go, and the store keeps all their notes.
    for world in (3, 3, 2, 4):
        found = in_threads(
            *(partial(rendezvous.meet, store, rank, world, timedelta(seconds=20)) for rank in range(world))
        )
        assert len(set(found)) == 1
        words.update(found)
    assert None not in words
    assert len(words) == 4


def test_ranks_that_do_not_come_are_not_waited_for_without_end():
    store = dist.HashStore()
    for rank in (0, 1):
        with pytest.raises(dist.DistError, match='in vain'):
            rendezvous.meet(store, rank, 2, timedelta(seconds=0.1))


def test_the_first_rank_is_waited_for_unless_it_fails(monkeypatch):
    store, came = dist.HashStore(), []
    monkeypatch.setattr(dist, 'barrier', lambda: came.append(threading.current_thread()))
    first, other = (Ranks('cpu', rank, 2, store) for rank in (0, 1))
    for times in (1, 2):
        waiting = threading.Thread(target=other.wait_for_first, daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        first.wait_for_first()
        waiting.join(20)
        assert len(came) == 2 * times
    store.set('failed', '2')
    with pytest.raises(dist.DistError):
        other.wait_for_first()
    assert store.check(['heard by 1'])


def gathering(*others):
    return SimpleNamespace(gather=lambda value: [value, *others])


def test_different_data_or_flags_of_a_machine_are_named():
    identity = {'seed': 1, 'pictures': [3, 4], 'training alphas': 'abc'}
    # Only the first rank of a machine looks at its files.
    flags = {'accumulate': 1, 'num_workers': 2}
    same = {**identity, '--accumulate': 1}
    agreement.refuse_different(identity, flags, gathering(('b', {'seed': 1, '--accumulate': 1}), ('c', same)))
    for changed in ('training alphas', '--accumulate'):
        other = gathering(('b', same), ('c', {**same, changed: 'x'}))
        with pytest.raises(ValueError, match=f'rank 2 on c has not the same as rank 0: {changed}; give all'):
            agreement.refuse_different(identity, flags, other)


@pytest.mark.parametrize(
    ('here', 'there', 'mirror', 'refused'),
    [
        (5, 5, None, False), (5, 4, None, False), (5, 6, None, True), (None, 6, None, True), (None, -1, None, False),
        (5, 6, 's3://bucket', False), (None, 0, 's3://bucket', True),
    ],
)  # fmt: skip
def test_a_newer_checkpoint_of_another_disk_is_not_passed_over(tmp_path, caplog, here, there, mirror, refused):
    resume = SimpleNamespace(run='a', record=None if here is None else SimpleNamespace(step=here))
    arguments = (tmp_path / 'run', 'base', gathering((there, 'b')), resume, mirror)
    if refused:
        with pytest.raises(CheckpointError, match=f'run on b holds step {there}, and the first rank knows of'):
            agreement.refuse_newer(*arguments)
    else:
        agreement.refuse_newer(*arguments)
        assert ('the run goes on from that' in caplog.text) == (there > (here or 0))


def test_a_checkpoint_of_another_run_is_not_newer(run):
    made = read_records(run)[-1]
    assert newest_step(run, made.stage, made.run, -1) == newest_step(run, made.stage, None, -1) == made.step
    assert newest_step(run, made.stage, 'another', -1) == -1


def test_what_the_first_rank_sends_is_what_it_has():
    value = {'step': 3, 'state': [torch.arange(6).reshape(2, 3).T, torch.tensor([True])], 'name': 'a'}
    content = distributed._pickled(value, tensors := [])
    assert len(content) < 200
    found = distributed._unpickled(content, [tensor.clone() for tensor in tensors])
    assert [tensor.tolist() for tensor in found.pop('state')] == [[[0, 3], [1, 4], [2, 5]], [True]]
    assert found == {'step': 3, 'name': 'a'}


@pytest.mark.parametrize(
    ('script', 'changed'),
    [
        (train_base, {'model_last_checkpoint': 'gone.pth'}),
        (train_base, {**AUTO, 'model_start_weights': 'gone.pth'}),
        (train_base, {'model_pretrain_initialization': 'gone.pth'}),
        (train_refine, AUTO),
    ],
)
def test_only_the_first_rank_needs_files_of_weights(in_tmp, monkeypatch, script, changed):
    words = flags('run', **changed)
    monkeypatch.setenv('RANK', '1')
    script.parse(words)
    monkeypatch.setenv('RANK', '0')
    with pytest.raises(ValueError, match='--model-'):
        script.parse(words)


def disks(folder, count):
    made = [folder / f'disk-{i}' for i in range(count)]
    for disk in made:
        disk.mkdir(parents=True)
    return made


@pytest.mark.slow
def test_disks_of_their_own_hold_one_run(tmp_path):
    first, second = disks(tmp_path, 2)
    (tmp_path / 'mirror').mkdir()
    words = flags('run', **SIX, **AUTO)
    ranks = start_ranks([first, second], 2, words, ['signal_at', 4, signal.SIGTERM])
    assert end_ranks(ranks) == [143, 143]
    committed = (first / 'checkpoint/run/epoch-1-iter-3.json').read_bytes()
    # Whose disk is empty cannot know that a run is there.
    ranks = start_ranks([second, first], 2, words)
    assert end_ranks(ranks) == [2, 2]
    assert 'holds step 3, and the first rank knows of no checkpoint: let all machines share' in ranks[0].text()
    assert not (second / 'checkpoint/run').exists()
    ranks = start_ranks(
        [first, second], 2, [*words, '--checkpoint-mirror', str(tmp_path / 'mirror')], ['note_ends', str(tmp_path)]
    )
    assert end_ranks(ranks) == [0, 0]
    assert 'continuing this run from epoch-1-iter-3.pth: step 4' in ranks[0].text()
    assert (first / 'checkpoint/run/epoch-1-iter-3.json').read_bytes() == committed
    assert not (second / 'checkpoint').exists()
    mirrored, left = ((tmp_path / name).stat().st_mtime_ns for name in ('mirrored', 'left-1'))
    assert mirrored < left


def plainly(folder, *worlds):
    """A run without machines: numbers of ranks in turn, each up to a step; returns its folder."""
    folder.mkdir()
    for world, end in worlds:
        sabotage = [['signal_at', end, signal.SIGTERM]] if end < 6 else []
        ranks = start_ranks(folder, world, flags('run', **SIX, **AUTO), *sabotage)
        assert end_ranks(ranks) == [143 if sabotage else 0] * world
    return folder


def assert_ended_as(expected, checkpoints):
    """Weights, averages and training state are those of a run without machines, bit for bit."""
    for name in ('epoch-1.pth', 'epoch-1.ema.pth', 'epoch-1.state.pth'):
        assert_same(*(load(folder / name) for folder in (expected / 'checkpoint/run', checkpoints)), name)


@pytest.fixture(scope='module')
def samples(tmp_path_factory):
    """The names of each step's samples."""
    folder = tmp_path_factory.mktemp('samples')
    ranks = start_ranks(folder, 1, flags('run', **SIX), ['note_names', str(folder)])
    assert end_ranks(ranks) == [0]
    found = samples_by_step(folder)
    for epoch in (0, 1):
        assert len({name for step in range(3 * epoch, 3 * epoch + 3) for name in found[step]}) == 18
    return found


def assert_each_sample_once(machines, samples, *worlds):
    """Each start takes precisely the samples from its first step on; returns that of the last one."""
    starts = machines.starts()
    assert [world for world, *_ in starts] == [*worlds]
    for _, first, seen in starts:
        assert seen == {step: samples[step] for step in range(first, max(seen) + 1)}
    assert max(starts[-1][2]) == 5
    assert starts[0][1] == 0
    assert 0 < starts[1][1] <= 1 + max(starts[0][2])
    return starts[1][1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_that_is_killed_costs_nothing_but_its_part(tmp_path, samples):
    shared = {'checkpoint_dir': tmp_path / 'shared', 'log_dir': tmp_path / 'shared-log'}
    hang = ['hang_at', 4, str(tmp_path / 'hangs'), 1]
    with Machines(tmp_path, flags('run', **SIX, **AUTO, **shared), '1:2', hang) as machines:
        machines.start('a')
        machines.start('b')
        machines.wait_for((tmp_path / 'hangs').exists, 180)
        machines.kill('b', wipe=True)
        assert machines.end('a', 180) == 0, machines.text()
        begin = assert_each_sample_once(machines, samples, 2, 1)
    assert_ended_as(plainly(tmp_path / 'plainly', (2, begin), (1, 6)), tmp_path / 'shared/run')


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_that_joins_takes_its_part(tmp_path, samples):
    (tmp_path / 'mirror').mkdir()
    words = flags('run', **SIX, **AUTO, checkpoint_mirror=tmp_path / 'mirror')
    wait = ['wait_for_signal_at', 4, str(tmp_path / 'waits')]
    with Machines(tmp_path, words, '1:2', wait) as machines:
        machines.start('a')
        machines.wait_for((tmp_path / 'waits').exists, 180)
        machines.start('b')
        assert [machines.end(name, 180) for name in 'ab'] == [0, 0], machines.text()
        begin = assert_each_sample_once(machines, samples, 1, 2)
    assert_ended_as(plainly(tmp_path / 'plainly', (1, begin), (2, 6)), tmp_path / 'a/checkpoint/run')


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_machine_lost_with_its_disk_is_replaced(tmp_path, samples):
    for package in ('moto', 's3fs'):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[test-all]'")
    hang = ['hang_at', 4, str(tmp_path / 'hangs'), 0]
    words = flags('run', **SIX, **AUTO, checkpoint_mirror='s3://bucket/machines')
    with s3_server() as (_, environment), Machines(tmp_path, words, '2:2', hang, environment=environment) as machines:
        machines.start('a')
        machines.start('b')
        machines.wait_for((tmp_path / 'hangs').exists, 180)
        machines.wait_for(lambda: 'is in the mirror' in machines.text('a'), 180)
        machines.kill('a', wipe=True)
        machines.start('c')
        assert [machines.end(name, 180) for name in 'bc'] == [0, 0], machines.text()
        begin = assert_each_sample_once(machines, samples, 2, 2)
        assert 'comes from the mirror s3://bucket/machines/run' in machines.text('b')
    assert_ended_as(plainly(tmp_path / 'plainly', (2, begin), (2, 6)), tmp_path / 'b/checkpoint/run')
