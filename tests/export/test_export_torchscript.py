"""export_torchscript.py: files that load, take settings, are weights, are proved or not there; C++."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import export_case, small_encoder
from support.inference_case import ROOT, Case, photo, read, room, save
from torch import Tensor, nn

from checkpointing.origin import read_original
from checkpointing.verify import Verifier
from export import parity, torchscript
from export.portable import PortableBase
from inference.networks import find_network
from model import MattingBase, MattingRefine
from model.weights import describe, load_weights

pytestmark = pytest.mark.usefixtures('one_thread')
COMPILERS = ('c++', 'g++', 'clang++')


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript, 'SIZES', ((128, 96), (61, 84)))


run = functools.partial(export_case.run, 'export_torchscript')


def original(path: Path, **settings: object) -> MattingBase:
    return find_network(path, backend='pytorch', **settings).build()[0].eval()


def pictures(width: int, height: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    pair = [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in _shots(width, height)]
    return pair[0].repeat(batch, 1, 1, 1), pair[1].repeat(batch, 1, 1, 1)


def _shots(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    plate = room(0, width, height)
    return photo(plate, 1), plate


def assert_equal(exported: nn.Module, network: MattingBase, src: Tensor, bgr: Tensor, atol: float = 2e-5) -> None:
    expected, found = (parity.outputs_of(x, src, bgr) for x in (network, exported))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.float(), expected[name], atol=0 if name == 'ref_sm' else atol, rtol=0)


@pytest.fixture(scope='module')
def archive(small_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The refining network as TorchScript, with the script's own settings but for the number of pixels."""
    path = tmp_path_factory.mktemp('archive') / 'model.pt'
    with pytest.MonkeyPatch.context() as patch, small_encoder.used():
        patch.setattr(torchscript, 'SIZES', ((128, 96), (61, 84)))
        assert run(small_checkpoints['mattingrefine'], path) == 0
    assert [x.name for x in path.parent.iterdir()] == ['model.pt']
    return path


@pytest.mark.filterwarnings('ignore:`torch.jit')
def test_a_users_program_loads_it_and_sets_its_settings(archive: Path, checkpoints: dict[str, Path]) -> None:
    extra = {'about.json': ''}
    model = torch.jit.load(archive, _extra_files=extra)
    held = (
        model.backbone_scale,
        model.refine_mode,
        model.refine_sample_pixels,
        model.refine_threshold,
        model.refine_form,
    )
    assert held == (0.25, 'sampling', 800, 0.7, 'gather')
    about = json.loads(extra['about.json'])
    assert about['checkpoint'] == 'mattingrefine.pth'
    assert about['checkpoint_sha256'] == Verifier().digest(checkpoints['mattingrefine'])
    assert (about['model_type'], about['precision'], about['refine_form']) == ('mattingrefine', 'float32', 'gather')
    assert not model.training
    model.backbone_scale, model.refine_mode, model.refine_threshold = 0.5, 'thresholding', 0.35
    network = original(
        checkpoints['mattingrefine'], backbone_scale=0.5, refine_mode='thresholding', refine_threshold=0.35
    )
    assert_equal(model, network, *pictures(97, 70, batch=2))
    ref = model(*pictures(97, 70))[5]
    assert 0 < ref.mean() < 1


def test_it_is_a_weight_file_too(archive: Path, checkpoints: dict[str, Path]) -> None:
    weights = read_original(archive).file
    assert weights.kind == 'TorchScript archive'
    assert describe(weights.state_dict) == 'MattingRefine mobilenetv2'
    network = MattingRefine('mobilenetv2')
    assert load_weights(network, weights).percent == 100
    trained = original(checkpoints['mattingrefine']).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in network.state_dict().items())


def test_pictures_are_matted_with_it(archive: Path, pair: Case) -> None:
    assert pair.run('--picture-format', 'pha=png', '--model-backbone-scale', 0.25) == 0
    expected = [read(pair.out / 'pha' / name) for name in ('a.png', 'shots/b.0001.png')]
    assert pair.run('--picture-format', 'pha=png', '--model-checkpoint', archive, '--backend', 'pytorch', '-y') == 0
    for before, name in zip(expected, ('a.png', 'shots/b.0001.png')):
        assert np.array_equal(before, read(pair.out / 'pha' / name))


def test_float16_halves_the_weights(tmp_path: Path, checkpoints: dict[str, Path], archive: Path, capsys) -> None:
    path = tmp_path / 'half.pth'
    assert run(checkpoints['mattingrefine'], path, '--precision', 'float16') == 0
    printed = capsys.readouterr().out
    assert 'against the network in float32, but for rounding' in printed
    assert 'against the network in float16 (limits: ' in printed
    with zipfile.ZipFile(path) as half, zipfile.ZipFile(archive) as whole:
        sizes = [sum(x.file_size for x in z.infolist() if '/data/' in x.filename) for z in (half, whole)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)
    network = original(checkpoints['mattingrefine'])
    torchscript.save(network, tmp_path / 'again.pt', 'float16', 'gather', {})
    assert {x.dtype for x in network.parameters()} == {torch.float32}
    module, about = torchscript.load(path)
    assert about['precision'] == 'float16'
    assert {x.dtype for x in module.parameters()} == {torch.float16}
    src, bgr = pictures(97, 70)
    assert module(src.half(), bgr.half())[0].dtype == torch.float16
    assert module(src, bgr)[0].dtype == torch.float32  # which its pictures may be as well


@pytest.mark.parametrize('name', ['model.pt', pytest.param('model.pt2', marks=pytest.mark.slow)])
def test_the_base_network_takes_any_size(tmp_path: Path, checkpoints: dict[str, Path], name: str) -> None:
    assert run(checkpoints['mattingbase'], tmp_path / name, model_type='mattingbase') == 0
    module, about = torchscript.load(tmp_path / name)
    assert about['model_type'] == 'mattingbase'
    assert 'refine_form' not in about
    network = original(checkpoints['mattingbase'])
    for size in ((17, 17), (97, 70), (64, 49, 3)):
        assert_equal(module, network, *pictures(*size))
    if name == 'model.pt2':
        src, bgr = torch.export.load(tmp_path / name).example_inputs[0]  # which compilers ask for
        assert src.shape == bgr.shape
        assert src.numel() < 400_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ('mode', 'form', 'scale'),
    [('thresholding', None, 0.25), ('sampling', 'masked', 0.3), ('full', None, 0.125)],
)
def test_a_program_takes_any_batch_and_multiples_of_4(
    tmp_path: Path, checkpoints: dict[str, Path], mode: str, form: str | None, scale: float
) -> None:
    path, settings = tmp_path / 'model.pt2', {'backbone_scale': scale, 'refine_mode': mode, 'refine_threshold': 0.3}
    words = ['--model-refine-mode', mode, '--model-backbone-scale', scale, '--model-refine-threshold', 0.3]
    assert run(checkpoints['mattingrefine'], path, *words, *(['--refine-form', form] if form else [])) == 0
    module, about = torchscript.load(path)
    assert (about['refine_mode'], about['backbone_scale']) == (mode, str(scale))
    assert about['refine_form'] == {'full': 'gather'}.get(mode, 'masked')
    network = original(checkpoints['mattingrefine'], refine_sample_pixels=800, **settings)
    least = {0.25: 68, 0.3: 60, 0.125: 136}[scale]
    for size in ((least, least), (160, 140), (140, 152, 3)):
        assert_equal(module, network, *pictures(*size))
    with pytest.raises(Exception, match=r'Guard failed: .* % 4'):
        module(*pictures(161, 160))
    with pytest.raises(Exception, match=rf'Guard failed: src.size\(\)\[2\] >= {least}'):
        module(*pictures(160, least - 4))


def test_a_program_of_a_fixed_size_takes_any_sides_and_no_other_size(
    tmp_path: Path, checkpoints: dict[str, Path], capsys
) -> None:
    path, words = tmp_path / 'model.pt2', ['--model-refine-mode', 'full', '--model-backbone-scale', 0.25]
    assert run(checkpoints['mattingrefine'], path, *words, '--resolution', 97, 62) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in lines[3:-2]] == ['  photograph 97x62', '  drawing 97x62']
    module, about = torchscript.load(path)
    assert about['resolution'] == '97x62'
    network = original(checkpoints['mattingrefine'], refine_mode='full')
    assert_equal(module, network, *pictures(97, 62))
    with pytest.raises(Exception, match=r'shape\[3\] to be equal to 97, but got 100'):
        module(*pictures(100, 62))
    program = torch.export.load(path)
    shapes = [node.meta['val'].shape for node in program.graph.nodes if isinstance(node.meta.get('val'), Tensor)]
    assert all(isinstance(side, int) for shape in shapes for side in shape)
    assert program.example_inputs is None  # which would be most of a file for HD


@pytest.mark.slow
@pytest.mark.parametrize(('mode', 'precision'), [('sampling', 'float32'), ('thresholding', 'float16')])
def test_a_program_that_gathers(tmp_path: Path, checkpoints: dict[str, Path], mode: str, precision: str) -> None:
    path, words = tmp_path / 'model.pt2', ['--model-refine-mode', mode, '--refine-form', 'gather']
    threshold = ['--model-refine-threshold', 0.3]
    assert run(checkpoints['mattingrefine'], path, *words, *threshold, '--precision', precision) == 0
    module, _ = torchscript.load(path)
    dtype, tolerance = getattr(torch, precision), 2e-5 if precision == 'float32' else 0.05
    network = original(checkpoints['mattingrefine'], refine_mode=mode, refine_sample_pixels=800, refine_threshold=0.3)
    for size in ((100, 72), (80, 132, 3)):
        src, bgr = pictures(*size)
        expected, found = parity.outputs_of(network, src, bgr), parity.outputs_of(module, src.to(dtype), bgr.to(dtype))
        compared = parity.compare('', expected, found)
        assert not compared.problems(parity.Limits(tolerance, tolerance, 0.05 if precision == 'float16' else 0))
        assert compared.refined > 0


def shifted(make: Callable[..., PortableBase]) -> Callable[..., PortableBase]:
    def made(*arguments: object) -> PortableBase:
        portable = make(*arguments)
        portable.decoder.conv4.bias.data[0] += 0.01  # type: ignore[union-attr]
        return portable

    return made


def test_what_differs_leaves_nothing_and_harms_nothing(
    tmp_path: Path, checkpoints: dict[str, Path], capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = 'model.pt'
    (tmp_path / name).write_bytes(b'of before')
    monkeypatch.setattr(torchscript, 'portable_copy', shifted(torchscript.portable_copy))
    words = checkpoints['mattingbase'], tmp_path / name, '-y'
    assert run(*words, model_type='mattingbase') == 1
    message = capsys.readouterr().err
    assert 'not equal to the original, nothing written' in message
    assert 'pha differs by' in message
    assert [x.name for x in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b'of before'
    assert run(*words, '--no-validate', model_type='mattingbase') == 0
    assert 'not compared with the original' in capsys.readouterr().out
    assert torchscript.load(tmp_path / name)[1]['checkpoint'] == 'mattingbase.pth'


def test_a_setting_without_effect_is_found(
    tmp_path: Path, checkpoints: dict[str, Path], capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_others(module: nn.Module, name: str, value: object) -> None:
        if name != 'refine_mode':
            set_any(module, name, value)

    set_any = torch.jit.RecursiveScriptModule.__setattr__
    monkeypatch.setattr(torch.jit.RecursiveScriptModule, '__setattr__', set_others)
    assert run(checkpoints['mattingrefine'], tmp_path / 'model.pt') == 1
    err = capsys.readouterr().err
    assert 'set to full: ' in err
    assert 'set to thresholding: ' in err
    assert 'set to sampling: ' not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('error', 'code', 'message'),
    [(OSError(28, 'No space left on device'), 1, 'No space left'), (KeyboardInterrupt(), 130, 'nothing was written')],
)
def test_a_run_that_is_stopped_leaves_nothing(
    tmp_path: Path, checkpoints: dict[str, Path], capsys, monkeypatch, error: BaseException, code: int, message: str
) -> None:
    def written_in_part(_: object, path: Path, *__: object) -> None:
        path.write_bytes(b'PK')
        raise error

    monkeypatch.setattr(torchscript, 'save', written_in_part)
    assert run(checkpoints['mattingbase'], tmp_path / 'model.pt', model_type='mattingbase') == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which('cmake') is None, reason='cmake is not installed')
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason='there is no C++ compiler')
def test_the_program_in_cpp_writes_the_same_alpha(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    archive, build = tmp_path / 'model.pt', tmp_path / 'build'
    assert run(checkpoints['mattingrefine'], archive) == 0
    prefix = f'-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}'
    for command in (['cmake', '-S', ROOT / 'docs/cpp', '-B', build, prefix], ['cmake', '--build', build]):
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
    shots = _shots(97, 70)
    for name, picture in zip(('src.ppm', 'bgr.ppm'), shots):
        save(tmp_path / name, picture)

    def matting(*settings: str, plate: str = 'bgr.ppm') -> subprocess.CompletedProcess[str]:
        names = [tmp_path / 'src.ppm', tmp_path / plate, tmp_path / 'pha.pgm']
        return subprocess.run([build / 'matting', archive, *names, *settings], capture_output=True, text=True)

    src, bgr = pictures(97, 70)
    written = []
    for scale, mode, pixels in ((0.25, 'sampling', 800), (0.5, 'full', 800), (0.3, 'thresholding', 800)):
        settings = {'backbone_scale': scale, 'refine_mode': mode, 'refine_sample_pixels': pixels}
        done = matting(*(f'{name}={value}' for name, value in settings.items()), 'refine_threshold=0.3')
        assert done.returncode == 0, done.stderr
        network = original(checkpoints['mattingrefine'], **settings, refine_threshold=0.3)
        expected = (parity.outputs_of(network, src, bgr)['pha'][0, 0] * 255).round().numpy()
        found = cv2.imread(str(tmp_path / 'pha.pgm'), cv2.IMREAD_UNCHANGED)
        assert found.shape == (70, 97)
        assert np.abs(found - expected).max() <= 1
        written.append(found)
    assert len({found.tobytes() for found in written}) == 3, 'settings have an effect'
    save(tmp_path / 'small.ppm', shots[1][:64])
    for wrong, message in (
        (matting('refine_mod=full'), 'refine_mod=full: not name=value with the name of a setting of this model'),
        (matting('refine_sample_pixels=0.5'), '0.5: not a number, or not a whole one'),
        (matting(plate='small.ppm'), 'picture and plate must be of one size'),
        (matting(plate='none.ppm'), f'{tmp_path / "none.ppm"}: not a binary PPM (P6) of 8 bits a channel'),
    ):
        assert (wrong.returncode, wrong.stderr) == (1, f'error: {message}\n')
