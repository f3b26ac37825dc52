"""How inference_images.py ends as a process: at signals, early and late, and under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import inference_images
from common.signals import StopSignals
from inference.images.writer import is_whole
from inference.processes import Shard, common_exit_code
from model import MattingBase

SCRIPT = Path(inference_images.__file__)
FLAGS = ['--model-type', 'mattingbase', '--model-backbone', 'mobilenetv2', '--model-checkpoint', 'm.pth']
FLAGS += ['--images-src', 'src', '--images-bgr', 'plate.png', '--device', 'cpu', '--num-workers', '2']
FLAGS += ['--output-dir', 'out', '--output-types', 'com']
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(MattingBase('mobilenetv2').state_dict(), tmp_path / 'm.pth')
    (tmp_path / 'src').mkdir()
    return tmp_path


def fill(folder: Path, count: int, width: int, height: int) -> None:
    plate = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(folder / 'plate.png'), plate)
    for i in range(count):
        os.link(folder / 'plate.png', folder / f'src/{i:03}.png')


@pytest.mark.parametrize(
    ('first', 'code'), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_leaves_whole_files(folder: Path, first: signal.Signals, code: int) -> None:
    fill(folder, 300, 320, 240)
    command = [sys.executable, str(SCRIPT), *FLAGS]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + 180
        while len(list(folder.glob('out/com/*.png'))) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(first)
        for _ in range(20):  # an impatient user
            time.sleep(0.02)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    # Of two signals that wait at once Python takes the lower number first, so a busy machine may see SIGINT's.
    assert process.returncode in (code, 130), errors
    assert errors.splitlines()[-1].startswith('stopped: ')
    assert 'Traceback' not in errors
    written = list((folder / 'out/com').iterdir())
    assert 3 <= len(written) < 300
    for path in written:
        assert path.suffix == '.png'
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (240, 320, 4)


@pytest.mark.parametrize('module', ['torch', 'torch.nn'])
def test_an_interrupt_during_the_imports_is_one_line(folder: Path, module: str) -> None:
    fill(folder, 1, 32, 32)
    code = (
        f'import os, signal, sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n'
        'import inference_images\n'
        'class Interrupting:\n'
        '    def find_spec(self, name, *_):\n'
        f'        if name == {module!r}:\n'
        '            os.kill(os.getpid(), signal.SIGINT)\n'
        'sys.meta_path.insert(0, Interrupting())\n'
        f'sys.exit(inference_images.main({FLAGS!r}))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, timeout=220
    )
    assert done.returncode == 130, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith('stopped: ')


def test_handlers_are_put_back_where_no_signal_came() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signal.getsignal(signal.SIGINT) == signals._handle
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signals.number == 0


def test_one_process_waits_for_nobody() -> None:
    assert common_exit_code(1, Shard(), {'MASTER_ADDR': 'nowhere', 'MASTER_PORT': '1'}) == 1
    assert common_exit_code(2, Shard(1, 2), {}) == 2


@pytest.mark.slow
def test_a_process_with_a_broken_picture_does_not_cost_the_others_theirs(folder: Path) -> None:
    fill(folder, 12, 320, 240)
    for i in range(0, 12, 2):  # all of process 0's, which is done long before the other
        (folder / f'src/{i:03}.png').unlink()
        (folder / f'src/{i:03}.png').write_text('no picture')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    done = subprocess.run(
        [*command, str(SCRIPT), *FLAGS], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, timeout=220
    )
    assert done.returncode == 1, done.stderr
    assert {path.name for path in (folder / 'out/com').iterdir()} == {f'{i:03}.png' for i in range(1, 12, 2)}
    assert 'process 0: 0 pictures done, 6 failed' in done.stdout
    assert 'process 1: 6 pictures done, 0 failed' in done.stdout


# The second process is killed once two of its pictures are written, and the last of them is cut to its half.
KILLED = """
import os, signal, sys
import inference_images
from inference.images.writer import PictureWriter

write, left = PictureWriter.write, [2]

def write_and_die(self, name, *rest):
    write(self, name, *rest)
    left[0] -= 1
    if os.environ['RANK'] == '1' and not left[0]:
        os.truncate(path := self.path('com', name), os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

PictureWriter.write = write_and_die
sys.exit(inference_images.main())
"""


@pytest.mark.slow
def test_a_second_start_does_the_share_of_a_killed_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder, 12, 320, 240)
    (folder / 'killed.py').write_text(KILLED)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', 'killed.py']
    environment = {**ENVIRONMENT, 'PYTHONPATH': str(SCRIPT.parent)}
    done = subprocess.run([*command, *FLAGS], cwd=folder, capture_output=True, text=True, env=environment, timeout=220)
    assert done.returncode == 1
    assert 'exitcode: -9) local_rank: 1' in done.stderr
    written = sorted((folder / 'out/com').glob('*.png'))
    whole = {path.name: path.stat().st_mtime_ns for path in written if is_whole(path)}
    assert 0 < len(whole) == len(written) - 1 < 11
    monkeypatch.chdir(folder)
    assert inference_images.main([*FLAGS, '--skip-existing']) == 0
    assert f'{len(whole)} of 12 pictures are there already and skipped' in capsys.readouterr().err
    assert inference_images.main([*FLAGS[:-3], 'once', *FLAGS[-2:]]) == 0
    for path in sorted((folder / 'once/com').iterdir()):
        found = folder / 'out/com' / path.name
        assert found.read_bytes() == path.read_bytes()
        assert found.stat().st_mtime_ns == whole.get(path.name, found.stat().st_mtime_ns)
