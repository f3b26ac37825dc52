"""Core ML packages: made from a checkpoint by the script, proved, described; refused, with nothing left, otherwise."""

import hashlib
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from support import export_case, small_encoder

import export_coreml
from checkpointing.record import File, Record
from checkpointing.verify import Verifier
from common.network import NetworkSettings, RefinerSettings
from export import parity
from export.cli import read_trained_network
from export.coreml import conversion
from export.coreml import parity as package_parity
from export.coreml.mil import Program
from export.coreml.mil_operations import OPERATIONS, upsample_bilinear
from export.coreml.package import function_name
from export.parity import Limits, OutputDifference, compare
from inference.networks import random_network

ct = pytest.importorskip('coremltools')
pytestmark = [pytest.mark.timeout(600)]
SETTINGS = NetworkSettings('mattingrefine', 'mobilenetv2', RefinerSettings(refine_sample_pixels=1600))


@pytest.fixture(scope='module')
def small_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'epoch-3-iter-29.pth'
    with small_encoder.used():
        torch.save(random_network(SETTINGS).state_dict(), path)
    return path


@pytest.fixture
def checkpoint(request, small_checkpoint, tmp_path_factory):
    """Weights of a whole network in slow tests; otherwise small ones, and MobileNetV2 is then small, too."""
    if request.node.get_closest_marker('slow'):
        path = tmp_path_factory.mktemp('whole') / small_checkpoint.name
        torch.save(random_network(SETTINGS).state_dict(), path)
        yield path
        return
    with small_encoder.used():
        yield small_checkpoint


def run(checkpoint, output, *more, pixels=1600):
    more = ('--model-refine-sample-pixels', pixels, *more)
    return export_case.run('export_coreml', checkpoint, output, *more, strict=False)


def specification(package):
    return ct.utils.load_spec(str(package))


@pytest.fixture(scope='module')
def package(small_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp('packages') / 'Matting.mlpackage'
    with small_encoder.used():
        assert run(small_checkpoint, path, '--resolution', 96, 80, '--author', 'A. Uthor', '--version', '1.2') == 0
    return path


@pytest.fixture
def converted(package, monkeypatch):
    """The model of the package, which the script then takes for what it has converted at 96 x 80."""
    monkeypatch.setattr(conversion, 'convert', lambda *_: ct.models.MLModel(str(package), skip_model_load=True))


def test_inputs_and_outputs_are_images_of_the_size(package):
    description = specification(package).description
    assert [feature.name for feature in description.input] == ['src', 'bgr']
    for feature in description.input:
        image = feature.type.imageType
        assert (image.width, image.height, image.colorSpace) == (96, 80, image.RGB)
    pha, fgr = (feature.type.imageType for feature in description.output)
    assert [feature.name for feature in description.output] == ['pha', 'fgr']
    assert (pha.width, pha.height, pha.colorSpace) == (96, 80, pha.GRAYSCALE_FLOAT16)
    assert (fgr.width, fgr.height, fgr.colorSpace) == (96, 80, fgr.RGB)


def test_the_package_says_what_it_is_and_where_it_comes_from(package, small_checkpoint):
    description = specification(package).description
    assert description.metadata.author == 'A. Uthor'
    assert description.metadata.versionString == '1.2'
    assert '96x80' in description.metadata.shortDescription
    about = dict(description.metadata.userDefined)
    assert about['checkpoint'] == 'epoch-3-iter-29.pth'
    assert about['checkpoint_sha256'] == hashlib.sha256(small_checkpoint.read_bytes()).hexdigest()
    assert about['refine_sample_pixels'] == '1600'
    assert all(feature.shortDescription for feature in [*description.input, *description.output])


def test_the_step_comes_from_the_record_of_the_checkpoint(tmp_path, checkpoint):
    copy = tmp_path / checkpoint.name
    shutil.copy(checkpoint, copy)
    sha256 = Verifier().digest(copy)
    file = File(copy.name, copy.stat().st_size, sha256)
    record = Record('0123456789ab', 'refine', copy.stem, 29, 3, {}, 'interval', {}, {'weights': file})
    (tmp_path / f'{copy.stem}.json').write_bytes(record.to_bytes())
    (tmp_path / 'best.pth').hardlink_to(copy)
    words = export_case.flags(tmp_path / 'best.pth', tmp_path / 'x.mlpackage', '--resolution', 64, 48)
    about = read_trained_network(export_coreml.parse(words)).about
    assert (about['step'], about['epoch'], about['run']) == ('29', '3', '0123456789ab')
    assert json.dumps(about)  # plain words


@pytest.mark.slow
@pytest.mark.parametrize(
    'more',
    [
        ('--resolution', 66, 50, '--precision', 'float32', '--array-inputs', '--no-image-outputs',
         '--outputs', 'com', 'ref_sm', 'err_sm'),
        ('--resolution', 64, 48, '--refine-form', 'masked', '--no-image-outputs',
         '--minimum-deployment-target', 'iOS15'),
        ('--resolution', 64, 48, '--model-refine-mode', 'thresholding', '--model-refine-threshold', '0.5'),
        ('--resolution', 64, 48, '--plate-state', '--quantize', 'int8'),
        ('--resolution', 64, 48, '--quantize', 'palette6', '--minimum-deployment-target', 'iOS18'),
    ],
)  # fmt: skip
def test_every_form_is_proved_and_written(tmp_path, checkpoint, capsys, more):
    assert run(checkpoint, tmp_path / 'x.mlpackage', *more) == 0
    out = capsys.readouterr().out
    assert out.count('cells refined differently') == (4 if '--quantize' in more else 2)
    assert 'proved equal by running the program of the package' in out
    assert [path.name for path in tmp_path.iterdir()] == ['x.mlpackage']


@pytest.mark.slow
def test_several_sizes_are_functions_with_common_weights(tmp_path, checkpoint):
    package, path = tmp_path / 'one.mlpackage', tmp_path / 'two.mlpackage'
    assert run(checkpoint, package, '--resolution', 96, 80) == 0
    assert run(checkpoint, path, '--resolution', 96, 80, 64, 48) == 0
    description = specification(path).description
    assert [function.name for function in description.functions] == ['matte_96x80', 'matte_64x48']
    assert description.defaultFunctionName == 'matte_96x80'
    assert all(feature.shortDescription for function in description.functions for feature in function.input)
    one, two = (sum(f.stat().st_size for f in p.rglob('*') if f.is_file()) for p in (package, path))
    assert two < 1.3 * one
    small = torch.rand(1, 3, 48, 64) * 255
    outputs, _ = Program(path, function_name((64, 48)))({'src': small, 'bgr': small.flip(3)})
    assert outputs['pha'].shape == (1, 1, 48, 64)


@pytest.mark.slow
def test_a_plate_as_state_is_one_input_less_and_weights_are_quantized_after_the_proof(tmp_path, checkpoint, capsys):
    path = tmp_path / 'x.mlpackage'
    assert run(checkpoint, path, '--resolution', 64, 48, '--plate-state', '--quantize', 'int8') == 0
    out = capsys.readouterr().out
    assert out.count('cells refined differently') == 4
    assert out.index('proved equal by running the program') < out.index('what int8 costs, by running the program')
    assert [path.name for path in tmp_path.iterdir()] == ['x.mlpackage']
    description = specification(path).description
    assert [feature.name for feature in description.input] == ['src']
    assert [feature.name for feature in description.state] == ['plate']
    program = Program(path)
    assert program.states == {'plate': (1, 3, 48, 64)}
    src = torch.rand(1, 3, 48, 64) * 255
    empty, other = (program({'src': src}, {'plate': plate})[0]['pha'] for plate in (torch.zeros_like(src), src))
    assert (empty - other).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize('cells', [16_000, 129_600])
def test_indices_above_65535_keep_their_values(tmp_path, checkpoint, capsys, monkeypatch, cells):
    """The converter's own passes wrap them from iOS 17 on: without the exception made here, HD is ruined."""
    width, height = {16_000: (640, 400), 129_600: (1920, 1080)}[cells]
    words = ('--resolution', width, height, '--minimum-deployment-target', 'iOS17', '--refine-form', 'gather')
    fixed = tmp_path / 'fixed.mlpackage'
    assert run(checkpoint, fixed, *words, pixels=80_000) == 0
    monkeypatch.setattr(conversion, '_pipeline', lambda ct: ct.PassPipeline.DEFAULT)
    wrapped = run(checkpoint, tmp_path / 'wrapped.mlpackage', *words, pixels=80_000)
    # Smaller pictures have no such index: it is not something else that differs.
    assert wrapped == (0 if cells < 65_536 else 1)
    if wrapped:
        assert 'not equal to the original, nothing written' in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ['fixed.mlpackage']


@pytest.mark.usefixtures('converted')
def test_what_differs_leaves_nothing_and_harms_nothing(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(package_parity.LIMITS, 'float16', Limits(0, 0, 0))
    monkeypatch.setattr(parity, 'TIMES_ROUNDING', 0)
    words = ('--resolution', 96, 80)
    assert run(checkpoint, tmp_path / 'x.mlpackage', *words) == 1
    assert 'not equal to the original, nothing written' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    there = tmp_path / 'there.mlpackage'
    there.mkdir()
    for name in ('file', 'Manifest.json'):
        (there / name).write_text('mine')
    assert run(checkpoint, there, *words, '-y') == 1
    assert (there / 'file').read_text() == 'mine'
    assert [path.name for path in tmp_path.iterdir()] == ['there.mlpackage']


@pytest.mark.usefixtures('converted')
def test_what_cannot_be_run_is_not_written(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.delitem(OPERATIONS, 'topk')
    assert run(checkpoint, tmp_path / 'x.mlpackage', '--resolution', 96, 80) == 1
    assert 'the program cannot be run: MIL operation topk' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures('converted')
def test_an_existing_package_is_replaced_when_that_is_asked_for(tmp_path, checkpoint, capsys):
    there = tmp_path / 'there.mlpackage'
    there.mkdir()
    (there / 'file').write_text('mine')
    assert run(checkpoint, there, '--resolution', 64, 48, '-y') == 2
    assert f'--output {there}: is a folder; choose another name' in capsys.readouterr().err
    (there / 'Manifest.json').write_text('of a package')
    assert run(checkpoint, there, '--resolution', 64, 48) == 2
    assert f'--output {there}: exists; choose another name, or add -y to replace it' in capsys.readouterr().err
    assert run(checkpoint, there, '--resolution', 96, 80, '--no-validate', '-y') == 0
    assert 'not compared with the original' in capsys.readouterr().out
    assert sorted(path.name for path in there.iterdir()) == ['Data', 'Manifest.json']
    assert [path.name for path in tmp_path.iterdir()] == ['there.mlpackage']


def test_a_comparison_counts_cells_and_forgives_none_that_are_nan():
    ref = torch.zeros(1, 1, 2, 2)
    ref[0, 0, 0] = 1
    pha = torch.zeros(1, 1, 8, 8)
    moved, other = ref.clone(), pha.clone()
    moved[0, 0, 0, 1], moved[0, 0, 1, 1] = 0, 1
    other[..., :4, :4] = 0.25
    other[..., 4:, 4:] = 1  # refined by one alone: rounding decides that, so it does not count
    found = compare('x', {'pha': pha, 'ref_sm': ref}, {'pha': other, 'ref_sm': moved})
    assert (found.refined, found.differing) == (2, 2)
    assert found.differences == {'pha': OutputDifference(worst=0.25, mean=0.125, refined=0.25)}
    assert found.problems(Limits(mean=1, worst=0.2, cells=0)) == ['pha differs by up to 2.5e-01, more than 2.0e-01']
    assert found.problems(Limits(mean=0.2, worst=1, cells=0)) == [
        'pha differs in the mean of refined cells by 2.5e-01, more than 2.0e-01'
    ]
    found = compare('x', {'pha': pha, 'ref_sm': ref}, {'pha': other, 'ref_sm': 1 - ref})
    assert found.differences == {'pha': OutputDifference(worst=0, mean=0, refined=0)}
    assert found.problems(Limits(mean=1, worst=1, cells=0.9)) == [
        '4 of 2 cells are refined differently, more than 4, which are 2 in place of others'
    ]
    other[0, 0, 0, 0] = torch.nan
    found = compare('x', {'pha': pha, 'ref_sm': ref}, {'pha': other, 'ref_sm': ref})
    assert len(found.problems(Limits(mean=9, worst=9, cells=9))) == 3


def test_rounding_is_measured_with_the_factors_that_the_converter_writes():
    x = torch.rand(1, 2, 34, 60)
    with package_parity._WrittenFactors():
        found = F.interpolate(x, (135, 240), mode='bilinear', align_corners=False)
        nearest = F.interpolate(x, scale_factor=2.0, mode='nearest')
    assert found.shape == (1, 2, 135, 240)
    assert torch.equal(found, upsample_bilinear(x, (135 + 1e-4) / 34, 4.0, align_corners=False))
    assert not torch.equal(found, F.interpolate(x, (135, 240), mode='bilinear', align_corners=False))
    assert torch.equal(nearest, F.interpolate(x, scale_factor=2.0, mode='nearest'))
