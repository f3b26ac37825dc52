"""The benchmark of the mirror runs from its command line."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'benchmarks/mirror.py'


@pytest.mark.slow
def test_sections_of_a_training_with_the_mirror_at_work_and_at_rest(tmp_path):
    short = ['--pairs', '2', '--train-resolution', '64', '--checkpoint-interval', '3']
    told = subprocess.run([sys.executable, SCRIPT, *short], cwd=tmp_path, check=True, capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ['load', 'seconds', 'wall', 'cpu', 'the']
    assert all(float(cell) > 0 for line in lines[3:5] for cell in line.split()[1:4])
    assert list(tmp_path.iterdir()) == []


def test_the_interval_of_a_median_is_that_of_its_ranks(script):
    ratios = [1 + n / 10 for n in range(10)]
    assert script('mirror').interval(ratios) == '1.450 (1.100 to 1.800)'  # ranks 2 and 9 of 10, at 97.9 %
    assert script('mirror').interval(ratios[:3]) == '1.100 (1.000 to 1.200)'
