"""The export scripts, called with weights and an output; a package of npm's in place of the browser's runtime."""

from __future__ import annotations

import importlib
import io
import json
import tarfile
import warnings
from pathlib import Path

from export.web import runtime


def flags(
    checkpoint: Path, output: Path, *more: object, model_type: str = 'mattingrefine', backbone: str = 'mobilenetv2'
) -> list[str]:
    """The command line; of flags that are given twice the last one counts."""
    words = ['--model-type', model_type, '--model-backbone', backbone, '--model-checkpoint', checkpoint,
             '--model-refine-sample-pixels', 800, '--output', output, *more]  # fmt: skip
    return list(map(str, words))


def run(script: str, checkpoint: Path, output: Path, *more: object, strict: bool = True, **options: str) -> int:
    """Runs a script; every warning is a failure if strict."""
    with warnings.catch_warnings():
        if strict:
            warnings.simplefilter('error')
        return importlib.import_module(script).main(flags(checkpoint, output, *more, **options))


def package(path: Path, name: str = runtime.PACKAGE, files: tuple[str, ...] = runtime.FILES) -> Path:
    """The package as npm packs it, with files that say their names."""
    contents = {'package.json': json.dumps({'name': name, 'version': '1.2.3'})}
    contents |= {f'dist/{file}': file for file in files}
    with tarfile.open(path, 'w:gz') as archive:
        for file, text in contents.items():
            member = tarfile.TarInfo(f'package/{file}')
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path
