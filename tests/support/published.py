"""Files as the published exporters write them, from a network of ours: its weights in the published flow of data."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import MattingRefine

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Refiner(nn.Module):
    """Pads whole pictures, takes crops at the chosen cells by number, and puts them back the same way."""

    def __init__(self, network: MattingRefine):
        super().__init__()
        own = network.refiner
        self.mode, self.sample_pixels, self.threshold = own.mode, own.sample_pixels, float(own.threshold)
        self.prevent_oversampling = own.prevent_oversampling
        self.conv1, self.bn1, self.conv2, self.bn2 = own.conv1, own.bn1, own.conv2, own.bn2
        self.conv3, self.bn3, self.conv4 = own.conv3, own.bn3, own.conv4

    def forward(
        self, src: Tensor, bgr: Tensor, pha: Tensor, fgr: Tensor, err: Tensor, hid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = src.shape[2], src.shape[3]
        err = resized(err, height // 4, width // 4)
        if self.mode == 'full':
            ref = torch.ones_like(err)
        elif self.mode == 'sampling':
            flat = err.flatten(1)
            chosen = flat.topk(min(self.sample_pixels // 16, flat.shape[1]), dim=1, sorted=False)[1]
            ref = torch.zeros_like(flat).scatter_(1, chosen, 1.0)
            if self.prevent_oversampling:
                ref = ref * (flat > 0).to(ref.dtype)
            ref = ref.view_as(err)
        else:
            ref = (err > self.threshold).to(err.dtype)
        cells = torch.nonzero(ref[:, 0])
        coarse = resized(torch.cat([hid, pha, fgr], 1), height // 2, width // 2)
        full = torch.cat([src, bgr], 1)
        x = crops(torch.cat([coarse, resized(full, height // 2, width // 2)], 1), cells, 2, 3)
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = torch.cat([F.interpolate(x, [8, 8]), crops(full, cells, 4, 2)], 1)
        x = self.conv4(F.relu(self.bn3(self.conv3(x))))
        out = resized(torch.cat([pha, fgr], 1), height, width)
        out = out.view(-1, 4, height // 4, 4, width // 4, 4).permute(0, 2, 4, 1, 3, 5).contiguous()
        out = out.index_put([cells[:, 0], cells[:, 1], cells[:, 2]], x)
        out = out.permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, height, width)
        return out[:, :1], out[:, 1:], ref


class Refine(nn.Module):
    """The published network; its names are those of `MattingRefine`."""

    def __init__(self, network: MattingRefine):
        super().__init__()
        self.backbone_scale = float(network.backbone_scale)
        self.backbone, self.aspp, self.decoder = network.backbone, network.aspp, network.decoder
        self.refiner = Refiner(network)

    def forward(self, src: Tensor, bgr: Tensor) -> Results:
        src_sm, bgr_sm = scaled(src, self.backbone_scale), scaled(bgr, self.backbone_scale)
        taps = self.backbone(torch.cat([src_sm, bgr_sm], 1))
        x = self.decoder(self.aspp(taps[4]), taps)
        pha_sm, fgr_sm, err_sm, hid = x[:, :1].clamp(0, 1), x[:, 1:4], x[:, 4:5].clamp(0, 1), x[:, 5:].relu()
        pha, fgr, ref_sm = self.refiner(src, bgr, pha_sm, fgr_sm, err_sm, hid)
        return pha.clamp(0, 1), (fgr + src).clamp(0, 1), pha_sm, (fgr_sm + src_sm).clamp(0, 1), err_sm, ref_sm


class MattingRefine_TorchScriptWrapper(nn.Module):
    """Lifts the settings to the top, where they can be set in a loaded archive."""

    def __init__(self, network: MattingRefine):
        super().__init__()
        self.model = Refine(network)
        self.backbone_scale = self.model.backbone_scale
        self.refine_mode = self.model.refiner.mode
        self.refine_sample_pixels = self.model.refiner.sample_pixels
        self.refine_threshold = self.model.refiner.threshold
        self.refine_prevent_oversampling = self.model.refiner.prevent_oversampling

    def forward(self, src: Tensor, bgr: Tensor) -> Results:
        self.model.backbone_scale = self.backbone_scale
        self.model.refiner.mode = self.refine_mode
        self.model.refiner.sample_pixels = self.refine_sample_pixels
        self.model.refiner.threshold = self.refine_threshold
        self.model.refiner.prevent_oversampling = self.refine_prevent_oversampling
        return self.model(src, bgr)


def save_archive(network: MattingRefine, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a TorchScript archive in evaluation mode, without gradients. The network is converted, too."""
    wrapped = MattingRefine_TorchScriptWrapper(network).eval()
    for parameter in wrapped.parameters():
        parameter.requires_grad = False
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(wrapped.to(dtype)).save(str(path))
    return path


def save_onnx(network: MattingRefine, path: Path, size: tuple[int, int]) -> Path:
    """Writes an ONNX file by torch's older exporter, for any batch and sides, traced at a (width, height)."""
    names = ['pha', 'fgr', 'pha_sm', 'fgr_sm', 'err_sm', 'ref_sm']
    pictures = tuple(torch.rand(2, 3, size[1], size[0]) for _ in range(2))
    axes = {name: [0, 2, 3] for name in ('src', 'bgr', *names)}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            Refine(network).eval(), pictures, path, input_names=['src', 'bgr'], output_names=names, dynamic_axes=axes,
            opset_version=12, do_constant_folding=True, dynamo=False,
        )  # fmt: skip
    return path


def crops(x: Tensor, cells: Tensor, size: int, margin: int) -> Tensor:
    """Squares of `size` pixels with a margin, (n, C, side, side), at cells (n, 3): picture, row, column."""
    offsets = torch.arange(size + 2 * margin, device=x.device)
    padded = F.pad(x, [margin, margin, margin, margin]).permute(0, 2, 3, 1)
    rows = (cells[:, 1:2] * size + offsets).unsqueeze(2)
    columns = (cells[:, 2:3] * size + offsets).unsqueeze(1)
    return padded[cells[:, 0].view(-1, 1, 1), rows, columns].permute(0, 3, 1, 2)


def resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, [height, width], mode='bilinear', align_corners=False)


def scaled(x: Tensor, scale: float) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode='bilinear', align_corners=False, recompute_scale_factor=True)
