"""`--backend`: exported files run by the scripts give what the networks give; settings follow the file, or one line."""

from __future__ import annotations

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.inference_case import Case, photo, read, room, save
from support.onnx_case import ABOUT, SETTINGS, archive, difference, exported, network, onnx, saying

import inference_images
import inference_speed_test
from common.devices import torch_threads
from common.network import RefinerSettings
from export import onnx_file
from inference import backend_options, backends, onnx_network
from inference.speed import measure as speed
from model.folding import folded

__all__ = ['archive', 'exported']

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.timeout(600)]
CPU = torch.device('cpu')


TYPES = ('com', 'pha', 'fgr', 'err', 'ref')


def test_a_file_of_onnx_gives_pictures_of_any_size(
    pair: Case, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = room(2, 97, 63)
    pair.src = save(pair.src / 'odd.png', photo(odd, 3))
    pair.bgr = save(pair.bgr.parent / 'odd.png', odd)
    formats = ['--picture-format', *(f'{kind}=png' for kind in TYPES)]
    assert pair.run(*formats, '--model-checkpoint', exported, '--backend', 'onnx', types=TYPES) == 0
    about = f'{exported}: mattingrefine with mobilenetv2, ONNX; as exported: backbone scale 0.25, refine mode sampling'
    out = capsys.readouterr().out
    assert out.startswith(about)
    assert out.splitlines()[0].endswith('; on cpu in float32')
    found = {kind: read(pair.out / kind / 'odd.png') for kind in TYPES}
    assert np.abs(found['pha'] - difference(photo(odd, 3), odd)).max() <= 1
    assert np.array_equal(found['fgr'], photo(odd, 3))
    assert {picture.shape[:2] for picture in found.values()} == {(63, 97)}
    assert 0 < found['ref'].mean() < 255


@pytest.mark.parametrize('backend', [pytest.param('onnx', marks=pytest.mark.slow), 'torchscript'])
def test_pictures_of_any_size_come_out_as_from_the_weights(
    pair: Case, tmp_path: Path, request: pytest.FixtureRequest, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = room(2, 97, 63)
    save(pair.src / 'odd.png', photo(odd, 3))
    pair.bgr = save(pair.bgr.parent / 'plates/a.png', room(0)).parent
    save(pair.bgr / 'shots/b.0001.png', room(0))
    save(pair.bgr / 'odd.png', odd)
    formats = ['--picture-format', *(f'{kind}=png' for kind in TYPES), '--batch-size', 2]
    assert pair.run(*formats, '--model-backbone-scale', 0.25, types=TYPES) == 0
    weights, pair.out = pair.out, pair.out.with_name('of a file')
    if backend == 'onnx':
        file = tmp_path / 'model.onnx'
        trained = folded(network(pair.checkpoints['mattingrefine']))
        onnx_file.save(onnx_file.convert(trained, form='masked', about=ABOUT), file)  # type: ignore[arg-type]
    else:
        file = request.getfixturevalue('archive')
    assert pair.run(*formats, '--model-checkpoint', file, '--backend', backend, types=TYPES) == 0
    kind = {'onnx': 'ONNX', 'torchscript': 'TorchScript'}[backend]
    assert f'{file}: mattingrefine with mobilenetv2, {kind}; as exported: ' in capsys.readouterr().out
    for kind in TYPES:
        for name in ('a', 'shots/b.0001', 'odd'):
            expected, found = (read(folder / kind / f'{name}.png').astype(int) for folder in (weights, pair.out))
            assert expected.shape == found.shape
            assert np.abs(expected - found).max() <= (0 if kind == 'ref' else 1), (kind, name)
        assert expected.std() > 5


def parsed(*words: object) -> inference_images.argparse.Namespace:
    flags = ['--images-src', 's', '--images-bgr', 'b', '--output-dir', 'o', '--output-types', 'pha', *words]
    return inference_images.parse(list(map(str, flags)))


def test_settings_follow_the_file_unless_given(exported: Path, archive: Path, tmp_path: Path) -> None:
    held = {'backbone_scale': '0.5', 'refine_mode': 'thresholding', 'refine_threshold': '0.2', 'precision': 'float16'}
    other = saying(exported, tmp_path / 'other.onnx', **held)
    args = parsed('--model-checkpoint', other, '--model-refine-threshold', 0.7)
    found = backend_options.find(args)
    assert (args.backend, args.precision, args.model_type, args.model_backbone) == (
        'onnx', 'float16', 'mattingrefine', 'mobilenetv2'
    )  # fmt: skip
    assert found.settings.refiner == RefinerSettings(0.5, 'thresholding', 800, 0.7)
    assert type(args.model_refine_sample_pixels) is int
    assert 'as given: refine threshold 0.7 (0.2 as exported)' in str(found)
    args = parsed('--model-checkpoint', archive, '--model-refine-mode', 'full')
    backend_options.find(args)
    assert (args.backend, args.model_refine_sample_pixels, args.model_refine_mode) == ('torchscript', 800, 'full')
    assert args.precision == 'auto'
    assert backend_options.find(parsed('--model-checkpoint', archive, '--compile')).backend == 'pytorch'


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--model-refine-sample-pixels', 1600], '--model-refine-sample-pixels 1600: {} was exported with 800, which'),
        (['--model-backbone-scale', 0.5], '--model-backbone-scale 0.5: {} was exported with 0.25, which cannot be'),
        (['--model-refine-mode', 'full'], '--model-refine-mode full: {} was exported with sampling, which cannot be'),
        (
            ['--model-backbone', 'resnet50'],
            '{} holds mattingrefine with mobilenetv2, not mattingrefine with resnet50: use',
        ),
        (['--precision', 'bfloat16'], '--precision bfloat16: {} was exported with float32, which cannot be changed'),
        (['--compile'], '--backend onnx: cannot be compiled; leave out --compile, or this backend'),
        (['--backend', 'pytorch'], '--model-checkpoint {}: an ONNX file, which needs --backend onnx, not pytorch'),
        (['--backend', 'torchscript'], '--model-checkpoint {}: an ONNX file, which needs --backend onnx, not torch'),
    ],
)
def test_what_contradicts_the_file_is_one_line(
    pair: Case, exported: Path, capsys: pytest.CaptureFixture[str], flags: list[object], message: str
) -> None:
    assert pair.run('--model-checkpoint', exported, '--backend', 'onnx', *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ' + message.format(exported))
    assert not pair.out.exists()


def test_a_network_of_another_type_is_refused(pair: Case, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.run('--model-checkpoint', exported, '--backend', 'onnx', model_type='mattingbase') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: {exported} holds mattingrefine with mobilenetv2, not mattingbase with mobilenetv2')


def test_a_missing_runtime_is_one_line(
    pair: Case, exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxruntime' else find(name))
    assert pair.run('--model-checkpoint', exported, '--backend', 'onnx') == 2
    err = capsys.readouterr().err
    assert err.startswith('error: --backend onnx: onnxruntime is not installed for ')
    assert err.endswith("pip install -c constraints.txt -e '.[export]'\n")


def test_an_archive_is_run_as_it_is_unless_its_weights_are_asked_for(
    pair: Case, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pair.run('--model-checkpoint', archive) == 0
    about = f'{archive}: mattingrefine with mobilenetv2'
    assert capsys.readouterr().out.startswith(f'{about}, TorchScript; as exported: backbone scale 0.25')
    assert pair.run('--model-checkpoint', archive, '--backend', 'pytorch', '-y') == 0
    assert capsys.readouterr().out.startswith(f'{about}; as exported: backbone scale 0.25')


def test_each_run_has_as_many_threads_as_torch_and_runs_may_be_side_by_side(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, plain = [], onnx_network.open_session

    def watched(path: Path, device: torch.device, threads: int, optimized: bool = True) -> object:
        opened.append((threads, optimized))
        return plain(path, device, threads, optimized)

    monkeypatch.setattr(onnx_network, 'open_session', watched)
    matting = backends.load_matting(exported, SETTINGS, 'onnx', CPU)
    shots = [photo(room(0), i) for i in range(6)]
    expected = [difference(shot, room(0)) for shot in shots]
    for threads in (1, 2):
        with torch_threads(threads), ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda shot: matting(shot, room(0)).pha, shots))
        for one, other in zip(found, expected):
            assert np.abs(one - other).max() <= 1
    assert opened == [(1, False), (1, True), (2, True)]


def test_the_runtime_computes_on_the_gpu_that_was_chosen(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = onnx_network.onnxruntime
    asked, missing = [], False

    def session(path: str, options: object, providers: list[object]) -> object:
        asked.append(providers)
        names = [x if isinstance(x, str) else x[0] for x in providers]
        return SimpleNamespace(get_providers=lambda: names[missing:])

    monkeypatch.setattr(onnxruntime, 'InferenceSession', session)
    for device in (torch.device('cuda', 1), CPU):
        onnx_network.open_session(exported, device, 1)
    assert asked == [
        [('CUDAExecutionProvider', {'device_id': 1}), 'CPUExecutionProvider'],
        ['CPUExecutionProvider'],
    ]
    missing = True  # ONNX Runtime goes on without what it cannot load
    with pytest.raises(ValueError, match=r'cannot load its CUDA libraries.*; use --device cpu'):
        onnx_network.open_session(exported, torch.device('cuda', 1), 1)


def test_the_runtime_must_have_the_device(exported: Path) -> None:
    with pytest.raises(ValueError, match=r'--device mps: ONNX Runtime .* has no such device; use --device cpu'):
        onnx_network.OnnxNetwork(exported, torch.device('mps'))
    assert backends.device_for('onnx', 'auto').type == ('cuda' if onnx_network.has_device('cuda') else 'cpu')


FLAGS = ['--model-type', 'mattingrefine', '--model-backbone', 'mobilenetv2', '--device', 'cpu', '--repeats', '2']
FLAGS += ['--resolution', '64', '48', '96', '64']


@pytest.mark.slow
def test_the_speed_of_a_file_and_of_weights_that_are_exported_for_it(
    exported: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, 'WARM_UP_SECONDS', 0)
    monkeypatch.setattr(speed, 'MOST_WARM_UPS', 1)
    monkeypatch.setattr(speed, '_gmac', lambda *_: None)  # half of the time
    file = tmp_path / 's.json'
    flags = [*FLAGS, '--model-checkpoint', str(exported), '--backend', 'onnx', '--json', str(file)]
    assert inference_speed_test.main(flags) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[0]
        .startswith(f'{exported}: mattingrefine with mobilenetv2, ONNX; as exported')
    )
    rows = json.loads(file.read_text())['rows']
    assert [(row['width'], row['backend'], row['refine_sample_pixels']) for row in rows] == [
        (64, 'onnx', 800), (96, 'onnx', 800)
    ]  # fmt: skip
    made: list[dict[str, str]] = []

    def converted(_: object, precision: str, about: dict[str, str]) -> onnx.ModelProto:
        made.append({**about, 'precision': precision})
        return onnx.load(exported)

    monkeypatch.setattr(onnx_file, 'convert', converted)
    weights = str(checkpoints['mattingrefine'])
    flags = [*FLAGS, '--model-checkpoint', weights, '--model-refine-sample-pixels', '800']
    flags += ['--model-backbone-scale', '0.25']  # that of the file which stands for the export
    assert inference_speed_test.main([*flags, '--backend', 'pytorch', 'onnx', '--json', str(file), '-y']) == 0
    assert made == [{**ABOUT, 'precision': 'float32'}]  # once for both sizes
    rows = json.loads(file.read_text())['rows']
    assert [row['backend'] for row in rows] == ['pytorch', 'onnx'] * 2
    assert {row['checkpoint'] for row in rows} == {weights}
    assert all(row['median_ms'] > 0 for row in rows)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--backend', 'onnx', 'pytorch'], '--model-checkpoint {}: an ONNX file, which needs --backend onnx, not pyt'),
        (
            ['--backend', 'onnx', '--model-backbone-scale', '0.5'],
            '--model-backbone-scale 0.5: {} was exported with 0.25',
        ),
        (['--backend', 'onnx', '--precision', 'bfloat16'], '--precision bfloat16: --backend onnx has float32 and flo'),
    ],
)
def test_the_speed_test_refuses_in_one_line(
    exported: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert inference_speed_test.main([*FLAGS, '--model-checkpoint', str(exported), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith('error: ' + message.format(exported))
    assert captured.err.count('\n') == 1
    assert captured.out == ''
