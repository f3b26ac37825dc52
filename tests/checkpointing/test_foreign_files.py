"""Files of others in a run's folder: over a whole life none is deleted or changed, and none is gone on from."""

import dataclasses
import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from support.faults import (
    IDENTITY,
    SAVES,
    WatchedDisk,
    auto,
    checkpoints,
    content,
    holds,
    play_well,
    snapshot,
    stop_clock,
)

from checkpointing.manager import Checkpoints, Point
from checkpointing.record import CheckpointError
from checkpointing.resume import refuse_overwriting
from checkpointing.retention import Policy


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    stop_clock(monkeypatch)


def weights(folder, name):
    torch.save({'w': torch.zeros(9)}, folder / name)


def bytes_of(data):
    return lambda folder, name: (folder / name).write_bytes(data)


def directory(folder, name):
    (folder / name).mkdir()
    (folder / name / 'photo.png').write_bytes(b'dear to somebody')


def link(folder, name):
    outside = folder.parent / f'outside of {name}'
    outside.write_bytes(b'weights on another disk')
    (folder / name).symlink_to(outside)


def unreadable(folder, name):
    (folder / name).write_bytes(b'secret')
    (folder / name).chmod(0)


def half_written(folder, name):
    weights(folder, name)
    path = folder / name
    path.write_bytes(path.read_bytes()[:700])


def copied_record(folder, name):
    (folder / name).write_bytes((folder / 'epoch-0-iter-5.json').read_bytes())


def another(stage, run, step, without=()):
    """Makes a checkpoint of another run, or what is left of one."""

    def make(folder, name):
        stem = name.split('.')[0]
        elsewhere = folder.parent / f'made for {name}'
        made = Checkpoints(elsewhere, stage, run, IDENTITY, disk=WatchedDisk())
        made.save({stem: 'interval'}, Point(step, 0), content(step))
        assert made.settle()
        for path in elsewhere.glob(f'{stem}.*'):
            if path.name.removeprefix(stem) not in without:
                path.rename(folder / path.name)

    return make


# What lies there, and how it comes about. Names of steps 9, 11 and 13 are in the way of checkpoints to come.
ENTRIES = {
    'epoch-3.pth': directory,
    'epoch-9.pth': weights,
    'published.pth': weights,
    'epoch-9.state.pth': bytes_of(b'a state alone'),
    'epoch-1-iter-9.pth': weights,
    'epoch-1-iter-9.state.pth': half_written,
    'epoch-1-iter-11.pth': half_written,
    'epoch-1-iter-11.ema.pth': bytes_of(b''),
    'epoch-1.pth': link,
    'epoch-1.state.pth': unreadable,
    'epoch-2-iter-13.pth': directory,
    'epoch-2-iter-13.json': directory,
    'best.pth': weights,
    'last.pth': bytes_of(b''),
    'best-01-0.20.pth': bytes_of(b'my own best'),
    'notes.json': bytes_of(b'{"format": 2}'),
    'epoch-7.json': bytes_of(json.dumps({'epoch': 7, 'loss': 0.5}).encode()),
    'epoch-7.pth': bytes_of(b'of another tool'),
    'epoch-notes.json': bytes_of(b'{'),
    'epoch-6.json': bytes_of(b''),
    'epoch-0-copy.json': copied_record,
    'epoch-8-iter-800.json': another('refine', 'other', 800),
    'epoch-8-iter-801.json': another('base', 'other', 801, without=('.pth',)),
    'epoch-8-iter-802.json': another('base', 'other', 802, without=('.state.pth', '.ema.pth')),
    'epoch-0-iter-0.json': another('base', 'other', 0),
    '.epoch-0-iter-1.pth.other.tmp': bytes_of(b'being written'),
    '.notes.tmp': bytes_of(b'a person is writing'),
    'epoch-0-iter-1.pth.bak': bytes_of(b'a copy'),
}


def inodes(folder):
    """What every entry is, whatever its name: its number on the disk, kind, rights and content."""
    found = {}
    for path in folder.iterdir():
        stat = path.lstat()
        content = (
            os.readlink(path) if path.is_symlink() else sorted(snapshot(path)) if path.is_dir() else path.read_bytes()
        )
        found[stat.st_ino] = (stat.st_mode, content, path.name)
    return found


def check_kept(foreign, folder):
    """Every entry is there, as it was, under its name or one that says why it has another."""
    now = inodes(folder)
    for number, (mode, data, name) in foreign.items():
        assert number in now, name
        assert now[number][:2] == (mode, data), name
        assert now[number][2] in (name, f'{name}.aside', f'{name}.damaged'), name


def test_files_of_others_outlive_a_run(tmp_path):
    folder = tmp_path / 'run'
    play_well(checkpoints(folder), SAVES[:3])
    own = inodes(folder)
    for name, make in ENTRIES.items():
        if (folder / name).exists():
            (folder / name).unlink()
        make(folder, name)
    foreign = {number: entry for number, entry in inodes(folder).items() if number not in own}
    assert len(foreign) > 30
    for begin in range(3, len(SAVES)):
        resume = auto(folder)
        assert (resume.run, resume.record.step) == ('run', SAVES[begin - 1].step)
        assert holds(folder, resume.record)
        check_kept(foreign, folder)
        made = checkpoints(folder)
        made.open()
        play_well(made, SAVES[begin : begin + 1])
        made.close()
        check_kept(foreign, folder)
    assert auto(folder).record.step == SAVES[-1].step
    assert {path.read_bytes() for path in tmp_path.glob('outside of *')} == {b'weights on another disk'}
    now = inodes(folder)
    assert {name for number, (_, _, name) in foreign.items() if now[number][2] != name} == {
        *(name for name in ENTRIES if name.startswith(('epoch-1', 'epoch-2', 'best', 'last'))),
        *('epoch-8-iter-801.json', 'epoch-8-iter-802.json'),
    }


def test_of_what_was_set_aside_only_what_a_checkpoint_holds_goes(tmp_path):
    """Earlier versions set aside what a kill had left of the run itself."""
    made = checkpoints(tmp_path, policy=Policy())
    play_well(made, SAVES[:1])
    first = snapshot(tmp_path)
    play_well(made, SAVES[1:3])
    weights, state = 'epoch-0-iter-5.pth', 'epoch-0-iter-1.state.pth'
    os.link(tmp_path / weights, tmp_path / f'{weights}.aside')
    (tmp_path / f'{weights}.aside1').write_bytes((tmp_path / weights).read_bytes())
    (tmp_path / f'{state}.aside').write_bytes(first[state])
    # Another content of the same size, a link, and what nobody else holds any more.
    (tmp_path / f'{weights}.aside2').write_bytes(bytes((tmp_path / weights).stat().st_size))
    (tmp_path / f'{weights}.aside3').symlink_to(weights)
    (tmp_path / 'epoch-0-iter-1.pth').rename(tmp_path / 'epoch-0-iter-1.pth.aside')
    foreign = {
        name: data for name, data in inodes(tmp_path).items() if data[2].endswith(('aside2', 'aside3', '1.pth.aside'))
    }
    assert len(foreign) == 3
    checkpoints(tmp_path, policy=Policy()).open()
    assert [name for name in sorted(snapshot(tmp_path)) if 'aside' in name] == [
        'epoch-0-iter-1.pth.aside', f'{weights}.aside2', f'{weights}.aside3',
    ]  # fmt: skip
    check_kept(foreign, tmp_path)


def test_a_link_to_a_disk_that_is_away_outlives_a_run(tmp_path):
    away = tmp_path / 'epoch-0-iter-1.pth'
    away.symlink_to('/nowhere/weights.pth')
    play_well(checkpoints(tmp_path), SAVES[:1])
    assert str(away.with_name(f'{away.name}.aside').readlink()) == '/nowhere/weights.pth'


@pytest.mark.parametrize('kind', ['pth', 'state.pth', 'json'])
@pytest.mark.parametrize('code', [errno.EACCES, errno.EIO])
def test_a_checkpoint_that_cannot_be_read_is_gone_back_behind(tmp_path, monkeypatch, caplog, kind, code):
    play_well(checkpoints(tmp_path), SAVES[:2])
    before = inodes(tmp_path)
    real = Path.open

    def fails(self, *arguments, **options):
        if self.name == f'epoch-0-iter-3.{kind}':
            raise OSError(code, os.strerror(code))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, 'open', fails)
    assert auto(tmp_path).record.step == 1
    assert caplog.text.count('epoch-0-iter-3 cannot be resumed from') == 1
    monkeypatch.undo()
    check_kept(before, tmp_path)


class Malicious:
    def contiguous(self):
        return self

    def __reduce__(self):
        return (open, ('owned', 'w'))


@pytest.mark.parametrize('kind', ['state', 'weights'])
def test_no_code_of_a_checkpoint_runs(in_tmp, kind):
    """Not even if its record verifies."""
    made = checkpoints(in_tmp / 'run')
    evil = dataclasses.replace(content(1), **{kind: {'w': Malicious()}})
    made.save({'epoch-0': 'epoch'}, Point(1, 0), evil)
    assert made.settle()
    with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
        auto(in_tmp / 'run')
    assert not (in_tmp / 'owned').exists()


def test_a_run_does_not_begin_over_somebodys_weights(tmp_path):
    for name in ('epoch-9.pth', 'epoch-1-iter-9.pth', 'epoch-3.pth'):
        folder = tmp_path / name / 'run'
        folder.mkdir(parents=True)
        (directory if name == 'epoch-3.pth' else weights)(folder, name)
        before = inodes(folder)
        assert auto(folder).record is None
        with pytest.raises(CheckpointError, match=f'already holds {name} of another run'):
            refuse_overwriting(folder, 'run', 0)
        refuse_overwriting(folder, 'run', 10)
        assert inodes(folder) == before
