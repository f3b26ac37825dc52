"""An ONNX file as a network: what it says of itself, and its results by ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.files import path_or_content
from common.network import OUTPUTS

# Metadata that a file of export_onnx.py has.
NEEDED = ('model_type', 'backbone', 'precision', 'sides_multiple_of', 'outputs')
UNKNOWN = 'unknown backbone'  # of a file of another exporter
PRECISIONS = {'tensor(float)': 'float32', 'tensor(float16)': 'float16'}
PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}


class OnnxNetwork(nn.Module):
    """An exported network, with the arguments and results of the one that it was made from.

    Pictures whose sides are no multiples that the file takes are padded by repeating the border; alpha and foreground
    are cropped back. Computes with as many threads as torch would where it is called; any number of threads may call
    it at once.

    Pictures go to 'cuda' by way of the computer's memory.

    Raises:
        ValueError: it is no matting network, lacks alpha or foreground, or ONNX Runtime has no such device.
    """

    def __init__(self, path: Path, device: torch.device):
        super().__init__()
        if not has_device(device.type):
            raise ValueError(
                f'--device {device.type}: ONNX Runtime {onnxruntime.__version__} has no '
                f'{PROVIDERS.get(device.type, "such device")}; use --device cpu, or install onnxruntime-gpu'
            )
        self.path, self.device, self.about = path, device, read_about(path)
        self.dtype = getattr(torch, self.about['precision'])  # of the weights
        self.outputs = self.about['outputs'].split()
        lacking = [name for name in ('pha', 'fgr') if name not in self.outputs]
        if lacking:
            raise ValueError(f'{path}: has no output {" ".join(lacking)}; export it with --outputs pha fgr')
        self._sessions: dict[int, Any] = {}
        self._lock = threading.Lock()

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor | None, ...]:
        """Take float pictures (B, 3, H, W), 0..1; return what the network does, None for what the file leaves out.

        Raises:
            ValueError: the file takes pictures of another size alone.
        """
        height, width = src.shape[2:]
        if self.about.get('resolution', f'{width}x{height}') != f'{width}x{height}':
            raise ValueError(f'{self.path} takes pictures of {self.about["resolution"]} alone, not {width}x{height}')
        multiple = int(self.about['sides_multiple_of'])
        pad = (0, -width % multiple, 0, -height % multiple)
        if any(pad):
            src, bgr = (F.pad(x, pad, mode='replicate') for x in (src, bgr))
        pictures = {name: x.to('cpu', self.dtype).contiguous().numpy() for name, x in (('src', src), ('bgr', bgr))}
        session, step = self._session(), int(self.about.get('batch', len(src)))
        parts = []
        for i in range(0, len(src), step):
            places = np.arange(i, i + step).clip(max=len(src) - 1)  # the last part is filled with the last picture
            parts.append(session.run(self.outputs, {name: x[places] for name, x in pictures.items()}))
        results = (torch.from_numpy(np.concatenate(x)) if len(x) > 1 else torch.from_numpy(x[0]) for x in zip(*parts))
        found = {name: x[: len(src)].to(self.device) for name, x in zip(self.outputs, results)}
        for name in ('pha', 'fgr'):
            found[name] = found[name][..., :height, :width]
        return tuple(map(found.get, OUTPUTS[self.about['model_type']]))

    def _session(self) -> Any:
        threads = torch.get_num_threads()
        with self._lock:
            if threads not in self._sessions:
                self._sessions = {threads: open_session(self.path, self.device, threads)}
            return self._sessions[threads]


def has_device(kind: str) -> bool:
    """Return whether this ONNX Runtime computes on 'cpu' or 'cuda'."""
    return PROVIDERS.get(kind) in onnxruntime.get_available_providers()


def open_session(path: Path, device: torch.device, threads: int, optimized: bool = True) -> Any:
    """Load a file; raise a ValueError if ONNX Runtime cannot."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait would take the cores from those that read and write pictures.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers: list[Any] = [PROVIDERS['cpu']]
    if device.type == 'cuda':
        providers.insert(0, (PROVIDERS['cuda'], {'device_id': device.index or 0}))
    try:
        session = onnxruntime.InferenceSession(path_or_content(path), options, providers=providers)
    except Exception as error:  # its errors have no type in common
        raise ValueError(f'{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}') from None
    if device.type == 'cuda' and PROVIDERS['cuda'] not in session.get_providers():
        raise ValueError(
            f'{path}: ONNX Runtime cannot load its CUDA libraries, of which it prints more above; use --device cpu'
        )
    return session


def read_about(path: Path) -> Mapping[str, str]:
    """Read a file's metadata, or find out by its inputs and outputs what those of other exporters do not say.

    To these come 'batch' and 'resolution', such as '1920x1080', where they are fixed.

    Raises:
        ValueError: its inputs and outputs are not those of a matting network.
    """
    session = open_session(path, torch.device('cpu'), 1, optimized=False)
    about = dict(session.get_modelmeta().custom_metadata_map)
    inputs, outputs = session.get_inputs(), [x.name for x in session.get_outputs()]
    named = [x.name for x in inputs]
    type_ = next((kind for kind, names in OUTPUTS.items() if names == tuple(outputs)), None)
    if named != ['src', 'bgr'] or not (about.keys() >= {*NEEDED} or (type_ and inputs[0].type in PRECISIONS)):
        names = f'inputs: {", ".join(named)}; outputs: {", ".join(outputs)}'
        raise ValueError(f'{path}: neither made by export_onnx.py nor a published network ({names})')
    if not about.keys() >= {*NEEDED}:
        sides = '4' if type_ == 'mattingrefine' else '1'
        found = str(type_), UNKNOWN, PRECISIONS[inputs[0].type], sides, ' '.join(outputs)
        about |= dict(zip(NEEDED, found))
    batch, _, height, width = inputs[0].shape
    if isinstance(batch, int):
        about['batch'] = str(batch)
    if isinstance(height, int) and isinstance(width, int):
        about['resolution'] = f'{width}x{height}'
    return about
