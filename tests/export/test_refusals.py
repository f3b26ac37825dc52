"""What the export scripts refuse before anything is converted, in one message, with nothing left behind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from support.export_case import flags, run
from support.inference_case import room, save

import export_onnx
from common.installation import install_command

# For each script: a suffix that it takes, and flags that it needs.
SCRIPTS = {
    'export_coreml': ('.mlpackage', ('--resolution', 64, 64)),
    'export_onnx': ('.onnx', ()),
    'export_torchscript': ('.pt', ()),
}
every_script = pytest.mark.parametrize('script', SCRIPTS)


@every_script
def test_names_that_are_taken_and_other_weights_are_refused(
    tmp_path: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str], script: str
) -> None:
    suffix, needed = SCRIPTS[script]
    out, folder = tmp_path / f'model{suffix}', tmp_path / f'folder{suffix}'
    taken = tmp_path / f'taken{suffix}'
    if suffix == '.mlpackage':
        taken.mkdir()
        (taken / 'Manifest.json').touch()
    else:
        taken.write_text('mine')
    folder.mkdir()
    picture = save(tmp_path / 'picture.png', room(0))
    names = sorted(x.name for x in tmp_path.iterdir())
    refine, base = checkpoints['mattingrefine'], checkpoints['mattingbase']
    for words, model_type, message in (
        ((refine, taken), 'mattingrefine', f'--output {taken}: exists; choose another name, or add -y to replace it'),
        ((refine, folder, '-y'), 'mattingrefine', f'--output {folder}: is a folder; choose another name'),
        ((base, out), 'mattingrefine', 'holds weights of mattingbase with mobilenetv2, not of mattingrefine'),
        ((base, out), 'mattingrefine', 'use --model-type mattingbase --model-backbone mobilenetv2'),
        ((refine, out), 'mattingbase', 'use --model-type mattingrefine --model-backbone mobilenetv2'),
        ((refine, out, '--model-backbone', 'resnet50'), 'mattingrefine', '--model-backbone mobilenetv2, or another'),
        ((tmp_path / 'none.pth', out), 'mattingbase', f'--model-checkpoint {tmp_path}/none.pth: no such file'),
        ((picture, out), 'mattingbase', f'{picture}: a picture, not weights'),
    ):
        assert run(script, *words, *needed, model_type=model_type) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count('\n') == 1
    assert sorted(x.name for x in tmp_path.iterdir()) == names
    assert suffix == '.mlpackage' or taken.read_text() == 'mine'


def test_a_package_does_not_replace_a_file(tmp_path: Path, checkpoints, capsys) -> None:
    (tmp_path / 'x.mlpackage').write_text('mine')
    words = (checkpoints['mattingrefine'], tmp_path / 'x.mlpackage', '--resolution', 64, 64, '-y')
    assert run('export_coreml', *words) == 2
    assert f'--output {tmp_path}/x.mlpackage: is a file; choose another name' in capsys.readouterr().err
    assert (tmp_path / 'x.mlpackage').read_text() == 'mine'


def test_all_problems_are_reported_in_one_message(
    tmp_path: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name.startswith('onnx') else find(name))
    path = tmp_path / 'no' / 'model.pt'
    flags = ['--onnx-opset-version', 26, '--outputs', 'pha', 'hid', '--model-backbone-scale', 0.7]
    assert run('export_onnx', checkpoints['mattingrefine'], path, *flags) == 2
    first, *lines = capsys.readouterr().err.replace(f'{sys.executable} (Python 3.11)', 'PYTHON').splitlines()
    assert first == 'error: 6 problems:'
    assert sorted(lines) == [
        '  --model-backbone-scale 0.7: must be above 0 and at most 0.5',
        '  --onnx-opset-version 26: must be in 18..25',
        f'  --output {path}: must end in .onnx',
        f'  --output {path}: there is no folder {path.parent}',
        '  --outputs hid: mattingrefine has pha, fgr, pha_sm, fgr_sm, err_sm, ref_sm',
        f'  onnx, onnxscript, onnxruntime are not installed for PYTHON; {install_command("export")}',
    ]


def test_names_that_cannot_be_written_are_refused_in_one_message(tmp_path: Path, checkpoints, capsys) -> None:
    weights = checkpoints['mattingrefine']
    path = tmp_path / 'no' / 'model.onnx'
    assert run('export_torchscript', weights, path, '--model-backbone-scale', 0.7) == 2
    err = capsys.readouterr().err
    assert '3 problems:' in err
    assert f'--output {path}: must end in .pt or .pth or .pt2' in err
    assert f'there is no folder {path.parent}' in err
    assert '--model-backbone-scale 0.7: must be above 0 and at most 0.5' in err
    assert run('export_torchscript', weights, weights, '-y') == 2
    assert 'is one of the files to read' in capsys.readouterr().err
    assert run('export_coreml', weights, path, '--resolution', 64, 64) == 2
    err = capsys.readouterr().err
    assert 'must end in .mlpackage' in err
    assert f'there is no folder {path.parent}' in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (('--resolution', 0, 64), '--resolution 0 64: sides must be in 16..16384'),
        (('--resolution', 64), '--resolution 64: width and height, in pairs'),
        (('--resolution', 64, 8), '--resolution 64 8: sides must be in 16..16384'),
        (('--resolution', 64, 64, '--outputs', 'hid'), '--outputs hid: mattingrefine has com, pha, fgr'),
        (('--resolution', 64, 64, '--plate-state', '--minimum-deployment-target', 'iOS16'),
         '--minimum-deployment-target iOS16: must be iOS18 for --plate-state'),
        (('--resolution', 64, 64, '--model-refine-mode', 'thresholding', '--refine-form', 'gather'),
         '--refine-form gather: in thresholding mode the number of cells depends on the picture'),
        (('--resolution', 64, 64, '--minimum-deployment-target', 'iOS15'), '--no-image-outputs'),
    ],
)  # fmt: skip
def test_flags_of_core_ml_that_do_not_go_together_are_refused(tmp_path, checkpoints, capsys, more, message) -> None:
    assert run('export_coreml', checkpoints['mattingrefine'], tmp_path / 'x.mlpackage', *more) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('script', 'suffix', 'more', 'message'),
    [
        ('export_onnx', 'onnx', ('--resolution', 0, 64), '--resolution 0 64: sides must be in 16..16384'),
        ('export_torchscript', 'pt2', ('--resolution', 64, 20000), '--resolution 64 20000: sides must be in'),
        ('export_torchscript', 'pt', ('--resolution', 64, 64), 'takes any size; leave --resolution out'),
    ],
)  # fmt: skip
def test_sizes_that_a_file_cannot_have_are_refused(
    tmp_path, checkpoints, capsys, script, suffix, more, message
) -> None:
    assert run(script, checkpoints['mattingrefine'], tmp_path / f'x.{suffix}', *more) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_a_size_is_checked_again_when_the_network_is_known(tmp_path, checkpoints, capsys) -> None:
    more = ('--resolution', 32, 19, '--model-backbone-scale', 0.05)
    words = flags(checkpoints['mattingrefine'], tmp_path / 'x.onnx', *more)
    assert words.pop(0) == '--model-type'
    assert export_onnx.main(words[1:]) == 2
    assert capsys.readouterr().err == 'error: --resolution 32 19: too small for --model-backbone-scale 0.05\n'
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named_before_anything_is_loaded(tmp_path, checkpoints, capsys, monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'coremltools' else real(name))
    words = (checkpoints['mattingrefine'], tmp_path / 'x.mlpackage', '--resolution', 64, 64)
    assert run('export_coreml', *words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f'error: coremltools is not installed for {sys.executable} ')
    assert err.endswith("pip install -c constraints.txt -e '.[export]'\n")
