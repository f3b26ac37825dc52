"""Errors of the disk, and SIGKILL, at every file operation of a save."""

import errno
import functools
import itertools
import os
import signal

import pytest
from support.faults import (
    FIRST,
    OPERATIONS,
    PRUNING,
    RENEWING,
    SAVES,
    CountingDisk,
    FailingDisk,
    KillingDisk,
    Save,
    auto,
    checkpoints,
    copy_folder,
    holds,
    of_checkpoints,
    play,
    play_well,
    snapshot,
    stop_clock,
)

import common.files
from checkpointing.manager import Checkpoints
from checkpointing.record import read_records
from checkpointing.resume import refuse_overwriting

SCENES = [FIRST, RENEWING, PRUNING]


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    stop_clock(monkeypatch)


class Scene:
    """One of the saves of a run: the folder before it, and what the folder must be after it and after the next."""

    def __init__(self, root, index):
        self.root, self.index, self.save = root, index, SAVES[index]
        self.before = root / 'before'
        self.before.mkdir(parents=True)
        play_well(checkpoints(self.before), SAVES[:index])
        disk = CountingDisk()
        play_well(checkpoints(copy_folder(self.before, root / 'counted'), disk), [self.save])
        self.operations = list(enumerate(disk.done, 1))
        self.expect = functools.cache(self._expect)

    def numbers(self):
        """Operations to strike at: all but most of the hundred writes."""
        writes = itertools.count()
        return [n for n, name in self.operations if name != 'write' or next(writes) % 16 == 0]

    def _expect(self, names, more):
        """What is in a folder whose save got as far as these of its names, some saves later."""
        folder = copy_folder(self.before, self.root / f'expected-{len(names)}-{more}')
        saves = (
            [Save(self.save.step, {name: self.save.names[name] for name in names}, self.save.metrics)] if names else []
        )
        play_well(checkpoints(folder), [*saves, *SAVES[self.index + 1 :][:more]])
        return snapshot(folder)

    def committed(self, folder):
        """The names under which the save counts."""
        point = (self.save.step, self.save.metrics)
        present = {r.name for r in read_records(folder) if (r.step, r.metrics) == point}
        return tuple(name for name in self.save.names if name in present)

    def check_folder(self, folder):
        """Whatever happened in the save: older checkpoints are whole, and `auto` goes on from the newest."""
        before, now, names = snapshot(self.before), snapshot(folder), self.committed(folder)
        expected = of_checkpoints(self.expect(names, 0))
        if names:
            assert {name: now.get(name) for name in expected} == expected
        else:
            assert {name: now.get(name) for name in of_checkpoints(before)} == of_checkpoints(before)
        newest = [save.step for save in SAVES[: self.index]] + [self.save.step] * bool(names)
        record = auto(folder).record
        assert (record and record.step) == (newest[-1] if newest else None)
        assert record is None or holds(folder, record)
        assert snapshot(folder) == now
        return now, names


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stop_clock(patch)
        yield {index: Scene(tmp_path_factory.mktemp('scene') / 'it', index) for index in SCENES}


def check_error(scene, folder, disk):
    """An error in a save costs at most that save."""
    made = checkpoints(copy_folder(scene.before, folder), disk)
    [(_, safe)] = play(made, [scene.save])
    assert made.failures == (0 if safe else 1)
    now, names = scene.check_folder(folder)
    assert names == tuple(scene.save.names) or not safe
    assert [name for name in now if name.endswith('.tmp')] == []
    made.disk = CountingDisk()
    play_well(made, SAVES[scene.index + 1 :][:1])
    assert made.failures == 0
    assert snapshot(folder) == scene.expect(names, 1)


def without(files, names):
    return {name: data for name, data in files.items() if name not in names}


KINDS = list(itertools.product((errno.ENOSPC, errno.EIO), (False, True), (False, True)))


def check_errors(scene, folder, numbers):
    for number in numbers:
        check_error(scene, folder / str(number), FailingDisk(number, *KINDS[number % len(KINDS)]))


@pytest.mark.parametrize('index', SCENES)
def test_an_error_at_an_operation_costs_one_save(scenes, tmp_path, index):
    check_errors(scenes[index], tmp_path, scenes[index].numbers())


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('index', SCENES)
def test_any_error_at_any_operation_costs_one_save(scenes, tmp_path, index, kind):
    for number, name in scenes[index].operations:
        if name == 'write' or not kind[2]:
            check_error(scenes[index], tmp_path / str(number), FailingDisk(number, *kind))


def test_an_error_leaves_nothing_under_a_second_name(scenes, tmp_path):
    scene = scenes[PRUNING]
    committed = [n for n, name in scene.operations if name == 'fsync_folder'][2]
    for number in range(committed + 1, len(scene.operations) + 1):
        check_error(scene, tmp_path / str(number), FailingDisk(number))


def test_saves_reach_every_operation(scenes):
    expected = set(OPERATIONS) - {'make_folder'}
    assert {name for scene in scenes.values() for _, name in scene.operations} == expected
    assert {name for _, name in scenes[PRUNING].operations} == expected


def test_each_error_in_a_row_is_counted(tmp_path):
    made = checkpoints(tmp_path, FailingDisk(1, persistent=True))
    assert [(safe, made.failures) for _, safe in play(made, SAVES[:3])] == [(False, 1), (False, 2), (False, 3)]
    made.disk = CountingDisk()
    play_well(made, SAVES[3:4])
    assert made.failures == 0


class WithoutLinks(CountingDisk):
    """A file system that has no hard links, such as a memory card's."""

    def link(self, source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_without_hard_links_names_are_copies(tmp_path):
    play_well(checkpoints(tmp_path / 'links'), SAVES)
    play_well(checkpoints(tmp_path / 'copies', WithoutLinks()), SAVES)
    assert snapshot(tmp_path / 'copies') == snapshot(tmp_path / 'links')
    assert {path.stat().st_nlink for path in (tmp_path / 'copies').iterdir()} == {1}


def killed(work):
    """Does work in a forked process and returns whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_kill(scene, folder, number, partly=False):
    """A save that is killed costs at most itself, and the run goes on as if nothing had been."""
    copy_folder(scene.before, folder)
    disk = KillingDisk(number, partly=partly)
    assert killed(lambda: play_well(checkpoints(folder, disk), [scene.save]))
    others = {f'.{name}.pth.other.tmp': b'another run' for name in scene.save.names} | {'.notes.tmp': b'a person'}
    now, names = scene.check_folder(folder)
    for name, data in others.items():
        (folder / name).write_bytes(data)
    made = checkpoints(folder)
    made.open()
    temporary = {name for name in now if name.endswith('.run.tmp')}
    opened = snapshot(folder)
    assert not temporary & set(opened)
    assert {name: opened[name] for name in others} == others
    # Opening also makes up for links and removals that the kill has cut off, and removes what had got its name, but no
    # record yet.
    removed = set(now) - set(opened) - temporary
    assert not removed & set(scene.expect(names, 0))
    changed = {name for name in opened if name not in others and opened[name] != now.get(name)}
    assert {name for name in changed if not name.startswith(('best', 'last.pth'))} == set()
    play_well(made, SAVES[scene.index :][:2])
    assert without(snapshot(folder), others) == scene.expect(tuple(scene.save.names), 1)


@pytest.mark.parametrize('index', [RENEWING, PRUNING])
def test_a_kill_at_an_operation_costs_at_most_one_save(scenes, tmp_path, index):
    for number in scenes[index].numbers():
        check_kill(scenes[index], tmp_path / str(number), number)


@pytest.mark.slow
@pytest.mark.parametrize('partly', [False, True])
@pytest.mark.parametrize('index', SCENES)
def test_a_kill_at_any_operation_costs_at_most_one_save(scenes, tmp_path, index, partly):
    for number, name in scenes[index].operations:
        if name == 'write' or not partly:
            check_kill(scenes[index], tmp_path / str(number), number, partly)


def begin_anew(folder, run, saves, disk=None):
    """Begins as after a run that was killed before its first checkpoint."""
    assert auto(folder).record is None
    refuse_overwriting(folder, run, 0)
    made = checkpoints(folder, disk, run)
    made.open()
    play_well(made, saves)


def kill_before_the_first_record(scene, folder):
    """Kills a run's first save between the first name that it gives and its record."""
    names = [number for number, name in scene.operations if name == 'replace']
    for number in range(names[0] + 1, names[3] + 1):
        path = copy_folder(scene.before, folder / str(number))
        disk = KillingDisk(number)
        assert killed(lambda path=path, disk=disk: play_well(checkpoints(path, disk), [scene.save]))
        yield path


def test_a_run_that_was_killed_in_its_first_save_begins_anew(scenes, tmp_path):
    expected = scenes[FIRST].expect(tuple(SAVES[FIRST].names), 1)
    for folder in kill_before_the_first_record(scenes[FIRST], tmp_path):
        begin_anew(folder, 'new', SAVES[:2])
        now = snapshot(folder)
        assert {name: now[name] for name in expected if name.endswith('.pth')} == {
            name: data for name, data in expected.items() if name.endswith('.pth')
        }


def test_kills_between_names_and_record_leave_nothing_of_a_run(tmp_path):
    """Not even in its first save, after which nothing but hidden files knows of the run."""
    folder, run = tmp_path / 'run', '0123456789ab'
    play_well(checkpoints(tmp_path / 'expected', run=run), SAVES[:1])
    disk = CountingDisk()
    made = checkpoints(tmp_path / 'counted', disk, run)
    made.open()
    before = len(disk.done)
    play_well(made, SAVES[:1])
    names = [number for number, name in enumerate(disk.done[before:], 1) if name == 'replace']
    for kill in range(names[0] + 1, names[3] + 1):
        resume = auto(folder) if folder.exists() else None
        assert resume is None or (resume.record, resume.run) == (None, run)

        def work(kill=kill):
            made = checkpoints(folder, KillingDisk(), run)
            made.open()
            made.disk.at = len(made.disk.done) + kill
            play_well(made, SAVES[:1])

        assert killed(work)
    made = checkpoints(folder, run=run)
    made.open()
    assert snapshot(folder) == {}
    play_well(made, SAVES[:1])
    assert snapshot(folder) == snapshot(tmp_path / 'expected')


def test_a_run_that_was_killed_twice_in_its_first_save_begins_anew(scenes, tmp_path):
    *_, folder = kill_before_the_first_record(scenes[FIRST], tmp_path)
    for number, _ in scenes[FIRST].operations[-20:]:
        again = copy_folder(folder, tmp_path / f'again-{number}')
        disk = KillingDisk(number)
        assert killed(lambda again=again, disk=disk: begin_anew(again, 'new', SAVES[:1], disk))
        if auto(again).record is None:
            begin_anew(again, 'newer', SAVES[:2])


@pytest.mark.parametrize('leaves_out', ['_undo', '_tidy'])
def test_mutant_that_does_not_clean_up_after_an_error_is_caught(scenes, tmp_path, monkeypatch, leaves_out):
    scene = scenes[PRUNING]
    monkeypatch.setattr(Checkpoints, leaves_out, lambda *arguments: None)
    with pytest.raises(AssertionError):
        check_errors(scene, tmp_path, scene.numbers())


def test_mutant_that_leaves_temporaries_is_caught(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(common.files, 'unlink_quietly', lambda path: None)
    with pytest.raises(AssertionError):
        check_errors(scenes[PRUNING], tmp_path, scenes[PRUNING].numbers())


def test_mutant_that_deletes_before_it_commits_is_caught(scenes, tmp_path, monkeypatch):
    commit = Checkpoints._commit

    def delete_first(self, *arguments):
        for path in self.folder.glob(f'{self.records()[0].name}.*'):
            path.unlink()
        commit(self, *arguments)

    monkeypatch.setattr(Checkpoints, '_commit', delete_first)
    with pytest.raises(AssertionError):
        check_errors(scenes[PRUNING], tmp_path, scenes[PRUNING].numbers()[-40:])
