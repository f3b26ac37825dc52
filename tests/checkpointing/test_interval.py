"""How often to save: Young's and Daly's intervals against a search and a simulation, and what checkpoints.py prints."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.checkpoint_folders import call, contents

from checkpointing.interval import daly, share_lost, steps_per_second, young
from checkpointing.inventory import RecordedRun
from checkpointing.record import Record


@pytest.mark.parametrize('saving', [0.1, 10, 300, 1500])
def test_no_interval_loses_less_than_dalys(saving):
    between = 3600.0
    tried = share_lost_of(np.geomspace(1, 20 * between, 4000), saving, between)
    at = share_lost(daly(saving, between), saving, between, 0)
    assert at <= tried.min() * 1.001
    assert at <= share_lost(young(saving, between), saving, between, 0) + 1e-9


def test_dalys_interval_is_the_best_one_but_for_terms_of_yet_higher_order():
    saving, between = 180.0, 3600.0
    low, high = 1.0, between
    for _ in range(100):  # where the share lost stops falling
        middle = (low + high) / 2
        falls = math.exp((middle + saving) / between) * (middle / between - 1) + 1 < 0
        low, high = (middle, high) if falls else (low, middle)
    assert daly(saving, between) == pytest.approx(low, rel=2e-4)


def share_lost_of(intervals, saving, between):
    return np.array([share_lost(interval, saving, between, 0) for interval in intervals])


def test_where_a_save_takes_longer_than_machines_last_daly_gives_what_they_last():
    assert daly(7300, 3600) == 3600
    assert young(0.5, 3600) == 60


def test_the_share_lost_is_what_happens():
    interval, saving, between = 600.0, 60.0, 1800.0
    rng, time, done = np.random.default_rng(0), 0.0, 0
    while done < 40_000:
        lives = rng.exponential(between)
        done += int(lives // (interval + saving))
        time += lives
    assert share_lost(interval, saving, between, 0) == pytest.approx(1 - done * interval / time, abs=0.004)
    assert share_lost(interval, saving, between, 300) > share_lost(interval, saving, between, 0) + 0.05
    assert share_lost(1e9, saving, between, 0) == 1


def test_the_rate_is_the_median_between_records_so_that_a_pause_does_not_count(tmp_path):
    times = {99: '10:00:00', 199: '10:00:50', 299: '10:01:40', 399: '19:00:00', 499: '19:00:50', 500: '19:00:50'}
    written = [f'2026-11-01T{time}+0100' for time in times.values()]
    records = [
        Record('run', 'base', f'{step}', step, 0, {}, '', {}, {}, {}, written=when)
        for step, when in zip(times, written)
    ]
    assert steps_per_second(RecordedRun(tmp_path, 'run', 'base', records)) == 2
    assert steps_per_second(RecordedRun(tmp_path, 'run', 'base', records[:1])) is None


def test_it_prints_what_to_type(run, capsys):
    before = contents(run)
    code, out, _ = call(capsys, 'interval', run, '--mtbf', 2, '--save-seconds', 1)
    assert code == 0
    assert 'a save takes 1 s of training (as given)' in out
    assert '120 s between saves by Young, 119.3 s by Daly' in out
    assert out.endswith('--checkpoint-minutes 2\n')
    _, out, _ = call(capsys, 'interval', run, '--mtbf', 1000, '--save-seconds', 10)
    assert out.endswith('--checkpoint-minutes 140\n')
    assert 'e+' not in out
    code, out, _ = call(capsys, 'interval', '--mtbf', 2)
    assert code == 0
    assert 's of training (measured; ' in out
    assert contents(run) == before
    assert [path.name for path in run.parent.iterdir()] == ['run']


def test_mistakes_are_one_line(run, capsys):
    code, _, err = call(capsys, 'interval', '--mtbf', 0, '--save-seconds', 'nan', '--restart-seconds', -1)
    assert code == 2
    for words in ('--mtbf 0: must be above 0', '--save-seconds nan: must be', '--restart-seconds -1: must be at least'):
        assert words in err
    for state in run.glob('*.state.pth'):
        state.write_bytes(b'')
    code, _, err = call(capsys, 'interval', '--mtbf', 2)
    assert code == 2
    assert 'none of its checkpoints is whole; give --save-seconds' in err
