"""Power cuts at every moment of a run: what the disk may hold then is drawn at random, and the run goes on from it."""

import dataclasses
import itertools
import random
import shutil

import pytest
from support.faults import FIRST, FOREIGN, PRUNING, SAVES, auto, checkpoints, holds, play, snapshot, stop_clock
from support.power import LoggingDisk, PowerCut

import checkpointing.manager
import checkpointing.retention
import common.files
from checkpointing.content import Content, file_name
from checkpointing.manager import Checkpoints
from checkpointing.record import CheckpointError, read_records
from checkpointing.resume import refuse_overwriting

IN_THE_WAY = [file_name('epoch-1-iter-11', kind) for kind in ('state', 'weights')]


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    stop_clock(monkeypatch)


@dataclasses.dataclass
class Moment:
    """When a save was over: how many events there had been, the newest safe step, and the files that count."""

    events: int
    step: int
    files: dict


class Life:
    """A run of several saves, or what is left of it after a power cut, with all that it asked of the disk."""

    def __init__(self, folder, run='run', saves=SAVES, foreign=True):
        self.folder, disk = folder, LoggingDisk(folder)
        made = checkpoints(folder, disk, run)
        made.open()
        self.saves = saves
        self.moments = [Moment(len(disk.events), newest_step(folder), of_records(folder))]
        for save, safe in play(made, saves):
            assert safe
            self.moments.append(Moment(len(disk.events), save.step, of_records(folder)))
            if foreign and save == SAVES[PRUNING - 1]:
                for name in IN_THE_WAY:
                    disk.put(folder / name, FOREIGN + name.encode())
        self.events = disk.events

    def disks(self, rng, folder, writes=0, begin=0, share=1):
        """Draws a disk after a share of events, and of the many writes; yields how many events there had been."""
        cut = PowerCut(self.folder)
        for done, event in enumerate(self.events, 1):
            cut.apply(event)
            if done > max(begin, self.moments[0].events) and rng.random() < (writes if event[0] == 'write' else share):
                cut.draw(rng, folder)
                yield done
                shutil.rmtree(folder, ignore_errors=True)

    def check(self, folder, done):
        """After a cut `auto` finds what was safe or newer, and older checkpoints are whole; returns how to go on."""
        number = max([i for i, moment in enumerate(self.moments) if moment.events <= done], default=0)
        # What the next save was about to make of it.
        save = self.saves[number] if number < len(self.saves) else self.saves[-1]
        before, after = (self.moments[i].files for i in (number, min(number + 1, len(self.saves))))
        now = snapshot(folder) if folder.is_dir() else {}
        if any(now.get(f'{name}.json') == after[f'{name}.json'] for name in save.names):
            for name in before.keys() & after.keys():
                assert now.get(name) in (before[name], after[name]), name
        else:
            assert {name: now.get(name) for name in before} == before
        # A record goes last: weights without one would stay for ever.
        assert {name for name in now if name in before and f'{name.split(".")[0]}.json' not in now} == set()
        if any(event[0] == 'there' and IN_THE_WAY[-1] in event[1] for event in self.events[:done]):
            assert {FOREIGN + name.encode() for name in IN_THE_WAY} <= set(now.values())
        resume = auto(folder)
        step = -1 if resume.record is None else resume.record.step
        assert step in (self.moments[number].step, save.step)
        assert not now or snapshot(folder) == now
        assert all(holds(folder, r) for r in read_records(folder) if r.step == step)
        if resume.record is None:
            refuse_overwriting(folder, resume.run, 0)
        return resume


def newest_step(folder):
    return max((r.step for r in read_records(folder)), default=-1)


def of_records(folder):
    """The bytes of the files that records speak of, and of the records."""
    names = {name for r in read_records(folder) for name in [f'{r.name}.json', *(f.name for f in r.files.values())]}
    return {name: data for name, data in snapshot(folder).items() if name in names}


def check_cuts(life, folder, seed=0, rounds=1, writes=0, begin=0):
    """Cuts a run at every moment, so many rounds; returns the number of disks."""
    rng, count = random.Random(seed), 0
    for _ in range(rounds):
        for done in life.disks(rng, folder, writes, begin):
            life.check(folder, done)
            count += 1
    return count


def test_a_power_cut_costs_at_most_one_save(tmp_path):
    assert check_cuts(Life(tmp_path / 'life'), tmp_path / 'cut') > 200


@pytest.mark.slow
def test_no_power_cut_of_thousands_costs_more_than_one_save(tmp_path):
    assert check_cuts(Life(tmp_path / 'life'), tmp_path / 'cut', seed=1, rounds=10, writes=0.1) > 2_500


@pytest.mark.slow
def test_no_second_power_cut_in_the_life_after_one_costs_more_either(tmp_path):
    first, rng, count = Life(tmp_path / 'life'), random.Random(2), 0
    for done in itertools.chain(*(first.disks(rng, tmp_path / 'cut') for _ in range(2))):
        resume = first.check(tmp_path / 'cut', done)
        if resume.record is None:
            # Two cuts before the first checkpoint: see test_faults.py.
            continue
        saves = [save for save in SAVES if save.step >= resume.record.step][:2]
        second = Life(tmp_path / 'cut', resume.run, saves, foreign=False)
        for later in second.disks(rng, tmp_path / 'again', share=0.06):
            second.check(tmp_path / 'again', later)
            count += 1
    assert count > 500


def test_mutant_that_does_not_wait_for_the_folders_own_name_is_caught(tmp_path, monkeypatch):
    def forgetful(disk, folder):
        disk.make_folder(folder)

    check_mutant(tmp_path, monkeypatch, checkpointing.manager, 'make_folders', forgetful)


def check_mutant(root, monkeypatch, *patch, save=FIRST, saves=SAVES):
    """A mutant's run must fail the check that begins with one of its saves."""
    monkeypatch.setattr(*patch)
    life = Life(root / 'life', saves=saves)
    with pytest.raises((AssertionError, CheckpointError)):
        check_cuts(life, root / 'cut', rounds=50, begin=life.moments[save].events)


@pytest.mark.parametrize('operation', ['fsync', 'fsync_folder'])
def test_mutant_that_does_not_wait_is_caught(tmp_path, monkeypatch, operation):
    check_mutant(tmp_path, monkeypatch, LoggingDisk, 'idle', (operation,))


def test_mutant_that_writes_records_in_place_is_caught(tmp_path, monkeypatch):
    def in_place(self, record):
        path = self.folder / f'{record.name}.json'
        common.files.write_new(self.disk, path, lambda file: file.write(record.to_bytes()))
        common.files.sync(self.disk, path)
        self.disk.fsync_folder(self.folder)

    check_mutant(tmp_path, monkeypatch, Checkpoints, '_commit_record', in_place)


def test_mutant_that_writes_over_somebodys_files_is_caught(tmp_path, monkeypatch):
    check_mutant(tmp_path, monkeypatch, Checkpoints, '_clear_way', lambda self, name, step: None, save=PRUNING)


def test_mutant_that_deletes_before_it_commits_is_caught(tmp_path, monkeypatch):
    commit = Checkpoints._commit

    def delete_first(self, *arguments):
        for record in self.records()[:1]:
            paths = [self.folder / file.name for file in record.files.values() if (self.folder / file.name).exists()]
            checkpointing.retention.remove(self.disk, self.folder, [*paths, self.folder / f'{record.name}.json'])
        commit(self, *arguments)

    check_mutant(tmp_path, monkeypatch, Checkpoints, '_commit', delete_first)


def test_mutant_that_deletes_records_first_is_caught(tmp_path, monkeypatch):
    remove = checkpointing.retention.remove

    def records_first(disk, folder, paths):
        remove(disk, folder, [path for path in paths if path.suffix == '.json'])
        remove(disk, folder, [path for path in paths if path.suffix != '.json'])

    check_mutant(tmp_path, monkeypatch, checkpointing.manager, 'remove', records_first, save=2)


def test_mutant_that_writes_the_record_first_is_caught(tmp_path, monkeypatch):
    def record_first(self, record, placed):
        self._commit_record(record)
        for file in record.files.values():
            self.disk.replace(self._temporary(file.name), self.folder / file.name)
        self._announce(record)

    check_mutant(tmp_path, monkeypatch, Checkpoints, '_move_into_place', record_first)


def test_mutant_that_names_the_weights_before_the_state_is_caught(tmp_path, monkeypatch):
    parts = Content.parts
    check_mutant(
        tmp_path, monkeypatch, Content, 'parts', lambda self: dict(reversed(parts(self).items())), saves=SAVES[:1]
    )


# Of the waits of a save that removes something, the state's matters in the first save only, and the last one never.
WAITS = [(0, wait) for wait in range(7)] + [(5, wait) for wait in (0, 1, 2, 3, 5, 6, 7)]


@pytest.mark.slow
@pytest.mark.parametrize(('index', 'wait'), WAITS)
def test_mutant_that_leaves_out_one_wait_for_the_disk_is_caught(tmp_path, index, wait):
    life = Life(tmp_path / 'life')
    begin, end = life.moments[index].events, life.moments[index + 1].events
    waits = [i for i in range(begin, end) if life.events[i][0] in ('fsync', 'fsync_folder')]
    assert len(waits) == (7 if index == 0 else 9)
    life.events[waits[wait]] = ('nothing',)
    del life.events[end:]
    with pytest.raises((AssertionError, CheckpointError)):
        check_cuts(life, tmp_path / 'cut', rounds=100, begin=waits[wait])
