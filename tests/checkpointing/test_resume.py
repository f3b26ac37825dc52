"""How a run begins: what it goes on from, what it refuses, and what of others it leaves alone."""

import json
import shutil

import pytest
import torch
from support.small_checkpoints import IDENTITY, checkpoints, names, save

from checkpointing.content import Content
from checkpointing.manager import Point
from checkpointing.record import CheckpointError, _sealed, read_records
from checkpointing.resume import decide, refuse_overwriting


def test_auto_goes_on_from_the_newest_and_starts_where_there_is_none(tmp_path):
    assert decide('auto', tmp_path, 'base', IDENTITY).record is None
    made = checkpoints(tmp_path)
    save(made, 3)
    save(made, 9)
    resume = decide('auto', tmp_path, 'base', IDENTITY)
    assert (resume.run, resume.record.step, resume.content.state['progress']['step']) == ('run', 9, 10)


def test_a_name_typed_wrong_is_told_and_must_begins_nothing(tmp_path, caplog):
    for name in ('resnet-base', 'resnet-base2', 'else'):
        save(checkpoints(tmp_path / name), 3)
    caplog.set_level('INFO')
    (tmp_path / 'resnet-bsae').mkdir()
    (tmp_path / 'resnet-bas3').mkdir()
    folder = tmp_path / 'resnet-bsae'
    with pytest.raises(
        CheckpointError, match=r'checkpoint must: .*resnet-bsae holds nothing that the base stage could'
    ):
        decide('must', folder, 'base', IDENTITY)
    assert decide('auto', folder, 'base', IDENTITY).record is None
    assert caplog.messages == [
        f'NEW RUN: {folder} holds nothing that the base stage could go on from (runs of similar names: resnet-base, '
        'resnet-base2)'
    ]
    assert decide('auto', tmp_path / 'something', 'base', IDENTITY).record is None
    assert caplog.messages[1].endswith('could go on from')
    assert decide('must', tmp_path / 'else', 'base', IDENTITY).record.step == 3


def test_a_damaged_newest_is_set_aside(tmp_path, caplog):
    made = checkpoints(tmp_path)
    save(made, 3)
    save(made, 9)
    damaged = tmp_path / 'epoch-0-iter-9.pth'
    damaged.write_bytes(damaged.read_bytes()[:-10])
    before = names(tmp_path)
    assert decide('auto', tmp_path, 'base', IDENTITY).record.step == 3
    assert caplog.text.count('epoch-0-iter-9 cannot be resumed from') == 1
    assert names(tmp_path) == sorted(name.replace('iter-9.json', 'iter-9.json.damaged') for name in before)
    assert decide('auto', tmp_path, 'base', IDENTITY).record.step == 3


def test_records_of_which_none_loads_are_an_error_not_a_fresh_start(tmp_path):
    save(checkpoints(tmp_path), 3)
    (tmp_path / 'epoch-0-iter-3.state.pth').write_bytes(b'zeroed')
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match='none of the 1 checkpoints'):
        decide('auto', tmp_path, 'base', IDENTITY)
    assert names(tmp_path) == before


@pytest.mark.parametrize('text', ['', '{', '{"run": "run", "step": 5'])
def test_a_record_that_cannot_be_read_is_set_aside_with_a_word(tmp_path, caplog, text):
    save(checkpoints(tmp_path), 3, name='epoch-1-iter-3', epoch=1)
    for name in ('epoch-5.json', 'epoch-0.json', 'epoch-1-iter-2.json', 'epoch-notes.json', 'notes.json'):
        (tmp_path / name).write_text(text)
    (tmp_path / 'epoch-5.pth').write_bytes(b'weights')  # without them it would be somebody's notes
    assert decide('auto', tmp_path, 'base', IDENTITY).record.step == 3
    assert caplog.text.count('epoch-5 cannot be resumed from: its record cannot be read') == 1
    assert (tmp_path / 'epoch-5.json.damaged').read_text() == text
    # Older ones would not have been used, and the others have no checkpoint's name.
    assert [name for name in names(tmp_path) if name.endswith('.damaged')] == ['epoch-5.json.damaged']


@pytest.mark.parametrize('text', ['[]', '{"files": {}}', '{"epoch": 5, "step": 99, "metrics": {}}', '{"format": 99}'])
def test_files_of_others_with_a_records_name_neither_move_nor_block(tmp_path, text):
    (tmp_path / 'epoch-5.json').write_text(text)
    assert decide('auto', tmp_path, 'base', IDENTITY).record is None
    save(checkpoints(tmp_path), 3)
    before = names(tmp_path)
    assert decide('auto', tmp_path, 'base', IDENTITY).record.step == 3
    assert names(tmp_path) == before


def test_a_newer_record_of_another_format_is_refused_by_its_number_and_left_alone(tmp_path):
    made = checkpoints(tmp_path)
    save(made, 3)
    save(made, 5)
    for name in ('epoch-0-iter-5', 'epoch-0-iter-3'):
        record = json.loads((tmp_path / f'{name}.json').read_text())
        del record['sha256']
        (tmp_path / f'{name}.json').write_bytes(_sealed({**record, 'format': 3}))
        before = names(tmp_path)
        for given in ('auto', str(tmp_path / f'{name}.pth')):
            with pytest.raises(CheckpointError, match=f'{name}.json: a record of format 3, of another version'):
                decide(given, tmp_path, 'base', IDENTITY)
        assert names(tmp_path) == before
    save(made, 9)
    assert decide('auto', tmp_path, 'base', IDENTITY).record.step == 9


def test_what_a_record_does_not_know_is_taken_as_it_is_and_said(tmp_path, caplog):
    caplog.set_level('INFO')
    save(checkpoints(tmp_path), 3)
    resume = decide('auto', tmp_path, 'base', {**IDENTITY, 'validation': [2, 2, 2]})
    assert resume.record.step == 3
    assert 'the record of epoch-0-iter-3 does not know validation: taken as now' in caplog.messages


def test_a_run_goes_on_with_other_drawings_and_says_so(tmp_path, caplog):
    caplog.set_level('INFO')
    made = checkpoints(tmp_path)
    save(made, 3, {'valid_loss': 1})  # by a version that did not number its drawings
    caplog.clear()
    assert decide('auto', tmp_path, 'base', {**IDENTITY, 'drawings': 1}).record.step == 3
    with pytest.raises(CheckpointError, match='other settings'):
        decide('auto', tmp_path, 'base', {**IDENTITY, 'drawings': 2, 'backbone': 'resnet101'})
    assert not caplog.messages
    made.identity = {**IDENTITY, 'drawings': 2}
    assert decide('auto', tmp_path, 'base', made.identity).record.step == 3
    assert caplog.messages == [
        'the toolkit draws other pictures than when epoch-0-iter-3 was saved (drawings: 1 in the checkpoint, 2 now): '
        'the run goes on with these, and validation since then does not compete with that before'
    ]
    # Harder pictures do not keep later weights from being the best.
    save(made, 5, {'valid_loss': 2})
    save(made, 7, {'valid_loss': 3})
    assert [r.step for r in made.policy.best_records(read_records(tmp_path))] == [5]


def test_a_copied_run_goes_on_by_its_link(tmp_path):
    made = checkpoints(tmp_path / 'run')
    save(made, 3, {'valid_loss': 1})
    save(made, 9, {'valid_loss': 2})
    copied = shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    assert not (copied / 'last.pth').samefile(copied / 'epoch-0-iter-9.pth')
    assert decide(str(copied / 'last.pth'), copied, 'base', IDENTITY).record.step == 9
    with pytest.raises(CheckpointError, match='got further'):
        decide(str(copied / 'best.pth'), copied, 'base', IDENTITY)
    with pytest.raises(CheckpointError, match='holds the training state of this run'):
        decide(str(copied / 'epoch-0-iter-9.state.pth'), copied, 'base', IDENTITY)


@pytest.mark.parametrize('copied', [False, True])
@pytest.mark.parametrize('damaged', ['epoch-0-iter-9.state.pth', 'epoch-0-iter-9.json'])
def test_after_going_back_the_links_of_the_run_are_renewed(tmp_path, copied, damaged):
    folder = tmp_path / 'run'
    made = checkpoints(folder)
    save(made, 3, {'valid_loss': 2})
    save(made, 9, {'valid_loss': 1})
    if copied:
        folder = shutil.copytree(folder, tmp_path / 'copy')
    (folder / damaged).write_bytes(b'')
    resume = decide('auto', folder, 'base', IDENTITY)
    assert resume.record.step == 3
    made = checkpoints(folder, run=resume.run)
    made.open()
    for link in ('last.pth', 'best.pth'):
        assert (folder / link).samefile(folder / 'epoch-0-iter-3.pth')
    assert not [name for name in names(folder) if 'aside' in name]
    assert (folder / 'epoch-0-iter-9.pth').exists()


def test_only_unreadable_records_are_an_error_and_nothing_is_written_over(tmp_path):
    save(checkpoints(tmp_path), 3)
    (tmp_path / 'epoch-0-iter-3.json').write_text('{"run": ')
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match='none of the 1 checkpoints'):
        decide('auto', tmp_path, 'base', IDENTITY)
    with pytest.raises(CheckpointError, match='of another run'):
        refuse_overwriting(tmp_path, 'new', 0)
    assert names(tmp_path) == before


def test_a_path_of_this_run_goes_on_and_any_other_gives_weights(tmp_path):
    run, elsewhere = tmp_path / 'run', tmp_path / 'elsewhere'
    save(checkpoints(run), 3)
    save(checkpoints(elsewhere), 3)
    assert decide(str(run / 'epoch-0-iter-3.pth'), run, 'base', IDENTITY).record.step == 3
    for path, stage in ((elsewhere / 'epoch-0-iter-3.pth', 'base'), (run / 'epoch-0-iter-3.pth', 'refine')):
        resume = decide(str(path), run, stage, IDENTITY)
        assert (resume.record, resume.weights) == (None, path)
        assert resume.run != 'run'
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        decide('nowhere.pth', run, 'base', IDENTITY)


def test_the_link_to_the_newest_goes_on_with_it(tmp_path):
    made = checkpoints(tmp_path)
    save(made, 3, {'valid_loss': 1})
    save(made, 9, {'valid_loss': 2})
    assert decide(str(tmp_path / 'last.pth'), tmp_path, 'base', IDENTITY).record.step == 9
    with pytest.raises(CheckpointError, match='got further'):
        decide(str(tmp_path / 'best.pth'), tmp_path, 'base', IDENTITY)


def test_an_average_is_no_point_to_go_on_from(tmp_path):
    made = checkpoints(tmp_path, monitor='valid_ema_loss')
    averaged = Content({'w': torch.zeros(3)}, {}, {'w': torch.ones(3)})
    made.save({'epoch-0': 'epoch'}, Point(0, 0, {'valid_ema_loss': 1.0}), averaged)
    made.settle()
    with pytest.raises(CheckpointError, match='holds averaged weights of this run'):
        decide(str(tmp_path / 'best.pth'), tmp_path, 'base', IDENTITY)


def test_going_back_is_refused(tmp_path):
    made = checkpoints(tmp_path)
    save(made, 3)
    save(made, 9)
    with pytest.raises(CheckpointError, match=r'has got further, to epoch-0-iter-9\.pth'):
        decide(str(tmp_path / 'epoch-0-iter-3.pth'), tmp_path, 'base', IDENTITY)


def test_a_damaged_path_is_refused(tmp_path):
    save(checkpoints(tmp_path), 3)
    (tmp_path / 'epoch-0-iter-3.state.pth').unlink()
    with pytest.raises(CheckpointError, match='is missing'):
        decide(str(tmp_path / 'epoch-0-iter-3.pth'), tmp_path, 'base', IDENTITY)


def test_another_identity_is_refused_with_both_values(tmp_path):
    save(checkpoints(tmp_path), 3)
    with pytest.raises(CheckpointError, match='samples of a step: 8 in the checkpoint, 16 now'):
        decide('auto', tmp_path, 'base', {**IDENTITY, 'samples of a step': 16})


def test_weights_of_another_run_are_never_written_over(tmp_path):
    save(checkpoints(tmp_path), 3, name='epoch-2')
    with pytest.raises(CheckpointError, match=r'already holds epoch-2\.pth of another run'):
        refuse_overwriting(tmp_path, 'new', 0)
    refuse_overwriting(tmp_path, 'run', 0)
    refuse_overwriting(tmp_path, 'new', 3)


def test_published_files_are_never_written_over_and_half_written_ones_of_ours_may_be(tmp_path):
    (tmp_path / 'epoch-0-iter-99.pth').write_bytes(b'somebody')
    with pytest.raises(CheckpointError, match=r'epoch-0-iter-99\.pth'):
        refuse_overwriting(tmp_path, 'new', 0)
    (tmp_path / 'epoch-0-iter-99.state.pth').write_bytes(b'ours')
    refuse_overwriting(tmp_path, 'new', 0)


@pytest.mark.parametrize('text', ['my notes', '{"a": 1}', '[1, 2]'])
def test_a_users_file_that_is_named_as_a_record_is_left_alone(tmp_path, text):
    (tmp_path / 'epoch-9.json').write_text(text)
    assert decide('auto', tmp_path, 'base', IDENTITY).record is None
    save(checkpoints(tmp_path), 3)
    assert decide('auto', tmp_path, 'base', IDENTITY).record.step == 3
    assert (tmp_path / 'epoch-9.json').read_text() == text


@pytest.mark.parametrize('change', [{'format': 3, 'indent': 2}, {'format': 3, 'indent': None}, {'format': 0}])
def test_a_record_of_another_format_is_named_however_it_is_written(tmp_path, change):
    save(checkpoints(tmp_path), 3)
    path = tmp_path / 'epoch-0-iter-3.json'
    content = {**json.loads(path.read_text()), 'format': change['format']}
    if change['format'] == 0:
        del content['sha256']
    path.write_text(json.dumps(content, indent=change.get('indent', 1)))
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=f'a record of format {change["format"]}, of another version'):
        decide('auto', tmp_path, 'base', IDENTITY)
    assert names(tmp_path) == before


def test_a_flipped_bit_of_the_format_is_damage_and_no_other_format(tmp_path):
    for step in (3, 5):
        save(checkpoints(tmp_path), step)
    path = tmp_path / 'epoch-0-iter-5.json'
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    assert decide('auto', tmp_path, 'base', IDENTITY).record.step == 3
    assert 'epoch-0-iter-5.json.damaged' in names(tmp_path)
