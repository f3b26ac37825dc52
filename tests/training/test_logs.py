"""What is told must not cost a training, and TensorBoard shows one curve of a run, however it was cut."""

import errno
import logging
import sys
import time

import pytest
import torch
from support.tensorboards import accumulated, shown
from torch.utils.tensorboard import SummaryWriter

import training.logs
from training.logs import EVENT_FILES, Logger, RecordWriter, mark_of, own_folder, set_up_logging

MARK = '.0000000a'


def log_steps(folder, start, steps, mark=MARK, value=0.0, tags=('loss',)):
    """One process of a run, which then is killed."""
    logger = Logger(folder, start, 99, mark=mark)
    for step in steps:
        logger.scalars(step, dict.fromkeys(tags, step + value))
    logger.flush()


def assert_shown(logs, run, points, tag='loss'):
    for reader, runs in shown(logs).items():
        assert runs[run][tag] == points, reader


@pytest.mark.parametrize('hours', [-1, 0, 1])
def test_a_run_that_goes_on_is_one_curve_whatever_the_clock_says(tmp_path, monkeypatch, hours):
    now = time.time
    log_steps(tmp_path / 'run', 0, range(10))
    with monkeypatch.context() as patch:
        patch.setattr(time, 'time', lambda: now() + 3600 * hours)
        log_steps(tmp_path / 'run', 7, range(7, 9), value=0.25)
    log_steps(tmp_path / 'run', 8, range(8, 12), value=0.5)
    points = [(step, float(step)) for step in range(7)] + [(7, 7.25)] + [(step, step + 0.5) for step in range(8, 12)]
    assert_shown(tmp_path, 'run', points)


def test_coarser_intervals_keep_no_point_of_the_killed_process(tmp_path):
    log_steps(tmp_path / 'run', 0, range(10), tags=('loss', 'rate'))
    log_steps(tmp_path / 'run', 7, (8, 11), value=0.5)
    points = [(step, float(step)) for step in range(7)]
    assert_shown(tmp_path, 'run', [*points, (8, 8.5), (11, 11.5)])
    assert_shown(tmp_path, 'run', points, 'rate')


def test_a_record_that_was_cut_or_damaged_does_not_stop_a_run(tmp_path):
    folder = tmp_path / 'run'
    log_steps(folder, 0, range(10))
    (first,) = folder.glob(EVENT_FILES)
    first.write_bytes(first.read_bytes()[:-7])
    log_steps(folder, 5, range(5, 9))
    second = max(folder.glob(EVENT_FILES))
    second.write_bytes(second.read_bytes()[:-25] + b'\xff' * 25)
    log_steps(folder, 8, range(8, 12), value=0.5)
    assert_shown(tmp_path, 'run', [(s, float(s)) for s in range(8)] + [(s, s + 0.5) for s in range(8, 12)])


def test_files_of_earlier_versions_are_left_as_they_are_and_not_shown_beyond_the_checkpoint(tmp_path):
    writer = SummaryWriter(str(tmp_path / 'run'), purge_step=0)
    for step in range(10):
        writer.add_scalar('loss', step, step)
    writer.close()
    (path,) = (tmp_path / 'run').glob(EVENT_FILES)
    before = path.read_bytes()
    log_steps(tmp_path / 'run', 7, (8, 11), value=0.5)
    assert path.read_bytes() == before
    assert accumulated(tmp_path / 'run')['loss'] == [*((s, float(s)) for s in range(7)), (8, 8.5), (11, 11.5)]


def test_runs_of_one_name_have_a_curve_each(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    marks = [mark_of('base', tmp_path / place / 'run', tmp_path) for place in ('a', 'b')]
    points = {}
    for start in (0, 5):
        for value, mark in zip((0.0, 0.5), marks):
            log_steps(tmp_path / 'run', start, range(start, 9), mark, value)
            points[mark] = [(step, step + value) for step in range(9)]
    assert_shown(tmp_path, 'run', points[marks[0]])
    assert_shown(tmp_path, f'run-{marks[1][1:]}', points[marks[1]])
    assert [record.getMessage() for record in caplog.records if record.name == 'training.logs'] == [
        f'the curves go to {tmp_path}/run-{marks[1][1:]}, since those of another run of this name are in {tmp_path}/run'
    ] * 2
    # Also where the first one's are gone.
    (tmp_path / 'run').rename(tmp_path / 'elsewhere')
    assert own_folder(tmp_path / 'run', marks[1]).name == f'run-{marks[1][1:]}'


def test_the_mark_of_a_run_is_its_stage_and_its_place(tmp_path, monkeypatch):
    logs, mark = tmp_path / 'log', mark_of('base', tmp_path / 'checkpoint/run', tmp_path / 'log')
    assert mark != mark_of('refine', tmp_path / 'checkpoint/run', logs)
    assert mark != mark_of('base', tmp_path / 'checkpoint/other', logs)
    # All may be moved, or named in another way.
    assert mark == mark_of('base', tmp_path / 'x/checkpoint/run', tmp_path / 'x/log')
    monkeypatch.chdir(tmp_path)
    assert mark == mark_of('base', training.logs.Path('checkpoint/run'), training.logs.Path('log'))


def test_a_full_disk_costs_points_and_not_the_training(tmp_path, monkeypatch, caplog):
    class Records(RecordWriter):
        full = False

        def write(self, data):
            if self.full:
                raise OSError(errno.ENOSPC, 'No space left on device')
            super().write(data)

    monkeypatch.setattr(training.logs, 'RecordWriter', Records)
    logger = Logger(tmp_path / 'run', 5, 9)
    logger.scalars(5, {'loss': 1.0})
    logger.flush()
    Records.full = True
    for step in (6, 7):
        logger.scalars(step, {'loss': 2.0})
        logger.flush()
    assert caplog.text.count('No space left on device; the curves miss points') == 1
    Records.full = False
    now = training.logs.time.monotonic()
    monkeypatch.setattr(training.logs.time, 'monotonic', lambda: now + 61)
    logger.scalars(8, {'loss': 3.0})
    logger.close()
    # The second file drops nothing of the first.
    assert accumulated(tmp_path / 'run')['loss'] == [(5, 1.0), (8, 3.0)]


def test_a_folder_that_went_away_is_not_made_anew(tmp_path, monkeypatch, caplog):
    logger = Logger(tmp_path / 'run', 0, 9)
    logger.scalars(0, {'loss': 1.0})
    logger.flush()
    (tmp_path / 'run').rename(tmp_path / 'away')
    logger.events = None  # as after an error
    logger.scalars(1, {'loss': 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ['away']
    assert 'the curves miss points' in caplog.text
    (tmp_path / 'away').rename(tmp_path / 'run')
    monkeypatch.setattr(logger, 'broken_until', 0)
    logger.scalars(2, {'loss': 1.0})
    logger.close()
    assert accumulated(tmp_path / 'run')['loss'] == [(0, 1.0), (2, 1.0)]


def test_a_run_that_does_not_go_on_cuts_no_curves_of_another(tmp_path):
    logger = Logger(tmp_path / 'run', 0, 9)
    for step in range(6):
        logger.scalars(step, {'loss': 1.0})
    logger.close()
    (before,) = (path.read_bytes() for path in (tmp_path / 'run').glob(EVENT_FILES))
    logger = Logger(tmp_path / 'run', 3, 9, resumed=False)
    logger.scalars(3, {'loss': 2.0})
    logger.close()
    assert before in [path.read_bytes() for path in (tmp_path / 'run').iterdir()]


def test_pictures_that_find_no_memory_cost_themselves_and_not_the_training(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise torch.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr(training.logs.sheets, 'shrunk', full)
    logger = Logger(tmp_path / 'run', 0, 9, mark=MARK)
    logger.pictures(0, {'train_pred_pha': torch.zeros(1, 1, 16, 16)})
    logger.scalars(1, {'loss': 0.5})
    logger.close()
    assert 'pictures of training cannot be made: CUDA out of memory.; training goes on' in caplog.text
    assert_shown(tmp_path, 'run', [(1, 0.5)])


def test_ranks_but_the_first_write_nothing(tmp_path):
    logger = Logger(tmp_path / 'run', 0, 9, first=False)
    logger.scalars(0, {'loss': 1.0})
    logger.close()
    assert not (tmp_path / 'run').exists()


def test_a_closed_pipe_does_not_end_a_training(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, 'Broken pipe')

        flush = write

    set_up_logging()
    monkeypatch.setattr(sys, 'stdout', Closed())
    logging.getLogger('training').warning('a line')
