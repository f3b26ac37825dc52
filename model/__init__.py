"""Networks of Background Matting V2 (Lin et al., CVPR 2021): `MattingBase`, coarse, and `MattingRefine`, full size."""

from .base import MattingBase
from .refine import MattingRefine

__all__ = ['MattingBase', 'MattingRefine']
