"""What is told must not cost a training: full disks and closed pipes."""

import errno
import logging
import sys

import pytest

import training.logs
from training.logs import Logger, set_up_logging


class Writer:
    """Stands for TensorBoard's, whose disk may be full; one that has failed fails for ever."""

    full = False
    made: list = []  # noqa: RUF012

    def __init__(self, folder, purge_step):
        self.purge_step, self.points, self.failed = purge_step, [], False
        self.made.append(self)

    def add_scalar(self, tag, value, step):
        self.failed |= self.full
        if self.failed:
            raise OSError(errno.ENOSPC, 'No space left on device')
        self.points.append((tag, value, step))

    def flush(self):
        self.add_scalar('', 0, 0)

    close = flush


@pytest.fixture
def writer(monkeypatch):
    monkeypatch.setattr(training.logs, 'SummaryWriter', Writer)
    monkeypatch.setattr(Writer, 'made', [])
    return Writer


def test_a_full_disk_costs_points_and_not_the_training(tmp_path, writer, monkeypatch, caplog):
    logger = Logger(tmp_path, 5, 9)
    logger.scalars(5, {'loss': 1.0})
    writer.full = True
    for step in (6, 7):
        logger.scalars(step, {'loss': 2.0})
        logger.flush()
    assert caplog.text.count('No space left on device; the curves miss points') == 1
    writer.full = False
    now = training.logs.time.monotonic()
    monkeypatch.setattr(training.logs.time, 'monotonic', lambda: now + 61)
    logger.scalars(8, {'loss': 3.0})
    logger.close()
    # The second file drops nothing of the first.
    assert [made.purge_step for made in writer.made] == [5, None]
    assert [[point for point in made.points if point[0]] for made in writer.made] == [
        [('loss', 1.0, 5)], [('loss', 3.0, 8)],
    ]  # fmt: skip


def test_ranks_but_the_first_write_nothing(tmp_path, writer):
    logger = Logger(tmp_path, 0, 9, first=False)
    logger.scalars(0, {'loss': 1.0})
    logger.close()
    assert writer.made == []


def test_a_closed_pipe_does_not_end_a_training(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, 'Broken pipe')

        flush = write

    set_up_logging()
    monkeypatch.setattr(sys, 'stdout', Closed())
    logging.getLogger('training').warning('a line')
