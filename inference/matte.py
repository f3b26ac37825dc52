"""The result for a picture: `Matte`, and `Pending`, which becomes one when the device is done."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor


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
    """

    pha: np.ndarray
    fgr: np.ndarray
    err: np.ndarray | None = None
    ref: np.ndarray | None = None

    @property
    def com(self) -> np.ndarray:
        """The cut-out, RGBA (H, W, 4), not multiplied by alpha; 0 where alpha is 0."""
        rgba = np.empty((*self.pha.shape, 4), np.uint8)
        cv2.mixChannels([self.fgr, self.pha], [rgba], [0, 0, 1, 1, 2, 2, 3, 3])
        np.copyto(rgba.view(np.uint32)[..., 0], 0, where=self.pha == 0)
        return rgba


class Pending:
    """A batch that the device may still be working on."""

    def __init__(self, results: dict[str, Tensor], finite: Tensor, dtype: torch.dtype):
        self._dtype = str(dtype).removeprefix('torch.')
        self._done = torch.cuda.Event() if finite.is_cuda else None
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
            self._done.synchronize()
        if not self._finite[index]:
            advice = 'the weights are damaged' if self._dtype == 'float32' else 'use --precision float32'
            advice += ' or bfloat16' if self._dtype == 'float16' else ''
            raise NotFiniteError(f'not finite in {self._dtype}; {advice}')
        return Matte(**{name: x[index].numpy() for name, x in self._results.items()})

    def result(self) -> list[Matte]:
        """Return all pictures' results; see `matte`."""
        return [self.matte(i) for i in range(len(self._finite))]
