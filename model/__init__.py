"""The networks of Background Matting V2 (Lin et al., CVPR 2021): coarse `MattingBase`, full-size `MattingRefine`."""

from .base import MattingBase
from .refine import MattingRefine

__all__ = ['MattingBase', 'MattingRefine']
