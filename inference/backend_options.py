"""The checks of `--backend`, and flags that follow the settings of an exported file. Importing this imports no torch.

An exported file says with which settings it was made, and flags that are not typed take these. Those of an ONNX file
are fixed, so a flag that says otherwise is an error.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.installation import missing_problems
from common.network import RefinerSettings

from . import options

# The flags whose values an exported file holds, too.
SETTINGS = {f'model_{name}': type(value) for name, value in vars(RefinerSettings()).items()} | {'precision': str}


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read a command line; `typed` of the result names the flags that were given, even if with their defaults."""
    args = parser.parse_args(argv)
    # Flags that find a value do not set their default.
    blank = argparse.Namespace(**dict.fromkeys(vars(args), parser))
    values = vars(parser.parse_args(argv, blank))
    args.typed = [name for name, value in values.items() if value is not parser]
    return args


def backend_problems(args: argparse.Namespace, convertible: bool = False) -> list[str]:
    """Return what is wrong with `--backend`, one or several, and with what it is to run.

    `convertible` says that weights, or none, are as good as a file of the backend's own.
    """
    path, found = args.model_checkpoint, []
    suffix = None if path is None else path.suffix
    if suffix == '.pt2':
        found.append(f'--model-checkpoint {path}: a program of torch.export, which no --backend runs; give its weights')
    for backend in options.several(args.backend):
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


def network_problems(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with the flags of network, machine and backend, after they followed an exported file."""
    found = backend_problems(args)
    if not found:
        follow(args)
    return found + options.model_problems(args) + options.device_problems(args)


def follow(args: argparse.Namespace) -> None:
    """Give flags that were not typed the settings of an exported file, if `backend_problems` finds none.

    Raises:
        ValueError: an ONNX file was not made by export_onnx.py, or lacks an output of `--output-types`.
    """
    path = args.model_checkpoint
    if path is None or not path.is_file():
        return
    if path.suffix == '.onnx':
        from .onnx_network import read_about

        about = read_about(path)
        outputs = about['outputs'].split()
        for kind in getattr(args, 'output_types', ()):
            if kind in ('err', 'ref') and kind not in outputs and f'{kind}_sm' not in outputs:
                alone = f'{path} was exported with --outputs {" ".join(outputs)} alone'
                raise ValueError(f'--output-types {kind}: {alone}')
    else:
        about = _archive_about(path)
    for name, convert in SETTINGS.items():
        key = name.removeprefix('model_')
        if key not in about:
            continue
        given, held = getattr(args, name), convert(about[key])
        if name not in args.typed or given == 'auto':
            setattr(args, name, [held] if isinstance(given, list) else held)
        elif isinstance(given, list):
            setattr(args, name, [held if value == 'auto' else value for value in given])


def _archive_about(path: Path) -> Mapping[str, str]:
    """Return what a TorchScript archive says of itself, except its precision, which can be changed; else nothing."""
    try:
        if not zipfile.is_zipfile(path):
            return {}
        with zipfile.ZipFile(path) as archive:
            named = [name for name in archive.namelist() if name.endswith('/extra/about.json')]
            about = json.loads(archive.read(named[0])) if named else {}
    except Exception as error:  # zipfile raises a dozen types on damaged files
        raise ValueError(f'{path}: damaged: {error}') from None
    return {key: value for key, value in about.items() if key != 'precision'}
