"""A mirror is whole at every moment, whatever the store does, and what it holds is the run."""

import itertools
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.faults import (
    FIRST,
    POLICY,
    PRUNING,
    RENEWING,
    SAVES,
    auto,
    copy_folder,
    holds,
    snapshot,
)
from support.stores import FaultyStore, flipped, mirror_of, mirror_store, of_run, push, train

import checkpoints
from checkpointing.mirror.store import Store
from checkpointing.record import CheckpointError, _sealed
from common.stores import StoreError

pytestmark = pytest.mark.usefixtures('empty_store')


def push_through(folder, tries=50):
    """Copies all, as the thread does: what fails is done again, now and then by a new process."""
    mirror = None
    for number in range(tries):
        try:
            mirror = mirror or mirror_of(folder)
            return push(mirror)
        except StoreError:
            mirror = None if number % 2 else mirror
    raise AssertionError('never done')


class Scene:
    """A save of a run: its folder after the save, and what the mirror holds before and after it is copied."""

    def __init__(self, root, index):
        self.root, self.folder = root, root / 'run'
        self.folder.mkdir(parents=True)
        FaultyStore.set({})
        train(self.folder, SAVES[:index])
        push_through(self.folder)
        self.before = FaultyStore.objects()
        train(self.folder, SAVES[index : index + 1])
        FaultyStore.set(self.before)
        push_through(self.folder)
        self.requests, self.after = len(FaultyStore.done), FaultyStore.objects()
        self.steps = {save.step for save in SAVES[:index][-1:]} | {SAVES[index].step}
        self.numbers = itertools.count()

    def check(self):
        """Whatever has happened: a wiped disk goes on from the newest checkpoint of the mirror, or the one before."""
        objects = FaultyStore.objects()
        FaultyStore.set(objects)
        folder = self.root / f'wiped-{next(self.numbers)}'
        record = mirror_of(folder).pull('base')
        assert record is not None or not self.before
        if record is not None:
            assert record.step in self.steps
            assert holds(folder, record)
            assert auto(folder).record == record
        mirror = mirror_of(folder)
        assert mirror.contents.records() or not self.before
        for record in mirror.contents.records():
            assert mirror.contents.has(record.files['weights'])
            assert mirror.contents.has(record.files['ema'])
        FaultyStore.set(objects)


@pytest.fixture(scope='module', params=[pytest.param(n, marks=pytest.mark.slow) for n in (FIRST, RENEWING)] + [PRUNING])
def scene(request, tmp_path_factory):
    return Scene(tmp_path_factory.mktemp('scene') / 'it', request.param)


def check_failing_once(scene, number, late):
    FaultyStore.set(scene.before, number, late=late)
    push_through(scene.folder)
    assert FaultyStore.objects() == scene.after, number


def check_going_away(scene, number, late):
    FaultyStore.set(scene.before, number, persistent=True, late=late)
    with pytest.raises((StoreError, AssertionError)):
        push_through(scene.folder, tries=2)
    scene.check()
    # And once it is back, all is as if nothing had been.
    push_through(scene.folder)
    assert FaultyStore.objects() == scene.after, number


@pytest.mark.parametrize('check', [check_failing_once, check_going_away])
def test_a_store_that_fails_at_a_request_costs_no_checkpoint(scene, check):
    for number in range(1, scene.requests + 1, 3):
        check(scene, number, late=number % 2 == 0)


@pytest.mark.slow
@pytest.mark.parametrize('late', [False, True], ids=['refused', 'answer lost'])
@pytest.mark.parametrize('check', [check_failing_once, check_going_away])
def test_a_store_that_fails_at_any_request_costs_no_checkpoint(scene, check, late):
    for number in range(1, scene.requests + 1):
        check(scene, number, late)


def test_the_mirror_holds_what_the_folder_holds(tmp_path):
    for number, save in enumerate(SAVES):
        train(tmp_path / 'run', [save])
        push_through(tmp_path / 'run')
        folder = tmp_path / f'copy-{number}'
        mirror_of(folder).pull('base')
        assert of_run(folder) == of_run(tmp_path / 'run')


def test_a_file_that_the_store_holds_is_not_sent_again(tmp_path):
    train(tmp_path, SAVES[:3])  # the third has two names
    push_through(tmp_path)
    objects = FaultyStore.objects()
    assert len([name for name in objects if name.endswith('.pth') and '.state.' in name]) == 2
    sent = FaultyStore.done.count('pipe_file')
    assert sent == len(objects)
    push_through(tmp_path)
    assert FaultyStore.done.count('pipe_file') == sent


def test_a_loss_that_is_no_number_is_mirrored_once(tmp_path):
    train(tmp_path, [replace(SAVES[0], metrics={'valid_loss': math.nan})])
    mirror = mirror_of(tmp_path)
    push(mirror)
    assert mirror.pending() == []
    assert FaultyStore.objects()['epoch-0-iter-1.json'] == (tmp_path / 'epoch-0-iter-1.json').read_bytes()


def test_a_newer_record_of_another_version_is_no_older_run(tmp_path):
    train(tmp_path / 'run', SAVES[:1])
    push_through(tmp_path / 'run')
    behind = copy_folder(tmp_path / 'run', tmp_path / 'behind')
    train(tmp_path / 'run', SAVES[1:2])
    push_through(tmp_path / 'run')
    data = json.loads(FaultyStore.objects()['epoch-0-iter-3.json'])
    del data['sha256']
    FaultyStore.set({**FaultyStore.objects(), 'epoch-0-iter-3.json': _sealed({**data, 'format': 3})})
    for folder in (behind, tmp_path / 'empty'):
        with pytest.raises(CheckpointError, match=r'/run: epoch-0-iter-3\.json: a record of format 3, of another'):
            mirror_of(folder).pull('base')


def test_the_newest_comes_first(tmp_path):
    train(tmp_path, SAVES[:2])
    mirror = mirror_of(tmp_path)
    while not (records := [name for name in FaultyStore.objects() if name.endswith('.json')]):
        mirror.push()
    assert records == ['epoch-0-iter-3.json']


def test_what_the_policy_does_not_keep_is_sent_once_at_most(tmp_path):
    train(tmp_path, SAVES)
    mirror = mirror_of(tmp_path, policy=replace(POLICY, best=1))
    assert not all(mirror.push() for _ in range(100))
    assert (tmp_path / 'epoch-0.json').is_file()
    assert 'epoch-0.json' not in FaultyStore.objects()


def test_what_was_half_sent_when_a_newer_one_came_is_used(tmp_path):
    train(tmp_path, SAVES[:1])
    mirror = mirror_of(tmp_path)
    mirror.push()
    train(tmp_path, SAVES[1:2])
    push(mirror)
    assert FaultyStore.done.count('pipe_file') == len(FaultyStore.objects()) == 8


def test_flipped_bytes_are_never_resumed_from(tmp_path, caplog):
    train(tmp_path / 'run', SAVES)
    push_through(tmp_path / 'run')
    objects = FaultyStore.objects()
    newest = {name for name in objects if name.startswith('epoch-2-iter-13')}
    assert len(newest) == 4
    for number, name in enumerate(sorted(newest)):
        for at in (0, len(objects[name]) // 2, len(objects[name]) - 1):
            FaultyStore.set({**objects, name: flipped(objects[name], at)})
            folder = tmp_path / f'{number}-{at}'
            caplog.clear()
            assert mirror_of(folder).pull('base').step == 11
            assert 'epoch-2-iter-13 in the mirror faulty://bucket/run' in caplog.text
            assert holds(folder, auto(folder).record)
            assert auto(folder).record.step == 11


def test_a_mirror_of_which_nothing_is_whole_is_no_fresh_start(tmp_path):
    train(tmp_path / 'run', SAVES[:1])
    push_through(tmp_path / 'run')
    objects = FaultyStore.objects()
    for number, name in enumerate(objects):
        FaultyStore.set({**objects, name: flipped(objects[name], 5)})
        with pytest.raises(CheckpointError, match='none of the 1 checkpoints in the mirror can be resumed from'):
            mirror_of(tmp_path / str(number)).pull('base')


def test_a_list_that_is_late_costs_no_checkpoint(tmp_path):
    """Weights that the list does not show yet are not taken for what a deletion that was cut has left."""
    train(tmp_path, SAVES[:3])
    push_through(tmp_path)
    expected = FaultyStore.objects()
    real = Store.sizes
    train(tmp_path, SAVES[3:4])

    def late(self):
        return {name: size for name, size in real(self).items() if '0-iter-5' not in name or name.endswith('.json')}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, 'sizes', late)
        push(mirror_of(tmp_path))
    assert {name for name in expected if name.startswith('epoch-0-iter-5.') and 'state' not in name} <= set(
        FaultyStore.objects()
    )


def test_the_newer_of_disk_and_mirror_wins(tmp_path):
    train(tmp_path / 'run', SAVES[:3])
    push_through(tmp_path / 'run')
    behind = copy_folder(tmp_path / 'run', tmp_path / 'behind')
    train(tmp_path / 'run', SAVES[3:7])
    before = snapshot(tmp_path / 'run')
    assert mirror_of(tmp_path / 'run').pull('base') is None
    assert snapshot(tmp_path / 'run') == before
    push_through(tmp_path / 'run')
    assert mirror_of(behind).pull('base').step == 11
    assert holds(behind, auto(behind).record)
    # A damaged newest on the disk is put right, and nothing of it is lost.
    (behind / 'epoch-1.pth').write_bytes(b'damaged')
    (behind / 'epoch-1-iter-11.pth').write_bytes(b'too')
    assert mirror_of(behind).pull('base').step == 11
    assert holds(behind, auto(behind).record)
    assert (behind / 'epoch-1.pth.aside').read_bytes() == b'damaged'


def test_a_damaged_file_on_the_disk_is_not_mirrored(tmp_path, caplog):
    train(tmp_path, SAVES[:2])
    (tmp_path / 'epoch-0-iter-3.pth').write_bytes(flipped((tmp_path / 'epoch-0-iter-3.pth').read_bytes(), 100))
    push_through(tmp_path)
    assert 'does not have the sha256 of its record; it is not mirrored' in caplog.text
    names = FaultyStore.objects()
    assert 'epoch-0-iter-1.json' in names
    assert 'epoch-0-iter-3.json' not in names


def test_another_run_is_neither_gone_on_with_nor_written_over(tmp_path):
    train(tmp_path / 'one', SAVES[:2], 'one')
    push_through(tmp_path / 'one')
    train(tmp_path / 'other', SAVES[:1], 'other')
    with pytest.raises(CheckpointError, match=r'is the mirror of run one, and .* holds run other'):
        mirror_of(tmp_path / 'other').pull('base')
    for run, stage in (('other', 'base'), ('one', 'refine')):
        with pytest.raises(CheckpointError, match='is the mirror of run one of the base stage'):
            mirror_of(tmp_path / 'other').adopt(run, stage, POLICY)
    mirror_of(tmp_path / 'one').adopt('one', 'base', POLICY)


def test_of_two_runs_in_a_folder_one_is_mirrored(tmp_path, caplog):
    train(tmp_path / 'run', SAVES[:1], 'earlier')
    train(tmp_path / 'run', SAVES[3:4], 'later')
    mirror = mirror_of(tmp_path / 'run')
    mirror.adopt('later', 'base', POLICY)
    push(mirror)
    mirror_of(tmp_path / 'run').adopt('later', 'base', POLICY)  # the next start
    assert [record.run for record in mirror.contents.records()] == ['later']
    FaultyStore.set({})
    assert checkpoints.main(['sync', str(tmp_path / 'run'), 'faulty://bucket/run']) == 0
    mirror_of(tmp_path / 'run').adopt('later', 'base', POLICY)
    assert f'{tmp_path}/run, base run earlier is not copied: a mirror is of one run' in caplog.text


def test_pins_and_lists_of_pictures_follow(tmp_path):
    run, copy = tmp_path / 'run', tmp_path / 'copy'
    train(run, SAVES[:1])
    (run / 'epoch-0-iter-1.pin').touch()
    (run / 'data-0123456789abcdef.gz').write_bytes(b'pictures')
    train(run, SAVES[1:])
    mirror = mirror_of(run)
    push(mirror)
    mirror_of(copy).pull('base')
    assert of_run(copy) == of_run(run)
    assert holds(copy, auto(copy).record)
    # One set later, and one taken away.
    (run / 'epoch-1.pin').touch()
    push(mirror)
    (run / 'epoch-0-iter-1.pin').unlink()
    push(mirror)
    assert {name for name in FaultyStore.objects() if name.endswith('.pin')} == {'epoch-1.pin'}


def test_a_folder_that_turns_empty_takes_no_pins_away(tmp_path):
    train(tmp_path / 'run', SAVES[:1])
    (tmp_path / 'run/epoch-0-iter-1.pin').touch()
    mirror = mirror_of(tmp_path / 'run')
    push(mirror)
    (tmp_path / 'run').rename(tmp_path / 'away')
    (tmp_path / 'run').mkdir()
    push(mirror)
    assert 'epoch-0-iter-1.pin' in FaultyStore.objects()
    (tmp_path / 'run').rmdir()
    (tmp_path / 'away').rename(tmp_path / 'run')
    (tmp_path / 'run/epoch-0-iter-1.pin').unlink()
    push(mirror)
    assert 'epoch-0-iter-1.pin' not in FaultyStore.objects()


def test_a_pin_that_another_has_set_in_the_mirror_counts(tmp_path):
    train(tmp_path, SAVES[:2])
    mirror = mirror_of(tmp_path)
    push(mirror)
    mirror_store().put('epoch-0-iter-1.pin', b'')
    train(tmp_path, SAVES[2:])
    push(mirror)
    assert not (tmp_path / 'epoch-0-iter-1.json').exists()
    assert 'epoch-0-iter-1.json' in FaultyStore.objects()


def test_what_a_killed_writer_has_left_goes(tmp_path):
    for name in ('.0123456789abcdef.tmp', '.rehearsal-0123456789abcdef.tmp', '.mine.tmp'):
        mirror_store().put(name, b'half')
    mirror_of(tmp_path).tidy()
    assert set(FaultyStore.objects()) == {'.mine.tmp'}


def test_a_folder_that_has_not_changed_for_long_is_not_read(tmp_path):
    train(tmp_path, SAVES[:1])
    mirror = mirror_of(tmp_path)
    for seconds, change in ((60, Path.touch), (-60, Path.unlink)):
        changed = time.time_ns() + seconds * 10**9
        os.utime(tmp_path, ns=(changed, changed))
        push(mirror)
        change(tmp_path / 'epoch-0-iter-1.pin')
        os.utime(tmp_path, ns=(changed, changed))
        # What changed a moment ago may have changed again at the same time of the folder's clock.
        assert mirror.push(ending=False) is (seconds > 0)
    assert mirror.push(ending=True)


def test_curves_come_along_and_grow_by_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr('checkpointing.mirror.contents.PART_BYTES', 1000)
    run, logs = tmp_path / 'run', tmp_path / 'log'
    logs.mkdir()
    mirror = None
    grown = b''
    for number, save in enumerate(SAVES[:4]):
        grown += bytes([number]) * 1500
        (logs / 'events').write_bytes(grown)
        (logs / 'curves.csv').write_text(f'table {number}')
        (logs / '.hidden').write_text('no')
        train(tmp_path / 'run', [save])
        mirror = mirror or mirror_of(run, logs)
        sent = FaultyStore.done.count('pipe_file')
        push(mirror)
        parts = {name: data for name, data in FaultyStore.objects().items() if name.endswith('.part')}
        assert len(b''.join(parts.values())) == len(grown) + len('table 0')  # no part of a former state stays
        # Two or three parts, the table, the index, and a checkpoint's files.
        assert FaultyStore.done.count('pipe_file') - sent <= 5 + 4 * len(save.names)
    (logs / 'events').write_bytes(grown[:2200])  # a run that went on has cut them
    mirror.push_curves()
    copy = mirror_of(tmp_path / 'copy', tmp_path / 'other log')
    copy.pull('base')
    assert snapshot(tmp_path / 'other log') == {'events': grown[:2200], 'curves.csv': b'table 3'}
    index = FaultyStore.objects()['curves.index']
    FaultyStore.set({**FaultyStore.objects(), 'curves.index': flipped(index, 80)})
    copy = mirror_of(tmp_path / 'third', tmp_path / 'third log')
    assert copy.pull('base').step == 7  # curves are no reason not to go on
    assert not (tmp_path / 'third log').exists()
