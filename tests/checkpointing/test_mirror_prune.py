"""Pruning a mirror: what goes from a folder goes there, and whatever cuts it, a record is a whole checkpoint."""

import contextlib

import pytest
from support.faults import SAVES, auto, checkpoints, copy_folder, holds, play_well
from support.stores import FaultyStore, mirror_of, mirror_store, of_run, push

import checkpoints as script
from checkpointing.mirror.contents import Contents
from checkpointing.mirror.lease import Lease
from checkpointing.mirror.store import Store
from checkpointing.prune import prune_mirror
from checkpointing.retention import Policy
from common.stores import StoreError

URL = 'faulty://bucket/run'
FLAGS = ['--keep', '1', '--best', '1']
KEEP_ONE = {'keep': 1, 'best': 1, 'every': None, 'states': None, 'monitor': None, 'mode': None}


@pytest.fixture(scope='module')
def mirrored(tmp_path_factory):
    """A run that has removed nothing, the first of its checkpoints pinned, and what its mirror holds."""
    folder, logs = tmp_path_factory.mktemp('runs') / 'run', tmp_path_factory.mktemp('log')
    (logs / 'curves.csv').write_text('step,epoch')
    FaultyStore.set({})
    made = checkpoints(folder, policy=Policy())
    play_well(made, SAVES[:1])
    (folder / 'epoch-0-iter-1.pin').touch()
    play_well(made, SAVES[1:])
    push(mirror_of(folder, logs, policy=None))
    return folder, FaultyStore.objects()


@pytest.fixture
def run(mirrored, tmp_path):
    """A copy of the run, whose mirror is in the store."""
    FaultyStore.set(mirrored[1])
    yield copy_folder(mirrored[0], tmp_path / 'run')
    FaultyStore.set({})


def call(capsys, *words):
    code = script.main(['prune', *map(str, words)])
    return code, *capsys.readouterr()


def pruned(folder):
    contents = Contents(mirror_store(), folder)
    folder.mkdir()
    contents.look()
    prune_mirror(contents, KEEP_ONE, dry_run=False)


def objects():
    return {name: data for name, data in FaultyStore.objects().items() if name != '.lease'}


def test_what_goes_from_the_folder_goes_from_the_mirror(run, tmp_path, capsys):
    before, here = FaultyStore.objects(), of_run(run)
    code, dry, _ = call(capsys, URL, *FLAGS, '--dry-run')
    assert (code, FaultyStore.objects(), of_run(run)) == (0, before, here)
    code, done, _ = call(capsys, URL, *FLAGS)
    assert (code, done) == (0, dry.replace('would remove', 'removes'))
    assert call(capsys, run, *FLAGS)[0] == 0
    assert len(of_run(run)) < len(here)
    mirror_of(tmp_path / 'copy', policy=None).pull('base', all_kept=True)
    assert of_run(tmp_path / 'copy') == of_run(run)
    assert (tmp_path / 'copy/epoch-0-iter-1.state.pth').is_file()  # of the pinned one
    assert call(capsys, URL, *FLAGS)[1].splitlines()[-1] == '  0 files, 0 B'
    assert [name for name in objects() if 'curves' in name] == [name for name in before if 'curves' in name]


@pytest.mark.parametrize('stride', [pytest.param(1, marks=pytest.mark.slow), 14])
def test_whatever_cuts_it_records_are_whole_and_it_is_done_by_doing_it_again(run, tmp_path, capsys, stride):
    before = FaultyStore.objects()
    FaultyStore.set()
    pruned(tmp_path / 'once')
    requests, after = len(FaultyStore.done), objects()
    assert after.keys() < before.keys()
    FaultyStore.set(before)
    for number in range(1, requests + 1, stride):
        FaultyStore.set(before, number, persistent=True, late=number % 2 == 0)
        with contextlib.suppress(StoreError):
            pruned(tmp_path / f'cut-{number}')
        FaultyStore.set(objects())  # without the lease of who was cut, which others wait out
        copy = tmp_path / f'copy-{number}'
        mirror = mirror_of(copy)
        for record in mirror.contents.records():
            assert mirror.contents.has(record.files['weights']), number
        newest = mirror.pull('base')
        assert newest == auto(copy).record
        assert newest.step == SAVES[-1].step
        assert holds(copy, newest)
        pruned(tmp_path / f'again-{number}')
        assert objects() == after, number
    capsys.readouterr()


def test_a_training_at_work_on_the_mirror_is_left_alone(run, tmp_path, capsys):
    before = objects()
    lease = Lease(mirror_store(), tmp_path, seconds=0.4)
    lease.take()
    code, _, err = call(capsys, URL, *FLAGS)
    assert code == 75
    assert 'is writing to this mirror. Wait for its end' in err
    assert objects() == before
    assert call(capsys, URL, *FLAGS, '--dry-run')[0] == 0
    lease.release()
    assert call(capsys, URL, *FLAGS)[0] == 0
    assert objects().keys() < before.keys()


def test_nothing_goes_while_the_newest_is_damaged(run, capsys):
    (name,) = (name for name in FaultyStore.objects() if name.startswith('epoch-2-iter-13.') and '.state.' in name)
    FaultyStore.store[f'/bucket/run/{name}'].write(b'!')
    before = objects()
    code, _, err = call(capsys, URL, *FLAGS)
    assert code == 2
    assert err == (
        f'error: {URL}, base run run: its newest checkpoint is damaged (epoch-2-iter-13.state.pth is missing, or does '
        'not have the sha256 of its record); nothing of this run is removed\n'
    )
    assert objects() == before


def test_only_what_the_mirror_itself_has_named_goes(run, capsys):
    store = mirror_store()
    for name in ('mine.pth', 'epoch-0.pth', 'notes.txt'):
        store.put(name, b'mine')
    store.put('epoch-9.0123456789abcdef.pth', b'sent for a checkpoint that never counted')
    broken = 'epoch-0-iter-3.json'
    store.put(broken, store.get(broken)[:-9])
    code, out, _ = call(capsys, URL, *FLAGS)
    assert code == 0
    assert '  removes epoch-9.0123456789abcdef.pth, 40 B\n' in out
    assert f'left alone: {broken}' in out
    there = FaultyStore.objects()
    assert {'mine.pth', 'epoch-0.pth', 'notes.txt', broken} <= there.keys()
    assert any(name.startswith('epoch-0-iter-3.') and name.endswith('.pth') for name in there)
    assert 'epoch-9.0123456789abcdef.pth' not in there


@pytest.mark.parametrize('way', ['not listed', 'listed and not there'])
def test_what_a_record_may_name_that_was_not_read_stays(run, monkeypatch, capsys, way):
    before, name = objects(), 'epoch-2-iter-13.json'
    sizes, get_all = Store.sizes, Store.get_all
    if way == 'not listed':
        absent = (name, 'curves.index')
        monkeypatch.setattr(Store, 'sizes', lambda self: {n: s for n, s in sizes(self).items() if n not in absent})
    else:
        monkeypatch.setattr(Store, 'get_all', lambda self, names: get_all(self, [n for n in names if n != name]))
    assert call(capsys, URL, *FLAGS)[0] == 0
    own = {n for n in before if n.startswith(('epoch-2-iter-13.', 'curves.'))}
    assert own <= objects().keys() < before.keys()
    monkeypatch.undo()
    assert script.main(['verify', URL]) == 0


def test_what_is_pinned_while_the_newest_is_read_stays(run, monkeypatch, capsys):
    problem = Contents.problem

    def slow(self, record):
        mirror_store().put('epoch-0.pin', b'')
        return problem(self, record)

    monkeypatch.setattr(Contents, 'problem', slow)
    assert call(capsys, URL, *FLAGS)[0] == 0
    there = objects()
    assert {'epoch-0.json', 'epoch-0.pin'} <= there.keys()
    assert 'epoch-0-iter-3.json' not in there


def test_nothing_of_a_refused_run_goes_not_even_what_nothing_names(run, capsys):
    mirror_store().put('epoch-9.0123456789abcdef.pth', b'sent for a checkpoint that never counted')
    before = objects()
    code, out, err = call(capsys, URL, '--monitor', 'sad')
    assert code == 2
    assert 'removes' not in out
    assert err == f'error: {URL}, base run run: --monitor sad: not one of loss; nothing of this run is removed\n'
    assert objects() == before
