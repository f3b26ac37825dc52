"""Checkpoints of a mirror that are damaged there count no more once a run goes on without them."""

import pytest
from support.faults import WatchedDisk, auto, checkpoints, holds, play_well
from support.faults import _save as save
from support.stores import OPTIONS, FaultyStore, flipped, mirror_of, push

from checkpointing.mirror.keeping import begin_keeping
from checkpointing.retention import Policy

KEEP_THREE, KEEP_ONE = Policy(keep=3, states=3), Policy(keep=1)


pytestmark = pytest.mark.usefixtures('empty_store')


@pytest.fixture
def going_on(tmp_path):
    """A run that goes on from the first of three checkpoints in its mirror, since the others are damaged."""
    train(tmp_path / 'run', [save(1, 0.5), save(3, 0.4), save(5, 0.3)], KEEP_THREE)
    push(mirror_of(tmp_path / 'run', policy=KEEP_THREE))
    objects = FaultyStore.objects()
    for name in (name for name in objects if name.startswith(('epoch-0-iter-3', 'epoch-0-iter-5'))):
        objects[name] = flipped(objects[name], len(objects[name]) // 2) if name.count('.') == 2 else objects[name]
    FaultyStore.set(objects)
    folder = tmp_path / 'copy/run'
    folder.mkdir(parents=True)
    keeping = begin_keeping('faulty://bucket', folder, tmp_path / 'log', 0.0, WatchedDisk(), 'base')
    keeping.mirror.policy = KEEP_ONE
    yield keeping, objects
    keeping.close()


def train(folder, saves, policy):
    made = checkpoints(folder, policy=policy)
    made.options = {**OPTIONS, 'checkpoint_keep': policy.keep, 'checkpoint_keep_states': policy.states}
    play_well(made, saves)


def test_what_was_left_out_as_damaged_does_not_make_a_run_safe(going_on, caplog):
    keeping, _ = going_on
    caplog.set_level('INFO')
    train(keeping.mirror.folder, [save(2, 0.45)], KEEP_ONE)
    FaultyStore.set(at=1, persistent=True)
    keeping.start()
    keeping.end(lambda: True)
    assert 'NOT safe: the mirror faulty://bucket/run holds step 1, and step 2 is on this disk only' in caplog.text


def test_what_is_damaged_takes_no_whole_checkpoint_out_of_the_mirror(going_on, tmp_path):
    keeping, before = going_on
    train(keeping.mirror.folder, [save(2, 0.45)], KEEP_ONE)
    push(keeping.mirror)
    assert mirror_of(tmp_path / 'next').pull('base').step == 2
    assert holds(tmp_path / 'next', auto(tmp_path / 'next').record)
    # Nothing of the damaged ones is lost, and they are taken for nobody else's.
    after = FaultyStore.objects()
    for name in ('epoch-0-iter-3', 'epoch-0-iter-5'):
        assert after[f'{name}.json.damaged'] == before.pop(f'{name}.json')
        assert f'{name}.json' not in after
    assert {item for item in before.items() if 'iter-1' not in item[0]} <= after.items()
