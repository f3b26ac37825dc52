"""Who is cut off leaves a mirror and a folder that others go on from: a writer taken over, a pull that is killed."""

import contextlib
import itertools

import pytest
from support.faults import SAVES, snapshot
from support.stores import FaultyStore, mirror_of, mirror_store, of_run, push, records_are_whole, train

from common.stores import StoreError

pytestmark = pytest.mark.usefixtures('empty_store')


def test_who_may_not_write_any_more_changes_nothing(tmp_path):
    """Wherever a writer wakes after another has taken the run over: nothing is written, and nothing deleted."""
    logs = tmp_path / 'log'
    logs.mkdir()
    (logs / 'curves.csv').write_text('curves')
    train(tmp_path / 'run', SAVES[:2])
    push(mirror_of(tmp_path / 'run', logs))
    (tmp_path / 'run/epoch-0-iter-1.pin').touch()
    mirror_store().put('.0123456789abcdef.tmp', b'half')
    train(tmp_path / 'run', SAVES[2:5])
    (logs / 'curves.csv').write_text('more curves')
    before = FaultyStore.objects()
    for allowed in itertools.count():
        FaultyStore.set(before)
        asked, writes = itertools.count(), {'pipe_file', 'rm_file'}

        def may_write(allowed=allowed, asked=asked):
            if next(asked) >= allowed:
                raise StoreError('taken over')

        mirror = mirror_of(tmp_path / 'run', logs, may_write=may_write)
        try:
            mirror.tidy()
            push(mirror)
        except StoreError:
            assert sum(name in writes for name in FaultyStore.done) == allowed
            continue
        break
    assert sum(name in writes for name in FaultyStore.done) == allowed > 10


def test_files_that_another_writer_has_removed_are_sent_again_before_their_record(tmp_path):
    train(tmp_path, SAVES[:2])
    mirror = mirror_of(tmp_path)
    files = mirror.pending()[-1].files.values()
    for _ in files:
        mirror.push()
    files = [mirror.contents.object_of(file) for file in files]
    assert set(files) <= FaultyStore.objects().keys()
    for name in files:
        mirror_store().delete(name)
    for _ in range(20):
        mirror.push()
        assert records_are_whole()
    assert 'epoch-0-iter-3.json' in FaultyStore.objects()


def cut(mirror, at):
    """Pull, and be killed at the n-th object that is read."""
    real, asked = mirror.store.get, itertools.count()

    def get(name):
        if next(asked) == at:
            raise KeyboardInterrupt
        return real(name)

    mirror.store.get = get
    mirror.pull('base')
    return True


def test_a_pull_that_is_cut_anywhere_is_done_again_curves_and_pins_too(tmp_path):
    run, logs = tmp_path / 'run', tmp_path / 'log'
    logs.mkdir()
    (logs / 'curves.csv').write_text('all of it')
    (logs / 'events').write_text('all of them')
    train(run, SAVES[:1])
    (run / 'epoch-0-iter-1.pin').touch()
    train(run, SAVES[1:4])
    push(mirror_of(run, logs))
    for at in itertools.count():
        copy, copied = tmp_path / f'copy-{at}', tmp_path / f'log-{at}'
        done = False
        with contextlib.suppress(KeyboardInterrupt):
            done = cut(mirror_of(copy, copied), at)
        mirror_of(copy, copied).pull('base')
        assert snapshot(copied) == snapshot(logs)
        assert of_run(copy) == of_run(run)
        if done:
            break
    assert at > 8


def test_a_store_that_fails_at_the_curves_costs_no_curves(tmp_path):
    run, logs = tmp_path / 'run', tmp_path / 'log'
    logs.mkdir()
    (logs / 'curves.csv').write_text('all of it')
    train(run, SAVES[:1])
    push(mirror_of(run, logs))
    mirror = mirror_of(tmp_path / 'copy', tmp_path / 'copied')
    real = mirror.store.get

    def get(name):
        if name.startswith('curves'):
            raise StoreError('the connection was reset')
        return real(name)

    mirror.store.get = get
    with pytest.raises(StoreError, match='reset'):
        mirror.pull('base')
    mirror_of(tmp_path / 'copy', tmp_path / 'copied').pull('base')
    assert snapshot(tmp_path / 'copied') == snapshot(logs)
