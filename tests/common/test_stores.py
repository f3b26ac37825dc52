"""What a store refuses is one line without secrets, and the same of training data, of a mirror and of a file in one."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from checkpointing.mirror.store import Store
from common.stores import StoreError
from dataset.stores import StoredFolder


class Denying(MemoryFileSystem):
    """Says no, with a password in its words."""

    protocol = 'denying'

    def ls(self, path, **more):
        raise PermissionError('no way to s3://me:S3cr3t@host/x\nand more')

    exists = ls


fsspec.register_implementation('denying', Denying, clobber=True)


@pytest.mark.parametrize(
    ('url', 'line'),
    [
        ('foo://me:S3cr3t@host/x', 'foo://***@host/x: Protocol not known: foo'),
        (
            'http://host/x',
            'http://host/x: web servers do not list folders: use a folder here, or a store such as s3://',
        ),
        ('simplecache::s3://host/x', 'simplecache::s3://host/x: a chain of URLs (::) is not read'),
        ('gdrive://x', 'gdrive://x: needs a package: Please install gdrive_fs for access to Google Drive'),
        ('denying://me:S3cr3t@host/x', 'denying://***@host/x: denied: no way to s3://***@host/x and more'),
    ],
)
def test_all_who_use_a_store_say_the_same_of_it(url, line):
    for use in (lambda: Store(url).sizes(), lambda: StoredFolder(url).pictures):
        with pytest.raises(StoreError) as raised:
            use()
        assert str(raised.value) == line
