"""Checkpoints to be scored: which network each holds, and the settings that its refiner runs with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import flag
from common.network import PUBLISHED, NetworkSettings, RefinerSettings, published_size

if TYPE_CHECKING:
    from checkpointing.origin import NetworkWeights

CHOSEN = ('backbone_scale', 'refine_mode', 'refine_sample_pixels', 'refine_threshold')
READ_IN_MODE = {'refine_sample_pixels': 'sampling', 'refine_threshold': 'thresholding'}


@dataclass(frozen=True)
class EvaluatedNetwork:
    """A checkpoint and the settings to run it with."""

    path: Path
    settings: NetworkSettings
    about: dict[str, Any]  # settings and origin: sha256, and run, epoch and step where a record says so
    report: str  # one line for the console

    @property
    def refines(self) -> bool:
        """Whether there is a refiner."""
        return self.settings.refiner is not None


def find_networks(
    paths: Sequence[Path], given: Mapping[str, Any], size: tuple[int, int], base_only: bool = False
) -> tuple[list[EvaluatedNetwork], list[str]]:
    """Read what checkpoints hold, and settle how their refiners run.

    A setting is the given one, else the one that the network was trained with if there is a record of that beside the
    file, else the one that is published for pictures of that size.

    Args:
        paths: of the checkpoints.
        given: settings of refiners by their names in `CHOSEN`.
        size: (width, height) of the largest picture.
        base_only: whether rows without the refiner are asked for, too.

    Returns:
        The networks, and what is wrong with files and flags.
    """
    networks, problems = [], []
    for path in paths:
        try:
            networks.append(_find_network(path, given, size))
        except (ValueError, OSError) as error:
            problems.append(f'--checkpoint {error}')
    if networks and not problems:
        problems += _useless_setting_problems(networks, given, base_only)
    return networks, problems


def _useless_setting_problems(
    networks: Sequence[EvaluatedNetwork], given: Mapping[str, Any], base_only: bool
) -> list[str]:
    """Return the flags that no network reads."""
    modes = {network.settings.refiner.refine_mode for network in networks if network.settings.refiner is not None}
    names = [f'model_{name}' for name in given]
    if not modes:
        useless = [*names, *(['base_only'] if base_only else [])]
        return [f'{flag(name)}: no checkpoint has a refiner; leave it out' for name in useless]
    return [
        f'{flag(f"model_{name}")} {value}: is read with --model-refine-mode {READ_IN_MODE[name]} alone; give that, '
        'too, or leave it out'
        for name, value in given.items()
        if READ_IN_MODE.get(name) not in {None, *modes}
    ]


def _find_network(path: Path, given: Mapping[str, Any], size: tuple[int, int]) -> EvaluatedNetwork:
    from checkpointing.origin import read_network

    weights = read_network(path)
    settings, report = NetworkSettings(weights.model_type, weights.backbone), ''
    if weights.model_type == 'mattingrefine':
        refiner, words = _refiner(weights, given, size)
        settings, report = replace(settings, refiner=refiner), f'; {words}'
    _check_tensors(weights, settings)
    about = {'checkpoint': str(path), 'checkpoint_sha256': weights.origin.sha256, **weights.origin.position}
    report = f'{path}: {settings.model_type} with {settings.backbone}{report}'
    return EvaluatedNetwork(path, settings, about | settings.values, report)


def _check_tensors(weights: NetworkWeights, settings: NetworkSettings) -> None:
    """Raise ValueError unless the file has all tensors of its network and no others: building it later cannot fail."""
    import torch

    from model import MattingBase, MattingRefine
    from model.weights import load_weights

    with torch.device('meta'):
        if settings.refiner is None:
            model = MattingBase(settings.backbone)
        else:
            model = MattingRefine(settings.backbone, **vars(settings.refiner))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that a network without memory takes no values
        load_weights(model, weights.file)


def _refiner(weights: NetworkWeights, given: Mapping[str, Any], size: tuple[int, int]) -> tuple[RefinerSettings, str]:
    """Return how a refiner runs, and in words which of the settings come from where."""
    kind = published_size(size)
    scale, pixels = PUBLISHED[kind]
    chosen, source = weights.origin.refiner, 'as trained'
    if chosen is None:
        chosen, source = RefinerSettings(scale, refine_sample_pixels=pixels), f'as published for {kind}'
    settings = replace(chosen, **given, refine_kernel_size=weights.kernel_size)
    words: dict[str, list[str]] = {}
    for name in CHOSEN:
        if READ_IN_MODE.get(name) in (None, settings.refine_mode):
            text = f'{name.replace("_", " ")} {getattr(settings, name)}'
            words.setdefault('as given' if name in given else source, []).append(text)
    return settings, '; '.join(f'{source}: {", ".join(texts)}' for source, texts in words.items())
