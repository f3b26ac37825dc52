"""ONNX Runtime Web, from npm or from a file or folder of it. Imports nothing slow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

PACKAGE, VERSION = 'onnxruntime-web', '1.30.0'
# Two runtimes, of which a browser loads one: with WebGPU, and without, which is smaller and faster on the CPU.
FILES = (
    'ort.webgpu.bundle.min.mjs', 'ort-wasm-simd-threaded.asyncify.wasm',
    'ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm',
)  # fmt: skip
PACK = f'npm pack {PACKAGE}@{VERSION}'


@dataclass(frozen=True)
class Runtime:
    """What a page needs of a version of the package."""

    version: str
    files: dict[str, bytes]  # by name


def problems(given: Path | None) -> list[str]:
    """Return why the runtime cannot be had: npm, or the `given` file or folder, is not there."""
    if given is None and shutil.which('npm') is None:
        return [f'npm is not installed: install Node.js, or give --runtime the file that "{PACK}" makes elsewhere']
    return [f'--runtime {given}: no such file or folder'] if given and not given.exists() else []


def obtain(given: Path | None) -> Runtime:
    """Read the package of npm from a .tgz or a folder, or let npm download the version that was tested.

    Raises:
        ValueError: npm cannot download it, or it is another package.
    """
    if given is not None:
        return _read(given)
    with tempfile.TemporaryDirectory() as folder:
        npm = [shutil.which('npm') or 'npm', *PACK.split()[1:], '--pack-destination', folder]
        done = subprocess.run(npm, capture_output=True, text=True)
        packed = next(Path(folder).glob('*.tgz'), None)
        if done.returncode or packed is None:
            why = next((line for line in done.stderr.splitlines() if 'error' in line.lower()), 'it made no file')
            raise ValueError(f'{PACK}: {why.strip()}; or give --runtime the file that it makes elsewhere')
        return _read(packed)


def _read(package: Path) -> Runtime:
    names = ['package.json', *(f'dist/{name}' for name in FILES)]
    try:
        if package.is_dir():
            found = [(package / name).read_bytes() for name in names]
        else:
            with tarfile.open(package, 'r:gz') as archive:
                members = [archive.extractfile(f'package/{name}') for name in names]
                found = [member.read() for member in members if member is not None]
        about = json.loads(found[0])
        name, version, files = about['name'], f'{about["version"]}', dict(zip(FILES, found[1:], strict=True))
        if not re.fullmatch(r'[\w.+-]+', version):  # it becomes a folder's name
            raise ValueError(f'version {version!r}')
    except (OSError, LookupError, TypeError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
        what = f'not the package {PACKAGE} of npm in version {VERSION} or one like it'
        raise ValueError(f'--runtime {package}: {what} ({error})') from None
    if name != PACKAGE:
        raise ValueError(f'--runtime {package}: is the package {name}, not {PACKAGE}')
    return Runtime(version, files)
