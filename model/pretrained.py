"""Pretrained weights to start the encoder from: torchvision's ImageNet classifiers and published DeepLabV3 files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

from torch import Tensor

from .backbone import widen_stem
from .base import MattingBase
from .weights import LoadReport, WeightFile, load_weights, read_weights

STEMS = {'resnet50': 'backbone.conv1.weight', 'resnet101': 'backbone.conv1.weight',
         'mobilenetv2': 'backbone.features.0.0.weight'}  # fmt: skip
# How names begin in files of DeepLabV3 or of a classifier, and in our networks; None: not used. The first match counts.
PREFIXES = {
    'backbone.low_level_features.': 'backbone.features.',
    'backbone.high_level_features.': 'backbone.features.',
    'backbone.': 'backbone.',
    'classifier.classifier.0.': 'aspp.',
    'classifier.': None,
    'fc.': None,
    '': 'backbone.',
}


def initialize(model: MattingBase, source: str | Path | WeightFile) -> LoadReport:
    """Load pretrained weights into the encoder, and into the ASPP if the file has one.

    Args:
        model: its decoder and refiner keep their random weights.
        source: 'imagenet' (torchvision's weights, downloaded once into torch's cache), a file of torchvision's
            ImageNet weights, or a DeepLabV3 file (`model_state`, names `backbone.*`, `classifier.classifier.0.*`); a
            path, or what `read_weights` returned.

    Raises:
        FileNotFoundError: no such file.
        ConnectionError: 'imagenet' cannot be downloaded.
        ValueError: the file is for another backbone, or of another kind.
    """
    backbone = model.backbone_name
    if source == 'imagenet':
        state, name = _download(backbone), f"torchvision's ImageNet weights of {backbone}"
    else:
        file = source if isinstance(source, WeightFile) else read_weights(source)
        state, name = file.state_dict, str(file.path)
    renamed = _rename(state)
    stem = STEMS[backbone]
    if stem in renamed:
        renamed[stem] = widen_stem(renamed[stem])
    own = model.state_dict()
    for key in own:
        # Files of old torch versions have no counters, and torch itself loads them without.
        mean = key.replace('num_batches_tracked', 'running_mean')
        if mean != key and mean in renamed:
            renamed.setdefault(key, own[key])
    renamed = {k: v for k, v in renamed.items() if k in own or k.startswith('backbone.')}
    try:
        # MobileNetV2's last 1x1 block (features.18) belongs to the classifier and is left out.
        report = load_weights(model, renamed, ('aspp.', 'decoder.', 'refiner.'), ('backbone.features.18.',))
    except ValueError as error:
        raise ValueError(f'{name} does not hold pretrained weights for {backbone}: {error}') from None
    return replace(report, source=name)


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a classifier's or DeepLabV3's file under our names, without those that are not used."""
    renamed = {}
    for key, value in state.items():
        theirs = next(prefix for prefix in PREFIXES if key.startswith(prefix))
        if (ours := PREFIXES[theirs]) is not None:
            renamed[ours + key.removeprefix(theirs)] = value
    return renamed


def _download(backbone: str) -> dict[str, Tensor]:
    from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, ResNet101_Weights

    weights = {'resnet50': ResNet50_Weights.IMAGENET1K_V2, 'resnet101': ResNet101_Weights.IMAGENET1K_V2,
               'mobilenetv2': MobileNet_V2_Weights.IMAGENET1K_V1}[backbone]  # fmt: skip
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise ConnectionError(
            f'the ImageNet weights of {backbone} cannot be downloaded ({error}); download '
            f'{weights.url.rsplit("/", 1)[-1]} on a machine with a network and give its path'
        ) from None
