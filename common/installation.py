"""What is installed: how to install the toolkit, and what an import that failed lacks. Imports no package."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIN_PYTHON = (3, 11)
# The extra of pyproject.toml that brings a module.
EXTRAS = {
    'av': 'video', 'coremltools': 'export', 'onnx': 'export', 'onnxruntime': 'export', 'onnxscript': 'export',
    'sklearn': 'export', 'safetensors': 'safetensors', 'pillow_heif': 'heic', 'OpenEXR': 'exr', 'fsspec': 'mirror',
    's3fs': 'mirror', 'moto': 'test-all', 'pytest': 'test',
}  # fmt: skip
# Debian's packages of the libraries that OpenCV's windows need; its headless build needs none of them.
WINDOW_LIBRARIES = {
    'libGL.so': 'libgl1', 'libgthread-2.0.so': 'libglib2.0-0', 'libglib-2.0.so': 'libglib2.0-0', 'libxcb.so': 'libxcb1',
    'libX11.so': 'libx11-6', 'libSM.so': 'libsm6', 'libICE.so': 'libice6', 'libXext.so': 'libxext6',
    'libXrender.so': 'libxrender1',
}  # fmt: skip
OPENCV_SWAP = 'pip uninstall -y opencv-python opencv-python-headless; pip install -c constraints.txt {}'


def python_problem() -> str | None:
    """Return in one line that this Python is too old; None if it is not."""
    if sys.version_info >= MIN_PYTHON:
        return None
    return f'{_python()} is too old: the toolkit needs Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer'


def import_problem(error: ImportError) -> str | None:
    """Return in one line what a failed import lacks and what to do; None if it is a fault of the toolkit's."""
    # A worker's error comes with its traceback, of which the last line is the error itself.
    reason = (str(error).strip().splitlines() or [''])[-1]
    if found := re.search(r'((lib\S+\.so)[.\d]*): cannot open shared object', reason):
        library, name = found.groups()
        package = WINDOW_LIBRARIES.get(name)
        swap = f"apt install {package}, or swap in OpenCV's build without windows: {OPENCV_SWAP}"
        what = swap.format('opencv-python-headless') if package else 'install the package of your system that has it'
        return f'{library}, a library of the system, is missing for {_python()}: {what}'
    if loading := re.search(r'DLL load failed while importing (\w+)', reason):
        return (
            f'{loading[1]}: a library of Windows is missing for {_python()}: install the Visual C++ Redistributable, '
            'and on an N edition the Media Feature Pack'
        )
    module = re.search(r"No module named '(\w+)", reason)
    if module is None or any((ROOT / name).exists() for name in (module[1], f'{module[1]}.py')):
        return None
    return _not_installed([module[1]])


def missing_problems(*modules: str, needed_by: str = '') -> list[str]:
    """Return a problem if modules are not installed; `needed_by` begins it, such as '--plot: '."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return [needed_by + _not_installed(missing)] if missing else []


def install_command(extra: str = '') -> str:
    """Return the command that installs the toolkit with its packages, or with those of an extra as well."""
    what = f"'.[{extra}]'" if extra else '.'
    return f'{"" if _here() else f"cd {ROOT}; "}pip install -c constraints.txt -e {what}'


def _not_installed(modules: Sequence[str]) -> str:
    environment = '.venv' if _here() else f'{ROOT}/.venv'
    extra = next((EXTRAS[module] for module in modules if module in EXTRAS), '')
    inside = sys.prefix != sys.base_prefix or Path(sys.prefix, 'conda-meta').is_dir()
    if inside or importlib.util.find_spec('torch') is not None:
        remedy = install_command(extra)
    elif (ROOT / '.venv/installed').exists():
        remedy = f'first type: . {environment}/bin/activate'
    else:
        remedy = f'first type: make {"" if _here() else f"-C {ROOT} "}install && . {environment}/bin/activate'
    verb = 'are' if modules[1:] else 'is'
    return f'{", ".join(modules)} {verb} not installed for {_python()}; {remedy}'


def _here() -> bool:
    return Path.cwd() == ROOT


def _python() -> str:
    return f'{sys.executable} (Python {sys.version_info[0]}.{sys.version_info[1]})'
