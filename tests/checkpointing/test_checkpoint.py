"""Writing, verifying and keeping checkpoints, on small contents and a disk that can fail."""

import errno
import hashlib
import math

import pytest
import torch
from support.faults import FailingDisk, equal
from support.small_checkpoints import IDENTITY, checkpoints, content, names, save

from checkpointing.content import Content, read_content
from checkpointing.manager import Checkpoints, Point
from checkpointing.record import Listing, Record, read_records
from checkpointing.retention import Policy, decide_kept
from common.files import Disk, write_new


def test_files_of_a_checkpoint(tmp_path):
    assert save(checkpoints(tmp_path / 'run'), 4, {'valid_loss': 0.5})
    folder = tmp_path / 'run'
    assert names(folder) == [
        'best.pth', 'epoch-0-iter-4.json', 'epoch-0-iter-4.pth', 'epoch-0-iter-4.state.pth', 'last.pth',
    ]  # fmt: skip
    assert torch.equal(torch.load(folder / 'epoch-0-iter-4.pth')['w'], torch.full((64,), 4.0))
    record = Record.read(folder / 'epoch-0-iter-4.json')
    assert (record.run, record.stage, record.step, record.metrics) == ('run', 'base', 4, {'valid_loss': 0.5})
    for file in record.files.values():
        assert file.size == (folder / file.name).stat().st_size
    assert record.problem(folder) is None
    assert read_content(folder, record).state == {'progress': {'step': 5}}


@pytest.mark.parametrize('kind', ['weights', 'state'])
def test_every_flipped_bit_is_seen(tmp_path, kind):
    save(checkpoints(tmp_path), 0)
    record = Record.read(tmp_path / 'epoch-0-iter-0.json')
    path = tmp_path / record.files[kind].name
    whole = path.read_bytes()
    for position in range(0, len(whole), 97):
        broken = bytearray(whole)
        broken[position] ^= 1 << (position % 8)
        path.write_bytes(broken)
        assert 'sha256' in record.problem(tmp_path)
    path.write_bytes(whole[:-1])
    assert 'bytes instead of' in record.problem(tmp_path)
    path.unlink()
    assert 'missing' in record.problem(tmp_path)


def test_training_states_are_kept_for_the_newest_two(tmp_path):
    made = checkpoints(tmp_path)
    for step in range(5):
        save(made, step)
    kept = [name for name in names(tmp_path) if name.endswith('.state.pth')]
    assert kept == ['epoch-0-iter-3.state.pth', 'epoch-0-iter-4.state.pth']
    assert len([name for name in names(tmp_path) if name.startswith('epoch') and name.count('.') == 1]) == 10


def test_states_of_others_are_never_removed(tmp_path):
    save(checkpoints(tmp_path, run='other'), 0)
    (tmp_path / 'epoch-9.state.pth').write_bytes(b'not ours')
    made = checkpoints(tmp_path)
    for step in range(1, 5):
        save(made, step)
    assert {'epoch-0-iter-0.state.pth', 'epoch-9.state.pth'} <= set(names(tmp_path))


@pytest.mark.parametrize(
    ('mode', 'metrics', 'best'),
    [
        ('min', [3, 2, 2, 4], 1),
        ('max', [3, 2, 4, 4], 2),
        ('min', [math.nan, 5, math.inf, math.nan], 1),
        ('min', [-math.inf, 5, 4, None], 2),
        ('max', [math.inf, -1, None, -2], 1),
        ('min', [math.nan, None, math.inf, None], None),
    ],
)
def test_best(tmp_path, mode, metrics, best):
    made = checkpoints(tmp_path, monitor='m', mode=mode)
    for step, value in enumerate(metrics):
        save(made, step, {} if value is None else {'m': value})
    found = Policy(monitor='m', mode=mode).best_records(read_records(tmp_path), 1)
    assert (found[0].step if found else None) == best
    if best is None:
        assert not (tmp_path / 'best.pth').exists()
    else:
        assert torch.load(tmp_path / 'best.pth')['w'][0] == best


def test_a_best_that_a_later_threshold_excludes_is_no_longer_called_so(tmp_path):
    for step, value in enumerate((0.5, 0.7)):
        save(checkpoints(tmp_path, monitor='m', best_name='b-{m}'), step, {'m': value})
    assert {'best.pth', 'b-0.5.pth'} < set(names(tmp_path))
    made = checkpoints(tmp_path, monitor='m', best_name='b-{m}', threshold=0.4)
    assert not made.would_be_kept({'m': 0.41})
    assert made.would_be_kept({'m': 0.4})
    save(made, 2, {'m': 0.6})
    assert [name for name in names(tmp_path) if name.startswith('b')] == []
    save(made, 3, {'m': 0.4})
    assert torch.load(tmp_path / 'best.pth')['w'][0] == 3


def test_a_failed_save_is_counted_and_says_what_is_needed(tmp_path, caplog):
    made = checkpoints(tmp_path, FailingDisk(1, persistent=True))
    assert not save(made, 0)
    assert 'No space left on device' in caplog.text
    assert 'MB are needed' in caplog.text
    assert not save(made, 1)
    assert made.failures == 2


def test_a_save_that_works_forgives_those_before(tmp_path):
    made = checkpoints(tmp_path, FailingDisk(1))
    assert not save(made, 0)
    assert save(made, 1)
    assert made.failures == 0


def test_torch_saves_own_full_disk_error_is_the_disks(tmp_path):
    class FullDisk(Disk):
        def write(self, file, data):
            raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(OSError, match='No space left on device'):
        write_new(FullDisk(), tmp_path / 'a.pth', lambda f: torch.save({'w': torch.zeros(9)}, f))
    assert names(tmp_path) == []


def test_a_best_that_somebody_removed_is_told_and_its_last_copy_is_not_written_over(tmp_path):
    made = checkpoints(tmp_path, keep=1, best=1)
    for step, metric in enumerate((3, 1, 2, 4, 5)):
        save(made, step, {'valid_loss': metric})
    (tmp_path / 'epoch-0-iter-1.pth').unlink()
    save(made, 5, {'valid_loss': 6})
    assert torch.load(tmp_path / 'best.pth.aside')['w'][0] == 1
    assert (tmp_path / 'epoch-0-iter-1.json').exists()
    kept = decide_kept(read_records(tmp_path), made.policy, Listing(tmp_path))
    assert kept['epoch-0-iter-1'].reasons == ('its weights are damaged or gone',)


def test_the_same_checkpoint_again_renews_its_record_only(tmp_path):
    made = checkpoints(tmp_path)
    save(made, 3)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names(tmp_path) if name.startswith('epoch')}
    made.disk = FailingDisk(at=2)
    assert not save(made, 3, {'valid_loss': 1.0})
    assert Record.read(tmp_path / 'epoch-0-iter-3.json').problem(tmp_path) is None
    made.disk = Disk()
    assert save(made, 3, {'valid_loss': 1.0})
    assert Record.read(tmp_path / 'epoch-0-iter-3.json').metrics == {'valid_loss': 1.0}
    changed = {name for name, when in before.items() if (tmp_path / name).stat().st_mtime_ns != when}
    assert changed == {'epoch-0-iter-3.json'}


def test_the_best_average_is_linked_where_the_average_is_watched(tmp_path):
    made = checkpoints(tmp_path, monitor='valid_ema_loss')
    averaged = Content({'w': torch.zeros(3)}, {}, {'w': torch.ones(3)})
    made.save({'epoch-0': 'epoch'}, Point(0, 0, {'valid_ema_loss': 1.0}), averaged)
    made.settle()
    assert torch.load(tmp_path / 'best.pth')['w'].sum() == 3


def test_losses_on_other_validation_pictures_do_not_compete(tmp_path):
    first, other = ({'validation backgrounds': sha256} for sha256 in ('a', 'b'))
    made = checkpoints(tmp_path, keep=1)
    for step, identity, loss in ((1, {}, 5), (3, first, 1), (5, first, 2), (7, other, None), (9, other, 4)):
        made.identity = identity
        best = loss is not None and made.would_be_kept({'valid_loss': loss})
        assert best == (step in (1, 3, 9)), step
        save(made, step, {} if loss is None else {'valid_loss': loss})
        # Until there is a value on the new pictures, the best on the former ones stays.
        expected = {1: 1, 3: 3, 5: 3, 7: 3, 9: 9}[step]
        assert (tmp_path / 'best.pth').samefile(tmp_path / f'epoch-0-iter-{expected}.pth')
    assert [r.step for r in read_records(tmp_path)] == [7, 9]


@pytest.mark.parametrize('before', [{}, {'recipe': 'published'}])
def test_losses_of_other_recipes_do_not_compete(tmp_path, before):
    made = checkpoints(tmp_path)
    made.options = before
    save(made, 1, {'valid_loss': 1, 'valid_sad': 1})
    made.options = {'recipe': 'edges'}
    # A name more for what was measured by the former recipe makes it no loss of this one.
    save(made, 1, name='epoch-0')
    assert [r.recipe for r in read_records(tmp_path)] == ['published'] * 2
    assert made.standing({'valid_loss': 2}) == (True, None)
    save(made, 3, {'valid_loss': 2, 'valid_sad': 2})
    assert not made.would_be_kept({'valid_loss': 3})
    assert (tmp_path / 'best.pth').samefile(tmp_path / 'epoch-0-iter-3.pth')
    assert [r.step for r in Policy(monitor='valid_sad').best_records(read_records(tmp_path))] == [1]


def test_a_name_more_keeps_what_a_value_was_measured_on(tmp_path):
    made = checkpoints(tmp_path)
    save(made, 3, {'valid_loss': 1})
    made.identity = {'validation': [9]}
    save(made, 3, {'valid_loss': 1}, name='epoch-0')
    assert {r.name: r.identity for r in read_records(tmp_path)} == dict.fromkeys(
        ['epoch-0', 'epoch-0-iter-3'], IDENTITY
    )
    save(made, 3, {'valid_loss': 2})
    assert Record.read(tmp_path / 'epoch-0-iter-3.json').identity == {'validation': [9]}


def test_an_epoch_of_other_steps_does_not_write_over_the_one_of_its_name(tmp_path):
    made = checkpoints(tmp_path)
    save(made, 3, name='epoch-1')
    weights = (tmp_path / 'epoch-1.pth').read_bytes()
    save(made, 7)
    for step in (5, 7):
        save(made, step, name='epoch-1')
        assert Record.read(tmp_path / 'epoch-1.json').step == step
        assert Record.read(tmp_path / 'epoch-1.json').problem(tmp_path) is None
    assert (tmp_path / 'epoch-1.pth.aside').read_bytes() == weights
    assert Record.read(tmp_path / 'epoch-1.json.aside').step == 3
    assert (tmp_path / 'epoch-1.pth').samefile(tmp_path / 'epoch-0-iter-7.pth')


def test_a_list_of_files_that_cannot_be_written_costs_words_and_no_run(tmp_path, caplog):
    lists = {'training backgrounds': b'5 a.png\0'}
    identity = {key: hashlib.sha256(text).hexdigest() for key, text in lists.items()}
    for disk, kept in ((FailingDisk(1, persistent=True), False), (Disk(), True), (FailingDisk(1), True)):
        made = Checkpoints(tmp_path, 'base', 'run', identity, lists=lists, disk=disk)
        made.open()
        assert [name.startswith('data-') for name in names(tmp_path)] == [True] * kept
    assert caplog.text.count('No space left on device; it would say which files have changed') == 1


def test_starts_that_never_got_to_a_checkpoint_leave_nothing(tmp_path):
    for run in ('0123456789ab', 'ba9876543210'):
        (tmp_path / f'.epoch-0-iter-3.state.pth.{run}.tmp').write_bytes(b'half')
    (tmp_path / '.epoch-mine.tmp').write_bytes(b'mine')
    made = checkpoints(tmp_path)
    made.open()
    made.close()
    assert [name for name in names(tmp_path) if name.endswith('.tmp')] == ['.epoch-mine.tmp']


def test_a_pin_moves_with_the_checkpoint_that_another_step_takes_the_name_of(tmp_path):
    made = checkpoints(tmp_path)
    made.save({'epoch-0-iter-5': 'interval', 'epoch-0': 'epoch'}, Point(5, 0), content(5))
    assert made.settle()
    (tmp_path / 'epoch-0.pin').touch()
    # More pictures: the epoch ends later.
    made.save({'epoch-0-iter-9': 'interval', 'epoch-0': 'epoch'}, Point(9, 0), content(9))
    assert made.settle()
    again = checkpoints(tmp_path, keep=1)
    again.open()
    for step in (11, 13, 15):
        again.save({f'epoch-1-iter-{step}': 'interval'}, Point(step, 1), content(step))
        assert again.settle()
    assert 'epoch-0.pin' not in names(tmp_path)
    assert equal(torch.load(tmp_path / 'epoch-0.pth.aside'), content(5).weights)
    assert equal(torch.load(tmp_path / 'epoch-0.state.pth.aside'), content(5).state)
