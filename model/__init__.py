"""The networks of Background Matting V2 (Lin et al., CVPR 2021): coarse `MattingBase`, full-size `MattingRefine`."""

from common.published import pointing

from .base import MattingBase
from .refine import MattingRefine

__all__ = ['MattingBase', 'MattingRefine']
__getattr__ = pointing(__name__)
