"""The checks of `--backend`, and flags that follow the file of `--model-checkpoint`. Importing this imports no torch.

A file says which network it holds and what runs it; its record, or what an exported file says of itself, how it is to
run. Flags that are left out take these; the settings of an ONNX file are fixed, so another one is an error.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.installation import missing_problems
from common.network import RefinerSettings, Size

from . import options

if TYPE_CHECKING:
    from .networks import FoundNetwork


def backend_problems(args: argparse.Namespace, convertible: bool = False) -> list[str]:
    """Return what is wrong with `--backend`, one or several, and with what it is to run.

    `convertible` says that weights, or none, are as good as a file of the backend's own.
    """
    path, found = args.model_checkpoint, []
    suffix = None if path is None else path.suffix
    if suffix == '.pt2':
        found.append(f'--model-checkpoint {path}: a program of torch.export, which no --backend runs; give its weights')
    for backend in backends_of(args):
        if suffix == '.onnx' and backend != 'onnx':
            found.append(f'--model-checkpoint {path}: an ONNX file, which needs --backend onnx, not {backend}')
        if backend == 'onnx' and suffix not in ('.onnx', '.pt2') and not convertible:
            found.append(f'--backend onnx: needs an .onnx file, not {path}; make one of it with export_onnx.py')
        if backend != 'pytorch' and args.compile:
            found.append(f'--backend {backend}: cannot be compiled; leave out --compile, or this backend')
        if backend == 'onnx' and args.device == 'mps':
            found.append('--device mps: ONNX Runtime has none; use cpu')
        exporting = () if suffix == '.onnx' else ('onnx', 'onnxscript')
        needed = ('onnxruntime', *exporting) if backend == 'onnx' else ()
        found += missing_problems(*needed, needed_by='--backend onnx: ')
    return found


def backends_of(args: argparse.Namespace) -> list[str]:
    """Return what `--backend` names, or what it stands for by the name of the file if it is left out."""
    path = args.model_checkpoint
    named = 'onnx' if path is not None and path.suffix == '.onnx' else 'pytorch'
    return options.several(args.backend or named)


def network_problems(args: argparse.Namespace, convertible: bool = False) -> list[str]:
    """Return what is wrong with the flags of network, machine and backend; no file is read yet."""
    found = backend_problems(args, convertible)
    return found + options.model_problems(args) + options.device_problems(args, backends_of(args))


def find(
    args: argparse.Namespace, sizes: Sequence[Size] = (), still: bool = True, backend: str | None = None
) -> FoundNetwork:
    """Read the file of `--model-checkpoint`, and give the flags that were left out what it says.

    Args:
        args: flags of which `network_problems` finds none wrong; those of the network and `precision` are changed.
        sizes: (width, height) of the pictures, as far as they are known.
        still: whether they are pictures rather than frames.
        backend: what is to run it; that of the flags if left out.

    Raises:
        FileNotFoundError, ValueError: as `find_network`; or the file cannot give one of `--output-types`.
    """
    from .networks import find_network

    given = {name: getattr(args, f'model_{name}') for name in vars(RefinerSettings())}
    backend = backend or getattr(args, 'backend', 'pytorch')
    found = find_network(
        args.model_checkpoint, args.model_type, args.model_backbone, sizes=sizes, still=still,
        backend='pytorch' if backend is None and args.compile else backend, **given,
    )  # fmt: skip
    for kind in [kind for kind in ('err', 'ref') if kind in getattr(args, 'output_types', ())]:
        if kind == 'ref' and found.model_type == 'mattingbase':
            raise ValueError('--output-types ref: mattingbase refines nothing; leave it out, or take another network')
        outputs = found.about.get('outputs', kind).split()
        if kind not in outputs and f'{kind}_sm' not in outputs:
            alone = f'{found.path} was exported with --outputs {" ".join(outputs)} alone'
            raise ValueError(f'--output-types {kind}: {alone}')
    args.backend = found.backend
    for name, value in found.settings.values.items():
        setattr(args, f'model_{name.removeprefix("model_")}', value)
    if found.backend == 'onnx' and args.precision == 'auto':
        args.precision = found.about['precision']
    return found
