"""A network ready to be run by a backend, with weights from a file or with random ones: for measuring its speed."""

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

from model.weights import describe, read_weights

from .devices import choose_precision, out_of_memory
from .networks import random_network
from .pipeline import say
from .predictor import Matting


def load(
    model: Mapping[str, Any], backend: str, device: torch.device, precision: str = 'auto', compiled: bool = False
) -> Matting:
    """Builds the predictor; for 'torchscript', `trace` is to follow as soon as there are pictures.

    Args:
        model: arguments of `Matting.from_checkpoint` that name the network, its settings and its weights; a path of
            None for random weights.
        backend: 'pytorch' or 'torchscript', which runs a TorchScript archive as it is.
        device: as for `Matting`.
        precision: as for `Matting`.
        compiled: as for `Matting`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the weights are of another network, or an archive cannot be given its settings.
    """
    if model['path'] is None:
        return Matting(random_network(model), device, precision, compiled)
    if backend == 'torchscript' and read_weights(model['path']).kind == 'TorchScript archive':
        # Converted as a whole, which is how such files are used; the predictor would give it autocast.
        module = _archive(model).to(device, choose_precision(precision, device))
        return Matting(module, device, 'float32')
    return Matting.from_checkpoint(**model, device=device, precision=precision, compiled=compiled)


def trace(matting: Matting, src: Tensor, bgr: Tensor) -> None:
    """Makes the predictor's network TorchScript for pictures of this size, unless it is TorchScript already.

    Raises:
        ValueError: this torch cannot trace it.
    """
    if isinstance(matting.model, torch.jit.ScriptModule):
        return
    try:
        with torch.no_grad(), _sifted_warnings():
            matting.model = torch.jit.trace(matting.model, (src, bgr), check_trace=False)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        reason = str(error).strip().partition('\n')[0]
        raise ValueError(f'--backend torchscript: torch {torch.__version__} cannot trace it: {reason}') from error


def _archive(model: Mapping[str, Any]) -> nn.Module:
    """A TorchScript archive with its settings as asked for."""
    path: Path = model['path']
    held, asked = describe(read_weights(path).state_dict).lower(), f'{model["model_type"]} {model["backbone"]}'
    if held != asked:
        raise ValueError(f'{path} holds {held}, not {asked}: give the --model-type and --model-backbone of the file')
    with _sifted_warnings():
        module = torch.jit.load(path, map_location='cpu').eval()
    for name in ('backbone_scale', 'refine_mode', 'refine_sample_pixels', 'refine_threshold'):
        if name in model and not hasattr(module, name):
            raise ValueError(f'{path}: has no {name} to set, so its settings are unknown; give its state_dict instead')
        if name in model:
            setattr(module, name, model[name])
    return module


@contextlib.contextmanager
def _sifted_warnings() -> Iterator[None]:
    """Leaves out what torch says against TorchScript as such, and sums up its doubts about constants in a trace."""
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
    """Says it once in a process; torch repeats its doubts for every line and trace."""
    say(text)
