"""How the tests find a benchmark."""

import importlib
from pathlib import Path

import cv2
import pytest
import torch


@pytest.fixture
def script(monkeypatch):
    """Import a module of benchmarks/ by name, as it finds its neighbours when it is run."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'benchmarks')
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield importlib.import_module
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
