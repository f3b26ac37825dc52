"""A file of export_onnx.py as a network: its metadata, and its results by ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.files import path_or_content
from common.network import OUTPUTS

# Metadata without which a file cannot be used.
NEEDED = ('model_type', 'backbone', 'precision', 'sides_multiple_of', 'outputs')
PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}


class OnnxNetwork(nn.Module):
    """An exported network, with the arguments and results of the one that it was made from.

    Pictures whose sides the file does not take are padded by repeating the border; alpha and foreground are cropped
    back. Computes with as many threads as torch would where it is called; any number of threads may call it at once.

    Pictures go to 'cuda' by way of the computer's memory.

    Raises:
        ValueError: it was not made by export_onnx.py, lacks alpha or foreground, or ONNX Runtime has no such device.
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
        """Take float pictures (B, 3, H, W), 0..1; return what the network does, None for what the file leaves out."""
        height, width = src.shape[2:]
        multiple = int(self.about['sides_multiple_of'])
        pad = (0, -width % multiple, 0, -height % multiple)
        if any(pad):
            src, bgr = (F.pad(x, pad, mode='replicate') for x in (src, bgr))
        pictures = {name: x.to('cpu', self.dtype).contiguous().numpy() for name, x in (('src', src), ('bgr', bgr))}
        results = self._session().run(self.outputs, pictures)
        found = {name: torch.from_numpy(x).to(self.device) for name, x in zip(self.outputs, results)}
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
    """Read a file's metadata; raise a ValueError if it was not made by export_onnx.py."""
    session = open_session(path, torch.device('cpu'), 1, optimized=False)
    about = session.get_modelmeta().custom_metadata_map
    inputs = [x.name for x in session.get_inputs()]
    if inputs != ['src', 'bgr'] or not about.keys() >= {*NEEDED}:
        named = ', '.join(inputs)
        raise ValueError(f'{path}: not made by export_onnx.py (its inputs: {named}), so how to use it is unknown')
    return about
