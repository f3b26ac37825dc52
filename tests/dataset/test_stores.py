"""Pictures in a store behind a URL: the samples of a folder, a bounded cache, and stores that fail."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import fsspec
import pytest
import torch
from support.pictures import noise, save
from support.shards import batches, data_paths, findings, write_folders, write_shards

from common import installation
from common.stores import StoreError
from dataset import cache, stores
from dataset.cache import PictureCache
from dataset.checks import check_files
from dataset.paths import find_images, list_sizes, read_data_config
from dataset.readers import ImageError, read_rgb
from dataset.stores import StoredFolder, open_folder
from training.options import data_problems


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    write_folders(tmp_path)
    monkeypatch.setattr(stores, 'PAUSES', (0, 0))
    return tmp_path


@pytest.mark.parametrize('kind', ['folders', 'shards'])
def test_a_store_gives_the_samples_of_a_folder_and_is_asked_once(root, kind):
    at = root if kind == 'folders' else write_shards(root)
    fgr, pha = ('fgr', 'pha') if kind == 'folders' else ('pairs/fgr', 'pairs/pha')
    (at / 'bgr/.hidden.jpg').write_bytes(b'no picture')
    (at / 'bgr/notes.txt').write_bytes(b'text')
    plain = data_paths(root / 'plain.toml', 'fgr', 'pha', 'bgr')
    urls = data_paths(root / 'urls.toml', f'file://{at}/{fgr}', f'file://{at}/{pha}/', f'file://{at}/bgr')
    report = check_files(urls)
    expected = list(batches(check_files(plain), workers=0))
    for folder, path in ((urls.train_fgr, plain.train_fgr), (urls.train_bgr, plain.train_bgr)):
        names = find_images(path, by_text=True)
        assert find_images(folder, by_text=True) == names
        assert list_sizes(folder, [folder / x for x in names]) == list_sizes(path, [path / x for x in names])
    for workers in (2, 0):
        for a, b in zip(batches(report, workers), expected):
            assert torch.equal(a.mattes, b.mattes)
            assert torch.equal(a.backgrounds, b.backgrounds)
            assert not a.errors
        for name in ('fgr', 'pha', 'bgr', 'shards'):  # what comes now comes from the cache
            shutil.rmtree(root / name, ignore_errors=True)


def picture_at(root: Path, cache: PictureCache | None = None) -> stores.StoredPicture:
    return StoredFolder(f'file://{root}/bgr', cache) / '1.jpg'


def test_the_cache_keeps_what_it_has_within_its_bound_and_gives_way_after_a_week(root, monkeypatch, capsys):
    monkeypatch.setattr(cache, '_FOLDERS', 1)
    kept = PictureCache(root / 'kept', 1000)
    for i in range(5):
        kept.put(f'{i}', bytes([i]) * 300)
    assert [kept.get(f'{i}') for i in range(5)] == [bytes([i]) * 300 if i < 3 else None for i in range(5)]
    assert capsys.readouterr().err.count('the cache is full') == 1
    assert sum(path.stat().st_size for path in (root / 'kept').rglob('*')) - (root / 'kept/00').stat().st_size < 1000
    long_ago = time.time() - cache.UNUSED_SECONDS - 1
    for path in (root / 'kept/00').iterdir():
        os.utime(path, (long_ago, long_ago))
    assert kept.get('1') is not None  # used now
    for i in (5, 6, 7):
        kept.put(f'{i}', bytes(300))
    assert [kept.get(f'{i}') is not None for i in range(8)] == [i in (1, 5, 6) for i in range(8)]
    monkeypatch.setattr(cache, 'FREE_BYTES', 1 << 60)
    PictureCache(root / 'other', 1000).put('8', b'small')
    assert PictureCache(root / 'other', 1000).get('8') is None


def test_what_the_cache_did_not_write_stays_and_does_not_count(root, monkeypatch):
    monkeypatch.setattr(cache, '_FOLDERS', 1)
    kept, mine = PictureCache(root / 'kept', 1000), root / 'kept/00/my-holiday.jpg'
    left = mine.with_name(f'.{"a" * 16}.tmp')
    mine.parent.mkdir(parents=True)
    for path in (mine, left):
        path.write_bytes(bytes(900))
        os.utime(path, (1, 1))
    kept.put('0', bytes(500))
    assert kept.get('0') == bytes(500)
    assert mine.exists()
    assert not left.exists()


def test_what_is_in_the_cache_of_another_user_is_used(root, monkeypatch):
    kept = PictureCache(root / 'kept', 1000)
    kept.put('0', b'content')

    def refused(path):
        raise PermissionError

    monkeypatch.setattr(os, 'utime', refused)
    assert kept.get('0') == b'content'


def test_a_damaged_or_useless_cache_costs_a_fetch_alone(root):
    kept = PictureCache(root / 'kept', 10**9)
    picture, content = picture_at(root, kept), (root / 'bgr/1.jpg').read_bytes()
    assert picture.read_bytes() == content
    (file,) = (path for path in (root / 'kept').rglob('*') if path.is_file())
    file.write_bytes(bytes(len(content) + 4))  # as after a power cut
    assert picture.read_bytes() == content
    assert file.read_bytes()[:-4] == content
    (root / 'file').write_bytes(b'')
    assert picture_at(root, PictureCache(root / 'file', 10**9)).read_bytes() == content


def test_another_version_of_a_file_is_not_taken_from_the_cache(root):
    kept = PictureCache(root / 'kept', 10**9)
    picture_at(root, kept).read_bytes()
    before = (root / 'bgr/1.jpg').stat()
    save(root / 'bgr/1.jpg', noise(90, 100, 3, seed=9))
    os.truncate(root / 'bgr/1.jpg', before.st_size)
    assert picture_at(root, kept).read_bytes() == (root / 'bgr/1.jpg').read_bytes()


def test_a_file_that_changed_since_it_was_listed_is_no_picture(root):
    picture = picture_at(root)
    save(root / 'bgr/1.jpg', noise(9, 10, 3))
    with pytest.raises(ImageError, match=r'bgr/1\.jpg: cannot be read: it has \d+ bytes, and had \d+ when the store'):
        read_rgb(picture)
    (root / 'bgr/1.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'bgr/1\.jpg: no such file'):
        read_rgb(picture)


@pytest.fixture
def memory():
    store = fsspec.filesystem('memory')
    yield store
    store.rm('/keys', recursive=True)


def test_keys_of_a_store_need_not_be_paths(memory):
    for key in ('a//1.jpg', '/2.jpg', 'a/3.jpg'):
        memory.pipe(f'/keys/{key}', key.encode())
    folder = StoredFolder('memory://keys')
    found = find_images(folder)
    assert sorted(map(str, found)) == ['2.jpg', 'a/1.jpg', 'a/3.jpg']
    assert sorted((folder / name).read_bytes() for name in found) == [b'/2.jpg', b'a//1.jpg', b'a/3.jpg']
    memory.pipe('/keys/a/1.jpg', b'another')
    with pytest.raises(StoreError, match=r'memory://keys: two pictures in it are called a/1\.jpg'):
        find_images(StoredFolder('memory://keys'))
    with pytest.raises(StoreError, match=r'memory://keys/a/3\.jpg: a picture, not a folder'):
        find_images(StoredFolder('memory://keys/a/3.jpg'))


def test_a_path_may_hold_what_chains_urls(root):
    at = root / 'a::b'
    write_folders(at)
    write_shards(at)
    folder = open_folder(f'{at}/shards/bgr')
    assert (folder / '1.jpg').read_bytes() == (at / 'bgr/1.jpg').read_bytes()


class Failing:
    """A store whose reads fail so many times."""

    def __init__(self, error: Exception, times: int):
        self.error, self.times = error, times

    def __call__(self, place):
        self.store, path = self.real(place)
        return self, path

    real = staticmethod(stores.open_store)

    def cat_file(self, path, **span):
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return self.store.cat_file(path, **span)


def test_a_read_that_fails_is_tried_again(root, monkeypatch):
    picture = picture_at(root)
    monkeypatch.setattr(stores, 'open_store', Failing(TimeoutError('slow down\nand more'), 2))
    assert picture.read_bytes() == (root / 'bgr/1.jpg').read_bytes()
    monkeypatch.setattr(stores, 'open_store', Failing(TimeoutError('slow down\nand more'), 3))
    with pytest.raises(StoreError, match=r'bgr/1\.jpg: slow down and more$'):
        picture.read_bytes()
    monkeypatch.setattr(stores, 'open_store', Failing(PermissionError('the token has expired'), 1))
    with pytest.raises(StoreError, match='the token has expired'):
        picture.read_bytes()


def test_a_stores_own_words_show_no_password(root, monkeypatch):
    picture = picture_at(root)
    monkeypatch.setattr(stores, 'open_store', Failing(PermissionError('no way to ftp://me:secret@host/1.jpg'), 1))
    with pytest.raises(StoreError, match=r'no way to ftp://\*\*\*@host/1\.jpg$'):
        picture.read_bytes()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_store_that_is_gone_ends_training_and_no_other_picture_stands_in(root, workers, monkeypatch):
    useless = 'cache = "bgr/1.jpg"'
    report = check_files(data_paths(root / 'a.toml', 'fgr', 'pha', f'file://{root}/bgr', useless))
    monkeypatch.setattr(stores, 'open_store', Failing(ConnectionError('away'), 100))
    try:
        with pytest.raises(StoreError, match=rf'^file://{root}/bgr/\d\.jpg: away$'):
            list(batches(report, workers))
    finally:
        for worker in multiprocessing.active_children():  # it ignores SIGTERM
            worker.kill()


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        ('foo://bucket/fgr', 'foo://bucket/fgr: Protocol not known: foo'),
        ('simplecache::s3://bucket/fgr', r'a chain of URLs (::) is not read'),
        ('memory://nothing/fgr', 'memory://nothing/fgr holds no pictures'),
        ('foo://me:secret@host/fgr', 'foo://***@host/fgr: Protocol not known: foo'),
        ('http://127.0.0.1:9/fgr', 'http://127.0.0.1:9/fgr: web servers do not list folders'),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line_before_training(root, url, message):
    found = findings(data_paths(root / 'a.toml', url, 'pha', 'bgr')).splitlines()
    assert len(found) == 2  # train and valid
    assert message in found[0]
    assert 'secret' not in found[0]
    assert data_problems(root / 'a.toml', 'mine') == []  # nothing is asked of a store there


def test_no_more_than_the_sample_is_fetched_before_training(root, monkeypatch):
    fetched, read = set(), stores.StoredPicture.read_bytes
    monkeypatch.setattr(stores.StoredPicture, 'read_bytes', lambda self: fetched.add(str(self)) or read(self))
    paths = data_paths(root / 'a.toml', *(f'file://{root}/{kind}' for kind in ('fgr', 'pha', 'bgr')))
    assert len(check_files(paths, sample=1).train_pairs) == 5
    assert len(fetched) == 3


def test_a_missing_package_is_named_with_its_extra(root, monkeypatch):
    def lacking(place):
        raise ImportError('Install s3fs to access S3') from ModuleNotFoundError("No module named 's3fs'", name='s3fs')

    monkeypatch.setattr(stores, 'open_store', lacking)
    assert "-e '.[mirror]'" in findings(data_paths(root / 'a.toml', 's3://bucket/fgr', 'pha', 'bgr'))
    assert installation.EXTRAS['s3fs'] == 'mirror'


@pytest.mark.parametrize(
    ('top', 'message'),
    [
        ('cache = 3', 'cache = 3: must be the path of a folder'),
        ('cache_gigabytes = 0.5', 'cache_gigabytes = 0.5: must be a number from 1 on'),
        ('[other.train]\ncache = "kept"', 'cache and cache_gigabytes stand at the top, above all tables'),
        ('cache_gigabytes = "many"', "cache_gigabytes = 'many': must be a number from 1 on"),
    ],
)
def test_what_is_wrong_with_the_caches_settings_is_said(root, top, message):
    with pytest.raises(ValueError, match=message):
        data_paths(root / 'a.toml', 'fgr', 'pha', 'bgr', top)


def test_the_cache_is_where_the_configuration_says(root):
    paths = data_paths(root / 'a.toml', 's3://b/fgr', 's3://b/pha', 'bgr', 'cache = "kept"\ncache_gigabytes = 2.5')
    assert paths.train_fgr == StoredFolder('s3://b/fgr', PictureCache(root / 'kept', 2_500_000_000))
    assert paths.train_bgr == root / 'bgr'
    plain = read_data_config(root / 'a.toml', 'mine')
    assert open_folder('~/x', root) == Path.home() / 'x'
    assert plain == paths


@pytest.fixture
def bucket(monkeypatch):
    """The file system of a server of S3 on this machine, with a bucket."""
    moto = pytest.importorskip('moto.server', reason="moto is not installed: pip install '.[test-all]'")
    server = moto.ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    for name, value in {
        'AWS_ENDPOINT_URL': f'http://127.0.0.1:{port}', 'AWS_ACCESS_KEY_ID': 'key', 'AWS_SECRET_ACCESS_KEY': 'secret',
        'AWS_DEFAULT_REGION': 'us-east-1',
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem('s3', skip_instance_cache=True)
    store.mkdir('bucket')
    yield store
    server.stop()


@pytest.mark.slow
def test_a_bucket_gives_the_samples_of_a_folder_to_every_worker(root, bucket, monkeypatch):
    monkeypatch.setattr(stores, 'PAUSES', (0.1, 0.2))
    bucket.put(f'{write_shards(root)}/', 'bucket/shards/', recursive=True)
    bucket.put(f'{root}/bgr/', 'bucket/bgr/', recursive=True)
    set_ = 's3://bucket/shards/pairs'
    report = check_files(data_paths(root / 'urls.toml', f'{set_}/fgr', f'{set_}/pha', 's3://bucket/bgr'))
    expected = list(batches(check_files(data_paths(root / 'plain.toml', 'fgr', 'pha', 'bgr')), workers=0))
    shutil.rmtree(root / 'kept')  # of the checks: all workers fetch
    for workers in (2, 0):
        for a, b in zip(batches(report, workers), expected):
            assert torch.equal(a.mattes, b.mattes)
            assert torch.equal(a.backgrounds, b.backgrounds)
            assert not a.errors
    found = findings(data_paths(root / 'urls.toml', 's3://nobody/fgr', f'{set_}/pha', 's3://bucket/bgr'))
    assert 's3://nobody/fgr: not there: The specified bucket does not exist' in found
