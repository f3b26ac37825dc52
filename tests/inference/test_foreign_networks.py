"""ONNX files of other exporters are run, of any or of fixed sizes; files of another kind are refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.inference_case import Case, photo, read, room
from support.onnx_case import difference, exported, onnx, without_metadata

import inference_speed_test
from export import onnx_file
from inference import backends, onnx_network
from inference.networks import find_network

__all__ = ['exported']

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.timeout(600)]


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
