"""File systems that lack something, refuse names, fold the case of letters, or go away while a run saves."""

import errno
import io
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from support.checkpoint_folders import names
from support.faults import IDENTITY, CountingDisk, FailingDisk, WatchedDisk, auto, content, equal, holds, snapshot

import common.files
from checkpointing import links
from checkpointing.manager import Checkpoints, Point
from checkpointing.record import CheckpointError
from checkpointing.rehearsal import rehearse
from checkpointing.retention import Policy
from common.files import Disk, digest


def run(folder, disk=None, template=None, keep=1, **options):
    """A run, with its template both in its policy and in the options of its records."""
    policy = Policy(keep=keep, best_name=template)
    return Checkpoints(
        folder,
        'base',
        'run',
        IDENTITY,
        policy,
        {'checkpoint_best_name': template},
        disk=disk or WatchedDisk(),
        **options,
    )


def save(made, *steps, loss=None):
    """Saves after steps, each better than the one before it unless a loss is given."""
    for step in steps:
        metrics = {'valid_loss': 1 / (step + 1) if loss is None else loss}
        made.save({f'epoch-{step}': 'epoch'}, Point(step, step, metrics), content(step))
        if not made.settle():
            return False
    return True


def weights(folder):
    return [name for name in names(folder) if name.startswith('epoch') and name.count('.') == 1 and 'json' not in name]


class Picky(WatchedDisk):
    """A disk that gives no file a name with a colon, as Windows' and those of memory cards."""

    def around(self, name, operation, *arguments):
        if name in ('link', 'replace', 'create') and ':' in arguments[-1].name:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return operation(*arguments)


@pytest.mark.parametrize(('disk', 'template'), [(Picky(), 'top:{epoch}'), (WatchedDisk(), '{epoch:0300d}')])
def test_a_best_name_that_the_disk_refuses_costs_one_warning_and_no_retention(tmp_path, caplog, disk, template):
    assert save(run(tmp_path, disk, template), *range(6))
    assert weights(tmp_path) == ['epoch-4.pth', 'epoch-5.pth']
    assert caplog.text.count(f'--checkpoint-best-name {template}') == 1
    assert (tmp_path / 'best.pth').samefile(tmp_path / 'epoch-5.pth')
    assert (tmp_path / 'last.pth').samefile(tmp_path / 'epoch-5.pth')


def test_a_best_name_may_be_as_long_as_names_can_be(tmp_path):
    assert save(run(tmp_path, template='{epoch:0251d}'), 0, 1)
    assert f'{1:0251d}.pth' in names(tmp_path)


class Stubborn(WatchedDisk):
    """A disk that no longer gives names to links."""

    broken = True

    def around(self, name, operation, *arguments):
        if self.broken and name == 'replace' and arguments[1].name == 'best.pth':
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return operation(*arguments)


def test_what_an_old_link_still_names_stays_until_the_link_is_renewed(tmp_path):
    assert save(run(tmp_path), 0)
    made = run(tmp_path, Stubborn())
    assert save(made, *range(1, 5))
    assert weights(tmp_path) == ['epoch-0.pth', 'epoch-3.pth', 'epoch-4.pth']
    made.disk.broken = False
    assert save(made, 5)
    assert weights(tmp_path) == ['epoch-4.pth', 'epoch-5.pth']
    assert not [name for name in names(tmp_path) if 'aside' in name]


def test_links_of_a_former_best_name_go(tmp_path):
    assert save(run(tmp_path, template='old-{epoch}'), 0, 1, 2)
    (tmp_path / 'old-9.pth').write_bytes(b'somebody')
    os.link(tmp_path / 'epoch-2.pth', tmp_path / 'my-best.pth')
    made = run(tmp_path, template='new-{step}')
    made.open()
    assert [name for name in names(tmp_path) if name.startswith(('old', 'new', 'my'))] == [
        'my-best.pth', 'new-2.pth', 'old-9.pth',
    ]  # fmt: skip
    assert save(made, 3)
    made = run(tmp_path)
    made.open()
    assert [name for name in names(tmp_path) if name.startswith(('old', 'new', 'my'))] == ['my-best.pth', 'old-9.pth']


@pytest.fixture
def folding(monkeypatch):
    """Names that differ only in case are one, as on the disks of a Mac."""

    def folded(path):
        head, tail = os.path.split(os.fspath(path))
        names = listdir(head) if access(head, os.X_OK) else []
        return os.path.join(head, next((name for name in names if name.casefold() == tail.casefold()), tail))

    def wrap(real):
        return lambda *paths, **more: real(
            *(folded(p) if isinstance(p, os.PathLike | str) else p for p in paths), **more
        )

    listdir, access = os.listdir, os.access
    for module, name in ((os, 'stat'), (os, 'lstat'), (os, 'link'), (os, 'replace'), (os, 'unlink'), (io, 'open')):
        monkeypatch.setattr(module, name, wrap(getattr(module, name)))


@pytest.mark.parametrize('template', ['Epoch-{epoch}', 'EPOCH-{step}'])
def test_links_never_take_the_weights_where_case_is_folded(tmp_path, folding, caplog, template):
    assert save(run(tmp_path, template=template, keep=None), *range(4))
    assert weights(tmp_path) == [f'epoch-{step}.pth' for step in range(4)]
    assert all(holds(tmp_path, record) for record in run(tmp_path).records()[-2:])
    assert 'is the name of a checkpoint' in caplog.text
    assert links.template_problem(template)


def test_a_link_stays_from_a_checkpoint_under_any_spelling(tmp_path, folding, monkeypatch):
    """Even where the name was not seen to be a checkpoint's."""
    monkeypatch.setattr(links, 'best_link', lambda record, template: f'Epoch-{max(record.epoch - 1, 0)}.pth')
    assert save(run(tmp_path, template='Epoch-{epoch}', keep=None), *range(4))
    assert save(run(tmp_path, template='Epoch-{epoch}', keep=None), 4, loss=2.0)
    assert weights(tmp_path) == [f'epoch-{step}.pth' for step in range(5)]
    files = [record.files['weights'] for record in run(tmp_path).records()]
    assert all(digest(tmp_path / file.name) == file.sha256 for file in files)


def test_two_links_never_have_one_name_where_case_is_folded(tmp_path, folding):
    assert save(run(tmp_path, template='BEST{name:.0}'), 0, 1)
    assert [name for name in names(tmp_path) if not name.startswith('epoch')] == [
        'BEST-1.pth', 'best.pth', 'last.pth',
    ]  # fmt: skip


def unsupported(code):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize('code', [errno.EINVAL, errno.ENOTSUP])
def test_a_mount_that_cannot_sync_is_told_of_once_and_saves(tmp_path, monkeypatch, caplog, code):
    monkeypatch.setattr(os, 'fsync', unsupported(code))
    disk = Disk()
    rehearse(disk, tmp_path)
    assert caplog.text.count('cannot be told to write to the disk') == 1
    assert save(run(tmp_path, disk), 0, 1, 2)
    assert caplog.text.count('cannot be told to write to the disk') == 1
    assert auto(tmp_path).record.step == 2


def test_an_error_of_the_disk_is_none_of_that(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, 'fsync', unsupported(errno.EIO))
    with pytest.raises(CheckpointError, match='Input/output error'):
        rehearse(Disk(), tmp_path)
    assert not save(run(tmp_path, Disk()), 0)
    assert 'MB' not in caplog.text
    assert names(tmp_path) == []


def test_a_disk_that_does_not_say_what_is_free_is_no_full_one(tmp_path, monkeypatch):
    monkeypatch.setattr(common.files.shutil, 'disk_usage', lambda folder: SimpleNamespace(total=0, used=0, free=0))
    assert Disk().free(tmp_path) == sys.maxsize
    assert save(run(tmp_path, Disk()), 0)


def test_a_rehearsal_meets_every_operation_and_any_error_is_one_line(tmp_path):
    disk = CountingDisk()
    rehearse(disk, tmp_path)
    assert set(disk.done) == {'create', 'write', 'fsync', 'open', 'link', 'replace', 'fsync_folder', 'unlink'}
    for number in range(1, len(disk.done) + 1):
        with pytest.raises(CheckpointError) as error:
            rehearse(FailingDisk(number, errno.EIO), tmp_path)
        assert str(error.value).startswith(f'{tmp_path}: no checkpoint can be saved here ([Errno 5]')
        assert len(str(error.value).splitlines()) == 1
        assert names(tmp_path) == []
        rehearse(FailingDisk(number, errno.ENOSPC), tmp_path)
        assert names(tmp_path) == []


@pytest.mark.parametrize('another', [False, True])
def test_a_folder_that_went_away_is_not_made_anew(tmp_path, caplog, another):
    folder, away = tmp_path / 'run', tmp_path / 'away'
    made = run(folder, keep=None)
    made.open()
    assert save(made, 0)
    folder.rename(away)
    if another:
        folder.mkdir()
    before = snapshot(away)
    for step in (1, 2):
        assert not save(made, step)
    assert made.failures == 2
    assert caplog.text.count('the folder is gone: renamed or unmounted') == 2
    assert snapshot(away) == before
    assert names(tmp_path) == ['away', 'run'] if another else ['away']
    assert not another or names(folder) == []
    if another:
        folder.rmdir()
    away.rename(folder)
    assert save(made, 3)
    assert made.failures == 0
    assert auto(folder).record.step == 3


def test_a_folder_that_goes_away_during_a_save_gets_no_record_elsewhere(tmp_path):
    folder = tmp_path / 'run'
    made = run(folder)
    assert save(made, 0)
    made.save({'epoch-0': 'epoch'}, Point(0, 0, {'valid_loss': 3.0}), content(0))
    made.settle()
    commit = made._commit

    def goes_away(*arguments):
        folder.rename(tmp_path / 'away')
        folder.mkdir()
        commit(*arguments)

    made._commit = goes_away
    made.save({'epoch-0': 'epoch', 'epoch-1': 'epoch'}, Point(0, 0, {'valid_loss': 2.0}), content(0))
    assert not made.settle()
    assert names(folder) == []


def test_a_users_copy_of_a_link_is_his_own(tmp_path):
    made = run(tmp_path)
    save(made, 1)
    (tmp_path / 'best-1.pth').write_bytes((tmp_path / 'best.pth').read_bytes())
    save(made, 2, 3, 4)
    assert equal(torch.load(tmp_path / 'best-1.pth'), content(1).weights)


def test_a_mount_that_died_is_a_save_that_fails_and_not_the_end(tmp_path, monkeypatch):
    made = run(tmp_path)
    save(made, 1)

    def dead(_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'listdir', dead)
        assert made.would_be_kept({'valid_loss': 9.0})
        made._tidy(made.record('epoch-1'))
    assert not made.would_be_kept({'valid_loss': 9.0})


class Unlinked(WatchedDisk):
    """A disk without hard links on which last.pth and best.pth can't be replaced."""

    def around(self, name, operation, *arguments):
        if name == 'link' or (name == 'replace' and arguments[-1].name in ('last.pth', 'best.pth') and self.stubborn):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return operation(*arguments)

    stubborn = False


def test_a_link_that_cannot_be_renewed_is_read_once_a_save(tmp_path, monkeypatch):
    disk = Unlinked()
    made = run(tmp_path, disk, keep=None)
    save(made, 1)
    disk.stubborn = True
    save(made, *range(2, 8))
    read = []
    monkeypatch.setattr(links, 'digest', lambda path: read.append(path.name) or digest(path))
    save(made, 8)
    assert max(map(read.count, read)) <= 2


@pytest.mark.parametrize('template', ['{step:c}', 'x{step:c}', '{step:.^5c}'])
def test_values_never_make_a_link_anywhere_else(tmp_path, caplog, template):
    for step in (47, 0, 46):
        assert save(run(tmp_path / f'{step}', template=template), step, step + 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['0', '46', '47']
    assert 'is not the name of a file' in caplog.text
