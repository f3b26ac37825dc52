"""Whether a Core ML package, as it lies on the disk, gives what the network gives that it was made from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export import ParityError
from export.parity import Comparison, Limits, Pair, compare, outputs_of, pairs

from .conversion import PLATE, Settings, quiet
from .mil import Program
from .package import function_name

# Some three times what was measured on trained networks (docs/export.md). Cells that land elsewhere differ by up to 1.
LIMITS = {'float32': Limits(mean=1e-4, worst=2e-3, cells=0.001), 'float16': Limits(mean=1e-2, worst=0.3, cells=0.05)}
# What smaller weights may cost, which proves little: the program is proved before its weights are made smaller.
LOSSES = {'int8': Limits(mean=3e-2, worst=1.0, cells=0.1), 'palette6': Limits(mean=1e-1, worst=1.0, cells=0.4)}


def evaluate(
    network: nn.Module, package: Path, settings: Settings, files: Sequence[Path] = ()
) -> tuple[list[Comparison], list[Tensor | None]]:
    """Compares each function with the original on two pairs, by running its program with torch.

    Args:
        network: the original.
        package: the .mlpackage.
        settings: that it was made with.
        files: a photograph and its plate, in place of the sample photographs.

    Returns:
        What each pair showed, and which cells the package refined of it (1, 1, h, w), if it refines any.

    Raises:
        ParityError: the program has an operation that is not known here, or an index beyond what it points into.
    """
    found, cells = [], []
    for size in settings.sizes:
        with quiet():
            program = Program(package, function_name(size) if len(settings.sizes) > 1 else None)
        for pair in pairs(*size, files):
            src, bgr = pair.tensors()
            scale = 255 if settings.image_inputs else 1
            plate = {PLATE: bgr * 255} if settings.plate_state else {}
            inputs = {'src': src * scale} if settings.plate_state else {'src': src * scale, 'bgr': bgr * scale}
            try:
                with torch.no_grad():
                    outputs, seen = program(inputs, plate, seen=('topk', 'select'))
            except (IndexError, NotImplementedError, ValueError) as error:
                raise ParityError(f'nothing written: {pair.name}: the program cannot be run: {error}') from error
            expected = _expected(network, src, bgr, settings)
            if 'ref_sm' in expected:
                outputs.setdefault('ref_sm', _refined(seen, expected['ref_sm']))
            cells.append(outputs.get('ref_sm'))
            found.append(compare(pair.name, expected, _in_unit_range(outputs, settings)))
    return found, cells


def predict(
    network: nn.Module, package: Path, settings: Settings, files: Sequence[Path], cells: Sequence[Tensor | None]
) -> list[Comparison]:
    """The same by Core ML itself, which macOS alone has.

    Args:
        network, package, settings, files: as in `evaluate`.
        cells: that `evaluate` found: Core ML gives no values from within, and refines the same, but for rounding.
    """
    if sys.platform != 'darwin':
        raise RuntimeError('Core ML runs on macOS')
    import coremltools as ct

    found = []
    for size in settings.sizes:
        function = function_name(size) if len(settings.sizes) > 1 else None
        model = ct.models.MLModel(str(package), function_name=function)
        for pair in pairs(*size, files):
            src, bgr = pair.tensors()
            state = model.make_state() if settings.plate_state else None
            if state is not None:
                state.write_state(PLATE, (bgr * 255).numpy())
            results = model.predict(_features(pair, settings), state)
            outputs = {name: _as_tensor(value) for name, value in results.items()}
            refined = cells[len(found)]
            if refined is not None:
                outputs.setdefault('ref_sm', refined)
            found.append(compare(pair.name, _expected(network, src, bgr, settings), _in_unit_range(outputs, settings)))
    return found


def _expected(network: nn.Module, src: Tensor, bgr: Tensor, settings: Settings) -> dict[str, Tensor]:
    expected = outputs_of(network, src, bgr)
    if 'com' in settings.outputs:
        expected['com'] = torch.cat([expected['fgr'] * expected['pha'], expected['pha']], 1)
    return expected


def _in_unit_range(outputs: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    return {name: x / 255 if name == 'fgr' and settings.image_outputs else x for name, x in outputs.items()}


def _refined(seen: Mapping[str, list[Any]], like: Tensor) -> Tensor:
    """Which cells a program refined (1, 1, h, w), by the operations that choose them: top-k, or a mask of pixels."""
    if seen['topk']:
        [(_, (values, indices))] = seen['topk']
        return torch.zeros(like.numel()).index_put((indices.flatten(),), (values > 0).flatten().float()).view_as(like)
    masks = [arguments['cond'] for arguments, _ in seen['select'] if arguments['cond'].ndim == 4]
    return masks[0][:, :1, ::4, ::4].float() if masks else torch.ones_like(like)


def _features(pair: Pair, settings: Settings) -> dict[str, Any]:
    from PIL import Image

    pictures = {'src': pair.src} if settings.plate_state else {'src': pair.src, 'bgr': pair.bgr}
    if settings.image_inputs:
        return {name: Image.fromarray(x) for name, x in pictures.items()}
    return {name: x.transpose(2, 0, 1)[None].astype(np.float32) / 255 for name, x in pictures.items()}


def _as_tensor(value: Any) -> Tensor:
    """A prediction as (1, C, H, W): an array as it is, a grey image of alpha or an RGB one."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    x = torch.from_numpy(np.array(value))
    return x[None, None] if x.ndim == 2 else x[..., :3].permute(2, 0, 1)[None].float()
