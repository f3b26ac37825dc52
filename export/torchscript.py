"""Networks as TorchScript archives, whose settings can be set after loading, and as programs of `torch.export`."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from common.network import Size
from model import MattingBase, MattingRefine

from . import parity
from .parity import Limits, PairComparison
from .portable import PortableBase, PortableRefine

PROGRAM = '.pt2'
# Name of the extra file with the metadata, as JSON.
ABOUT = 'about.json'
# (width, height) to compare at. None is the size that was traced; the last is rounded where multiples of 4 are needed.
SIZES = ((640, 360), (148, 204), (959, 538))
# Against the network in the same precision: several times what was measured (docs/export.md).
LIMITS = {'float32': Limits(mean=1e-5, worst=2e-4, cells=0.002), 'float16': Limits(mean=1e-3, worst=0.01, cells=0.01)}
# Of what a program's coarse network sees, in pixels. At 16 the encoder ends in a side of 1, a special case for
# torch.export.
MIN_PROGRAM_SIDE = 17


def save(
    network: MattingBase, path: Path, precision: str, form: str, about: Mapping[str, str], size: Size | None = None
) -> None:
    """Convert a network and write the file.

    Args:
        network: in evaluation mode; not changed. With BatchNorm not folded, an archive is a weight file as well.
        path: .pt and .pth become a TorchScript archive, .pt2 a program of `torch.export` with fixed settings.
        precision: of the weights, 'float32' or 'float16'.
        form: of the refiner, as in `PortableRefine`.
        about: metadata for the file.
        size: (width, height) of the one picture that a program takes; any batch and sides if left out.
    """
    portable = portable_copy(network, getattr(torch, precision), form)
    extra = {ABOUT: json.dumps(dict(about), indent=1)}
    # Not directly to the file: torch's writer hides OSError, and stores the file's name.
    content = io.BytesIO()
    if path.suffix == PROGRAM:
        torch.export.save(export_program(portable, size), content, extra_files=extra)
    else:
        with quiet():
            torch.jit.save(torch.jit.script(portable), content, _extra_files=extra)
    path.write_bytes(content.getbuffer())


def load(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """Load what `save` wrote: a module to call with src and bgr (B, 3, H, W), and the metadata."""
    extra: dict[str, Any] = {ABOUT: ''}
    content = io.BytesIO(path.read_bytes())  # torch takes no path that is no valid text
    if path.suffix == PROGRAM:
        module: nn.Module = torch.export.load(content, extra_files=extra).module()
    else:
        with quiet():
            module = torch.jit.load(content, map_location='cpu', _extra_files=extra).eval()
    return module, json.loads(extra[ABOUT])


def portable_copy(network: MattingBase, dtype: torch.dtype, form: str = 'gather') -> PortableBase:
    """Return a copy of a network in its portable form, with weights of type `dtype`."""
    network = copy.deepcopy(network).to(dtype)
    return PortableRefine(network, form) if isinstance(network, MattingRefine) else PortableBase(network)


def export_program(portable: PortableBase, size: Size | None = None) -> ExportedProgram:
    """Trace a network with `torch.export`, for any batch and the sides that `allowed_sides` returns.

    With a size (width, height) it takes one picture of that size, whatever its sides, and computes no shapes.
    """
    least, multiple = allowed_sides(portable)
    shape = (2, 3, least, 2 * least)  # small, since the file keeps the example, for compilers
    height, width = (multiple * Dim(name, min=least // multiple) for name in ('height', 'width'))
    sides = {0: Dim('batch'), 2: height, 3: width}
    if size is not None:
        shape, sides = (1, 3, size[1], size[0]), {}
    dtype = portable.decoder.conv4.weight.dtype
    # Two tensors, since one given twice would become one input.
    example = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    made = torch.export.export(portable, example, dynamic_shapes=(sides, sides), strict=False)
    if size is not None:
        made.example_inputs = None  # 50 MB of a file for HD
    for node in made.graph.nodes:
        # Files cannot hold floor; for sides trunc is the same.
        if node.target is math.floor:
            node.target = math.trunc
    return made


def allowed_sides(network: MattingBase) -> tuple[int, int]:
    """Return the least side of pictures, in pixels, that a network's program takes, and what sides are multiples of."""
    if not isinstance(network, (MattingRefine, PortableRefine)):
        return MIN_PROGRAM_SIDE, 1
    return 4 * math.ceil(MIN_PROGRAM_SIDE / network.backbone_scale / 4), 4


def prove(
    path: Path,
    network: MattingBase,
    original: MattingBase,
    precision: str,
    files: Sequence[Path] = (),
    size: Size | None = None,
) -> None:
    """Load a written file, run it on pictures of several sizes, an archive with other settings too, and compare.

    Args:
        path, precision: of the file.
        network: what was saved, float32.
        original: the same with BatchNorm not folded.
        files: a photograph and its plate, as for `parity.pairs`.
        size: of the file, as for `save`, which it is compared at alone.

    Raises:
        ParityError: the results differ.
    """
    exported, _ = load(path)
    dtype = getattr(torch, precision)
    how = f'proved equal by running the file in torch {torch.__version__} on the CPU, against the network in'
    if dtype != torch.float32:
        compared = _compare_pictures(exported, original, dtype, files, size)
        parity.require_equal(compared, parity.MOST, f'{how} float32, but for rounding')
        original = copy.deepcopy(network).to(dtype)  # with the folded weights rounded
    compared = _compare_pictures(exported, original, dtype, files, size)
    if isinstance(exported, torch.jit.ScriptModule) and isinstance(original, MattingRefine):
        compared = itertools.chain(compared, _compare_settings(exported, original, dtype, files))
    parity.require_equal(compared, LIMITS[precision], f'{how} {precision}')


def _compare_pictures(
    exported: nn.Module, network: MattingBase, dtype: torch.dtype, files: Sequence[Path], size: Size | None
) -> Iterator[PairComparison]:
    """Compare each picture alone, at `size` or several sizes, of which at the first both as one batch, too."""
    least, multiple = allowed_sides(network)
    if isinstance(exported, torch.jit.ScriptModule):
        multiple = 1
    sizes = [size] if size else [tuple(max(least, side // multiple * multiple) for side in sides) for sides in SIZES]
    for i, (width, height) in enumerate(sizes):
        pairs = parity.pairs(width, height, files)
        for pair in pairs:
            yield _compare(pair.name, exported, network, dtype, pair.tensors())
        if i == 0 and size is None:
            both = [torch.cat(x) for x in zip(*(pair.tensors() for pair in pairs))]
            yield _compare(f'both {width}x{height}', exported, network, dtype, both)


def _compare_settings(
    archive: Any, network: MattingRefine, dtype: torch.dtype, files: Sequence[Path]
) -> Iterator[PairComparison]:
    """Compare each mode at another backbone scale; the archive keeps these settings."""
    network = copy.deepcopy(network)
    pictures = parity.pairs(*SIZES[0], files)[0].tensors()
    for mode in ('full', 'thresholding', 'sampling'):
        archive.backbone_scale = network.backbone_scale = 0.2
        archive.refine_mode = network.refiner.mode = mode
        archive.refine_sample_pixels = network.refiner.sample_pixels = 8_000
        archive.refine_threshold = network.refiner.threshold = 0.1
        yield _compare(f'set to {mode}', archive, network, dtype, pictures)


def _compare(
    name: str, exported: nn.Module, network: MattingBase, dtype: torch.dtype, pictures: Sequence[Tensor]
) -> PairComparison:
    own = network.decoder.conv4.weight.dtype
    expected = parity.outputs_of(network, *(x.to(own) for x in pictures))
    found = parity.outputs_of(exported, *(x.to(dtype) for x in pictures))
    limits = LIMITS['float32'] if own == dtype == torch.float32 else None
    rounded = partial(parity.rounded_outputs, network, pictures[0], pictures[1], dtype)
    return parity.compare(name, {key: x.float() for key, x in expected.items()}, found, limits, rounded)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warning that TorchScript is deprecated in favour of `torch.export`, and no other."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', r'`torch\.jit\.\w+` is deprecated')
        yield
