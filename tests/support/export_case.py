"""The export scripts, called with weights and an output."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path


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
