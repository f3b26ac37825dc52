"""Several ranks when one of them fails: the same samples on another number of ranks, and nobody waits for ever."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from support.runs import (
    HERE,
    LONG,
    ROOT,
    assert_same,
    curve,
    end_ranks,
    flags,
    joined,
    load,
    names,
    record,
    samples_by_step,
    start_ranks,
)  # fmt: skip

from checkpointing.lock import FolderLock

TINY = ('tiny',)
CHECKPOINTS = 'checkpointing.manager:Checkpoints'
AUTO = {'model_last_checkpoint': 'auto'}
# Two epochs of three steps of six samples, which are shares of 6, 3 or 2 for one, two or three ranks.
SIX = {'synthetic_size': 18, 'batch_size': 6, 'valid_samples': 3, 'checkpoint_interval': 1, 'ema_decay': 0.9}


@pytest.mark.parametrize(
    ('how', 'codes'), [(signal.SIGTERM, [143, 143]), pytest.param(signal.SIGKILL, [1, -9], marks=pytest.mark.slow)]
)
def test_another_number_of_ranks_sees_each_sample_once(tmp_path, how, codes):
    alone, cut = tmp_path / 'alone', tmp_path / 'cut'
    for folder in (alone, cut):
        folder.mkdir()
    words = flags('run', **SIX, **AUTO)
    assert end_ranks(start_ranks(alone, 1, words, ['note_names', str(alone)])) == [0]
    expected = samples_by_step(alone)
    assert [len(set(samples)) for samples in expected.values()] == [6] * 6
    for epoch in (0, 1):
        assert len(set(joined(expected[3 * epoch + i] for i in range(3)))) == 18

    # The second rank is asked to stop, or dies, once four steps are done: in the middle of the second epoch.
    ranks = start_ranks(cut, 2, words, ['note_names', str(cut)], ['signal_at', 4, how, 1])
    assert end_ranks(ranks) == codes
    assert samples_by_step(cut) == {step: expected[step] for step in range(4)}
    done = 1 + max(record(cut / 'checkpoint/run', path.stem)['step'] for path in cut.glob('checkpoint/run/*.json'))
    assert done == 4
    for world in (1, 3):
        folder = tmp_path / f'{world}'
        shutil.copytree(cut, folder, ignore=shutil.ignore_patterns('rank-*'))
        ranks = start_ranks(folder, world, words, ['note_names', str(folder)])
        assert end_ranks(ranks) == [0] * world
        assert samples_by_step(folder) == {step: expected[step] for step in range(done, 6)}


def end_soon(folder, ranks):
    """The exit codes of ranks that all end within ten seconds of what went wrong in one of them."""
    codes = end_ranks(ranks)
    assert time.time() - (folder / 'event').stat().st_mtime < 10
    return codes


def saved_names(folder):
    return sorted({name.split('.')[0] for name in names(folder / 'checkpoint/run') if name.startswith('epoch')})


def errors(rank):
    return [line for line in rank.text().splitlines() if 'continuing' not in line and not line.startswith('[W')]


def test_what_all_ranks_find_wrong_is_said_once(tmp_path):
    (tmp_path / 'old.pth').write_bytes(b'no weights')
    ranks = start_ranks(tmp_path, 2, flags('run', **SIX, model_last_checkpoint=tmp_path / 'old.pth'))
    assert end_ranks(ranks) == [2, 2]
    assert len(errors(ranks[0])) == 1
    assert 'old.pth' in errors(ranks[0])[0]
    assert errors(ranks[1]) == []


def test_a_folder_in_use_is_said_by_the_first_rank_alone(tmp_path):
    (tmp_path / 'checkpoint/run').mkdir(parents=True)
    lock = FolderLock(tmp_path / 'checkpoint/run')
    lock.take()
    ranks = start_ranks(tmp_path, 2, flags('run', **SIX), ['impatient', 0])
    assert end_ranks(ranks) == [2, 2]
    lock.release()
    assert len(errors(ranks[0])) == 1
    assert 'is writing to this folder' in errors(ranks[0])[0]
    assert errors(ranks[1]) == []


def test_a_dry_run_of_several_ranks_leaves_no_trace(tmp_path):
    words = flags('run', **SIX, dry_run=True, num_workers=None)
    with tempfile.TemporaryDirectory() as temporary:
        ranks = start_ranks(tmp_path, 2, words, environment={'TMPDIR': temporary, 'LOCAL_WORLD_SIZE': '2'})
        assert end_ranks(ranks) == [0, 0]
        assert os.listdir(temporary) == []
    text = ranks[0].text()
    assert 'dry run: a step, a validation and a checkpoint are done, and nothing of them stays' in text
    assert 'whole run    6 steps with validation after 2 of them: about ' in text
    assert 'dry run' not in ranks[1].text()
    assert {name for name in names(tmp_path) if not name.startswith('output-')} == set()


def test_an_error_of_another_rank_lets_the_first_one_save(tmp_path):
    words = flags('run', **{**SIX, 'checkpoint_interval': 100})
    ranks = start_ranks(tmp_path, 2, words, ['raise_in', 'training.loop', '_train_step', 3, 1])
    assert end_soon(tmp_path, ranks) == [1, 1]
    assert 'error: RuntimeError: unexpected; the traceback is in' in ranks[1].text()
    assert 'error: another rank has ended or cannot be reached; what it printed says why (' in ranks[0].text()
    assert 'step 1 is saved' in ranks[0].text()
    assert 'Traceback' not in ranks[0].text() + ranks[1].text()
    assert saved_names(tmp_path) == ['epoch-0-iter-1']


def test_one_full_disk_costs_one_checkpoint(tmp_path):
    ranks = start_ranks(tmp_path, 2, flags('run', **SIX), ['full_disk', 1])
    assert end_ranks(ranks) == [0, 0]
    assert ranks[0].text().count('could not save') == 1
    assert saved_names(tmp_path) == [
        'epoch-0', 'epoch-0-iter-1', 'epoch-0-iter-2', 'epoch-1', 'epoch-1-iter-3', 'epoch-1-iter-4', 'epoch-1-iter-5',
    ]  # fmt: skip


def test_three_full_disks_end_all_ranks(tmp_path):
    ranks = start_ranks(tmp_path, 2, flags('run', **SIX), ['full_disk', 3])
    assert end_soon(tmp_path, ranks) == [1, 1]
    for rank in ranks:
        assert '3 checkpoints in a row could not be saved' in rank.text()


@pytest.mark.parametrize(
    ('name', 'last'),
    # What happens in the background is found out at the next save.
    [('_write', 1), pytest.param('_move_into_place', 2, marks=pytest.mark.slow)],
    ids=['before', 'in the background'],
)
def test_an_exception_in_a_save_ends_all_ranks(tmp_path, name, last):
    ranks = start_ranks(tmp_path, 2, flags('run', **SIX, **AUTO), ['raise_in', CHECKPOINTS, name, 2])
    assert all(code == 1 for code in end_soon(tmp_path, ranks))
    assert 'error: RuntimeError: unexpected; the traceback is in ' in ranks[0].text()
    assert f'step {last} is saved: go on with --model-last-checkpoint auto' in ranks[0].text()
    ranks = start_ranks(tmp_path, 2, flags('run', **SIX, **AUTO))
    assert end_ranks(ranks) == [0, 0]
    assert f'continuing this run from epoch-0-iter-{last}.pth: step {last + 1}' in ranks[0].text()


@pytest.mark.parametrize('rank', [0, 1])
def test_a_signal_to_one_rank_ends_all_with_a_checkpoint(tmp_path, rank):
    words = flags('run', **{**SIX, 'checkpoint_interval': 100})
    ranks = start_ranks(tmp_path, 2, words, ['signal_at', 2, signal.SIGUSR1, rank])
    assert end_soon(tmp_path, ranks) == [138, 138]
    assert 'stopped by SIGUSR1 after step 1; go on with --model-last-checkpoint auto' in ranks[0].text()
    assert saved_names(tmp_path) == ['epoch-0-iter-1']


def test_a_signal_to_one_rank_in_a_validation_is_heard_after_it(tmp_path):
    # The rehearsal is the first validation; the end of the first epoch the second and, of averages, the third.
    ranks = start_ranks(
        tmp_path, 2, flags('run', **SIX), ['signal_in', 'training.loop', 'validate', 2, signal.SIGTERM, 1]
    )
    assert end_soon(tmp_path, ranks) == [143, 143]
    assert 'stopped by SIGTERM after step 3' in ranks[0].text()
    assert record(tmp_path / 'checkpoint/run', 'epoch-0')['metrics']


def test_minutes_between_checkpoints_count_from_the_last_on_any_number_of_ranks(tmp_path):
    words = flags('run', **{**SIX, 'checkpoint_interval': 100}, checkpoint_minutes=2, max_steps=6, epoch_end=20)
    words += ['--synthetic-size', '600', '--log-valid-interval', '1000']
    ranks = start_ranks(tmp_path, 2, words, ['minutes_pass', 1])
    assert end_ranks(ranks) == [0, 0]
    assert saved_names(tmp_path) == ['epoch-0-iter-1', 'epoch-0-iter-3', 'epoch-0-iter-5']


# The second rank is late when it is started again, so that the first looks for it where it was before.
SCRIPT = """
import os, sys, time, torch, train_base
from support import sabotage
torch.set_num_threads(1)
sabotage.tiny()
if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
    sabotage.signal_at(4, 9, 1)
else:
    time.sleep(3 * int(os.environ['RANK']))
sys.exit(train_base.main())
"""


@pytest.mark.slow
def test_torchrun_restarts_and_goes_on_by_itself(tmp_path):
    words = flags('run', **SIX, **AUTO)
    whole = tmp_path / 'whole'
    whole.mkdir()
    assert end_ranks(start_ranks(whole, 2, words)) == [0, 0]
    (tmp_path / 'script.py').write_text(SCRIPT)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '--max-restarts=2']
    environment = {
        **os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{HERE}', 'OMP_NUM_THREADS': '1',
    }  # fmt: skip
    with (tmp_path / 'output').open('w') as output:
        process = subprocess.Popen(
            [*command, 'script.py', *words], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
        try:
            code = process.wait(LONG)
        except subprocess.TimeoutExpired:
            # It ends the ranks, too.
            process.terminate()
            process.wait(LONG)
            code = None
    text = (tmp_path / 'output').read_text()
    assert code == 0, text
    assert (tmp_path / 'event').exists()
    assert text.count('continuing this run from') == 1
    for name in ('epoch-1.pth', 'epoch-1.ema.pth', 'epoch-1.state.pth'):
        assert_same(*(load(folder / 'checkpoint/run' / name) for folder in (whole, tmp_path)), name)
    assert curve('run', 'loss', tmp_path / 'log') == curve('run', 'loss', whole / 'log')


@pytest.mark.slow
def test_ranks_whose_launcher_was_killed_save_and_end(tmp_path):
    program = 'import sys; from training.distributed import launch; sys.exit(launch(sys.argv[1:], 2))'
    arguments = flags('run', epoch_end=500, checkpoint_interval=10**6)
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{HERE}', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', program, HERE / 'support/tiny_base.py', *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        for line in process.stdout:
            if line.startswith('step 1 of'):
                process.kill()
                break
        rest = process.stdout.read()  # until the ranks have ended
    assert 'what launched the ranks has ended' in rest
    assert 'stopped by SIGTERM after step' in rest
    assert 'go on with --model-last-checkpoint auto' in rest
