"""Stores in memory, of the kind that has no folders, that fail on purpose."""

import base64
import hashlib
import tempfile
from pathlib import Path
from typing import ClassVar

import fsspec
from fsspec.asyn import get_loop
from fsspec.implementations.memory import MemoryFileSystem

from checkpointing.mirror.contents import OBJECT
from checkpointing.mirror.mirror import Mirror
from checkpointing.mirror.store import Store
from checkpointing.record import read_records

from .faults import POLICY, WatchedDisk, checkpoints, play_well, snapshot

PREFIX = '/bucket/run/'
REQUESTS = ('pipe_file', 'cat_file', 'ls', 'info', 'rm_file', 'call_s3')


class FaultyStore(MemoryFileSystem):
    """Counts requests, and fails at the n-th, the first being number 1.

    Class attributes, since fsspec makes the objects:
        at: n; None never fails.
        persistent: it fails at every later one, too.
        late: what was asked for is done, and only the answer is lost.
        done: the requests that were made.
    """

    protocol = 'faulty'
    store: ClassVar = {}
    pseudo_dirs: ClassVar = ['']
    at, persistent, late, inside = None, False, False, False
    done: ClassVar = []

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name not in REQUESTS or FaultyStore.inside:
            return value

        def request(*arguments, **more):
            kind = FaultyStore
            kind.done.append(name)
            number = len(kind.done)
            struck = kind.at is not None and (number == kind.at or (kind.persistent and number > kind.at))
            if struck and not kind.late:
                raise ConnectionError('the connection was reset')
            kind.inside = True
            try:
                answer = value(*arguments, **more)
            except FileNotFoundError:
                if not struck:
                    raise
            finally:
                kind.inside = False
            if struck:
                raise ConnectionError('the answer was lost')
            return answer

        return request

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.rpartition('://')[2])

    @classmethod
    def set(cls, objects=None, at=None, persistent=False, late=False):
        """Puts objects there, bytes by name, and says when to fail."""
        cls.at, cls.persistent, cls.late, cls.done = None, False, False, []
        if objects is not None:
            cls.store.clear()
            for name, data in objects.items():
                mirror_store()._fs.pipe_file(f'{PREFIX}{name}', data)
        cls.at, cls.persistent, cls.late, cls.done = at, persistent, late, []

    @classmethod
    def objects(cls):
        """What is there, by name."""
        return {path.removeprefix(PREFIX): file.getvalue() for path, file in cls.store.items()}


class FaultyS3(FaultyStore):
    """The same with what S3 adds: checksums, and writes under a condition.

    Class attributes:
        lies: what is stored is not what was sent, and the checksum tells.
        mute: checksums are not told.
    """

    protocol = 'faultys3'
    lies, mute = False, False

    loop = property(lambda self: get_loop())

    async def _call_s3(self, *arguments, **more):
        return self.call_s3(*arguments, **more)

    def call_s3(self, method, *, Bucket, Key, Body=b'', ChecksumSHA256=None, **more):
        path, Body = f'{Bucket}/{Key}', Body if isinstance(Body, bytes) else Body.read()
        held = self.store[path].getvalue() if path in self.store else None
        if method == 'put_object':
            if 'IfMatch' in more and held is None:
                raise FileNotFoundError(path) from _Answer(404)
            tag = held and hashlib.md5(held).hexdigest()
            if ('IfNoneMatch' in more and held is not None) or ('IfMatch' in more and more['IfMatch'] != tag):
                raise OSError('the condition does not hold') from _Answer(412)
            assert ChecksumSHA256 in (None, _checksum(Body))
            self.pipe_file(path, Body[:-1] + b'!' if self.lies else Body)
            return {'ETag': hashlib.md5(Body).hexdigest()}
        if held is None:
            raise FileNotFoundError(path)
        told = {} if self.mute else {'ChecksumSHA256': _checksum(held)}
        return {'ContentLength': len(held), 'ETag': hashlib.md5(held).hexdigest(), **told}


class _Answer(Exception):
    def __init__(self, code):
        self.response = {'ResponseMetadata': {'HTTPStatusCode': code}}


def _checksum(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


fsspec.register_implementation('faulty', FaultyStore, clobber=True)
fsspec.register_implementation('faultys3', FaultyS3, clobber=True)


def mirror_store(kind='faulty'):
    """The store of a mirror in memory."""
    return Store(f'{kind}://bucket').folder('run')


OPTIONS = {'checkpoint_keep': POLICY.keep, 'checkpoint_best': POLICY.best}


def train(folder, saves, run='run'):
    """Saves what a training would, with the flags of its policy."""
    made = checkpoints(folder, run=run)
    made.options = OPTIONS
    play_well(made, saves)


def mirror_of(folder, logs=None, policy=POLICY, **more):
    """The mirror of a folder, of which nothing is known but what the store and the folder hold."""
    mirror = Mirror(mirror_store(), folder, logs, policy, WatchedDisk(), **more)
    mirror.contents.look()
    return mirror


def push(mirror):
    while mirror.push():
        pass


def records_are_whole():
    """Whether the store in memory holds, this moment, what each of its records needs: an older one's state may go."""
    objects = FaultyStore.objects()
    contents = {(found[2], len(data)) for name, data in objects.items() if (found := OBJECT.fullmatch(name))}
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in objects if name.endswith('.json')):
            (Path(folder) / name).write_bytes(objects[name])
        files = [file for r in read_records(Path(folder)) for kind, file in r.files.items() if kind != 'state']
    return all((file.sha256[:16], file.size) in contents for file in files)


def flipped(data, at):
    """Bytes of which one bit is another."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def of_run(folder):
    """The files of checkpoints in a folder: without links and locks."""
    return {name: data for name, data in snapshot(folder).items() if name.startswith(('epoch-', 'data-'))}
