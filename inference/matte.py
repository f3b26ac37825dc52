"""The result for a picture: `Matte`, and `Pending`, which becomes one when the device is done."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

from common.devices import on_device
from common.files import write_atomic
from dataset.tags import NO_TAGS, Tags, converted

from .compositing import composite, covering
from .options import COLOURED_TYPES
from .pixels import Picture, as_pixels

KINDS = ('com', 'pha', 'fgr', 'err', 'ref')
FORMATS = {'.png': 'PNG', '.webp': 'WEBP', '.jpg': 'JPEG', '.jpeg': 'JPEG'}


class NotFiniteError(ValueError):
    """The network's results for a picture hold NaN."""


@dataclass(frozen=True)
class Matte:
    """The result for one picture, uint8.

    Attributes:
        pha: alpha (H, W), 255 = subject.
        fgr: the subject's colour, RGB (H, W, 3); any where alpha is 0.
        err: predicted error of the coarse alpha (H, W), if asked for.
        ref: regions that were refined, 255, or not, 0 (H, W), if asked for.
        tags: colour profile of `fgr`, and EXIF, as the picture had them.
    """

    pha: np.ndarray
    fgr: np.ndarray
    err: np.ndarray | None = None
    ref: np.ndarray | None = None
    tags: Tags = NO_TAGS

    @property
    def com(self) -> np.ndarray:
        """The cut-out, RGBA (H, W, 4), not multiplied by alpha; 0 where alpha is 0."""
        rgba = np.empty((*self.pha.shape, 4), np.uint8)
        cv2.mixChannels([self.fgr, self.pha], [rgba], [0, 0, 1, 1, 2, 2, 3, 3])
        np.copyto(rgba.view(np.uint32)[..., 0], 0, where=self.pha == 0)
        return rgba

    def composite(self, background: Picture | Sequence[int]) -> np.ndarray:
        """Set the subject before another background.

        Args:
            background: a colour of sRGB: (red, green, blue), 0..255, or a name that CSS or Pillow knows, such as
                'white' or '#78ff9b'; or a picture in any form that `Matting` takes, of which the largest middle part
                with the matte's proportions is resized to its size.

        Returns:
            uint8 RGB (H, W, 3), `fgr * pha + background * (1 - pha)`, in the colours of `fgr`.

        Raises:
            ValueError: neither a colour nor a picture.
            FileNotFoundError: no such file.
        """
        height, width = self.pha.shape
        colour = _colour(background)
        if colour is not None:
            pixel = converted(np.full((1, 1, 3), colour, np.uint8), None, self.tags.profile)
            backdrop = np.full((height, width, 3), pixel)
        else:
            backdrop = covering(as_pixels(background, self.tags.profile), (width, height))  # type: ignore[arg-type]
        return composite(self.pha, self.fgr, backdrop)

    def save(self, path: str | Path, kind: str = 'com') -> None:
        """Write one of the results as a picture, whole or not at all; a file of that name is replaced.

        The cut-out and the foreground carry the picture's colour profile, date and camera.

        Args:
            path: ends in .png or .webp, which lose nothing, or in .jpg, which has no alpha.
            kind: 'com', the cut-out as RGBA; 'pha', 'err' or 'ref', grey; 'fgr', RGB.

        Raises:
            ValueError: there is no such result or format, or the cut-out is to be a .jpg.
            OSError: it cannot be written.
        """
        path = Path(path)
        picture, picture_format = getattr(self, kind) if kind in KINDS else None, FORMATS.get(path.suffix.lower())
        if picture is None:
            raise ValueError(f'{kind}: no such result; ask for err and ref in the call: matting(src, bgr, {kind}=True)'
                             if kind in KINDS else f'{kind}: must be one of {", ".join(KINDS)}')  # fmt: skip
        if picture_format is None or (picture_format, kind) == ('JPEG', 'com'):
            why = 'jpg has no alpha' if picture_format else 'not a format of pictures'
            raise ValueError(f'{path}: {why}; use {", ".join(FORMATS if kind != "com" else [".png", ".webp"])}')
        content = io.BytesIO()
        tags = self.tags if kind in COLOURED_TYPES else NO_TAGS
        Image.fromarray(picture).save(
            content, picture_format, quality=95, lossless=True, exact=True, icc_profile=tags.profile, exif=tags.exif
        )
        write_atomic(path, content.getvalue())


def _colour(background: Picture | Sequence[int]) -> tuple[int, ...] | None:
    """Return the colour, RGB 0..255, that is meant; None where it is no colour."""
    if isinstance(background, str):
        try:
            return ImageColor.getrgb(background)[:3]
        except ValueError:
            return None
    if not isinstance(background, (tuple, list)):
        return None
    if len(background) != 3 or not all(isinstance(x, int) and 0 <= x <= 255 for x in background):
        raise ValueError(f'a colour must be (red, green, blue), each 0..255, not {background}')
    return tuple(background)


class Pending:
    """A batch that the device may still be working on.

    Results are copied out of the device in the current stream: what is started there afterwards may overwrite them.

    Args:
        results: uint8 (B, H, W) or (B, H, W, 3), by name.
        finite: which pictures' results held no NaN (B,).
        dtype: that they were computed in.
    """

    def __init__(self, results: dict[str, Tensor], finite: Tensor, dtype: torch.dtype):
        self._dtype = str(dtype).removeprefix('torch.')
        self._device = finite.device
        with on_device(self._device):
            self._done = torch.cuda.Event(blocking=True) if finite.is_cuda else None
            self._results = {name: self._downloaded(x) for name, x in results.items()}
            self._finite = self._downloaded(finite)
            if self._done:
                self._done.record()

    def _downloaded(self, x: Tensor) -> Tensor:
        if self._done is None:
            return x.cpu()
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)

    def matte(self, index: int) -> Matte:
        """Wait for the device and return one picture's result. Any thread may call it, also more than once.

        Raises:
            NotFiniteError: the result holds NaN.
        """
        if self._done:
            with on_device(self._device):  # or this would take memory of the first GPU
                self._done.synchronize()
        if not self._finite[index]:
            advice = 'the weights are damaged' if self._dtype == 'float32' else 'use --precision float32'
            advice += ' or bfloat16' if self._dtype == 'float16' else ''
            raise NotFiniteError(f'not finite in {self._dtype}; {advice}')
        results: dict[str, Any] = {name: x[index].numpy() for name, x in self._results.items()}
        return Matte(**results)

    def result(self) -> list[Matte]:
        """Return all pictures' results; see `matte`."""
        return [self.matte(i) for i in range(len(self._finite))]
