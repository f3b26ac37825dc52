"""export_onnx.py: files for any size and batch that say what they are, are proved or not there."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import export_case, small_encoder
from support.inference_case import ROOT, photo, room
from torch import Tensor

from checkpointing.verify import Verifier
from export import parity
from inference.networks import find_network
from model import MattingBase
from model.folding import folded

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
from export import onnx_file  # noqa: E402
from inference.onnx_network import OnnxNetwork  # noqa: E402

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.timeout(600)]
SIZES = ((128, 96), (60, 84))
NAMES = ['pha', 'fgr', 'pha_sm', 'fgr_sm', 'err_sm', 'ref_sm']


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, 'REFINE_SIZES', SIZES)
    monkeypatch.setattr(onnx_file, 'BASE_SIZES', SIZES)


run = functools.partial(export_case.run, 'export_onnx')


def original(path: Path, **settings: object) -> MattingBase:
    return find_network(path, backend='pytorch', **settings).build()[0].eval()


def pictures(width: int, height: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    plate = room(0, width, height)
    shots = [photo(plate, i) for i in range(batch)]
    src, bgr = (torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2) / 255 for x in (shots, [plate] * batch))
    return src, bgr


def assert_equal(file: Path, network: MattingBase, src: Tensor, bgr: Tensor) -> None:
    found = onnx_file.run(onnxruntime.InferenceSession(str(file)), src, bgr)
    expected = parity.outputs_of(network, src, bgr)
    for name, value in found.items():
        tolerance = 0 if name == 'ref_sm' else 2e-5
        torch.testing.assert_close(value.float(), expected[name], atol=tolerance, rtol=0)


@pytest.fixture(scope='module')
def exported(small_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The refining network as the script exports it, masked, which converts in half of the time."""
    path = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    with pytest.MonkeyPatch.context() as patch, small_encoder.used():
        patch.setattr(onnx_file, 'REFINE_SIZES', SIZES)
        assert run(small_checkpoints['mattingrefine'], path, '--refine-form', 'masked') == 0
    assert [x.name for x in path.parent.iterdir()] == ['model.onnx']
    return path


@pytest.fixture
def converted(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, which the script then takes for what it has converted: that takes half a minute."""
    monkeypatch.setattr(onnx_file, 'convert', lambda *_: onnx.load(exported))
    return exported


@pytest.mark.parametrize('size', [(16, 20), (36, 52), (96, 80, 3), (320, 64, 2)])
def test_any_batch_and_sides(exported: Path, checkpoints: dict[str, Path], size: tuple[int, ...]) -> None:
    network = original(checkpoints['mattingrefine'], refine_sample_pixels=800)
    src, bgr = pictures(*size)
    assert_equal(exported, network, src, bgr)
    assert 0 < network(src, bgr)[5].mean() <= (1 if size[0] < 50 else 0.8)


@pytest.mark.skipif(int(cv2.__version__.split('.')[0]) < 5, reason='OpenCV 4 takes no pictures of any size')
def test_opencv_runs_it(exported: Path, checkpoints: dict[str, Path]) -> None:
    network = original(checkpoints['mattingrefine'], refine_sample_pixels=800)
    for size in ((96, 80), (132, 84, 2)):  # of sides of 64 the smallest features are one pixel, which it cannot enlarge
        src, bgr = pictures(*size)
        net = cv2.dnn.readNetFromONNX(str(exported))
        net.setInput(src.numpy(), 'src')
        net.setInput(bgr.numpy(), 'bgr')
        for name, found in zip(NAMES, net.forward(NAMES)):
            expected = parity.outputs_of(network, src, bgr)[name]
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=2e-5, rtol=0)


def test_the_file_says_what_it_is_and_where_it_comes_from(exported: Path, checkpoints: dict[str, Path]) -> None:
    model = onnx.load(exported)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about.pop('checkpoint_sha256') == Verifier().digest(checkpoints['mattingrefine'])
    assert about == {
        'model_type': 'mattingrefine', 'backbone': 'mobilenetv2', 'backbone_scale': '0.25', 'refine_mode': 'sampling',
        'refine_sample_pixels': '800', 'refine_threshold': '0.7', 'refine_kernel_size': '3', 'refine_form': 'masked',
        'checkpoint': 'mattingrefine.pth', 'precision': 'float32', 'sides_multiple_of': '4',
        'outputs': ' '.join(NAMES), 'torch': torch.__version__,
    }  # fmt: skip
    assert model.opset_import[0].version == 20
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    full, small = ['height', 'width'], ['height_sm', 'width_sm']
    assert axes == {
        'src': ['batch', 3, *full], 'bgr': ['batch', 3, *full], 'pha': ['batch', 1, *full], 'fgr': ['batch', 3, *full],
        'pha_sm': ['batch', 1, *small], 'fgr_sm': ['batch', 3, *small], 'err_sm': ['batch', 1, *small],
        'ref_sm': ['batch', 1, 'height_cells', 'width_cells'],
    }  # fmt: skip
    assert list(axes) == ['src', 'bgr', *NAMES]
    assert 'multiples of 4' in model.graph.input[0].doc_string
    # Nothing of the disk that it was made on, and BatchNorm is part of the convolutions.
    assert str(ROOT).encode() not in exported.read_bytes()
    assert 'BatchNormalization' not in {node.op_type for node in model.graph.node}


def test_outputs_can_be_chosen_and_are_proved_by_cells_all_the_same(
    tmp_path: Path, converted: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'some.onnx'
    assert run(checkpoints['mattingrefine'], path, '--outputs', 'fgr', 'pha') == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split(':')[0] for line in lines[3:-2]] == ['  2 of 128x96', '  photograph 60x84', '  drawing 60x84']
    for line in lines[3:-2]:
        assert '0 of ' in line
        assert 'cells refined differently' in line
        assert 'err_sm' not in line
    assert lines[-2].startswith('proved equal by running the file in ONNX Runtime')
    assert printed.err == ''
    model = onnx.load(path)
    assert [value.name for value in model.graph.output] == ['pha', 'fgr']
    assert {entry.key: entry.value for entry in model.metadata_props}['outputs'] == 'pha fgr'
    assert_equal(path, original(checkpoints['mattingrefine'], refine_sample_pixels=800), *pictures(96, 80))
    whole = onnx.load(converted)
    small = onnx_file.select_outputs(whole, ['err_sm'])
    assert not any(weight.name.startswith('refiner.') for weight in small.graph.initializer)
    assert any(weight.name.startswith('refiner.') for weight in whole.graph.initializer)
    assert len(small.graph.node) < len(whole.graph.node)


def test_a_file_of_a_fixed_size_takes_any_sides(
    tmp_path: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, words = tmp_path / 'fixed.onnx', ['--model-refine-mode', 'full', '--model-backbone-scale', 0.25]
    assert run(checkpoints['mattingrefine'], path, *words, '--resolution', 97, 62) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in lines[3:-2]] == ['  photograph 97x62', '  drawing 97x62']
    model = onnx.load(path)
    shapes = [
        [axis.dim_value for axis in x.type.tensor_type.shape.dim] for x in (*model.graph.input, *model.graph.output)
    ]
    assert shapes[:4] == [[1, 3, 62, 97], [1, 3, 62, 97], [1, 1, 62, 97], [1, 3, 62, 97]]
    assert all(all(shape) for shape in shapes)
    network, src, bgr = OnnxNetwork(path, torch.device('cpu')), *pictures(97, 62, 2)
    expected = parity.outputs_of(original(checkpoints['mattingrefine'], refine_mode='full'), src, bgr)
    torch.testing.assert_close(network(src, bgr)[0], expected['pha'], atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match='takes pictures of 97x62 alone, not 100x64'):
        network(*pictures(100, 64))


def test_what_differs_leaves_nothing_and_harms_nothing(
    tmp_path: Path,
    converted: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load(converted)
    (bias,) = (weight for weight in model.graph.initializer if weight.name == 'refiner.conv4.bias')
    shifted = onnx.numpy_helper.to_array(bias) + np.array([0.01, 0, 0, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(shifted, bias.name))
    monkeypatch.setattr(onnx_file, 'convert', lambda *_: model)
    path = tmp_path / 'model.onnx'
    path.write_bytes(b'of before')
    assert run(checkpoints['mattingrefine'], path, '-y') == 1
    message = capsys.readouterr().err
    assert message.startswith('error: not equal to the original, nothing written')
    assert 'pha differs by' in message
    assert 'pha differs in the mean by' in message
    assert 'fgr differs' not in message
    assert [x.name for x in tmp_path.iterdir()] == ['model.onnx']
    assert path.read_bytes() == b'of before'
    assert run(checkpoints['mattingrefine'], path, '-y', '--no-validate') == 0
    assert 'not compared with the original' in capsys.readouterr().out
    assert onnx.load(path).graph.name == model.graph.name


def test_limits_are_what_decides(
    tmp_path: Path, converted: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(onnx_file.LIMITS, 'float32', parity.Limits(mean=1e-12, worst=1, cells=1))
    monkeypatch.setattr(parity, 'TIMES_ROUNDING', 0)
    assert run(checkpoints['mattingrefine'], tmp_path / 'model.onnx') == 1
    assert not list(tmp_path.iterdir())


def test_what_the_runtime_cannot_run_is_not_written(
    tmp_path: Path,
    converted: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load(converted)
    next(node for node in model.graph.node if node.op_type == 'Resize').op_type = 'Resized'
    monkeypatch.setattr(onnx_file, 'convert', lambda *_: model)
    assert run(checkpoints['mattingrefine'], tmp_path / 'model.onnx') == 1
    assert f'nothing written: model.onnx: ONNX Runtime {onnxruntime.__version__}: ' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('error', 'code', 'message'),
    [(OSError(28, 'No space left on device'), 1, 'No space left'), (KeyboardInterrupt(), 130, 'nothing was written')],
)
def test_a_run_that_is_stopped_leaves_nothing(
    tmp_path: Path,
    converted: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def written_in_part(_: object, path: Path) -> None:
        path.write_bytes(b'\x08')
        raise error

    monkeypatch.setattr(onnx_file, 'save', written_in_part)
    assert run(checkpoints['mattingrefine'], tmp_path / 'model.onnx') == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_version_that_torch_did_not_write_is_an_error(
    checkpoints: dict[str, Path], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made:
        model_proto = onnx.load(exported)

    monkeypatch.setattr(onnx_file, 'export_program', lambda *_: None)
    monkeypatch.setattr(torch.onnx, 'export', lambda *_, **__: Made)
    network = folded(original(checkpoints['mattingrefine']))
    with pytest.raises(ValueError, match=r'--onnx-opset-version 22: torch .* wrote 20; use that'):
        onnx_file.convert(network, opset=22)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize('opset', [18, 25])
def test_the_base_network_in_float16(
    tmp_path: Path, checkpoints: dict[str, Path], opset: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'base.onnx'
    flags = ['--precision', 'float16', '--onnx-opset-version', opset]
    assert run(checkpoints['mattingbase'], path, *flags, model_type='mattingbase') == 0
    assert 'cells refined differently' not in capsys.readouterr().out
    model = onnx.load(path)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert (about['precision'], about['sides_multiple_of'], about['outputs']) == ('float16', '1', 'pha fgr err hid')
    assert 'refine_form' not in about
    assert model.opset_import[0].version == opset
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT16}
    src, bgr = pictures(61, 47, 3)
    found = onnx_file.run(onnxruntime.InferenceSession(str(path)), src, bgr)
    compared = parity.compare('', parity.outputs_of(original(checkpoints['mattingbase']), src, bgr), found)
    assert not compared.problems(parity.Limits(mean=5e-3, worst=0.1, cells=0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('mode', 'form'),
    [('sampling', 'gather'), ('thresholding', 'gather'), ('sampling', 'masked'), ('full', 'gather')],
)
def test_every_mode_and_form(tmp_path: Path, checkpoints: dict[str, Path], mode: str, form: str) -> None:
    path = tmp_path / 'model.onnx'
    words = ['--model-refine-mode', mode, '--refine-form', form, '--model-refine-threshold', 0.3]
    assert run(checkpoints['mattingrefine'], path, *words) == 0
    settings = {'refine_mode': mode, 'refine_sample_pixels': 800, 'refine_threshold': 0.3}
    network = original(checkpoints['mattingrefine'], **settings)
    for size in ((96, 80, 3), (64, 120)):
        assert_equal(path, network, *pictures(*size))


@pytest.mark.slow
def test_no_cell_at_all_may_be_refined(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    path = tmp_path / 'model.onnx'
    words = ['--model-refine-mode', 'thresholding', '--refine-form', 'gather', '--model-refine-threshold', 1]
    assert run(checkpoints['mattingrefine'], path, *words) == 0
    network = original(checkpoints['mattingrefine'], refine_mode='thresholding', refine_threshold=1)
    src, bgr = pictures(96, 80)
    assert network(src, bgr)[5].max() == 0
    assert_equal(path, network, src, bgr)
