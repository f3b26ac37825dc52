"""What a store refuses is one line without secrets, and the same of training data, of a mirror and of a file in one."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from checkpointing.mirror.store import Store
from common.cli import report_error
from common.network import weights_path
from common.stores import StoreError, named, path_of, url_of
from dataset.stores import StoredFolder


class Denying(MemoryFileSystem):
    """Says no, with a password in its words."""

    protocol = 'denying'

    def ls(self, path, **more):
        raise PermissionError('no way to s3://me:S3cr3t@host/x\nand no bucket "me:S3cr3t@host" or "you:S3cr3tly"')

    exists = ls


fsspec.register_implementation('denying', Denying, clobber=True)


@pytest.mark.parametrize(
    ('url', 'line', 'code'),
    [
        ('foo://me:S3cr3t@host/x', 'foo://***@host/x: Protocol not known: foo', 2),
        (
            'http://host/x',
            'http://host/x: web servers do not list folders: use a folder here, or a store such as s3://',
            2,
        ),
        ('simplecache::s3://host/x', 'simplecache::s3://host/x: a chain of URLs (::) is not read', 2),
        ('gdrive://x', 'gdrive://x: needs a package: Please install gdrive_fs for access to Google Drive', 2),
        (
            'denying://me:S3cr3t@host/x',
            'denying://***@host/x: denied: no way to s3://***@host/x and no bucket "***:***@host" or "you:S3cr3tly"',
            75,
        ),
    ],
)
def test_all_who_use_a_store_say_the_same_of_it(url, line, code):
    for use in (lambda: Store(url).sizes(), lambda: StoredFolder(url).pictures):
        with pytest.raises(StoreError) as raised:
            use()
        assert str(raised.value) == line
        assert (report_error(raised.value, 2), report_error(raised.value, 1)) == (code, 1)


def test_each_url_has_a_path_of_its_own():
    urls = [f'sftp://host:22/{team}@x/run/best.pth' for team in ('team', 'other')]
    urls += ['s3://bucket/run/best.pth', 's3://bucket/run/last.pth', 's3://bucket//run/best.pth', 's3://bucket/run/']
    paths = [path_of(url) for url in urls]
    assert len(set(paths)) == len(urls)
    assert [url_of(path) for path in paths] == urls
    assert paths[2].parent == paths[3].parent  # where the records are, too
    assert named(path_of('sftp://me:S3cr3t@host/run/best.pth')) == 'sftp://***@host/run/best.pth'


def test_a_url_that_became_a_path_is_refused():
    with pytest.raises(ValueError, match=r'^s3://bucket/best.pth: give a URL as a str, since a Path loses a slash'):
        weights_path(Path('s3://bucket/best.pth'))


def test_what_was_fetched_goes_when_asked_and_with_a_process_that_ends_at_once(tmp_path):
    program = (
        'from common import files, signals, stores\n'
        'for name in "ab":\n'
        '    path = stores.path_of(f"s3://bucket/{name}.pth")\n'
        '    path.parent.mkdir()\n'
        '    path.touch()\n'
        '    name == "a" and (stores.drop_fetched(), print(path.exists()), path.parent.parent.mkdir())\n'
        'mirror = files.scratch_folder("mirror-")\n'
        'signals.end_at_once(15)\n'
    )
    environment = {**os.environ, 'TMPDIR': str(tmp_path)}
    done = subprocess.run([sys.executable, '-uc', program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (143, 'False\n', '')
    assert not list(tmp_path.iterdir())
