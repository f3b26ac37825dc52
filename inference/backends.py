"""A network ready to be run by a backend: weights from a file or random ones, a TorchScript archive, an ONNX file."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpointing.origin import read_original
from common.cli import flag, out_of_memory
from common.console import say
from common.devices import choose_device, choose_precision
from common.network import NetworkSettings
from model.weights import WeightFile, describe

from .networks import FoundNetwork, random_network
from .predictor import Matting


class Archive(nn.Module):
    """A TorchScript archive that is converted to a precision as a whole, and its pictures with it."""

    def __init__(self, archive: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.archive, self.dtype = archive.to(dtype), dtype

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
        """Run the archive on pictures of any precision."""
        return self.archive(src.to(self.dtype), bgr.to(self.dtype))


def load_matting(
    path: Path | None,
    settings: NetworkSettings,
    backend: str,
    device: torch.device,
    precision: str = 'auto',
    compiled: bool = False,
    traceable: bool = False,
    graphs: bool = True,
) -> Matting:
    """Build the predictor.

    Args:
        path: weights, or an exported file; None for random weights.
        settings: which network the file holds, and how it is to refine.
        backend: 'pytorch'; 'torchscript', which runs a TorchScript archive as it is; 'onnx', which runs an ONNX file.
        device: as for `Matting`.
        precision: as for `Matting`; of an ONNX file 'auto' or its own.
        compiled, graphs: as for `Matting`.
        traceable: for 'torchscript' take weights as well, since `trace` is to follow as soon as there are pictures.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged; the weights are of another network; an archive cannot be given its settings,
            or an ONNX file has others; the file is not of this backend's kind.
    """
    if path is None:
        return Matting(random_network(settings), device, precision, compiled, graphs)
    if backend == 'onnx':
        return _onnx(path, settings, device, precision)
    if backend == 'torchscript':
        held = read_original(path).file
        if held.is_archive:
            dtype = choose_precision(precision, device)
            return _as_it_is(Archive(_archive(held, settings), dtype), device, dtype)
        if not traceable:
            raise ValueError(
                f'--backend torchscript: needs a TorchScript archive, not {path}; make one of it with '
                'export_torchscript.py'
            )
    return Matting.from_checkpoint(
        path, **settings.values, device=device, precision=precision, compiled=compiled, graphs=graphs
    )


def load_found(found: FoundNetwork, flags: Mapping[str, Any], local_rank: int = 0) -> tuple[Matting, str]:
    """Build the predictor of a file; return it, and a line that says what it is and what was taken from where.

    Args:
        found: what the file holds.
        flags: of the script, by name: `device`, `precision`, `compile` and `cuda_graphs` are read.
        local_rank: of this process on its machine.

    Raises:
        FileNotFoundError, ValueError: as `load_matting`.
    """
    device = device_for(found.backend, flags['device'], local_rank)
    if found.backend == 'pytorch':
        matting = Matting(found, device, flags['precision'], flags['compile'], flags['cuda_graphs'])
    else:
        matting = load_matting(found.path, found.settings, found.backend, device, flags['precision'])
    return matting, f'{found}; on {matting.device} in {str(matting.dtype).removeprefix("torch.")}'


def device_for(backend: str, name: str, local_rank: int = 0) -> torch.device:
    """Choose the device as `choose_device` does; 'auto' means the CPU where ONNX Runtime has nothing else."""
    if backend == 'onnx' and name == 'auto':
        from .onnx_network import has_device

        name = 'cuda' if torch.cuda.is_available() and has_device('cuda') else 'cpu'
    return choose_device(name, local_rank)


def precision_for(backend: str, name: str, device: torch.device) -> str:
    """Return the precision that `--precision` means; with ONNX Runtime, which has float16 on CPUs, auto is float32."""
    if backend == 'onnx':
        return 'float32' if name == 'auto' else name
    return str(choose_precision(name, device)).removeprefix('torch.')


def trace(matting: Matting, src: Tensor, bgr: Tensor) -> None:
    """Make the predictor's network TorchScript for pictures of this size, unless it is TorchScript already."""
    if isinstance(matting.model, Archive):
        return
    try:
        with torch.no_grad(), _sifted_warnings():
            matting.model = torch.jit.trace(matting.model, (src, bgr), check_trace=False)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        reason = str(error).strip().partition('\n')[0]
        raise ValueError(f'--backend torchscript: torch {torch.__version__} cannot trace it: {reason}') from error


def _as_it_is(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Matting:
    """Return the predictor of a network that keeps its own precision."""
    matting = Matting(network, device, 'float32')  # any other precision would turn autocast on
    matting.dtype = dtype
    return matting


def _onnx(path: Path, settings: NetworkSettings, device: torch.device, precision: str) -> Matting:
    """Load an ONNX file, if it is what is asked for."""
    from .onnx_network import UNKNOWN, OnnxNetwork

    network = OnnxNetwork(path, device)
    asked = settings.values
    if precision != 'auto':
        asked['precision'] = precision
    for name, value in asked.items():
        held = network.about.get(name)
        if held not in (None, UNKNOWN) and type(value)(held) != value:
            given = flag(name if name == 'precision' else f'model_{name.removeprefix("model_")}')
            raise ValueError(
                f'{given} {value}: {network.path} was exported with {held}, which cannot be changed; give that, or '
                'export it anew'
            )
    return _as_it_is(network, device, network.dtype)


def _archive(file: WeightFile, settings: NetworkSettings) -> nn.Module:
    """Load a TorchScript archive and give it the settings of its refiner."""
    path, held = file.path, describe(file.state_dict).lower()
    asked = f'{settings.model_type} {settings.backbone}'
    if held != asked:
        raise ValueError(f'{path} holds {held}, not {asked}: give the --model-type and --model-backbone of the file')
    with _sifted_warnings(), path.open('rb') as content:  # torch takes no path that is no valid text
        module = torch.jit.load(content, map_location='cpu').eval()
    changeable = ('backbone_scale', 'refine_mode', 'refine_sample_pixels', 'refine_threshold')
    for name in changeable if settings.refiner else ():
        if not hasattr(module, name):
            raise ValueError(
                f'{path}: has no {name} to set, so its settings are unknown; --backend pytorch takes its weights'
            )
        setattr(module, name, getattr(settings.refiner, name))
    return module


@contextlib.contextmanager
def _sifted_warnings() -> Iterator[None]:
    """Drop the warnings that TorchScript is deprecated, and sum up those about constants in a trace."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        yield
    for warning in caught:
        if issubclass(warning.category, torch.jit.TracerWarning):
            _note('note: what follows from the sides of the pictures is constant in a trace: each holds for its size')
        elif not re.match(r'`torch\.jit\.\w+` is deprecated', str(warning.message)):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@functools.cache
def _note(text: str) -> None:
    """Print a note once per process; torch repeats its warnings for every line and trace."""
    say(text)
