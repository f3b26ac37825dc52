"""Networks as ONNX files for any batch and any sides, proved by running the file in ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx.utils
import onnxruntime
import torch
from torch import Tensor, nn

from common.network import OUTPUT_MEANINGS, OUTPUTS
from model import MattingBase, MattingRefine

from . import ParityError, parity
from .parity import Comparison, Limits
from .torchscript import portable_copy, program

# (width, height) to compare at, none of which is the size of an example; what refines takes multiples of 4.
REFINE_SIZES = ((640, 360), (148, 204), (1920, 1080))
# At full size the coarse network of a picture of HD takes up to 10 GB.
BASE_SIZES = ((320, 180), (151, 202), (960, 540))
# Ten times what was measured on trained networks (docs/export.md) in float32, three times in float16: another processor
# rounds otherwise.
LIMITS = {'float32': Limits(mean=1e-5, worst=2e-4, cells=0.002), 'float16': Limits(mean=0.03, worst=0.3, cells=0.1)}
PICTURE = 'RGB, 0..1; sides are multiples of {}'


def convert(
    network: MattingBase,
    precision: str = 'float32',
    form: str | None = None,
    opset: int = 20,
    about: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Converts a network, which stays as it is, with all of its outputs.

    Args:
        network: in evaluation mode.
        precision: of weights, pictures and results, 'float32' or 'float16'.
        form: of the refiner, as in `PortableRefine`; if left out 'gather', but 'masked' in thresholding mode, where
            shapes would depend on the picture.
        opset: version of the operators, 18 to 25.
        about: what the file says of itself, beside outputs and the like.

    Raises:
        ValueError: this torch cannot write that version.
    """
    refines = isinstance(network, MattingRefine)
    names = OUTPUTS['mattingrefine' if refines else 'mattingbase']
    if form is None:
        form = 'masked' if isinstance(network, MattingRefine) and network.refiner.mode == 'thresholding' else 'gather'
    portable = portable_copy(network, getattr(torch, precision), form)
    pooling = portable.aspp.convs[-1]
    assert isinstance(pooling, nn.Sequential)
    portable.aspp.convs[-1] = _Pooling(*pooling)
    with _quiet():
        made = torch.onnx.export(
            program(portable), (), input_names=['src', 'bgr'], output_names=names, opset_version=opset,
            external_data=False, verbose=False,
        )  # fmt: skip
        assert made is not None
        model = made.model_proto
    if model.opset_import[0].version != opset:
        written = model.opset_import[0].version
        raise ValueError(f'--onnx-opset-version {opset}: torch {torch.__version__} wrote {written}; use that')
    # Intermediate shapes, in names that nobody knows, and where in our code, on whose disk, each node comes from.
    graph = model.graph
    del graph.value_info[:]
    for thing in (graph, *graph.node, *graph.input, *graph.output):
        del thing.metadata_props[:]
    for value in (*graph.input, *graph.output):
        _name_axes(value)
        value.doc_string = OUTPUT_MEANINGS.get(value.name) or PICTURE.format(4 if refines else 1)
    said = {'precision': precision, 'sides_multiple_of': '4' if refines else '1', 'torch': torch.__version__}
    said |= {'refine_form': form} if refines else {}
    onnx.helper.set_model_props(model, {**(about or {}), **said, 'outputs': ' '.join(names)})
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a file.

    Raises:
        OSError: the disk's own error.
    """
    path.write_bytes(model.SerializeToString())


def chosen(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy with these of its outputs, in its own order, and without what only the others need."""
    names = [output.name for output in model.graph.output if output.name in outputs]
    extracted = onnx.utils.Extractor(model).extract_model([value.name for value in model.graph.input], names)
    extracted.graph.name, extracted.producer_name = model.graph.name, model.producer_name
    about = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(extracted, about | {'outputs': ' '.join(names)})
    return extracted


def compare(
    model: onnx.ModelProto, path: Path, original: MattingBase, files: Sequence[Path] = ()
) -> Iterator[Comparison]:
    """Runs a written file in ONNX Runtime: two pictures at once, then at other sizes one by one.

    Args:
        model: what `convert` gave.
        path: of the file, with some or all of its outputs.
        original: the network that it was converted from, in float32, BatchNorm as it was trained.
        files: a photograph and its plate, as for `parity.pairs`.

    Raises:
        ParityError: ONNX Runtime cannot run it, or shapes differ.
    """
    refines = isinstance(original, MattingRefine)
    with _nothing_to_compare(path.name):
        sessions = [_session(str(path))]
        if refines and 'ref_sm' not in [output.name for output in sessions[0].get_outputs()]:
            # Which cells were refined is needed to tell rounding from errors.
            sessions.append(_session(chosen(model, ['ref_sm']).SerializeToString()))
    for name, src, bgr in _pictures(REFINE_SIZES if refines else BASE_SIZES, files):
        expected = parity.outputs_of(original, src, bgr)
        with _nothing_to_compare(name):
            found = {key: value for session in sessions for key, value in run(session, src, bgr).items()}
            comparison = parity.compare(name, expected, found)
        yield comparison


def run(session: onnxruntime.InferenceSession, src: Tensor, bgr: Tensor) -> dict[str, Tensor]:
    """A file's outputs, by name, for pictures (B, 3, H, W), float 0..1."""
    dtype = {'tensor(float)': torch.float32, 'tensor(float16)': torch.float16}[session.get_inputs()[0].type]
    inputs = {'src': src.to(dtype).numpy(), 'bgr': bgr.to(dtype).numpy()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(names, inputs))))


def _session(file: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file, options)


def _pictures(sizes: Sequence[tuple[int, int]], files: Sequence[Path]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Batches with their names: at the first size all pictures, at the others one each."""
    for i, (width, height) in enumerate(sizes):
        pairs = parity.pairs(width, height, files)
        if i == 0:
            src, bgr = (torch.cat(x) for x in zip(*(pair.tensors() for pair in pairs)))
            yield f'{len(pairs)} of {width}x{height}', src, bgr
        else:
            yield from ((pair.name, *pair.tensors()) for pair in pairs)


@contextlib.contextmanager
def _nothing_to_compare(name: str) -> Iterator[None]:
    """Makes one kind of error of all that the runtime raises, whose errors have no type in common."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ValueError) and not type(error).__module__.startswith('onnxruntime'):
            raise
        raise ParityError(f'nothing written: {name}: ONNX Runtime {onnxruntime.__version__}: {error}') from error


class _Pooling(nn.Sequential):
    """The mean of a picture's features, for each of its pixels: repeated.

    The network enlarges a picture of one pixel to that. OpenCV 5.0 reads other memory then, and its results are noise,
    without a word.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).expand(-1, -1, x.shape[2], x.shape[3])


def _name_axes(value: onnx.ValueInfoProto) -> None:
    """Gives the axes names to read, for which torch has formulas."""
    suffix = '_cells' if value.name == 'ref_sm' else '_sm' if value.name.endswith('_sm') else ''
    axes = value.type.tensor_type.shape.dim
    for axis, name in ((0, 'batch'), (2, f'height{suffix}'), (3, f'width{suffix}')):
        axes[axis].dim_param = name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out a line about an empty list, which is the shape of a single number, and no other."""

    def unknown(record: logging.LogRecord) -> bool:
        return 'because it is an empty sequence' not in record.getMessage()

    logger = logging.getLogger('onnx_ir._convenience')
    logger.addFilter(unknown)
    try:
        yield
    finally:
        logger.removeFilter(unknown)
