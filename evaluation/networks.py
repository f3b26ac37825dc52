"""Checkpoints to be scored: which network each holds, and the settings that its refiner runs with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import flag
from common.network import READ_IN_MODE, NetworkSettings, Size
from common.stores import named

if TYPE_CHECKING:
    from checkpointing.origin import NetworkWeights


@dataclass(frozen=True)
class EvaluatedNetwork:
    """A checkpoint and the settings to run it with."""

    path: Path
    settings: NetworkSettings
    about: dict[str, Any]  # settings and origin: sha256, and run, epoch and step where a record says so
    report: str  # one line for the console
    precision: str = 'auto'  # as `common.cli` names it

    @property
    def refines(self) -> bool:
        """Whether there is a refiner."""
        return self.settings.refiner is not None


def find_networks(
    paths: Sequence[Path], given: Mapping[str, Any], size: Size, still: bool = True, base_only: bool = False
) -> tuple[list[EvaluatedNetwork], list[str]]:
    """Read what checkpoints hold, and settle how their refiners run.

    Settings are those of `inference.networks.find_network`.

    Args:
        paths: of the checkpoints.
        given: settings of refiners by their names in `RefinerSettings`.
        size: (width, height) of the largest picture.
        still: whether they are pictures rather than frames of clips.
        base_only: whether rows without the refiner are asked for, too.

    Returns:
        The networks, and what is wrong with files and flags.
    """
    networks, problems = [], []
    for path in paths:
        try:
            networks.append(_find_network(path, given, size, still))
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


def _find_network(path: Path, given: Mapping[str, Any], size: Size, still: bool) -> EvaluatedNetwork:
    from inference.networks import find_network

    found = find_network(path, sizes=[size], still=still, backend='pytorch', **given)
    assert found.weights is not None
    settings, origin = found.settings, found.weights.origin
    _check_tensors(found.weights, settings)
    about = {'checkpoint': named(path), 'checkpoint_sha256': origin.sha256, **origin.position}
    return EvaluatedNetwork(path, settings, about | settings.values, str(found))


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
