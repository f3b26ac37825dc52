"""Networks by their settings: with the weights of a file, new ones, or random ones to measure speed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision.models.resnet import Bottleneck

from checkpointing.origin import Origin, read_network
from common.network import NetworkSettings, RefinerSettings
from model import MattingBase, MattingRefine
from model.weights import LoadReport, load_weights


def load_network(
    path: str | Path, model_type: str | None = None, backbone: str | None = None, **refine: Any
) -> tuple[MattingBase, LoadReport, Origin]:
    """Build the network whose weights a file holds.

    The arguments are those of `Matting.from_checkpoint`.

    Returns:
        The network in training mode, the report of its loading, and where the weights come from.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds no weights, or those of another network or refiner.
    """
    weights = read_network(Path(path))
    held_type, held_backbone, kernel = weights.model_type, weights.backbone, weights.kernel_size
    model_type, backbone = model_type or held_type, backbone or held_backbone
    if (held_type, held_backbone) != (model_type, backbone):
        raise ValueError(
            f'{path} holds weights of {held_type} with {held_backbone}, not of {model_type} with {backbone}: '
            f'use --model-type {held_type} --model-backbone {held_backbone}, or another file'
        )
    if model_type == 'mattingrefine' and refine.setdefault('refine_kernel_size', kernel) != kernel:
        raise ValueError(
            f'{path}: its refiner has kernels of size {kernel}, not {refine["refine_kernel_size"]}: '
            f'use --model-refine-kernel-size {kernel}'
        )
    model = MattingRefine(backbone, **refine) if model_type == 'mattingrefine' else MattingBase(backbone)
    return model, load_weights(model, weights.file), weights.origin


def make_network(settings: NetworkSettings) -> MattingBase:
    """Build a network with new weights; `mattingrefine` without settings of a refiner gets the default ones."""
    if settings.model_type == 'mattingbase':
        return MattingBase(settings.backbone)
    return MattingRefine(settings.backbone, **vars(settings.refiner or RefinerSettings()))


def random_network(settings: NetworkSettings) -> MattingBase:
    """Build a network with random weights that refines as many cells as a trained one can.

    New weights predict an error of 0 for most of a picture (99 % of it with MobileNetV2). Cells without error are left
    out by the refiner on a CPU, and everywhere by other implementations, which would make them look faster than they
    ever are with trained weights. So here the error depends on the pixels alone, and lies between 0 and 1 whatever
    these are, or above the threshold where there is one: every cell is refined then. And the blocks of a ResNet add
    little to what they get: new ones let values grow so much, in 33 blocks, that float16 cannot hold them.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = make_network(settings)
        for module in network.modules():
            if isinstance(module, Bottleneck):
                module.bn3.weight.fill_(0.2)
        refiner = settings.refiner
        least = refiner.refine_threshold if refiner and refiner.refine_mode == 'thresholding' else 0.0
        conv, err, pixels = network.decoder.conv4, 4, slice(-6, None)  # its last six inputs are src and bgr
        weight = conv.weight[err, pixels].clone()
        conv.weight[err] = 0
        conv.weight[err, pixels] = weight / weight.abs().sum() * (1 - least) / 2
        assert conv.bias is not None
        conv.bias[err] = (1 + least) / 2
    return network.eval()
