"""What a mirror asks of a store: verified writes, a lease that one training holds, and lines without secrets."""

import itertools
import os
import shutil
import socket
import threading

import fsspec
import pytest
from support.faults import SAVES, WatchedDisk, checkpoints, play_well, snapshot
from support.stores import FaultyS3, FaultyStore, mirror_store, train

from checkpointing.mirror import keeping
from checkpointing.mirror.keeping import begin_keeping, try_store
from checkpointing.mirror.lease import Lease
from checkpointing.mirror.store import Store
from checkpointing.record import read_records
from common.stores import StoreError


@pytest.fixture(autouse=True)
def _empty_store():
    yield
    FaultyStore.set({})


@pytest.fixture(params=['faulty', 'faultys3'])
def store(request):
    FaultyStore.set({})
    return mirror_store(request.param)


def test_what_a_store_holds_is_verified(monkeypatch):
    store = mirror_store('faultys3')
    for mute in (False, True):
        monkeypatch.setattr(FaultyS3, 'mute', mute)
        store.put('a', b'content')
        asked = FaultyStore.done[-1]
        assert asked == ('cat_file' if mute else 'call_s3')  # read back where no checksum is told
        assert store.get('a') == b'content'
    monkeypatch.setattr(FaultyS3, 'lies', True)
    for mute in (False, True):
        monkeypatch.setattr(FaultyS3, 'mute', mute)
        with pytest.raises(StoreError, match='faultys3://bucket/run: holds something else than b was written with'):
            store.put('b', b'content')


def test_a_folder_is_written_to_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / 'nas').mkdir()
    store = Store(str(tmp_path / 'nas')).folder('run')
    store.rehearse()
    assert store.sizes() == {}
    store.put('record.json', b'first')
    monkeypatch.setattr(Store, 'get', lambda self, name: b'other')
    with pytest.raises(StoreError, match=r'holds something else than record\.json was written with'):
        store.put('record.json', b'second')
    assert [path.name for path in (tmp_path / 'nas/run').iterdir()] == ['record.json']
    assert (tmp_path / 'nas/run/record.json').read_bytes() == b'first'


def test_of_two_conditional_writes_one_is_refused():
    store = mirror_store('faultys3')
    first = store.swap('a', b'1', None)
    assert first is not None
    assert store.swap('a', b'2', None) is None
    second = store.swap('a', b'2', first)
    assert store.swap('a', b'3', first) is None
    assert store.versioned('a') == (b'2', second)


def new_lease(store, folder, seconds=0.3):
    folder.mkdir(exist_ok=True)
    return Lease(store, folder, WatchedDisk(), seconds)


def die(lease):
    """What a kill does: nothing is given back, and nothing renewed."""
    lease._over.set()


def test_the_second_of_two_living_trainings_is_refused(store, tmp_path):
    one, other = new_lease(store, tmp_path / 'one', 0.4), new_lease(store, tmp_path / 'other', 1.4)
    one.take()
    with pytest.raises(StoreError, match=r'a training on .* \(process \d+\) is writing to this mirror'):
        other.take()
    one.check()
    one.release()
    other.take()  # at once
    other.release()


def test_a_dead_training_is_waited_out_and_does_not_come_back(store, tmp_path):
    one, other = new_lease(store, tmp_path / 'one'), new_lease(store, tmp_path / 'other')
    one.take()
    die(one)
    other.take()
    one._over.clear()
    one._renewed_at -= 60  # a machine that was suspended
    with pytest.raises(StoreError, match='has taken this run over'):
        one.check()
    assert one.lost
    one.release()
    other.check()
    other.release()


def test_who_took_a_run_over_is_named_also_when_done(store, tmp_path):
    one = new_lease(store, tmp_path / 'one')
    other = Lease(store, tmp_path, WatchedDisk(), 0.3, command='checkpoints.py prune')
    one.take()
    die(one)
    other.take()
    other.release()
    one._over.clear()
    one._renewed_at -= 60
    words = rf'checkpoints.py prune on .* \(process {os.getpid()}\) has taken this run over'
    with pytest.raises(StoreError, match=words):
        one.check()


def test_a_process_on_the_same_disk_is_not_waited_for(store, tmp_path):
    one, other = new_lease(store, tmp_path / 'one', 1000), new_lease(store, tmp_path / 'one', 1000)
    one.take()
    die(one)
    other.take()
    other.release()
    assert list((tmp_path / 'one').iterdir()) == []


@pytest.mark.parametrize('elsewhere', ['another folder', 'another machine'])
def test_a_copied_folder_takes_no_lease_from_the_living(store, tmp_path, monkeypatch, elsewhere):
    one, other = new_lease(store, tmp_path / 'one', 0.4), new_lease(store, tmp_path / 'other', 1.4)
    one.take()
    if elsewhere == 'another machine':  # the image of a disk
        monkeypatch.setattr(socket, 'gethostname', lambda: 'other')
        other = new_lease(store, tmp_path / 'one', 1.4)
    else:
        shutil.copy(one.path, other.path)
    with pytest.raises(StoreError, match='is writing to this mirror'):
        other.take()
    one.check()
    die(one)


def test_a_lost_answer_loses_no_lease(store, tmp_path):
    one = new_lease(store, tmp_path / 'one', 1000)
    one.take()
    FaultyStore.set(at=2 if not store.conditional else 1, late=True)
    one._renewed_at -= 1000
    with pytest.raises(StoreError, match='the answer was lost'):
        one.check()
    one.check()
    assert one.lost is None
    one.release()


def test_who_has_given_the_lease_back_may_not_write(store, tmp_path):
    one = new_lease(store, tmp_path / 'one')
    one.take()
    one.release()
    with pytest.raises(StoreError, match='this training has given its lease back'):
        one.check()


def test_a_lost_answer_at_the_start_is_no_other_training(store, tmp_path, monkeypatch):
    one, swap = new_lease(store, tmp_path / 'one', 2), store.swap
    # What a client does by itself: a second try, which the first one's success refuses.
    monkeypatch.setattr(store, 'swap', lambda *words: swap(*words) and monkeypatch.undo())
    one.take()
    one.check()
    one.release()


def test_a_lease_that_somebody_deletes_is_taken_again(store, tmp_path):
    one = new_lease(store, tmp_path / 'one', 1000)
    one.take()
    store.delete('.lease')
    one._renewed_at -= 1000
    one.check()
    assert one.lost is None
    assert '.lease' in store.sizes()
    one.release()


class StrictStore(FaultyStore):
    """Takes no settings but its own, as the client of SFTP."""

    protocol = 'strict'

    def __init__(self):
        super().__init__()


def test_a_client_gets_no_settings_that_it_may_not_know():
    fsspec.register_implementation('strict', StrictStore, clobber=True)
    FaultyStore.set({})
    store = Store('strict://bucket')
    store.put('a', b'content')
    assert store.sizes() == {'a': 7}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(keeping, 'LOOK_SECONDS', 0.01)
    monkeypatch.setattr(keeping, 'LONGEST_PAUSE', 0.01)


def begin(folder, grace=60.0, url='faulty://bucket'):
    made = begin_keeping(url, folder, folder / 'log', grace, WatchedDisk())
    made.start()
    return made


def test_a_store_that_is_away_is_said_once_and_costs_nothing_but_age(tmp_path, impatient, caplog):
    folder = tmp_path / 'run'
    folder.mkdir()
    FaultyStore.set({})
    made = begin(folder)
    FaultyStore.set(at=1, persistent=True)
    play_well(checkpoints(folder), SAVES[:3])
    failed, ready = [], threading.Event()
    real = made._failed
    made._failed = lambda *arguments: (real(*arguments), failed.append(1), len(failed) > 9 and ready.set())
    assert ready.wait(60)
    assert caplog.text.count('faulty://bucket/run: the connection was reset') == 1
    assert made.behind() > 0
    FaultyStore.set()
    caplog.set_level('INFO')
    made.end(lambda: False)
    assert 'safe: the mirror faulty://bucket/run holds step 5' in caplog.messages
    assert made.behind() == 0
    assert {f'{record.name}.json' for record in read_records(folder)} <= FaultyStore.objects().keys()


def test_a_mirror_ages_also_where_its_lease_cannot_be_renewed(tmp_path, impatient):
    folder = tmp_path / 'run'
    folder.mkdir()
    FaultyStore.set({})
    play_well(checkpoints(folder), SAVES[:1])
    made = begin_keeping('faulty://bucket', folder, folder / 'log', 60, WatchedDisk())
    failed = threading.Event()
    made.lease._renewed_at -= 1000
    FaultyStore.set(at=1, persistent=True)
    real = made._failed
    made._failed = lambda *arguments: (real(*arguments), failed.set())
    made.start()
    assert failed.wait(60)
    assert made.behind() > 0
    FaultyStore.set()
    made.end(lambda: False)
    assert 'epoch-0-iter-1.json' in FaultyStore.objects()


def test_what_was_taken_over_is_copied_no_longer(tmp_path, impatient, caplog):
    folder = tmp_path / 'run'
    folder.mkdir()
    FaultyStore.set({})
    play_well(checkpoints(folder), SAVES[:1])
    made = begin_keeping('faulty://bucket', folder, folder / 'log', 60, WatchedDisk())
    made.lease.lost = 'a training elsewhere'
    made.start()
    made._thread.join(60)
    assert made.lost
    assert 'a training elsewhere has taken this run over' in caplog.text
    caplog.set_level('INFO')
    made.end(lambda: False)
    assert caplog.messages[-1].startswith(
        'NOT safe: the mirror faulty://bucket/run holds no checkpoint, and step 1 is on this disk only '
        '(faulty://bucket/run: a training elsewhere has taken this run over'
    )
    assert set(FaultyStore.objects()) == {'.lease'}


@pytest.mark.parametrize('urgent', [False, True])
def test_the_end_says_what_is_not_safe(tmp_path, impatient, caplog, urgent):
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    folder.mkdir()
    FaultyStore.set({})
    play_well(checkpoints(folder), SAVES[:1])
    made = begin(folder)
    made.end(lambda: urgent)
    FaultyStore.set()
    made = begin(folder, grace=0.1)
    FaultyStore.set(at=1, persistent=True)
    play_well(checkpoints(folder), SAVES[1:2])
    made.end(lambda: urgent)
    assert caplog.messages[-1] == (
        'NOT safe: the mirror faulty://bucket/run holds step 1, and step 3 is on this disk only '
        '(faulty://bucket/run: the connection was reset)'
    )


def test_the_end_says_what_is_damaged_or_was_never_saved(tmp_path, impatient, caplog):
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    folder.mkdir()
    FaultyStore.set({})
    begin(folder).end(lambda: False)
    mirror = 'the mirror faulty://bucket/run holds'
    assert caplog.messages[-1] == f'NOT safe: no checkpoint is on this disk, and {mirror} no checkpoint'
    play_well(checkpoints(folder), SAVES[:2])
    (folder / 'epoch-0-iter-3.pth').write_bytes(b'damaged' + (folder / 'epoch-0-iter-3.pth').read_bytes()[7:])
    begin(folder).end(lambda: False)
    assert caplog.messages[-1] == (
        f'NOT safe: {mirror} step 1, and step 3 is on this disk only '
        '(epoch-0-iter-3.pth does not have the sha256 of its record)'
    )


def test_the_lease_is_given_back_once(tmp_path):
    FaultyStore.set({})
    (tmp_path / 'run').mkdir()
    made = begin_keeping('faulty://bucket', tmp_path / 'run', tmp_path / 'log', 60, WatchedDisk())
    released, release = itertools.count(), made.lease.release
    made.lease.release = lambda: (next(released), release())
    made.end(lambda: False)
    made.end(lambda: False)
    assert next(released) == 1


def test_a_signal_that_comes_while_the_end_waits_bounds_the_wait(tmp_path, impatient, caplog):
    """By what a launcher allows, too, where that is less."""
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    folder.mkdir()
    FaultyStore.set({})
    made = begin(folder, grace=1000)
    FaultyStore.set(at=1, persistent=True)
    play_well(checkpoints(folder), SAVES[:1])
    asked = itertools.count()
    made.end(lambda: next(asked) > 2, most=0.1)
    assert next(asked) == 4
    assert caplog.messages[-2] == 'waiting up to 0.1 s for the mirror'
    assert caplog.messages[-1].startswith('NOT safe: the mirror faulty://bucket/run holds no checkpoint')


@pytest.mark.parametrize(
    ('url', 'problem'),
    [
        ('s3x://bucket', 's3x://bucket: Protocol not known: s3x'),
        ('sftp://user:S3cr3t@nowhere/x', r'sftp://\*\*\*@nowhere/x: .*'),
        ('gdrive://folder', 'gdrive://folder: needs a package: .*'),
    ],
)
def test_a_store_of_no_use_is_one_line_without_its_password(url, problem):
    with pytest.raises(StoreError, match=problem) as raised:
        Store(url)
    assert '\n' not in str(raised.value)
    assert 'S3cr3t' not in str(raised.value)


def test_failures_of_a_client_are_told_without_passwords(monkeypatch):
    store = mirror_store()

    def fail(*_):
        raise RuntimeError('no answer\n from https://user:S3cr3t@host/x')

    monkeypatch.setattr(store._fs, 'cat_file', fail)
    with pytest.raises(StoreError) as raised:
        store.get('a')
    assert str(raised.value) == 'faulty://bucket/run: no answer from https://***@host/x'


def test_an_unmounted_disk_is_said_before_training_and_in_a_dry_run(tmp_path, caplog):
    url = str(tmp_path / 'nas')
    for attempt in (lambda: begin_keeping(url, tmp_path / 'run', tmp_path / 'log', 60), lambda: try_store(url, 'run')):
        with pytest.raises(StoreError, match=f'{url} is not there; make that folder, or mount the disk'):
            attempt()
    (tmp_path / 'nas/run').mkdir(parents=True)
    for name in ('epoch-9.json', 'epoch-9.0123456789abcdef.pth'):
        (tmp_path / 'nas/run' / name).touch()
    caplog.set_level('INFO')
    assert try_store(url, 'run') == []
    assert caplog.messages == [f'epoch-9 in the mirror {url}/run: its record cannot be read']
    train(tmp_path / 'nas/run', SAVES[:1])
    before = snapshot(tmp_path / 'nas')
    assert [record.name for record in try_store(url, 'run')] == ['epoch-0-iter-1']
    assert f'{url}/run holds checkpoints; those that are newer' in caplog.text
    assert snapshot(tmp_path / 'nas') == before
