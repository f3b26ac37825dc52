"""Records in their thousands: each is read once, and what changes is seen."""

import dataclasses
import os
import time

import pytest
from support.checkpoint_folders import call, content, make
from support.faults import WatchedDisk

from checkpointing.manager import Checkpoints, Point
from checkpointing.record import Listing, Record, broken_records, read_records
from checkpointing.resume import decide
from checkpointing.retention import Policy


def age(folder):
    """Lets the clock tick on from when the records were written."""
    long_ago = time.time() - 60
    for path in folder.glob('*.json'):
        os.utime(path, (long_ago, long_ago))


@pytest.fixture
def reads(monkeypatch):
    """The names of the records that are read, as they are read."""
    done, real = [], Record.read

    def read(path):
        done.append(path.name)
        return real(path)

    monkeypatch.setattr(Record, 'read', staticmethod(read))
    return done


def crowd(folder, count):
    """A run of so many checkpoints that share their bytes; the newest two can be resumed from."""
    make(folder, {0: 0.5}, checkpoint_keep=None)
    first = read_records(folder)[0]
    for step in range(1, count):
        name = f'epoch-0-iter-{step}'
        files = {k: dataclasses.replace(f, name=f'{name}{f.name[12:]}') for k, f in first.files.items()}
        for kind in ('weights', 'state') if step >= count - 2 else ('weights',):
            os.link(folder / first.files[kind].name, folder / files[kind].name)
        record = dataclasses.replace(first, name=name, step=step, metrics={'valid_loss': 1 / step}, files=files)
        (folder / f'{name}.json').write_bytes(record.to_bytes())
    age(folder)
    return folder


def test_a_run_that_goes_on_reads_each_record_once(tmp_path, reads):
    folder = crowd(tmp_path / 'run', 30)
    reads.clear()
    resume = decide('auto', folder, 'base', {})
    made = Checkpoints(folder, 'base', resume.run, {}, disk=WatchedDisk())
    made.open()
    assert resume.record.step == 29
    assert sorted(reads) == sorted(path.name for path in folder.glob('*.json'))


def test_a_save_reads_and_asks_the_same_however_many_records_there_are(tmp_path, reads, monkeypatch):
    asked = []
    for count in (10, 60):
        folder = crowd(tmp_path / str(count), count)
        made = Checkpoints(folder, 'base', 'run', {}, disk=WatchedDisk())
        made.open()
        for step in (count, count + 1):
            reads.clear()
            with monkeypatch.context() as patch:
                stats, real = [], os.stat
                patch.setattr(os, 'stat', lambda *a, real=real, stats=stats, **k: (stats.append(a), real(*a, **k))[1])
                made.save({f'epoch-0-iter-{step}': 'interval'}, Point(step, 0, {'valid_loss': 1 / step}), content(step))
                assert made.settle()
        asked.append((len(reads), len(stats)))
    assert asked[0] == asked[1]


def test_a_record_that_changed_is_read_again(tmp_path):
    folder = make(tmp_path / 'run', {1: 0.5})
    path, now = folder / 'epoch-0-iter-1.json', time.time_ns()
    for loss in (0.25, 0.75):
        # The same size, and so soon that the clock has not ticked.
        path.write_bytes(dataclasses.replace(read_records(folder)[0], metrics={'valid_loss': loss}).to_bytes())
        os.utime(path, ns=(now, now))
        assert read_records(folder)[0].metrics == {'valid_loss': loss}
    age(folder)
    assert read_records(folder)[0].metrics == {'valid_loss': 0.75}
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'0.75', b'0.76'))
    assert (read_records(folder), list(broken_records(folder))) == ([], [path])


def test_a_listing_sees_what_comes_and_goes(tmp_path):
    folder = make(tmp_path / 'run', {1: 0.5, 3: 0.25})
    files = Listing(folder)
    records = files.records()
    assert [files.has(record, 'weights') for record in records] == [True, True]
    (folder / 'epoch-0-iter-1.pth').unlink()
    (folder / 'epoch-0-iter-3.json').unlink()
    make(folder, {5: 0.125})
    assert [record.step for record in files.records()] == [1, 3]
    files.look()
    assert [record.step for record in files.records()] == [1, 5]
    assert [files.has(record, 'weights') for record in records] == [False, True]
    (folder / 'epoch-0-iter-1.pth').write_bytes(b'another')
    files.look()
    assert [files.has(record, 'weights') for record in records] == [False, True]


def test_what_is_removed_is_told_in_a_short_line(tmp_path, caplog):
    caplog.set_level('INFO')
    folder = crowd(tmp_path / 'run', 40)
    Checkpoints(folder, 'base', 'run', {}, Policy(keep=2), disk=WatchedDisk()).open()
    (line,) = [message for message in caplog.messages if message.startswith('removed')]
    assert line.endswith('epoch-0-iter-4 and 33 more, as --checkpoint-keep says')
    assert len(line) < 200


def test_a_fast_list_reads_each_record_once(tmp_path, reads, capsys):
    folder = crowd(tmp_path / 'run', 30)
    reads.clear()
    code, out, _ = call(capsys, 'list', '--fast', folder)
    assert (code, out.count('epoch-0-iter-')) == (0, 30 + 2)
    assert len(reads) == 30
