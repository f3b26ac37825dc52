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

import inference_images
import inference_speed_test
from common.devices import torch_threads
from common.network import OUTPUTS, NetworkSettings, RefinerSettings
from export import torchscript
from inference import backend_options, backends
from inference.networks import find_network
from inference.speed import measure as speed
from model import MattingBase
from model.folding import folded

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from export import onnx_file  # noqa: E402
from inference import onnx_network  # noqa: E402

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.timeout(600)]
CPU = torch.device('cpu')
SETTINGS = NetworkSettings('mattingrefine', 'mobilenetv2', RefinerSettings(refine_sample_pixels=800))
ABOUT = {name: str(value) for name, value in SETTINGS.values.items()}


def network(path: Path) -> MattingBase:
    return find_network(path, backend='pytorch', refine_sample_pixels=800).build()[0].eval()


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the inputs, outputs and metadata of an exported network; alpha is |src - bgr|, fgr is src.

    Exporting a network takes half a minute; one slow test does.
    """
    node = onnx.helper.make_node
    shrunk = {'kernel_shape': [4, 4], 'strides': [4, 4]}
    nodes = [
        node('Sub', ['src', 'bgr'], ['difference']),
        node('Abs', ['difference'], ['distance']),
        node('ReduceMean', ['distance', 'channels'], ['pha']),
        node('Identity', ['src'], ['fgr']),
        node('AveragePool', ['pha'], ['pha_sm'], **shrunk),
        node('AveragePool', ['fgr'], ['fgr_sm'], **shrunk),
        node('AveragePool', ['pha'], ['err_sm'], **shrunk),
        node('Greater', ['pha_sm', 'least'], ['refined']),
        node('Cast', ['refined'], ['ref_sm'], to=onnx.TensorProto.FLOAT),
    ]

    def value(name: str, channels: int) -> onnx.ValueInfoProto:
        shape = ['batch', channels, f'{name}_height', f'{name}_width']
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    outputs = [value(name, 3 if name.startswith('fgr') else 1) for name in OUTPUTS['mattingrefine']]
    constants = [
        onnx.helper.make_tensor('channels', onnx.TensorProto.INT64, [1], [1]),
        onnx.helper.make_tensor('least', onnx.TensorProto.FLOAT, [], [0.1]),
    ]
    graph = onnx.helper.make_graph(nodes, 'x', [value('src', 3), value('bgr', 3)], outputs, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 20)], ir_version=10)
    said = {'precision': 'float32', 'sides_multiple_of': '4', 'outputs': ' '.join(OUTPUTS['mattingrefine'])}
    onnx.helper.set_model_props(model, ABOUT | said)
    path = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    onnx_file.save(model, path)
    return path


def without_metadata(exported: Path, path: Path, **sides: int) -> Path:
    """A copy as another exporter writes it, of fixed sides where these are given: batch, height, width."""
    model = onnx.load(exported)
    del model.metadata_props[:]
    for value in model.graph.input if sides else ():
        for axis, name in ((0, 'batch'), (2, 'height'), (3, 'width')):
            value.type.tensor_type.shape.dim[axis].dim_value = sides[name]
    onnx_file.save(model, path)
    return path


def test_a_file_of_another_exporter_is_known_by_its_inputs_and_outputs(
    pair: Case, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = without_metadata(exported, tmp_path / 'onnx_mobilenetv2_hd.onnx')
    flags = ['--model-checkpoint', path, '--model-backbone-scale', 0.5, '--output-format', 'pha=png']
    assert pair.run(*flags) == 0
    line = f'{path}: mattingrefine with mobilenetv2, ONNX; how it refines is fixed, and not said by the file; '
    assert capsys.readouterr().out.startswith(f'{line}given, but of no effect: ')
    bgr = room(0)
    assert np.abs(read(pair.out / 'pha/a.png') - difference(photo(bgr, 1), bgr)).max() <= 1
    speed_flags = ['--model-checkpoint', str(path), '--resolution', '64', '48', '--repeats', '1', '--device', 'cpu']
    assert inference_speed_test.main(speed_flags) == 0
    assert 'mattingrefine unknown backbone' in capsys.readouterr().out


def test_a_file_of_a_fixed_size_takes_pictures_of_that_size_one_by_one(exported: Path, tmp_path: Path) -> None:
    path = without_metadata(exported, tmp_path / 'fixed.onnx', batch=1, height=64, width=96)
    matting, _ = backends.load_found(find_network(path), {'device': 'cpu', 'precision': 'auto'})
    shots = np.stack([photo(room(0), i) for i in range(3)])
    src, bgr = (torch.from_numpy(x).permute(0, 3, 1, 2) / 255 for x in (shots, np.stack([room(0)] * 3)))
    pha = matting.model(src, bgr)[0][:, 0].numpy() * 255
    for shot, found in zip(shots, pha):
        assert np.abs(found - difference(shot, room(0))).max() <= 1
    with pytest.raises(ValueError, match=r'fixed\.onnx takes pictures of 96x64 alone, not 48x64'):
        matting.model(src[..., :48], bgr[..., :48])


def test_a_file_of_a_fixed_batch_takes_what_is_left_over(exported: Path, tmp_path: Path) -> None:
    path = without_metadata(exported, tmp_path / 'fixed.onnx', batch=2, height=64, width=96)
    shots = torch.rand(3, 3, 64, 96)
    matting = onnx_network.OnnxNetwork(path, torch.device('cpu'))
    assert torch.equal(matting(shots, shots / 2)[0], torch.cat([matting(x, x / 2)[0] for x in shots.split(1)]))


def difference(src: np.ndarray, bgr: np.ndarray) -> np.ndarray:
    """The alpha of `exported`."""
    return np.abs(src.astype(int) - bgr).mean(2)


@pytest.fixture(scope='module')
def archive(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('archive') / 'model.pt'
    about = {**ABOUT, 'precision': 'float32'}
    torchscript.save(network(checkpoints['mattingrefine']), path, 'float32', 'gather', about)
    return path


def saying(file: Path, path: Path, **about: str) -> Path:
    """A copy of an ONNX file that says something else of itself."""
    model = onnx.load(file)
    own = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, own | about)
    onnx_file.save(model, path)
    return path


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


def test_files_of_another_kind_are_refused(
    pair: Case, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, foreign, program = tmp_path / 'text.onnx', tmp_path / 'foreign.onnx', tmp_path / 'model.pt2'
    text.write_text('no model')
    program.write_text('')
    value = onnx.helper.make_tensor_value_info('image', onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info('result', onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node('Neg', ['image'], ['result'])], 'x', [value], [result])
    opset = [onnx.helper.make_opsetid('', 20)]
    onnx_file.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), foreign)
    some = tmp_path / 'some.onnx'
    onnx_file.save(onnx_file.select_outputs(onnx.load(exported), ['pha', 'fgr', 'err_sm']), some)
    alpha = tmp_path / 'alpha.onnx'
    onnx_file.save(onnx_file.select_outputs(onnx.load(exported), ['pha']), alpha)
    weights = pair.checkpoints['mattingrefine']
    for path, backend, types, message in (
        (text, 'onnx', ('pha',), f'{text}: ONNX Runtime '),
        (
            foreign,
            'onnx',
            ('pha',),
            f'{foreign}: neither made by export_onnx.py nor a published network',
        ),
        (weights, 'onnx', ('pha',), f'--backend onnx: needs an .onnx file, not {weights}; make one of it with export_'),
        (weights, 'torchscript', ('pha',), f'--backend torchscript: needs a TorchScript archive, not {weights}; make'),
        (program, 'pytorch', ('pha',), f'--model-checkpoint {program}: a program of torch.export, which no --backend'),
        (some, 'onnx', ('err', 'ref'), f'--output-types ref: {some} was exported with --outputs pha fgr err_sm alone'),
        (alpha, 'onnx', ('pha',), f'{alpha}: has no output fgr; export it with --outputs pha fgr'),
    ):
        assert pair.run('--model-checkpoint', path, '--backend', backend, types=types) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'error: {message}')
        assert not pair.out.exists()
    assert pair.run('--model-checkpoint', some, '--backend', 'onnx', types=('pha', 'err')) == 0


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
