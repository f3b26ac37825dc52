"""Stores that lie, linger or deny: old lists, wrong checksums, slow writes, credentials that expire, other clocks."""

import itertools
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from support.faults import SAVES, Save, WatchedDisk, auto, checkpoints, holds, play_well
from support.stores import FaultyStore, mirror_of, mirror_store, push, records_are_whole, train

from checkpointing.mirror import keeping, lease
from checkpointing.mirror.keeping import Keeping
from checkpointing.mirror.lease import Lease
from checkpointing.mirror.store import Store
from common.stores import StoreError

pytestmark = pytest.mark.usefixtures('empty_store')


def test_a_list_that_fails_is_no_empty_store(tmp_path):
    train(tmp_path, SAVES[:3])
    mirror = mirror_of(tmp_path)
    push(mirror)
    known = mirror.contents.sizes
    FaultyStore.set(at=1)
    with pytest.raises(StoreError, match='reset'):
        mirror.contents.look()
    assert mirror.contents.sizes == known != {}


def old_lists(patch, age):
    """Lists are those of so many requests for one ago: without new objects, and with removed ones."""
    lists, real = [], Store.sizes

    def sizes(self):
        lists.append(real(self))
        return lists[max(0, len(lists) - 1 - age)]

    patch.setattr(Store, 'sizes', sizes)


@pytest.mark.parametrize('age', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_lists_that_are_old_cost_no_checkpoint(tmp_path, age):
    run = tmp_path / 'run'
    with pytest.MonkeyPatch.context() as patch:
        old_lists(patch, age)
        mirror = mirror_of(run)
        for number, save in enumerate(SAVES):
            train(run, [save])
            while mirror.push():
                assert records_are_whole()
            pulled = mirror_of(tmp_path / f'copy-{number}').pull('base')  # perhaps nothing, of a list from before
            assert pulled is None or holds(tmp_path / f'copy-{number}', pulled)
    push(mirror_of(run))
    assert mirror_of(tmp_path / 'copy').pull('base').step == SAVES[-1].step
    assert holds(tmp_path / 'copy', auto(tmp_path / 'copy').record)


def test_objects_that_a_list_shows_but_are_gone_are_left_out(tmp_path, caplog):
    run = tmp_path / 'run'
    train(run, SAVES[:1])
    (run / 'epoch-0-iter-1.pin').touch()
    train(run, SAVES[1:2])
    push(mirror := mirror_of(run))
    newest = mirror.contents.records()[-1].files
    gone = {mirror.contents.object_of(newest[kind]): 1 for kind in ('weights', 'state', 'ema')}
    for number, (name, step) in enumerate({**gone, 'epoch-0-iter-1.pin': 3}.items()):
        coming, data = mirror_of(tmp_path / f'copy-{number}'), FaultyStore.objects()[name]
        mirror_store().delete(name)
        assert coming.pull('base').step == step
        mirror_store().put(name, data)
    assert 'epoch-0-iter-3 in the mirror faulty://bucket/run is left out: epoch-0-iter-3.pth is missing' in caplog.text


class FlexibleChecksumError(Exception):
    """What the client of S3 raises where bytes are not those of the checksum that came with them."""


@pytest.mark.parametrize('times', [1, 2])
def test_bytes_that_a_client_finds_damaged_are_read_again_and_then_left_out(tmp_path, monkeypatch, times):
    train(tmp_path / 'run', SAVES[:2])
    push(mirror_of(tmp_path / 'run'))
    mirror, failed = mirror_of(tmp_path / 'copy'), itertools.count()
    real = mirror.store._fs.cat_file

    def cat_file(path):
        if 'iter-3' in path and '.state.' in path and next(failed) < times:
            raise FlexibleChecksumError('Expected checksum a did not match calculated checksum b')
        return real(path)

    monkeypatch.setattr(mirror.store._fs, 'cat_file', cat_file)
    assert mirror.pull('base').step == (3 if times == 1 else 1)


def test_a_client_that_is_denied_is_made_anew(monkeypatch):
    store = mirror_store()
    store.put('a', b'content')

    def denied(*_):
        raise PermissionError('The provided token has expired.')

    monkeypatch.setattr(store._fs, 'cat_file', denied)
    with pytest.raises(StoreError, match='faulty://bucket/run: denied: The provided token has expired'):
        store.get('a')
    assert store.get('a') == b'content'


def test_a_store_slower_than_checkpoints_come_gets_every_so_manyth_whole(tmp_path, caplog):
    """Each that was begun, also where the folder keeps it no longer; at the end the newest goes first."""
    caplog.set_level('INFO')
    mirror = mirror_of(tmp_path)
    for step in range(1, 30, 2):
        if step == 15:
            middle = time.monotonic()
        train(tmp_path, [Save(step, {f'epoch-{step // 6}-iter-{step}': 'interval'}, {})])
        mirror.push(ending=False)
        assert records_are_whole()
    assert mirror.behind_since > middle  # the mirror's age is that of the oldest that the folder still has
    names = [record.name for record in mirror.contents.records()]
    assert len(names) > 1
    assert not any((tmp_path / f'{name}.pth').exists() for name in names)
    while 'in the mirror' not in caplog.messages[-1]:
        mirror.push(ending=False)
    train(tmp_path, [Save(31, {'epoch-5-iter-31': 'interval'}, {})])
    mirror.push(ending=False)
    train(tmp_path, [Save(33, {'epoch-5-iter-33': 'SIGTERM'}, {})])
    assert [mirror.push() for _ in range(4)]
    assert mirror.contents.records()[-1].step == 33


def test_a_scratch_folder_that_somebody_clears_is_made_anew(tmp_path):
    train(tmp_path, SAVES[:2])
    mirror = mirror_of(tmp_path)
    push(mirror)
    shutil.rmtree(mirror.contents.folder)
    train(tmp_path, SAVES[2:4])
    assert not all(mirror.push() for _ in range(100))
    assert mirror.contents.records()[-1].step == 7


def test_no_scratch_folder_is_made_after_the_end(tmp_path):
    def end():
        raise StoreError('the lease is given back')

    train(tmp_path, SAVES[:1])
    mirror = mirror_of(tmp_path)
    put = mirror.store.put

    def put_late(name, data):  # its answer comes once nobody waits for it any more
        put(name, data)
        if name.endswith('.json'):
            mirror.may_write = end
            mirror.close()

    mirror.store.put = put_late
    with pytest.raises(StoreError, match='given back'):
        push(mirror)
    assert not mirror.contents.folder.exists()


def test_after_a_failure_the_newest_comes_first(tmp_path):
    mirror = mirror_of(tmp_path)
    train(tmp_path, SAVES[:1])
    mirror.push(ending=False)
    train(tmp_path, SAVES[1:2])
    FaultyStore.set(at=1)
    with pytest.raises(StoreError, match='reset'):
        mirror.push(ending=False)
    while not (records := [name for name in FaultyStore.objects() if name.endswith('.json')]):
        mirror.push(ending=False)
    assert records == ['epoch-0-iter-3.json']


def test_a_store_that_takes_long_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(keeping, 'SAY_SECONDS', 0.05)
    play_well(checkpoints(tmp_path), SAVES[:1])
    made = Keeping(mirror_of(tmp_path), Lease(mirror_store(), tmp_path, WatchedDisk()), grace=0)
    made.lease.take()
    go_on, put = threading.Event(), Store.put
    monkeypatch.setattr(Store, 'put', lambda *words: (go_on.wait(), put(*words))[1])
    said = threading.Event()
    real = made._say
    made._say = lambda why: (real(why), said.set())
    made.start()
    assert said.wait(60)
    assert 's behind: faulty://bucket/run takes that long; training goes on' in caplog.text
    go_on.set()
    made.grace = 60
    made.end(lambda: False)
    assert made.behind() == 0


def test_a_lease_asks_no_clock_that_machines_may_disagree_on(tmp_path, monkeypatch):
    jumps = itertools.cycle([0.0, 1e9, -1e9])
    clock = SimpleNamespace(
        monotonic=time.monotonic, sleep=time.sleep, time=lambda: next(jumps), time_ns=lambda: int(next(jumps))
    )
    monkeypatch.setattr(lease, 'time', clock)
    (tmp_path / 'one').mkdir()
    (tmp_path / 'other').mkdir()
    one, other = (Lease(mirror_store(), tmp_path / name, WatchedDisk(), 0.4) for name in ('one', 'other'))
    one.take()
    with pytest.raises(StoreError, match='is writing to this mirror'):
        other.take()
    one._over.set()  # as a kill does
    other.take()
    one._renewed_at -= 60
    one._over.clear()
    with pytest.raises(StoreError, match='has taken this run over'):
        one.check()
    other.release()
