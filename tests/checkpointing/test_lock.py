"""The lock of a run's folder: who gets it, what a start that is refused leaves, and what is said."""

import errno
import os
from pathlib import Path

import pytest
from support import sabotage
from support.runs import flags

import checkpointing.lock
import train_base
import training.stage
from checkpointing.lock import NAME, FolderLock
from checkpointing.record import CheckpointError


def in_child(work):
    """Does work in a forked process, since a process's own locks are not in its way; returns its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_refused(folder):
    """Whether another process is refused the folder."""

    def work():
        try:
            FolderLock(folder, patience=0).take()
        except CheckpointError:
            return 3

    return in_child(work) == 3


def test_a_lock_makes_its_folder_and_takes_an_empty_one_away(tmp_path):
    (tmp_path / 'there').mkdir()
    lock = FolderLock(tmp_path / 'there/checkpoint/run')
    lock.take()
    assert is_refused(tmp_path / 'there/checkpoint/run')
    lock.release()
    assert list(tmp_path.rglob('*')) == [tmp_path / 'there']


@pytest.mark.parametrize('made_before', [True, False])
def test_a_folder_that_was_there_or_holds_something_stays(tmp_path, made_before):
    folder = tmp_path / 'run'
    if made_before:
        folder.mkdir()
    lock = FolderLock(folder)
    lock.take()
    if not made_before:
        (folder / 'notes').touch()
    lock.release()
    assert (folder / NAME).exists()
    assert not is_refused(folder)


def test_whoever_waits_for_a_start_that_is_refused_gets_a_lock_that_holds(tmp_path, monkeypatch):
    first, second = FolderLock(tmp_path / 'run'), FolderLock(tmp_path / 'run')
    first.take()
    real = checkpointing.lock._try_lock

    def try_lock(file):
        # The first goes when the second has the file open, but not yet the lock.
        first.release()
        return real(file)

    monkeypatch.setattr(checkpointing.lock, '_try_lock', try_lock)
    second.take()
    assert (tmp_path / 'run' / NAME).exists()
    assert is_refused(tmp_path / 'run')
    second.release()
    assert not (tmp_path / 'run').exists()


def test_a_lock_is_not_taken_away_from_another_folder_of_the_name(tmp_path):
    lock = FolderLock(tmp_path / 'run')
    lock.take()
    (tmp_path / 'run').rename(tmp_path / 'away')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / NAME).touch()
    lock.release()
    assert (tmp_path / 'run' / NAME).exists()


@pytest.mark.parametrize('denied', ['mkdir', 'open'])
def test_somebody_elses_folder_is_named_with_its_owner(tmp_path, monkeypatch, denied):
    folder = tmp_path / 'run'
    if denied == 'open':
        folder.mkdir()
        (folder / NAME).touch(mode=0o644)
    culprit = folder / NAME if denied == 'open' else tmp_path

    def deny(self, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, denied, deny)
    with pytest.raises(CheckpointError) as error:
        FolderLock(folder).take()
    assert str(error.value).startswith(f'{culprit}: belongs to user {tmp_path.owner()}, and you may not write to it (')
    monkeypatch.setattr(Path, 'owner', lambda path: {}['a user without a name'])
    with pytest.raises(CheckpointError, match=f'belongs to user {os.getuid()}'):
        FolderLock(folder).take()


def test_the_lock_is_held_before_anything_is_decided(in_tmp, monkeypatch, capsys):
    sabotage.tiny(monkeypatch.setattr)
    folder, real, refused = Path('checkpoint/run'), training.stage.decide, []

    def decide(*arguments):
        refused.append(is_refused(folder))
        return real(*arguments)

    monkeypatch.setattr(training.stage, 'decide', decide)
    assert train_base.main(flags('run', monitor='iou')) == 2
    assert refused == [True]
    assert '--monitor valid_iou' in capsys.readouterr().err
    assert not Path('checkpoint').exists()


def test_a_folder_that_went_away_since_it_was_locked_is_not_taken_for_locked(tmp_path):
    lock = FolderLock(tmp_path / 'run')
    lock.take()
    lock.take()
    (tmp_path / 'run').rename(tmp_path / 'away')
    with pytest.raises(CheckpointError, match='the folder is gone: renamed or unmounted since the start'):
        lock.take()
    lock.release()


def test_a_link_to_nothing_is_said_at_once(tmp_path):
    (tmp_path / 'run').symlink_to(tmp_path / 'unmounted')
    with pytest.raises(CheckpointError, match='is a link to a folder that is not there'):
        FolderLock(tmp_path / 'run').take()
