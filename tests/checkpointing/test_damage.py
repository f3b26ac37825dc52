"""Damaged checkpoints are seen and gone back behind; files of others are neither changed nor gone on from."""

import contextlib
import random

import pytest
from support.faults import SAVES, auto, checkpoints, copy_folder, holds, play_well, snapshot, stop_clock

from checkpointing.record import CheckpointError, Record
from checkpointing.retention import Policy

PAGE = 4096
SIZE = 3 * PAGE
STATES = Policy(states=3)


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    stop_clock(monkeypatch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Three steps that can be resumed from, the last one under two names."""
    folder = tmp_path_factory.mktemp('whole')
    play_well(checkpoints(folder, policy=STATES), SAVES[:3], SIZE)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return copy_folder(whole, tmp_path / 'run')


def flip(rng, data):
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def cut_short(rng, data):
    return data[: rng.randrange(len(data))]


def zero_page(rng, data):
    begin = rng.randrange(0, len(data), PAGE)
    return data[:begin] + bytes(len(data[begin : begin + PAGE])) + data[begin + PAGE :]


@contextlib.contextmanager
def damaged(folder, name, data):
    """Writes other bytes into a file, under all of its names, and then makes all as it was."""
    path = folder / name
    before = path.read_bytes()
    assert data != before
    _write(path, data)
    yield
    for aside in folder.glob('*.damaged'):
        aside.rename(aside.with_suffix(''))
    _write(path, before)


def _write(path, data):
    with path.open('r+b') as file:
        file.write(data)
        file.truncate()


def check_damage(folder, name, data, caplog, step):
    """Damage of the newest checkpoint is seen, said in one line, and `auto` goes on from that of an earlier step."""
    with damaged(folder, name, data):
        stem = name.split('.')[0]
        if name.endswith('.json'):
            with pytest.raises(CheckpointError, match=name):
                Record.read(folder / name)
        else:
            assert name in (Record.read(folder / f'{stem}.json').problem(folder) or '')
        before = snapshot(folder)
        caplog.clear()
        record = auto(folder).record
        assert record.step == step
        assert holds(folder, record, SIZE)
        assert [message.split(':')[0] for message in caplog.messages] == [f'{folder / stem} cannot be resumed from']
        before[f'{stem}.json.damaged'] = before.pop(f'{stem}.json')
        assert snapshot(folder) == before


def check_damages(folder, caplog, damage, count, seed):
    rng = random.Random(seed)
    for path in folder.glob('epoch-0.*'):
        path.unlink()
    names = sorted(path.name for path in folder.glob('epoch-0-iter-5.*'))
    assert len(names) == 4
    done = 0
    while done < count:
        name = rng.choice(names)
        data = (folder / name).read_bytes()
        changed = damage(rng, data)
        if changed != data:
            check_damage(folder, name, changed, caplog, step=3)
            done += 1


@pytest.mark.parametrize(('damage', 'count'), [(flip, 100), (cut_short, 20), (zero_page, 20)])
def test_damage_is_seen_and_gone_back_behind(folder, caplog, damage, count):
    check_damages(folder, caplog, damage, count, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(('damage', 'count'), [(flip, 1_000), (cut_short, 200), (zero_page, 200)])
def test_any_damage_is_seen_and_gone_back_behind(folder, caplog, damage, count):
    check_damages(folder, caplog, damage, count, seed=1)


def test_mutant_that_hashes_nothing_is_caught(folder, caplog, monkeypatch):
    monkeypatch.setattr(Record, 'problem', lambda *arguments: None)
    with pytest.raises(AssertionError):
        check_damages(folder, caplog, flip, 5, seed=0)


@pytest.mark.parametrize('kind', ['pth', 'ema.pth', 'state.pth'])
def test_damage_hits_both_names_of_a_step(folder, caplog, kind):
    file = folder / f'epoch-0.{kind}'
    assert file.samefile(folder / f'epoch-0-iter-5.{kind}')
    _write(file, flip(random.Random(0), file.read_bytes()))
    before = snapshot(folder)
    record = auto(folder).record
    assert (record.step, holds(folder, record, SIZE)) == (3, True)
    assert len(caplog.messages) == 2
    for name in ('epoch-0.json', 'epoch-0-iter-5.json'):
        before[f'{name}.damaged'] = before.pop(name)
    assert snapshot(folder) == before


def test_a_damaged_record_leaves_the_other_name_of_the_step(folder, caplog):
    for name, other in (('epoch-0', 'epoch-0-iter-5'), ('epoch-0-iter-5', 'epoch-0')):
        with damaged(folder, f'{name}.json', (folder / f'{name}.json').read_bytes()[:-1]):
            caplog.clear()
            assert auto(folder).record.name == other
            assert len(caplog.messages) == 1


@pytest.mark.parametrize('second', ['epoch-0-iter-3.json', 'epoch-0-iter-3.pth', 'epoch-0-iter-3.state.pth'])
def test_two_damaged_steps_are_gone_back_behind(folder, caplog, second):
    _write(folder / 'epoch-0.pth', b'')
    _write(folder / second, flip(random.Random(1), (folder / second).read_bytes()))
    record = auto(folder).record
    assert (record.step, holds(folder, record, SIZE)) == (1, True)
    assert len(caplog.messages) == 3
    # The run goes on, writes these steps again, and what was damaged is kept beside them.
    play_well(checkpoints(folder, policy=STATES), SAVES[1:3], SIZE)
    assert auto(folder).record.step == 5
    assert {
        'epoch-0.pth.aside',
        'epoch-0-iter-5.pth.aside',
        f'{second}.damaged' if 'json' in second else f'{second}.aside',
    } <= set(snapshot(folder))


@pytest.mark.parametrize('kind', ['json', 'pth', 'state.pth'])
def test_where_all_are_damaged_nothing_is_changed(folder, kind):
    for path in folder.glob(f'epoch-0-iter-*.{kind}'):
        if path.name.count('.') == kind.count('.') + 1:
            _write(path, path.read_bytes()[:-1])
    _write(folder / f'epoch-0.{kind}', b'')
    before = snapshot(folder)
    with pytest.raises(CheckpointError, match='none of the 4 checkpoints'):
        auto(folder)
    assert snapshot(folder) == before
