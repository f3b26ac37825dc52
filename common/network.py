"""Networks by name: the words and settings that flags, records and exported files share. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .console import shown
from .files import collapsed_url, is_url
from .stores import named, path_of

MODEL_TYPES = ('mattingbase', 'mattingrefine')
BACKBONES = ('resnet101', 'resnet50', 'mobilenetv2')
REFINE_MODES = ('full', 'sampling', 'thresholding')
# Published ways to cut cells out and put them back, which give the same results; here there is one.
PATCH_CROP_METHODS = ('unfold', 'roi_align', 'gather')
PATCH_REPLACE_METHODS = ('scatter_nd', 'scatter_element')
OUTPUTS = {
    'mattingrefine': ('pha', 'fgr', 'pha_sm', 'fgr_sm', 'err_sm', 'ref_sm'),
    'mattingbase': ('pha', 'fgr', 'err', 'hid'),
}
ALL_OUTPUTS = tuple(dict.fromkeys(name for names in OUTPUTS.values() for name in names))
OUTPUT_MEANINGS = {
    'pha': 'alpha, 0..1: how much of each pixel is the subject',
    'fgr': 'colours of the subject, RGB, to be shown where alpha is above 0',
    'pha_sm': 'alpha of the coarse network, 0..1',
    'fgr_sm': 'colours of the subject from the coarse network, 0..1',
    'err_sm': 'error that the coarse network expects of its alpha, 0..1',
    'ref_sm': 'cells of 4 x 4 pixels that were refined, 1 or 0',
    'err': 'error that the network expects of its alpha, 0..1',
    'hid': 'features for a refiner',
}
# The weights that come with the toolkit, which flags call 'starter'.
STARTER = Path(__file__).resolve().parents[1] / 'weights/starter.pth'
# Smallest side of a picture, which the encoders divide by 16.
MIN_SIDE = 16
Size = tuple[int, int]  # width, height
# Sizes, and the backbone scale and refined pixels that are published for them (paper, section 5). Photographs are
# larger than HD.
SIZES = {'512px': (512, 512), 'hd': (1920, 1080), '4k': (3840, 2160)}
PUBLISHED = {'512px': (0.5, 80_000), 'hd': (0.25, 80_000), '4k': (0.125, 320_000), 'photographs': (0.25, 320_000)}
# Settings of a refiner that only one of its modes reads.
READ_IN_MODE = {'refine_sample_pixels': 'sampling', 'refine_threshold': 'thresholding'}


def weights_path(name: str | Path) -> Path:
    """Return the path of weights as flags name them: 'starter' is the toolkit's model, a URL is fetched when read.

    Raises:
        ValueError: a URL as a Path.
    """
    if url := collapsed_url(name):
        raise ValueError(f'{shown(url)}: give a URL as a str, since a Path loses a slash of it')
    if is_url(name):
        return path_of(str(name))
    return STARTER if name == 'starter' else Path(os.path.expanduser(name))


def weights_name(path: Path) -> str:
    """Return what messages call a file of weights."""
    return 'the starter model' if path == STARTER else named(path)


def no_such_file(path: Path) -> str:
    """Return in words that a file is not there, and of the starter model what to do."""
    if path == STARTER:
        return (
            'no such file; the starter model is missing from this copy of the toolkit: fetch it, or name other weights'
        )
    return 'no such file'


def published_size(size: Size, still: bool = False) -> str:
    """Return for which of `PUBLISHED` a picture counts: the nearest of `SIZES` in pixels, by ratio.

    A `still` that would count as '4k', which is about videos, is one of the 'photographs'.
    """
    pixels = math.prod(size)
    ratios = {name: pixels / math.prod(known) for name, known in SIZES.items()}
    nearest = min(ratios, key=lambda name: max(ratios[name], 1 / ratios[name]))
    return 'photographs' if still and nearest == '4k' else nearest


@dataclass(frozen=True)
class RefinerSettings:
    """How `MattingRefine` refines.

    Attributes:
        backbone_scale: sides of what the coarse network sees, of the picture's; above 0, at most 0.5.
        refine_mode: one of `REFINE_MODES`.
        refine_sample_pixels: pixels refined per picture by sampling, at least 16.
        refine_threshold: predicted error above which thresholding refines a cell, 0..1.
        refine_kernel_size: of the refiner's convolutions, 1 or 3; part of the weights.
    """

    backbone_scale: float = 0.25
    refine_mode: str = 'sampling'
    refine_sample_pixels: int = 80_000
    refine_threshold: float = 0.7
    refine_kernel_size: int = 3

    @staticmethod
    def published(name: str) -> RefinerSettings:
        """Return the settings of one of `PUBLISHED`."""
        scale, pixels = PUBLISHED[name]
        return RefinerSettings(scale, refine_sample_pixels=pixels)

    @staticmethod
    def from_metadata(about: Mapping[str, str]) -> RefinerSettings | None:
        """Take the settings that an exported file names; None if it names none."""
        defaults = vars(RefinerSettings())
        held = {name: type(value)(about[name]) for name, value in defaults.items() if name in about}
        return RefinerSettings(**held) if held else None

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> RefinerSettings:
        """Take the values of `--model-backbone-scale` and `--model-refine-*`, of a command line or a record."""
        names = [field.name for field in fields(RefinerSettings)]
        return RefinerSettings(**{name: options[f'model_{name}'] for name in names if f'model_{name}' in options})


@dataclass(frozen=True)
class NetworkSettings:
    """Which network it is, and for `mattingrefine` how it refines.

    Attributes:
        model_type: one of `MODEL_TYPES`.
        backbone: one of `BACKBONES`.
        refiner: settings of the refiner; None for `mattingbase`.
    """

    model_type: str
    backbone: str
    refiner: RefinerSettings | None = None

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> NetworkSettings:
        """Take the values of the `--model-*` flags."""
        refines = options['model_type'] == 'mattingrefine'
        refiner = RefinerSettings.from_options(options) if refines else None
        return NetworkSettings(options['model_type'], options['model_backbone'], refiner)

    @property
    def values(self) -> dict[str, Any]:
        """All settings by name, in plain values."""
        refiner = {} if self.refiner is None else vars(self.refiner)
        return {'model_type': self.model_type, 'backbone': self.backbone, **refiner}
