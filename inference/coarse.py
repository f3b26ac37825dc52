"""The coarse result of a network that refines: what its refiner starts from."""

from __future__ import annotations

from torch import Tensor, nn

from model import MattingRefine

from .pixels import enlarged
from .predictor import Matting


class Coarse(nn.Module):
    """A predictor's network without its refiner: alpha and foreground of the coarse network, enlarged bilinearly."""

    def __init__(self, matting: Matting):
        super().__init__()
        self.network_for = matting.network_for

    def forward(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what `MattingRefine.forward` does, unrefined: `pha` is the enlarged `pha_sm`, `fgr` the `fgr_sm`."""
        network = self.network_for(src.shape[2:])
        assert isinstance(network, MattingRefine)
        small, plate = network.pyramid(src).small, network.pyramid(bgr).small
        pha_sm, fgr_sm, err_sm, _ = network.coarse(small, plate)
        fgr_sm = network.clamp(fgr_sm + small)
        rows, columns = (-(-side // 4) for side in src.shape[2:])
        ref_sm = src.new_zeros(len(src), 1, rows, columns)
        return enlarged(pha_sm, src, 'bilinear'), enlarged(fgr_sm, src, 'bilinear'), pha_sm, fgr_sm, err_sm, ref_sm


def coarse_only(matting: Matting) -> Matting:
    """Return a predictor of the coarse result that shares its network with another one, which stays usable."""
    if not isinstance(matting.model, MattingRefine):
        raise ValueError(f'{type(matting.model).__name__} refines nothing: it is coarse already')
    coarse = Matting(Coarse(matting), matting.device, 'float32')  # any other precision would turn autocast on
    coarse.dtype, coarse.loaded = matting.dtype, matting.loaded
    return coarse
