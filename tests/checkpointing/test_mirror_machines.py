"""Machines that share a mirror, and come back with what they had: of one checkpoint the record written last counts."""

import itertools
import json
import time
from types import SimpleNamespace

import pytest
from support.faults import SAVES, copy_folder
from support.faults import _save as save
from support.stores import FaultyStore, mirror_of, push, train

import checkpointing.record
import checkpoints

pytestmark = pytest.mark.usefixtures('empty_store')


@pytest.fixture
def _later_and_later(monkeypatch):
    """Each record is written an hour after the one before, by clocks of two zones."""
    hours = itertools.count(1)
    zones = itertools.cycle([('{:02}:30:00+0000', 0), ('{:02}:30:00-0100', -1)])

    def strftime(_):
        text, ahead = next(zones)
        return f'2026-01-01T{text.format(next(hours) + ahead)}'

    monkeypatch.setattr(checkpointing.record, 'time', SimpleNamespace(strftime=strftime, time_ns=time.time_ns))


def sync(*places):
    return checkpoints.main(['sync', *map(str, places)])


def metrics(folder):
    return json.loads((folder / 'epoch-1-iter-7.json').read_text())['metrics']


@pytest.mark.usefixtures('_later_and_later')
def test_a_machine_that_comes_back_replaces_nothing_that_is_newer(tmp_path, monkeypatch):
    monkeypatch.setattr('support.stores.OPTIONS', {})  # all are kept, and so the older ones are not fetched
    one, other = tmp_path / 'one', tmp_path / 'other'
    train(one, SAVES[:1])
    push(mirror_of(one, policy=None))
    train(one, [save(3, 0.45)])  # and it goes away before this is mirrored
    mirror = mirror_of(other, policy=None)
    mirror.pull('base')
    for made in (save(3, 0.44), save(5, 0.4), save(7, 0.3)):
        train(other, [made])
        push(mirror)
    before = FaultyStore.objects()
    mirror = mirror_of(one, policy=None)
    assert mirror.pull('base').step == 7
    push(mirror)
    assert FaultyStore.objects() == before
    train(one, [save(7, 0.2)])  # a record that is renewed is another matter
    push(mirror)
    assert FaultyStore.objects()['epoch-1-iter-7.json'] == (one / 'epoch-1-iter-7.json').read_bytes()


@pytest.mark.usefixtures('_later_and_later')
def test_sync_replaces_no_record_that_was_written_later(tmp_path):
    run, store = tmp_path / 'run', tmp_path / 'store'
    store.mkdir()
    train(run, SAVES[:4])  # the last of these by a signal, and validated later
    older = copy_folder(run, tmp_path / 'older')
    train(run, SAVES[4:5])
    assert sync(run, f'file://{store}/run') == 0
    assert sync(older, f'file://{store}/run') == 0
    assert metrics(store / 'run') == {'valid_loss': 0.45}
    # And back.
    assert sync(older, f'file://{store}/older') == 0
    assert metrics(store / 'older') == {}
    assert sync(f'file://{store}/older', run) == 0
    assert metrics(run) == {'valid_loss': 0.45}
    assert not [*run.glob('*.aside')]
    assert sync(f'file://{store}/run', older) == 0
    assert metrics(older) == {'valid_loss': 0.45}
