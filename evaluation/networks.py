"""Checkpoints as networks that are ready to be run: what each file holds, and the settings that it was trained with."""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import options
from inference.speed import sweep

if TYPE_CHECKING:
    from model.weights import WeightFile

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
    from checkpointing import weight_files
    from checkpointing.record import read_records
    from checkpointing.verify import owner
    from model.weights import describe

    verifier = weight_files.verifier()
    weights = weight_files.read_whole(path, verifier)
    state = weights.state_dict
    held = describe(state).lower().split()
    if len(held) != 2:
        raise ValueError(f'{path}: not the weights of a matting network')
    flags = argparse.Namespace(**vars(args))
    flags.model_checkpoint = path
    flags.model_type, flags.model_backbone = held
    about: dict[str, Any] = {'checkpoint': str(path), 'checkpoint_sha256': verifier.digest(path)}
    owned = owner(path.resolve(), read_records(path.resolve().parent))
    if owned is not None:
        about |= {'run': owned[0].run, 'epoch': owned[0].epoch, 'step': owned[0].step}
    report = f'{path}: {flags.model_type} with {flags.model_backbone}'
    flags.model_refine_kernel_size = _check(weights, *held)
    if flags.model_type == 'mattingrefine':
        report += f'; {_complete(flags, {} if owned is None else owned[0].identity, size)}'
    else:
        # Nobody reads them, but the checks, which all of them pass.
        flags.model_backbone_scale, flags.model_refine_sample_pixels = sweep.SETTINGS['hd']
        flags.model_refine_mode, flags.model_refine_threshold = 'sampling', 0.7
    arguments = options.model_arguments(flags)
    about |= {name: value for name, value in arguments.items() if name != 'path'}
    return Network(flags, about, report)


def _check(weights: WeightFile, model_type: str, backbone: str) -> int:
    """Sees that a file has all tensors of its network and no others, so that building it later cannot fail.

    Returns:
        The kernel size of the refiner; 3 where there is none.

    Raises:
        ValueError: the file does not fit.
    """
    import torch

    from inference.networks import make_network
    from model.weights import load_weights

    first = weights.state_dict.get('refiner.conv1.weight')
    kernel = 1 if first is not None and first.shape[2:] == (1, 1) else 3
    refiner = {'refine_kernel_size': kernel} if model_type == 'mattingrefine' else {}
    with torch.device('meta'):
        model = make_network({'model_type': model_type, 'backbone': backbone, **refiner})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that a network without memory takes no values
        load_weights(model, weights)
    return kernel


def _complete(flags: argparse.Namespace, trained: dict[str, Any], size: tuple[int, int]) -> str:
    """Gives the refiner's flags that were left out their values; returns in words what was taken from where."""
    kind = '4k' if math.prod(size) > 2 * math.prod(sweep.SIZES['hd']) else 'hd'
    scale, pixels = sweep.SETTINGS[kind]
    published = dict(zip(OF_THE_REFINER, (scale, 'sampling', pixels, 0.7)))
    origins: dict[str, list[str]] = {}
    for name, key in OF_THE_REFINER.items():
        origin = 'as given'
        if getattr(flags, name) is None:
            origin = 'as trained' if key in trained else f'as published for {kind}'
            setattr(flags, name, trained.get(key, published[name]))
        origins.setdefault(origin, []).append(name)
    read = ['model_backbone_scale', 'model_refine_mode', *OF_A_MODE.get(flags.model_refine_mode, [])]
    words = {
        origin: ', '.join(f'{OF_THE_REFINER[name]} {getattr(flags, name)}' for name in names if name in read)
        for origin, names in origins.items()
    }
    return '; '.join(f'{origin}: {text}' for origin, text in words.items() if text)
