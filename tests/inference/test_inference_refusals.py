"""inference_images.py where something is wrong: one clear line, and nothing lost."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.inference_case import HEIGHT, WIDTH, Case, files, photo, read, room, save

from inference import Matte, Matting
from inference.images.writer import PictureWriter
from model import MattingRefine

pytestmark = pytest.mark.usefixtures('one_thread')


def test_sizes_that_differ_are_refused_or_resized(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    save(pair.bgr, room(0, 2 * WIDTH, 2 * HEIGHT))
    assert pair.run() == 2
    message = capsys.readouterr().err
    assert f'{pair.src}/a.png is 96x64, its plate {pair.bgr} 192x128' in message
    assert 'b.0001.png is 96x64' in message
    assert '--resize-bgr' in message
    assert not pair.out.exists()
    assert pair.run('--resize-bgr', '--picture-format', 'pha=png') == 0
    matting = pair.matting()
    matte = matting.submit([matting.staged(photo(room(0), 1))], [matting.plate(pair.bgr, (WIDTH, HEIGHT))]).result()[0]
    assert np.array_equal(read(pair.out / 'pha/a.png'), matte.pha)


def test_pictures_that_cannot_be_read_are_named_and_the_others_done(
    pair: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    (pair.src / 'broken.png').write_text('no picture')
    whole = save(pair.src / 'cut.jpg', room(0)).read_bytes()
    (pair.src / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    save(pair.src / 'tiny.png', room(0)[:8, :8])
    assert pair.run('--resize-bgr') == 1
    captured = capsys.readouterr()
    for name in ('broken.png', 'cut.jpg', 'tiny.png'):
        assert f'failed: {pair.src / name}: ' in captured.err
    assert 'at least 16 x 16' in captured.err
    assert files(pair.out) == {'pha/a.jpg', 'pha/shots/b.0001.jpg'}
    assert captured.out.splitlines()[-1].startswith('2 pictures done, 3 failed, ')


def test_nothing_found_is_an_error(pair: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair.src = tmp_path / 'empty'
    pair.src.mkdir()
    (pair.src / 'notes.txt').write_text('')
    assert pair.run() == 2
    assert f'error: --images-src {pair.src}: no pictures found' in capsys.readouterr().err


def test_all_problems_are_reported_in_one_message(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ['--model-backbone-scale', 0.7, '--batch-size', 0, '--png-compression', 11, '--jpeg-quality', 0]
    flags += ['--picture-format', 'com=jpg', 'pha=gif', 'alpha', '--num-workers', -1, '--model-refine-threshold', 2]
    flags += ['--model-checkpoint', 'missing.pth', '--precision', 'float16', '--images-bgr', 'nowhere']
    flags += ['--model-refine-sample-pixels', 5]
    assert pair.run(*flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f'error: {len(lines) - 1} problems:'
    expected = ['--model-checkpoint missing.pth', '--model-backbone-scale 0.7', '--model-refine-sample-pixels 5']
    expected += ['--model-refine-threshold 2.0', '--num-workers -1', '--precision float16', '--picture-format com=jpg']
    expected += ['--picture-format pha=gif', '--picture-format alpha', '--png-compression 11', '--jpeg-quality 0']
    expected += ['--images-bgr nowhere', '--batch-size 0']
    assert [line.split(':')[0].strip() for line in lines[1:]] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there_is_said_so(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.run('--device', 'cuda') == 2
    assert 'error: --device cuda: there is none on this machine' in capsys.readouterr().err


def test_an_output_folder_in_use_is_refused_and_kept(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    note = pair.out / 'pha/note.txt'
    note.parent.mkdir(parents=True)
    note.write_text('mine')
    save(pair.out / 'pha/a.jpg', room(7))
    assert pair.run() == 2
    message = capsys.readouterr().err
    assert f'--output-dir {pair.out}: not empty' in message
    assert '-y' in message
    assert files(pair.out) == {'pha/note.txt', 'pha/a.jpg'}
    assert pair.run('-y') == 0
    assert note.read_text() == 'mine'
    assert files(pair.out) == {'pha/note.txt', 'pha/a.jpg', 'pha/shots/b.0001.jpg'}
    assert read(pair.out / 'pha/a.jpg').ndim == 2


def test_sources_are_never_overwritten(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    pair.src = save(pair.out / 'pha/a.jpg', photo(room(0), 1)).parent
    before = (pair.src / 'a.jpg').read_bytes()
    assert pair.run('-y') == 2
    assert f'{pair.src / "a.jpg"} is one of the pictures to read' in capsys.readouterr().err
    assert (pair.src / 'a.jpg').read_bytes() == before


def test_a_folder_that_cannot_be_made_ends_the_run_at_once(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, batches = Matting.submit, []

    def counted(*arguments: Any) -> Any:
        batches.append(1)
        return submit(*arguments)

    monkeypatch.setattr(Matting, 'submit', counted)
    for i in range(40):
        save(pair.src / f'more/{i}.png', photo(room(0), i))
    pair.out.mkdir()
    (pair.out / 'pha').write_text('in the way')
    assert pair.run('-y') == 1
    assert len(batches) < 30
    captured = capsys.readouterr()
    (error,) = [line for line in captured.err.splitlines() if line.startswith('error')]
    assert error.startswith(f'error: stopped: {pair.out}/pha/')
    assert 'cannot be written: ' in error
    assert 'Traceback' not in captured.err
    assert files(pair.out) == {'pha'}


def test_a_full_disk_leaves_no_half_picture(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if 'fgr' in path.parts:
            whole(path, data[:10])
            raise OSError(errno.ENOSPC, 'No space left on device')
        return whole(path, data)

    monkeypatch.setattr(Path, 'write_bytes', full)
    assert pair.run(types=('pha', 'fgr')) == 1
    assert 'cannot be written: No space left on device' in capsys.readouterr().err
    assert all(name.startswith('pha/') and not name.endswith('.tmp') for name in files(pair.out))


def test_what_cannot_be_encoded_raises(tmp_path: Path) -> None:
    wide = np.zeros((1, 20_000), np.uint8)
    writer = PictureWriter(tmp_path, {'pha': 'webp'})
    with pytest.raises(OSError, match=r'pha/wide\.webp'):
        writer.write('wide', Matte(wide, wide))
    assert files(tmp_path) == set()


def test_an_interrupt_ends_the_run_cleanly(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Matting, 'submit', interrupted)
    assert pair.run() == 130
    assert 'stopped' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('model_type', 'backbone', 'given', 'held'),
    [
        ('mattingrefine', 'mobilenetv2', 'mattingbase', 'mattingbase with mobilenetv2'),
        ('mattingbase', 'mobilenetv2', 'mattingrefine', 'mattingrefine with mobilenetv2'),
        ('mattingbase', 'resnet50', 'mattingbase', 'mattingbase with mobilenetv2'),
    ],
)
def test_weights_of_another_network_are_named(
    pair: Case, capsys: pytest.CaptureFixture[str], model_type: str, backbone: str, given: str, held: str
) -> None:
    weights = pair.checkpoints[given]
    assert pair.run('--model-checkpoint', weights, '--model-backbone', backbone, model_type=model_type) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: {weights} holds weights of {held}, not of {model_type} with {backbone}: use ')
    assert not pair.out.exists()


def test_a_file_without_weights_is_refused(pair: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(3)}, tmp_path / 'other.pth')
    (tmp_path / 'text.pth').write_text('hello')
    for name in ('other.pth', 'text.pth'):
        assert pair.run('--model-checkpoint', tmp_path / name) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'error: {tmp_path / name}: not ')


def test_a_refiner_of_kernel_1_is_known_by_its_weights(
    pair: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save(MattingRefine('mobilenetv2', refine_kernel_size=1).state_dict(), tmp_path / 'one.pth')
    assert pair.run('--model-checkpoint', tmp_path / 'one.pth', '--model-refine-kernel-size', 3) == 2
    assert 'use --model-refine-kernel-size 1' in capsys.readouterr().err
    assert pair.run('--model-checkpoint', tmp_path / 'one.pth') == 0
    assert Matting.from_checkpoint(tmp_path / 'one.pth', device='cpu').model.refiner.kernel_size == 1


def test_a_picture_too_small_fails_alone_and_a_strip_does_not(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    save(pair.src / 'dot.png', room(0)[:1, :1])
    save(pair.src / 'strip.png', room(0, 8000, 16))
    assert pair.run('--resize-bgr') == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('failed')]
    assert line == f'failed: {pair.src}/dot.png: 1x1 is too small: pictures must be at least 16 x 16'
    assert files(pair.out) == {'pha/a.jpg', 'pha/shots/b.0001.jpg', 'pha/strip.jpg'}


def test_results_that_are_not_finite_fail(pair: Case, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    weights = torch.load(pair.checkpoints['mattingrefine'], weights_only=True)
    weights['decoder.conv4.bias'][0] = float('nan')
    torch.save(weights, tmp_path / 'nan.pth')
    assert pair.run('--model-checkpoint', tmp_path / 'nan.pth', '--precision', 'bfloat16') == 1
    assert f'failed: {pair.src}/a.png: not finite in bfloat16; use --precision float32\n' in capsys.readouterr().err
    assert not pair.out.exists()


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB'),
        MemoryError(),
    ],
)
def test_a_batch_without_memory_fails_alone(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    submit, calls = Matting.submit, []

    def first_fails(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return submit(*arguments)

    monkeypatch.setattr(Matting, 'submit', first_fails)
    assert pair.run() == 1
    captured = capsys.readouterr().err
    assert f'failed: {pair.src}/a.png: too little memory: lower --batch-size' in captured
    assert 'Traceback' not in captured
    assert files(pair.out) == {'pha/shots/b.0001.jpg'}


def test_a_model_without_memory_is_one_line(
    pair: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Matting, '__init__', full)
    assert pair.run() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: too little memory: {pair.checkpoints["mattingrefine"]} ')


def test_other_errors_of_the_machine_are_not_hidden(pair: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(Matting, 'submit', broken)
    with pytest.raises(RuntimeError, match='illegal memory access'):
        pair.run()


def test_another_processs_source_is_not_overwritten(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case.bgr = save(case.bgr / 'plate.png', room(0))
    save(case.out / 'pha/a.jpg', photo(room(0), 1))
    case.src = case.out / 'pha'
    save(case.src / 'c.png', photo(room(0), 1))
    (case.src / 'b.jpg').symlink_to(case.src / 'c.png')
    before = (case.src / 'c.png').read_bytes()
    monkeypatch.setenv('WORLD_SIZE', '3')
    monkeypatch.setenv('RANK', '1')  # its picture is b.jpg; c.png is that of process 2
    assert case.run('-y') == 2
    assert 'is one of the pictures to read' in capsys.readouterr().err
    assert (case.src / 'c.png').read_bytes() == before
