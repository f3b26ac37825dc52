"""The benchmark of the mirror runs from its command line."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'benchmarks/mirror.py'


@pytest.mark.slow
def test_a_training_with_and_without_a_mirror(tmp_path):
    short = ['--steps', '8', '--repeats', '1', '--train-resolution', '64', '--checkpoint-interval', '4']
    told = subprocess.run([sys.executable, SCRIPT, *short], cwd=tmp_path, check=True, capture_output=True, text=True)
    _, *lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ['without', 'with', 'ratio:', 'the']
    assert float(lines[2].split()[1]) > 0
    assert list(tmp_path.iterdir()) == []
