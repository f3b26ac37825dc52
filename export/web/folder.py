"""The folder: the page's own files, the network as ONNX, its settings, the runtime, and results to check it by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx

from common.files import digest
from export import onnx_file, parity
from model import MattingBase

from . import CHECK, MARKER, MODEL, PAGE
from .runtime import PACKAGE, Runtime

CHECK_SIZE = (320, 180)  # width, height


def write(folder: Path, model: onnx.ModelProto, original: MattingBase, runtime: Runtime) -> None:
    """Write the folder, which must not exist.

    Args:
        folder: is made.
        model: what `onnx_file.convert` returned, float32.
        original: the network that it was made from, in evaluation mode, whose alpha of a drawing the page is to give.
        runtime: of the browser.
    """
    shutil.copytree(PAGE, folder)
    onnx_file.save(onnx_file.select_outputs(model, ['pha', 'fgr']), folder / MODEL)
    libraries = folder / f'{PACKAGE}-{runtime.version}'
    libraries.mkdir()
    for name, content in runtime.files.items():
        (libraries / name).write_bytes(content)
    (folder / CHECK).write_bytes(_check(original))
    about = {entry.key: entry.value for entry in model.metadata_props}
    width, height = CHECK_SIZE
    settings = {
        'runtime': libraries.name, 'sha256': digest(folder / MODEL), 'check': {'width': width, 'height': height},
        'sides_multiple_of': int(about['sides_multiple_of']), 'model': about,
    }  # fmt: skip
    (folder / MARKER).write_text(json.dumps(settings, indent=2) + '\n')


def _check(original: MattingBase) -> bytes:
    """Return a drawing and its plate, RGBA, uint8, then the network's alpha, float32 in little endian."""
    pair = parity.drawn(*CHECK_SIZE)
    opaque = np.full((*pair.src.shape[:2], 1), 255, np.uint8)
    pha = parity.outputs_of(original, *pair.tensors())['pha'].numpy().astype('<f4')
    return b''.join(x.tobytes() for x in (*(np.dstack([picture, opaque]) for picture in (pair.src, pair.bgr)), pha))
