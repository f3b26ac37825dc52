"""Networks as TorchScript archives, whose settings can be set after loading, and as programs of `torch.export`.

Both are proved by loading the file again and running it on pictures that its making never saw.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from model import MattingBase, MattingRefine

from . import parity
from .parity import Comparison, Limits
from .portable import PortableBase, PortableRefine

PROGRAM = '.pt2'
# The extra file that says what a file is, as JSON.
ABOUT = 'about.json'
# (width, height) to compare at: none is the size of an example, and the last is rounded for what needs multiples of 4.
SIZES = ((640, 360), (148, 204), (959, 538))
# Against the network in the same precision: several times what was measured.
LIMITS = {'float32': Limits(mean=1e-5, worst=2e-4, cells=0.002), 'float16': Limits(mean=1e-3, worst=0.01, cells=0.01)}
# Of float16 against float32. The worst is one pixel's, and cells of nearly equal error change places.
ROUNDING = Limits(mean=0.03, worst=0.5, cells=0.2)
# Of what the coarse network of a program sees, in pixels: below it the encoder ends in a side of 1, which torch.export
# treats as another case than all others.
MIN_PROGRAM_SIDE = 17


def write(path: Path, network: MattingBase, precision: str, form: str, about: Mapping[str, str]) -> None:
    """Writes a network, which stays as it is.

    Args:
        path: .pt and .pth become a TorchScript archive, .pt2 a program of `torch.export` with its settings fixed.
        network: in evaluation mode. An archive serves as weights, too, if BatchNorm is not folded.
        precision: of the weights, 'float32' or 'float16'.
        form: of the refiner, as in `PortableRefine`.
        about: what the file says of itself.

    Raises:
        OSError: the disk's own error.
    """
    portable = portable_copy(network, getattr(torch, precision), form)
    extra = {ABOUT: json.dumps(dict(about), indent=1)}
    # Not to the file: torch's own writer has no OSError, and puts the file's name inside.
    content = io.BytesIO()
    if path.suffix == PROGRAM:
        torch.export.save(program(portable), content, extra_files=extra)
    else:
        with quiet():
            torch.jit.save(torch.jit.script(portable), content, _extra_files=extra)
    path.write_bytes(content.getbuffer())


def read(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """Loads what `write` wrote: a module to call with src and bgr (B, 3, H, W), and what it says of itself."""
    extra: dict[str, Any] = {ABOUT: ''}
    if path.suffix == PROGRAM:
        module: nn.Module = torch.export.load(path, extra_files=extra).module()
    else:
        with quiet():
            module = torch.jit.load(str(path), map_location='cpu', _extra_files=extra).eval()
    return module, json.loads(extra[ABOUT])


def portable_copy(network: MattingBase, dtype: torch.dtype, form: str = 'gather') -> PortableBase:
    """A copy of a network in the form in which it is exported, with weights of that type."""
    network = copy.deepcopy(network).to(dtype)
    return PortableRefine(network, form) if isinstance(network, MattingRefine) else PortableBase(network)


def program(portable: PortableBase) -> ExportedProgram:
    """Exports a network for any batch and for the sides that `sides_allowed` gives."""
    least, multiple = sides_allowed(portable)
    # Kept in the file, for compilers.
    size = (2, 3, least, 2 * least)
    dtype = portable.decoder.conv4.weight.dtype
    height, width = (multiple * Dim(name, min=least // multiple) for name in ('height', 'width'))
    sides = {0: Dim('batch'), 2: height, 3: width}
    # Not one tensor twice, which would become one input.
    example = torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype)
    made = torch.export.export(portable, example, dynamic_shapes=(sides, sides), strict=False)
    for node in made.graph.nodes:
        # Files know no floor, and for sides these are the same.
        if node.target is math.floor:
            node.target = math.trunc
    return made


def sides_allowed(network: MattingBase) -> tuple[int, int]:
    """The least side of pictures that a network's program takes, and what all sides must be multiples of."""
    if not isinstance(network, (MattingRefine, PortableRefine)):
        return MIN_PROGRAM_SIDE, 1
    return 4 * math.ceil(MIN_PROGRAM_SIDE / network.backbone_scale / 4), 4


def proofs(
    path: Path, network: MattingBase, original: MattingBase, precision: str, files: Sequence[Path]
) -> Iterator[tuple[list[Comparison], Limits, str]]:
    """Runs a written file on pictures of several sizes, an archive with other settings as well.

    Args:
        path: of the file.
        network: that it was written from, float32.
        original: the same without any folding.
        precision: that it was written in.
        files: a photograph and its plate, as for `parity.pairs`.

    Yields:
        What differs, by how much it may, and what was compared with what.
    """
    exported, _ = read(path)
    dtype = getattr(torch, precision)
    how = f'proved equal by running the file in torch {torch.__version__} on the CPU, against the network in'
    if dtype != torch.float32:
        yield list(_pictures_compared(exported, original, dtype, files)), ROUNDING, f'{how} float32, but for rounding'
        original = copy.deepcopy(network).to(dtype)  # which rounds folded weights
    found = list(_pictures_compared(exported, original, dtype, files))
    if isinstance(exported, torch.jit.ScriptModule) and isinstance(original, MattingRefine):
        found += _settings_compared(exported, original, dtype, files)
    yield found, LIMITS[precision], f'{how} {precision}'


def _pictures_compared(
    exported: nn.Module, network: MattingBase, dtype: torch.dtype, files: Sequence[Path]
) -> Iterator[Comparison]:
    """At several sizes, each picture alone and, at the first size, both at once."""
    least, multiple = sides_allowed(network)
    if isinstance(exported, torch.jit.ScriptModule):
        multiple = 1
    for i, size in enumerate(SIZES):
        width, height = (max(least, side // multiple * multiple) for side in size)
        pairs = parity.pairs(width, height, files)
        for pair in pairs:
            yield _comparison(pair.name, exported, network, dtype, pair.tensors())
        if i == 0:
            both = [torch.cat(x) for x in zip(*(pair.tensors() for pair in pairs))]
            yield _comparison(f'both {width}x{height}', exported, network, dtype, both)


def _settings_compared(
    archive: Any, network: MattingRefine, dtype: torch.dtype, files: Sequence[Path]
) -> Iterator[Comparison]:
    """Each mode at another backbone scale, which an archive then keeps."""
    network = copy.deepcopy(network)
    pictures = parity.pairs(*SIZES[0], files)[0].tensors()
    for mode in ('full', 'thresholding', 'sampling'):
        archive.backbone_scale = network.backbone_scale = 0.2
        archive.refine_mode = network.refiner.mode = mode
        archive.refine_sample_pixels = network.refiner.sample_pixels = 8_000
        archive.refine_threshold = network.refiner.threshold = 0.1
        yield _comparison(f'set to {mode}', archive, network, dtype, pictures)


def _comparison(
    name: str, exported: nn.Module, network: MattingBase, dtype: torch.dtype, pictures: Sequence[Tensor]
) -> Comparison:
    own = network.decoder.conv4.weight.dtype
    expected = parity.outputs_of(network, *(x.to(own) for x in pictures))
    found = parity.outputs_of(exported, *(x.to(dtype) for x in pictures))
    return parity.compare(name, {key: x.float() for key, x in expected.items()}, found)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves out that torch prefers `torch.export` to TorchScript, and no other warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', r'`torch\.jit\.\w+` is deprecated')
        yield
