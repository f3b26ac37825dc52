"""A mirror in S3, by its own client: slow and stalled writes, throttling, credentials that expire, lying checksums."""

import math

import pytest
from support.faults import SAVES, WatchedDisk, checkpoints, holds, play_well
from support.s3 import s3_server
from support.stores import flipped

from checkpointing.mirror import keeping
from checkpointing.mirror import store as stores
from checkpointing.mirror.keeping import begin_keeping
from checkpointing.mirror.mirror import Mirror
from checkpointing.mirror.store import Store
from common.stores import DamagedObject, StoreError

for package in ('moto', 's3fs'):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[test-all]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def server():
    with s3_server() as found:
        yield found


@pytest.fixture
def proxy(server, monkeypatch, tmp_path):
    proxy, environment = server
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(keeping, 'LOOK_SECONDS', 0.01)
    monkeypatch.setattr(keeping, 'LONGEST_PAUSE', 0.01)
    proxy.arm()
    yield proxy
    proxy.go_on.set()


def begin(folder, grace=60.0):
    folder.mkdir()
    return begin_keeping(f's3://bucket/{folder.parent.name}', folder, folder / 'log', grace, WatchedDisk())


def test_an_object_is_one_request_of_which_nothing_stays_unless_it_is_whole(proxy):
    store, data = Store('s3://bucket/one'), bytes(60_000_000)  # more than the client itself would send at once
    proxy.arm(1, 'cut', times=math.inf)
    with pytest.raises(StoreError):
        store.put('large', data)
    proxy.arm()
    assert store.sizes() == {}
    store.put('large', data)
    assert store.get('large') == data
    assert not [request for request in proxy.done if 'upload' in request.lower() or request.startswith('POST')]
    assert not store._fs.call_s3('list_multipart_uploads', Bucket='bucket').get('Uploads')


def test_the_end_waits_for_as_long_as_a_slow_store_takes_bytes(proxy, tmp_path, caplog):
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    made = begin(folder, grace=3.0)
    play_well(checkpoints(folder), SAVES[:1], size=6_000_000)
    proxy.arm(rate=4_000_000)
    made.start()
    made.end(lambda: False)
    assert caplog.messages[-1] == f'safe: the mirror s3://bucket/{tmp_path.name}/run holds step 1'


def test_after_a_signal_a_slow_store_has_the_grace_and_no_more(proxy, tmp_path, caplog):
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    made = begin(folder, grace=0.5)
    play_well(checkpoints(folder), SAVES[:1], size=6_000_000)
    proxy.arm(rate=100_000)  # four minutes for each file
    made.start()
    made.end(lambda: True)
    assert caplog.messages[-1].startswith('NOT safe: the mirror')
    assert caplog.messages[-1].endswith('(more than --mirror-grace 0.5 s are needed)')


def test_a_store_that_takes_no_more_is_given_up_and_tried_again(proxy, tmp_path, caplog, monkeypatch):
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    made = begin(folder)
    monkeypatch.setattr(stores, 'STALLED_SECONDS', 0.5)
    proxy.arm(1, 'held', times=math.inf)
    play_well(checkpoints(folder), SAVES[:1])
    made.start()
    while 'took no more of epoch-0-iter-1' not in caplog.text:
        made._thread.join(0.05)
        assert made._thread.is_alive()
    monkeypatch.undo()
    proxy.arm()
    made.end(lambda: False)
    assert 'safe: the mirror' in caplog.messages[-1]


def test_a_store_that_throttles_many_times_in_a_row_gets_all(proxy, tmp_path, caplog):
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    made = begin(folder)
    proxy.arm(1, 'throttled', times=20)
    play_well(checkpoints(folder), SAVES[:2])
    made.start()
    made.end(lambda: False)
    assert 'safe: the mirror' in caplog.messages[-1]
    assert caplog.text.count('Please reduce your request rate') == 1
    assert len(proxy.done) > 20


def test_credentials_that_expire_are_read_again(proxy, tmp_path, caplog, monkeypatch):
    monkeypatch.delenv('AWS_ACCESS_KEY_ID')
    monkeypatch.delenv('AWS_SECRET_ACCESS_KEY')
    monkeypatch.setenv('AWS_SHARED_CREDENTIALS_FILE', str(tmp_path / 'credentials'))

    def renew(key):
        text = f'[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n'
        (tmp_path / 'credentials').write_text(text)

    renew('first')
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    made = begin(folder)
    proxy.revoked.add('first')
    play_well(checkpoints(folder), SAVES[:1])
    made.start()
    while 'denied: ' not in caplog.text:
        made._thread.join(0.05)
        assert made._thread.is_alive()
    renew('second')
    made.end(lambda: False)
    assert 'safe: the mirror' in caplog.messages[-1]


def mirrored(folder, saves):
    """The mirror of a run, all of which is there."""
    play_well(checkpoints(folder), saves)
    mirror = Mirror(Store(f's3://bucket/{folder.parent.name}'), folder, None, disk=WatchedDisk())
    mirror.contents.look()
    while mirror.push():
        pass
    return mirror


def test_a_checksum_that_is_wrong_is_no_safe_checkpoint(proxy, tmp_path, caplog):
    caplog.set_level('INFO')
    folder = tmp_path / 'run'
    made = begin(folder, grace=1.0)
    proxy.arm(1, 'wrong checksum', times=math.inf)
    play_well(checkpoints(folder), SAVES[:1])
    made.start()
    made.end(lambda: False)
    assert caplog.messages[-1].startswith('NOT safe: the mirror')
    assert 'holds something else than epoch-0-iter-1' in caplog.messages[-1]


@pytest.mark.parametrize('told', [True, False], ids=['checksum told', 'no checksum'])
def test_bytes_flipped_in_s3_are_left_out_by_either_check(proxy, tmp_path, told):
    mirror = mirrored(tmp_path / 'run', SAVES[:2])
    name = mirror.contents.object_of(mirror.contents.records()[-1].files['state'])
    path = f'/bucket/{tmp_path.name}/{name}'
    checksum = proxy.checksums[path]
    mirror.store.put(name, flipped(mirror.store.get(name), 500))
    proxy.checksums[path] = checksum if told else None
    with pytest.raises(DamagedObject):
        mirror.contents.read(mirror.contents.records()[-1].files['state'])
    coming = Mirror(mirror.store, tmp_path / 'copy', None, disk=WatchedDisk())
    coming.contents.look()
    assert coming.pull('base').step == 1
    assert holds(tmp_path / 'copy', coming.contents.records()[0])
