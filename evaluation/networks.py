"""Checkpoints as networks that are ready to be run: what each file holds, and the settings that it was trained with."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import network
from inference import options

if TYPE_CHECKING:
    from checkpointing.origin import NetworkWeights
    from common.network import RefinerSettings

# Flags of a refiner, and what a checkpoint's record calls them.
OF_THE_REFINER = {
    'model_backbone_scale': 'backbone scale',
    'model_refine_mode': 'refine mode',
    'model_refine_sample_pixels': 'refine sample pixels',
    'model_refine_threshold': 'refine threshold',
}
OF_A_MODE = {'sampling': ['model_refine_sample_pixels'], 'thresholding': ['model_refine_threshold']}


@dataclass(frozen=True)
class Network:
    """A checkpoint with all that it takes to run it.

    Attributes:
        flags: the command line, completed by what `inference_images.py` would be told of the network.
        about: settings and origin in plain values: sha256, and run, epoch and step where a record says so.
        report: one line for the console.
    """

    flags: argparse.Namespace
    about: dict[str, Any]
    report: str

    @property
    def refines(self) -> bool:
        """Whether there is a refiner."""
        return self.flags.model_type == 'mattingrefine'


def find_networks(args: argparse.Namespace, size: tuple[int, int]) -> tuple[list[Network], list[str]]:
    """Reads what the files of `--checkpoint` hold, and completes the flags that are left out.

    A setting is what its flag says, else what the network was trained with if there is a record of that beside the
    file, else what is published for pictures of that size.

    Args:
        args: with `checkpoint`, the flags of `OF_THE_REFINER`, None where left out, and the machine's.
        size: (width, height) of the largest picture.

    Returns:
        The networks, and what is wrong with files and flags.
    """
    networks, problems = [], []
    for path in args.checkpoint:
        try:
            networks.append(_network(args, path, size))
        except (ValueError, OSError) as error:
            problems.append(f'--checkpoint {error}')
    if networks and not problems and not any(network.refines for network in networks):
        given = [name for name in (*OF_THE_REFINER, 'base_only') if getattr(args, name) not in (None, False)]
        problems += [f'--{name.replace("_", "-")}: no checkpoint has a refiner; leave it out' for name in given]
    wrong = [line for network in networks for line in options.model_problems(network.flags)]
    if not problems:
        wrong += _unread(args, networks)
    return networks, problems + list(dict.fromkeys(wrong))


def _unread(args: argparse.Namespace, networks: list[Network]) -> list[str]:
    """Flags of a way of refining that no network takes."""
    modes = {network.flags.model_refine_mode for network in networks if network.refines}
    return [
        f'--{name.replace("_", "-")} {getattr(args, name)}: is read with --model-refine-mode {mode} alone; give that, '
        'too, or leave it out'
        for mode, names in OF_A_MODE.items()
        for name in names
        if modes and mode not in modes and getattr(args, name) is not None
    ]


def _network(args: argparse.Namespace, path: Path, size: tuple[int, int]) -> Network:
    from checkpointing.origin import read_network

    weights = read_network(path)
    flags = argparse.Namespace(**vars(args))
    flags.model_checkpoint = path
    flags.model_type, flags.model_backbone = weights.model_type, weights.backbone
    flags.model_refine_kernel_size = weights.kernel_size
    origin = weights.origin
    about: dict[str, Any] = {'checkpoint': str(path), 'checkpoint_sha256': origin.sha256, **origin.position}
    report = f'{path}: {flags.model_type} with {flags.model_backbone}'
    _check(weights)
    if flags.model_type == 'mattingrefine':
        report += f'; {_complete(flags, origin.refiner, size)}'
    else:
        # Nobody reads them, but the checks, which all of them pass.
        flags.model_backbone_scale, flags.model_refine_sample_pixels = network.PUBLISHED['hd']
        flags.model_refine_mode, flags.model_refine_threshold = 'sampling', 0.7
    arguments = options.model_arguments(flags)
    about |= {name: value for name, value in arguments.items() if name != 'path'}
    return Network(flags, about, report)


def _check(weights: NetworkWeights) -> None:
    """Raise ValueError unless the file has all tensors of its network and no others: building it later cannot fail."""
    import torch

    from inference.networks import make_network
    from model.weights import load_weights

    refiner = {'refine_kernel_size': weights.kernel_size} if weights.model_type == 'mattingrefine' else {}
    with torch.device('meta'):
        model = make_network({'model_type': weights.model_type, 'backbone': weights.backbone, **refiner})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that a network without memory takes no values
        load_weights(model, weights.file)


def _complete(flags: argparse.Namespace, trained: RefinerSettings | None, size: tuple[int, int]) -> str:
    """Gives the refiner's flags that were left out their values; returns in words what was taken from where."""
    kind = network.published_size(size)
    scale, pixels = network.PUBLISHED[kind]
    published = dict(zip(OF_THE_REFINER, (scale, 'sampling', pixels, 0.7)))
    origins: dict[str, list[str]] = {}
    for name in OF_THE_REFINER:
        origin = 'as given'
        if getattr(flags, name) is None:
            origin = 'as trained' if trained else f'as published for {kind}'
            setattr(flags, name, getattr(trained, name.removeprefix('model_')) if trained else published[name])
        origins.setdefault(origin, []).append(name)
    read = ['model_backbone_scale', 'model_refine_mode', *OF_A_MODE.get(flags.model_refine_mode, [])]
    words = {
        origin: ', '.join(f'{OF_THE_REFINER[name]} {getattr(flags, name)}' for name in names if name in read)
        for origin, names in origins.items()
    }
    return '; '.join(f'{origin}: {text}' for origin, text in words.items() if text)
