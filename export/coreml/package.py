"""Core ML packages on the disk: one function for each size of pictures, descriptions, metadata."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.network import OUTPUT_MEANINGS

from .conversion import PLATE, PackageSettings, quiet

DESCRIPTIONS = {
    **OUTPUT_MEANINGS,
    'src': 'the picture with the subject, RGB',
    'bgr': 'the same scene without the subject, RGB, from the same camera at the same place and exposure',
    PLATE: 'the same scene without the subject, RGB as planes (1, 3, H, W), 0..255; write it once',
    'com': 'the subject cut out: RGB multiplied by alpha, then alpha, (1, 4, H, W), 0..1',
}


def function_name(size: tuple[int, int]) -> str:
    """Name the function for pictures of a size (width, height) in a package with several."""
    return 'matte_{}x{}'.format(*size)


def save(models: Sequence[Any], settings: PackageSettings, package: Path, about: Mapping[str, str]) -> None:
    """Write models as one package, with descriptions.

    Args:
        models: one for each of the settings' sizes; weights that they share are stored once.
        settings, package: how they were made, and a path that ends in .mlpackage and does not exist.
        about: metadata: 'author', 'license', 'version', 'short description', and any others.

    Raises:
        OSError: the disk's own error.
    """
    with quiet(), _disk_errors(package):
        import coremltools as ct

        if len(models) == 1:
            models[0].save(str(package))
        else:
            with tempfile.TemporaryDirectory(dir=package.parent, prefix='.functions-') as folder:
                functions = ct.utils.MultiFunctionDescriptor()
                for model, size in zip(models, settings.sizes):
                    path = Path(folder) / f'{function_name(size)}.mlpackage'
                    model.save(str(path))
                    functions.add_function(str(path), 'main', function_name(size))
                functions.default_function_name = function_name(settings.sizes[0])
                ct.utils.save_multifunction(functions, str(package))
        # For debugging with another runtime; not part of a package.
        (package / 'executorch_debug_handle_mapping.json').unlink(missing_ok=True)
        specification = ct.utils.load_spec(str(package))
    _describe(specification.description, about)
    [file] = (package / 'Data').glob('*/model.mlmodel')
    file.write_bytes(specification.SerializeToString())


@contextlib.contextmanager
def _disk_errors(package: Path) -> Iterator[None]:
    """Turn what coremltools raises when it cannot write weights into OSError."""
    try:
        yield
    except RuntimeError as error:
        if 'MIL FileWriter' not in str(error):
            raise
        raise OSError(f'{package}: cannot be written: {error}') from error


def _describe(description: Any, about: Mapping[str, str]) -> None:
    metadata = description.metadata
    known = {'author': 'author', 'license': 'license', 'version': 'versionString'}
    metadata.shortDescription = about.get('short description', '')
    for key, field in known.items():
        if about.get(key):
            setattr(metadata, field, about[key])
    for key, value in about.items():
        if key not in known and key != 'short description':
            metadata.userDefined[key] = value
    for function in [description, *description.functions]:
        for feature in [*function.input, *function.output, *function.state]:
            feature.shortDescription = DESCRIPTIONS[feature.name] + (
                ', 0..1' if feature.name in ('src', 'bgr') and feature.type.HasField('multiArrayType') else ''
            )
