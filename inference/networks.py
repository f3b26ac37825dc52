"""Networks: what a file holds and how it is to run, new ones, and random ones to measure speed with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torchvision.models.resnet import Bottleneck

from checkpointing.origin import NetworkWeights, read_network
from common.network import (
    PUBLISHED,
    READ_IN_MODE,
    SIZES,
    NetworkSettings,
    RefinerSettings,
    Size,
    published_size,
    weights_name,
    weights_path,
)
from model import MattingBase, MattingRefine
from model.weights import LoadReport, archive_about, load_weights

SIZED = ('backbone_scale', 'refine_sample_pixels')  # settings that are published by the size of pictures


@dataclass(frozen=True)
class FoundNetwork:
    """What a file holds, how its network is to run, and where each setting was taken from.

    A setting of the refiner is the one given, else the one that the file knows by its record or its metadata, else the
    one published for the size of the pictures.

    Attributes:
        path: of weights or of an exported file.
        backend: what runs it, one of `options.BACKENDS`.
        model_type, backbone: of `common.network`.
        kernel_size: of the refiner's convolutions.
        given: settings of the refiner, by name.
        known: those that the file knows; None where it knows none.
        source: of these: 'as trained' or 'as exported'.
        sizes: of the pictures; empty where none is known yet.
        still: whether they are pictures rather than frames.
        weights: what was read; None of an ONNX file.
        about: what an exported file says of itself.
    """

    path: Path
    backend: str
    model_type: str
    backbone: str
    kernel_size: int
    given: Mapping[str, Any]
    known: RefinerSettings | None
    source: str
    sizes: Sequence[Size]
    still: bool
    weights: NetworkWeights | None
    about: Mapping[str, str]

    @property
    def settings(self) -> NetworkSettings:
        """How the network runs on the largest picture, or on one of HD where no size is known."""
        return NetworkSettings(self.model_type, self.backbone, self.refiner_for(self.largest))

    @property
    def largest(self) -> Size:
        """(width, height) of the largest picture; HD where no size is known."""
        return max(self.sizes, key=math.prod, default=SIZES['hd'])

    @property
    def by_size(self) -> bool:
        """Whether the refiner's settings follow each picture's size; an exported file has the same for all."""
        follows = self.known is None and any(name not in self.given for name in SIZED)
        return follows and self.backend == 'pytorch' and self.model_type == 'mattingrefine'

    def refiner_for(self, size: Size) -> RefinerSettings | None:
        """Return how pictures of a size are refined; None without a refiner, or where an ONNX file does not say it."""
        if self.model_type == 'mattingbase' or (self.backend == 'onnx' and self.known is None):
            return None
        known = self.known or RefinerSettings.published(published_size(size, self.still))
        return replace(known, **self.given, refine_kernel_size=self.kernel_size)

    def build(self) -> tuple[MattingBase, LoadReport]:
        """Build the network with its weights, in training mode, and report the loading.

        Raises:
            ValueError: a tensor is missing, or one too many.
        """
        assert self.weights is not None
        model = make_network(self.settings)
        return model, load_weights(model, self.weights.file)

    def __str__(self) -> str:
        """Say in one line what the file is and what was taken from where."""
        kind = {'torchscript': ', TorchScript', 'onnx': ', ONNX'}.get(self.backend, '')
        parts = [f'{weights_name(self.path)}: {self.model_type} with {self.backbone}{kind}']
        if self.model_type == 'mattingrefine' and self.settings.refiner is None:
            parts.append('how it refines is fixed, and not said by the file')
        elif self.model_type == 'mattingrefine':
            parts += [f'{source}: {", ".join(texts)}' for source, texts in self._sources().items()]
            parts += self._notes()
        if unread := [name.replace('_', ' ') for name in self.given if not self._reads(name)]:
            parts.append(f'given, but of no effect: {", ".join(unread)}')
        return '; '.join(parts)

    def _reads(self, name: str) -> bool:
        """Return whether the network reads a setting of the refiner, as it runs."""
        refiner = self.settings.refiner
        return refiner is not None and READ_IN_MODE.get(name, refiner.refine_mode) == refiner.refine_mode

    def _sources(self) -> dict[str, list[str]]:
        """Return in words the settings from each source."""
        sizes = self.sizes if self.by_size and self.sizes else [self.largest]
        names = sorted({published_size(size, self.still) for size in sizes}, key=[*PUBLISHED].index)
        known = {f'no record, so as published for {name}': RefinerSettings.published(name) for name in names}
        if self.known is not None:
            known = {self.source: self.known}
        words: dict[str, list[str]] = {}
        for source, settings in known.items():
            for name, value in vars(settings).items():
                if name == 'refine_kernel_size' or not self._reads(name):
                    continue
                text = f'{name.replace("_", " ")} {self.given.get(name, value)}'
                if self.known is not None and self.given.get(name, value) != value:
                    text += f' ({value} {source})'
                words.setdefault('as given' if name in self.given else source, []).append(text)
        return {source: list(dict.fromkeys(texts)) for source, texts in words.items()}

    def _notes(self) -> list[str]:
        """Return what to know of pictures of another size than those that the network was trained on."""
        side = None if self.weights is None else self.weights.origin.trained_side
        if side is None or self.known is None or not self.sizes or 'backbone_scale' in self.given:
            return []
        name, (width, height) = published_size(self.largest, self.still), self.largest
        scale, pixels = PUBLISHED[name]
        alike = scale == self.known.backbone_scale or 0.5 < math.sqrt(width * height) / side < 2
        flags = f'--model-backbone-scale {scale} --model-refine-sample-pixels {pixels}'
        return [] if alike else [f'it was trained on {side}x{side}; for {width}x{height} try {flags}, as published']


def find_network(
    path: str | Path,
    model_type: str | None = None,
    backbone: str | None = None,
    *,
    sizes: Sequence[Size] = (),
    still: bool = True,
    backend: str | None = None,
    **given: Any,
) -> FoundNetwork:
    """Find out what a file holds and how it is to run.

    Args:
        path: of weights, a TorchScript archive or an ONNX file; 'starter' for the model of the toolkit.
        model_type, backbone: what it must hold; None: whatever it does.
        sizes: (width, height) of the pictures, as far as they are known.
        still: whether they are pictures rather than frames.
        backend: what is to run it; None: an exported file's own.
        given: settings of the refiner by their names in `RefinerSettings`; None counts as not given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds no weights, or those of another network or refiner.
        TypeError: there is no such setting.
    """
    path, weights, held = weights_path(path), None, None
    given = {name: value for name, value in given.items() if value is not None}
    RefinerSettings(**given)  # refuses a name that there is not, also where no refiner would read it
    if path.suffix == '.onnx' and backend in (None, 'onnx'):
        from .onnx_network import UNKNOWN, read_about

        about, backend = read_about(path), 'onnx'
        held = about['model_type'], about['backbone'], int(about.get('refine_kernel_size', 3))
        if held[1] == UNKNOWN:
            held = held[0], backbone or UNKNOWN, given.get('refine_kernel_size', 3)
    else:
        weights = read_network(path)
        about = archive_about(path)
        if backend is None:
            backend = 'torchscript' if weights.file.is_archive else 'pytorch'
        held = weights.model_type, weights.backbone, weights.kernel_size
    asked = model_type or held[0], backbone or held[1]
    if asked != held[:2]:
        what, of = ('weights of ', 'of ') if weights else ('', '')
        raise ValueError(
            f'{weights_name(path)} holds {what}{held[0]} with {held[1]}, not {of}{asked[0]} with {asked[1]}: '
            f'use --model-type {held[0]} --model-backbone {held[1]}, or another file'
        )
    if held[0] == 'mattingrefine' and (asked_kernel := given.pop('refine_kernel_size', held[2])) != held[2]:
        raise ValueError(
            f'{path}: its refiner has kernels of size {held[2]}, not {asked_kernel}: '
            f'use --model-refine-kernel-size {held[2]}'
        )
    known, source = RefinerSettings.from_metadata(about), 'as exported'
    if known is None and weights is not None:
        known, source = weights.origin.refiner, 'as trained'
    return FoundNetwork(path, backend, *held, given, known, source, sizes, still, weights, about)


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
