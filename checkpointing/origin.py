"""From a path to weights with their pedigree: the one way in for whatever reads a weight file.

Inference, export, evaluation, averaging, conversion and training all ask here, so that no file that is known to be
damaged is ever used, and what is said of a file is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.network import RefinerSettings

from .mirror.tools import fetch
from .record import Record
from .verify import Verdict, Verifier, read_provenance

if TYPE_CHECKING:
    from torch import Tensor

    from model.weights import WeightFile


@dataclass(frozen=True)
class Origin:
    """What is known of a file of weights, or of a training state, without reading its tensors.

    Attributes:
        path: as it was given.
        verdict: whether it is whole.
        record: of the checkpoint that it belongs to, also by way of a link or a copy such as best.pth; None for files
            from elsewhere.
        kind: which file of the checkpoint: 'weights', 'ema' or 'state'; '' without a record.
        provenance: what is written beside an average about its making, if anything is.
    """

    path: Path
    verdict: Verdict
    record: Record | None
    kind: str
    provenance: dict[str, Any] | None
    _verifier: Verifier = field(repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """The sha256 of the file in hex; the first call reads it if verifying did not."""
        return self._verifier.digest(self.path)

    @property
    def position(self) -> dict[str, Any]:
        """'run', 'epoch' and 'step' of the checkpoint; empty without a record."""
        return {} if self.record is None else {name: getattr(self.record, name) for name in ('run', 'epoch', 'step')}

    @property
    def metrics(self) -> dict[str, float]:
        """The validation metrics of this kind of weights; empty without a record."""
        metrics = {} if self.record is None else self.record.metrics
        prefix = 'valid_ema_' if self.kind == 'ema' else 'valid_'
        return {k: v for k, v in metrics.items() if k.startswith(prefix) and (self.kind == 'ema') == ('_ema_' in k)}

    @property
    def refiner(self) -> RefinerSettings | None:
        """The settings that the refiner was trained with; None for the base stage, or where nothing says so."""
        if self.record is not None:
            return self.record.refiner
        held = (self.provenance or {}).get('refiner')
        return RefinerSettings(**held) if held else None

    @property
    def trained_side(self) -> int | None:
        """The side of the square pictures that the network was trained on, in pixels; None without a record."""
        held = None if self.record is None else self.record.identity.get('resolution')
        return held if isinstance(held, int) else None


@dataclass(frozen=True)
class OriginalWeights:
    """Whole weights and where they come from."""

    file: WeightFile
    origin: Origin

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name, on the CPU."""
        return self.file.state_dict


@dataclass(frozen=True)
class NetworkWeights(OriginalWeights):
    """The whole weights of a matting network.

    Attributes:
        model_type, backbone: as `common.network` spells them.
        kernel_size: of the refiner; 3 where there is none.
    """

    model_type: str
    backbone: str
    kernel_size: int


def find_origin(path: Path, verifier: Verifier | None = None) -> Origin:
    """Verify a file and find what it belongs to.

    Args:
        path: of weights or of a training state.
        verifier: shared by several calls, so that each file is read once.

    Raises:
        FileNotFoundError: no such file.
        StoreError: it stands for a file of a mirror that cannot be fetched whole.
    """
    fetch(path)
    verifier = verifier or Verifier()
    verdict = verifier.check(path)
    real = path.resolve()
    record, kind = verifier.owner(real) or (None, '')
    return Origin(path, verdict, record, kind, read_provenance(real), verifier)


def read_original(path: Path, verifier: Verifier | None = None) -> OriginalWeights:
    """Read a weight file, unless it is known to be damaged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or no weight file.
    """
    from model.weights import read_weights

    origin = find_origin(path, verifier)
    if origin.verdict.damaged:
        text = origin.verdict.text
        raise ValueError(f'{path}: {text}' if text.startswith('not a weight file') else f'{path}: damaged: {text}')
    return OriginalWeights(read_weights(path), origin)


def read_network(path: Path, verifier: Verifier | None = None) -> NetworkWeights:
    """Read the weights of a matting network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds no weights or those of another network.
    """
    weights = read_original(path, verifier)
    model_type, backbone = network_of(weights.state_dict) or ('', '')
    if not model_type:
        raise ValueError(f'{path}: not the weights of a matting network ({weights.file.kind})')
    first = weights.state_dict.get('refiner.conv1.weight')
    kernel_size = 3 if first is None else first.shape[-1]
    return NetworkWeights(weights.file, weights.origin, model_type, backbone, kernel_size)


def network_of(state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return model type and backbone of weights, such as ('mattingrefine', 'resnet50'); None for other networks."""
    from model import weights

    return weights.network_of(state)


def read_training_state(path: Path) -> dict[str, Any]:
    """Read what a .state.pth holds.

    Raises:
        ValueError: it is damaged, or no training state.
    """
    import torch

    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise a dozen types on damaged files
        raise ValueError(f'{path}: not a training state, or a damaged one ({type(error).__name__})') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path}: holds a {type(content).__name__}, not a training state')
    return content
