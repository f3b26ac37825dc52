"""Shared fixtures. Tests share a machine's cores: torch gets one thread, and pytest-xdist the others."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import logging
import signal
from pathlib import Path

import pytest
import torch
from support import checkpoint_folders
from support.inference_case import Case, photo, room, save, save_networks

# The files that take longest, 100 s down to 33 s of test time. They are begun first: one that is begun last keeps a
# single process busy while the others have nothing left to do.
LONGEST = (
    'test_speed_script', 'test_inference_video', 'test_training', 'test_export_onnx', 'test_inference',
    'test_export_torchscript', 'test_readme', 'test_distributed', 'test_training_runs', 'test_training_steps',
    'test_benchmarks', 'test_retention_flags',
)  # fmt: skip


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def quiet(root):
    """pytest's own handlers stay, at Python's default level."""
    root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__.startswith('_pytest.')]
    root.setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def restored_process():
    """What a script, run by a test or by a wider fixture, makes of logging and of signals ends with the test."""
    root, numbers = logging.getLogger(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    quiet(root)
    answers = [signal.getsignal(number) for number in numbers]
    yield
    quiet(root)
    for number, answer in zip(numbers, answers):
        signal.signal(number, answer)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """The current folder is an empty one, as a user's would be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(in_tmp):
    """checkpoint/run with weights of steps 1, 3, 5, 7 and the states of 5 and 7; the best is 3."""
    return checkpoint_folders.make(Path('checkpoint/run'))


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory):
    """Weights of both networks; alpha, error and the refined cells vary over each picture."""
    return save_networks(tmp_path_factory.mktemp('weights'))


@pytest.fixture
def case(tmp_path, checkpoints):
    return Case(tmp_path, checkpoints)


@pytest.fixture
def pair(case):
    """One plate for two pictures, one of them in a sub-folder."""
    bgr = room(0)
    case.bgr = save(case.bgr / 'plate.png', bgr)
    save(case.src / 'a.png', photo(bgr, 1))
    save(case.src / 'shots/b.0001.png', photo(bgr, 2))
    return case
