"""Parity of a Core ML package, as it lies on the disk, with the network that it was made from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from export import ParityError
from export.parity import Limits, Pair, PairComparison, compare, outputs_of, pairs, require_equal, rounded_outputs

from .conversion import PLATE, PackageSettings, quiet
from .mil import Program
from .package import function_name

# About three times what was measured on trained networks (docs/export.md). A misplaced cell differs by up to 1.
LIMITS = {'float32': Limits(mean=1e-4, worst=2e-3, cells=0.001), 'float16': Limits(mean=1e-2, worst=0.3, cells=0.05)}
# What quantization may cost. These are wide, since the program is proved before its weights are quantized.
LOSSES = {'int8': Limits(mean=3e-2, worst=1.0, cells=0.1), 'palette6': Limits(mean=1e-1, worst=1.0, cells=0.4)}


def prove(original: nn.Module, package: Path, settings: PackageSettings, files: Sequence[Path] = ()) -> None:
    """Run a package, on macOS in Core ML as well, and compare it with the original.

    Args:
        original: the network, float32, with BatchNorm not folded.
        package: the .mlpackage.
        settings: that it was made with; where it is quantized, `LOSSES` are the limits.
        files: a photograph and its plate, as for `pairs`.

    Raises:
        ParityError: the package cannot be run, or its results differ.
    """
    limits, verdict = LIMITS[settings.precision], 'proved equal by'
    if settings.quantize != 'none':
        limits, verdict = LOSSES[settings.quantize], f'what {settings.quantize} costs, by'
    compared, cells = compare_in_torch(original, package, settings, files)
    require_equal(compared, limits, f'{verdict} running the program of the package with torch, in its declared types')
    if sys.platform == 'darwin':
        compared = compare_in_core_ml(original, package, settings, files, cells)
        require_equal(compared, limits, f'{verdict} Core ML on this computer')


def compare_in_torch(
    network: nn.Module, package: Path, settings: PackageSettings, files: Sequence[Path] = ()
) -> tuple[list[PairComparison], list[Tensor | None]]:
    """Run the program of each function in torch and compare it with the original; arguments are those of `prove`.

    Returns:
        For each pair of pictures the comparison, and the cells that the package refined (1, 1, h, w), if it refines.

    Raises:
        ParityError: the program has an operation that is not implemented here, or an index out of range.
    """
    found: list[PairComparison] = []
    cells: list[Tensor | None] = []
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
            limits, rounded = LIMITS[settings.precision], partial(_rounded, network, src, bgr, settings)
            found.append(compare(pair.name, expected, _in_unit_range(outputs, settings), limits, rounded))
    return found, cells


def compare_in_core_ml(
    network: nn.Module, package: Path, settings: PackageSettings, files: Sequence[Path], cells: Sequence[Tensor | None]
) -> list[PairComparison]:
    """Run each function in Core ML itself, which only macOS has, and compare it with the original.

    Core ML returns outputs only; it refines the same `cells` as in `compare_in_torch`, apart from rounding.
    """
    import coremltools as ct

    found: list[PairComparison] = []
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
            expected, rounded = _expected(network, src, bgr, settings), partial(_rounded, network, src, bgr, settings)
            found.append(
                compare(pair.name, expected, _in_unit_range(outputs, settings), LIMITS[settings.precision], rounded)
            )
    return found


def _expected(network: nn.Module, src: Tensor, bgr: Tensor, settings: PackageSettings) -> dict[str, Tensor]:
    return _with_com(outputs_of(network, src, bgr), settings)


def _rounded(network: nn.Module, src: Tensor, bgr: Tensor, settings: PackageSettings) -> dict[str, Tensor]:
    with _WrittenFactors():
        return _with_com(rounded_outputs(network, src, bgr, getattr(torch, settings.precision)), settings)


def _with_com(results: dict[str, Tensor], settings: PackageSettings) -> dict[str, Tensor]:
    com = torch.cat([results['fgr'] * results['pha'], results['pha']], 1)
    return {**results, 'com': com} if 'com' in settings.outputs else results


class _WrittenFactors(TorchFunctionMode):
    """Bilinear resizing by the factors that the converter writes, in a `with` block.

    Where the sides do not divide it adds 1e-4 pixels to them, lest rounding lose one: that shifts what is resized by up
    to as much, which float32 alone would not.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.interpolate and (kwargs or {}).get('mode') == 'bilinear':
            x, size = args[0], args[1] if len(args) > 1 else kwargs['size']
            sides = zip(size, x.shape[2:])
            factors = tuple(out / own if out % own == 0 else (out + 1e-4) / own for out, own in sides)
            args, kwargs = (x,), {'scale_factor': factors, 'mode': 'bilinear', 'recompute_scale_factor': False}
        return func(*args, **(kwargs or {}))


def _in_unit_range(outputs: Mapping[str, Tensor], settings: PackageSettings) -> dict[str, Tensor]:
    return {name: x / 255 if name == 'fgr' and settings.image_outputs else x for name, x in outputs.items()}


def _refined(seen: Mapping[str, list[Any]], like: Tensor) -> Tensor:
    """Return the cells (1, 1, h, w) that a program refined, from the operation that chose them: top-k, or a mask."""
    if seen['topk']:
        [(_, (values, indices))] = seen['topk']
        return torch.zeros(like.numel()).index_put((indices.flatten(),), (values > 0).flatten().float()).view_as(like)
    masks = [arguments['cond'] for arguments, _ in seen['select'] if arguments['cond'].ndim == 4]
    return masks[0][:, :1, ::4, ::4].float() if masks else torch.ones_like(like)


def _features(pair: Pair, settings: PackageSettings) -> dict[str, Any]:
    from PIL import Image

    pictures = {'src': pair.src} if settings.plate_state else {'src': pair.src, 'bgr': pair.bgr}
    if settings.image_inputs:
        return {name: Image.fromarray(x) for name, x in pictures.items()}
    return {name: x.transpose(2, 0, 1)[None].astype(np.float32) / 255 for name, x in pictures.items()}


def _as_tensor(value: Any) -> Tensor:
    """Return a prediction, which is an array, a grey image of alpha or an RGB image, as (1, C, H, W)."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    x = torch.from_numpy(np.array(value))
    return x[None, None] if x.ndim == 2 else x[..., :3].permute(2, 0, 1)[None].float()
