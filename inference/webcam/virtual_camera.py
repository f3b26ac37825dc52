"""A camera for other programs, such as video calls, that shows them what we draw; by way of pyvirtualcam."""

from __future__ import annotations

import sys
from typing import Any

INSTALL = 'pip install pyvirtualcam'
DRIVERS = {
    'linux': 'it needs the kernel module v4l2loopback (sudo modprobe v4l2loopback devices=1)',
    'darwin': 'it needs OBS, whose virtual camera was started once',
    'win32': 'it needs OBS',
}


def virtual_camera_problem() -> str | None:
    """Why there can be no virtual camera, and what to do; None if pyvirtualcam is there. Opens none."""
    try:
        import pyvirtualcam  # noqa: F401
    except ImportError as error:
        return f'--virtual-camera: {error}: {INSTALL}; {DRIVERS.get(sys.platform, "see its documentation")}'
    return None


def open_virtual_camera(size: tuple[int, int], rate: float) -> Any:
    """Opens one.

    Args:
        size: (width, height) of the pictures to come.
        rate: frames per second, about.

    Returns:
        Its `send(picture)` takes uint8 RGB (H, W, 3), `device` is its name, and `close()` ends it.

    Raises:
        ValueError: there is none, or it refuses this size.
    """
    import pyvirtualcam

    try:
        return pyvirtualcam.Camera(*size, rate)
    except (RuntimeError, OSError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'--virtual-camera: {reason}; {DRIVERS.get(sys.platform, "see its documentation")}') from error
