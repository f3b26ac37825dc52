"""The recipes of docs/export.md for other runtimes, run as they stand there: alpha is that of the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import export_case
from support.inference_case import ROOT

from export import parity
from inference.networks import find_network

# Pythons that have what this one lacks, or cannot have beside its torch.
OTHERS = 'RECIPE_PYTHONS'
SIZE = (201, 118)  # multiples of nothing that a network needs
PROGRAM = """
import numpy as np
src, bgr = (np.load(f'{{name}}.npy') for name in ('src', 'bgr'))
{}
np.save('pha.npy', pha)
"""


def python_with(module: str) -> str:
    """The first Python that has a module; the test is skipped if there is none."""
    for python in (sys.executable, *filter(None, os.environ.get(OTHERS, '').split(os.pathsep))):
        if subprocess.run([python, '-c', f'import {module}'], capture_output=True, cwd='/').returncode == 0:
            return python
    pytest.skip(f'{module} is not installed; {OTHERS}=/path/to/python names another Python that has it')


def recipe(module: str) -> str:
    """The one block of the page that imports a module."""
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/export.md').read_text(), re.DOTALL)
    [found] = [block for block in blocks if re.search(rf'^(import|from) {module}\b', block, re.MULTILINE)]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ('module', 'name', 'form', 'worst'),
    [
        ('openvino', 'matting.onnx', 'gather', 2e-5),
        ('cv2', 'matting.onnx', 'masked', 2e-5),
        ('executorch', 'matting.pt2', 'gather', 2e-5),
        ('litert_torch', 'matting.pt2', 'gather', 2e-5),
        ('MNN', 'matting.onnx', 'masked', 2e-3),
    ],
)
def test_a_recipe_gives_the_networks_alpha(
    tmp_path: Path, checkpoints: dict[str, Path], module: str, name: str, form: str, worst: float
) -> None:
    python, script = python_with(module), 'export_onnx' if name.endswith('.onnx') else 'export_torchscript'
    words = ['--resolution', *SIZE, '--refine-form', form, '--model-backbone-scale', 0.5]
    words += ['--outputs', 'pha', 'fgr'] if script == 'export_onnx' else []
    assert export_case.run(script, checkpoints['mattingrefine'], tmp_path / name, *words) == 0
    pair = parity.pairs(*SIZE)[0].tensors()
    for key, value in zip(('src', 'bgr'), pair):
        np.save(tmp_path / f'{key}.npy', value.numpy())
    command = [python, '-c', PROGRAM.format(recipe(module))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = {'backbone_scale': 0.5, 'refine_sample_pixels': 800}
    network, _ = find_network(checkpoints['mattingrefine'], backend='pytorch', **settings).build()
    expected = parity.outputs_of(network.eval(), *pair)['pha'].numpy()
    found = np.load(tmp_path / 'pha.npy')
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < worst
