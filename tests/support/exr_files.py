"""Small OpenEXR files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

OPENEXR = importlib.util.find_spec('OpenEXR') is not None


def save_exr(path: Path, channels: dict[str, np.ndarray], **header: object) -> Path:
    """Write channels, (H, W) each, of halves or floats."""
    import OpenEXR

    path.parent.mkdir(parents=True, exist_ok=True)
    about = {'compression': OpenEXR.ZIP_COMPRESSION, 'type': OpenEXR.scanlineimage, **header}
    OpenEXR.File(about, {name: plane.copy() for name, plane in channels.items()}).write(str(path))
    return path


def load_exr(path: Path) -> dict[str, np.ndarray]:
    import OpenEXR

    return {
        name: channel.pixels for name, channel in OpenEXR.File(str(path), separate_channels=True).channels().items()
    }
