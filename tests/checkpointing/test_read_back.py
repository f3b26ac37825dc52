"""Disks that give back other bytes than they were given: the save fails, and nothing is lost."""

import io
import random

import pytest
from support.faults import (
    SAVES,
    WatchedDisk,
    auto,
    checkpoints,
    content,
    equal,
    holds,
    play,
    play_well,
    snapshot,
    stop_clock,
)

import common.files
from checkpointing.content import read_content


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    stop_clock(monkeypatch)


class ChangingDisk(WatchedDisk):
    """Changes what was written to the n-th file that it is to keep, once it says that it has it."""

    def __init__(self, change, at=3):
        self.change, self.at, self.count = change, at, 0

    def fsync(self, file):
        super().fsync(file)
        self.count += 1
        if self.count == self.at:
            file.seek(0)
            data = self.change(file.read())
            file.seek(0)
            file.truncate()
            file.write(data)
            file.flush()


class MisreadingDisk(WatchedDisk):
    """Gives back other bytes than the file holds, the first time that a file of a kind is read."""

    def __init__(self, change):
        self.change = change

    def open(self, path):
        data = path.read_bytes()
        return io.BytesIO(self.change(data) if '.ema.' in path.name else data)


def content_byte(data):
    """A place in the bytes of the largest tensor."""
    return data.index(content(3).weights['w'].numpy().tobytes()) + 100


CHANGES = {
    'a flipped bit of a tensor': lambda d: (
        d[: content_byte(d)] + bytes([d[content_byte(d)] ^ 4]) + d[content_byte(d) + 1 :]
    ),
    'a tensor of zeros': lambda d: d.replace(content(3).weights['w'].numpy().tobytes(), bytes(256)),
    'half of it': lambda d: d[: len(d) // 2],
    'a last byte less': lambda d: d[:-1],
    'nothing': lambda d: b'',
    'zeros': lambda d: bytes(len(d)),
}


def check_change(folder, disk):
    """A save whose bytes are not those that were written fails; the one before is whole, and the next works."""
    made = play_well(checkpoints(folder), SAVES[:1])
    before = snapshot(folder)
    made.disk = disk
    [(_, safe)] = play(made, SAVES[1:2])
    assert not safe
    assert made.failures == 1
    assert snapshot(folder) == before
    assert auto(folder).record.step == 1
    made.disk = WatchedDisk()
    play_well(made, SAVES[1:2])
    assert holds(folder, auto(folder).record)


@pytest.mark.parametrize('change', CHANGES)
def test_other_bytes_than_were_written_fail_the_save(tmp_path, change):
    check_change(tmp_path, ChangingDisk(CHANGES[change]))


def test_mutant_that_does_not_compare_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(common.files.zlib, 'crc32', lambda data, start=0: 0)
    with pytest.raises(AssertionError):
        check_change(tmp_path, ChangingDisk(CHANGES['a tensor of zeros']))


def check_any_change(folder, disk):
    """Whatever is given back, what is reported safe verifies and holds what was saved."""
    made = play_well(checkpoints(folder), SAVES[:1])
    made.disk = disk
    [(save, safe)] = play(made, SAVES[1:2])
    record = auto(folder).record
    assert record.step == (save.step if safe else 1)
    assert record.problem(folder) is None
    assert equal(read_content(folder, record), content(record.step))


def test_no_flipped_bit_is_reported_safe(tmp_path):
    rng = random.Random(0)

    def flip(data):
        position = rng.randrange(len(data))
        return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]

    for number in range(100):
        check_any_change(tmp_path / str(number), ChangingDisk(flip))


@pytest.mark.parametrize('change', ['a flipped bit of a tensor', 'half of it'])
def test_a_misread_file_is_not_reported_safe(tmp_path, change):
    def misread(data):
        wanted = content(3).ema['w'].numpy().tobytes()
        if change == 'half of it' or wanted not in data:
            return data[: len(data) // 2]
        return data.replace(wanted, wanted[:9] + bytes([wanted[9] ^ 1]) + wanted[10:])

    check_any_change(tmp_path, MisreadingDisk(misread))
