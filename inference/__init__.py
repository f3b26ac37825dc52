"""The use of a trained network: the `Matting` predictor, and what the inference scripts are made of.

    from inference import Matting

    matting = Matting()  # the starter model; your own: Matting.from_checkpoint('checkpoint/my_model/epoch-0.pth')
    matte = matting('photo.jpg', 'plate.jpg')
    matte.pha, matte.fgr  # uint8 (H, W) and (H, W, 3)
    matte.save('cut-out.png')

Importing this package does not import torch; its first use does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .matte import Matte, NotFiniteError
    from .predictor import Matting

__all__ = ['Matte', 'Matting', 'NotFiniteError']


def __getattr__(name: str) -> Any:
    # The predictor brings torch: imported at first use, so that scripts can read their flags without it.
    if name in __all__:
        from . import predictor

        return getattr(predictor, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
