"""An ONNX file that stands for an exported network, an archive of TorchScript, and copies that say something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.network import OUTPUTS, NetworkSettings, RefinerSettings
from export import torchscript
from inference.networks import find_network
from model import MattingBase

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from export import onnx_file  # noqa: E402

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
