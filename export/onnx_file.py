"""Networks as ONNX files, for any batch and sides or for a fixed size, compared with the original in ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import onnx
import onnx.utils
import onnxruntime
import torch
from torch import Tensor, nn

from common.files import path_or_content
from common.network import OUTPUT_MEANINGS, OUTPUTS, Size
from model import MattingBase, MattingRefine

from . import ParityError, parity, without_messages
from .parity import Limits, PairComparison
from .torchscript import export_program, portable_copy

# (width, height) to compare at, none of which is the size that was traced; refining networks take multiples of 4.
REFINE_SIZES = ((640, 360), (148, 204), (1920, 1080))
# Smaller, since the coarse network takes up to 10 GB for a whole HD picture.
BASE_SIZES = ((320, 180), (151, 202), (960, 540))
# Ten times what was measured on trained networks (docs/export.md) in float32 and three times in float16, since other
# processors round differently.
LIMITS = {'float32': Limits(mean=1e-5, worst=2e-4, cells=0.002), 'float16': Limits(mean=0.03, worst=0.3, cells=0.1)}
PICTURE = 'RGB, 0..1; sides are multiples of {}'


def convert(
    network: MattingBase,
    precision: str = 'float32',
    form: str | None = None,
    opset: int = 20,
    about: Mapping[str, str] | None = None,
    size: Size | None = None,
) -> onnx.ModelProto:
    """Convert a network with all of its outputs.

    Args:
        network: in evaluation mode; not changed.
        precision: of weights, pictures and results, 'float32' or 'float16'.
        form: of the refiner, as in `PortableRefine`; if left out 'gather', but 'masked' in thresholding mode, where
            shapes would depend on the picture.
        opset: version of the operators, 18 to 25.
        about: metadata for the file, to which precision, outputs and the like are added.
        size: (width, height) of the one picture that the file takes; any batch and sides if left out.

    Raises:
        ValueError: this version of torch cannot write that opset.
    """
    refines = isinstance(network, MattingRefine)
    names = OUTPUTS['mattingrefine' if refines else 'mattingbase']
    if form is None:
        form = 'masked' if isinstance(network, MattingRefine) and network.refiner.mode == 'thresholding' else 'gather'
    portable = portable_copy(network, getattr(torch, precision), form)
    pooling = portable.aspp.convs[-1]
    assert isinstance(pooling, nn.Sequential)
    portable.aspp.convs[-1] = _Pooling(*pooling)
    # torch writes a single number, whose shape is an empty list.
    with without_messages('onnx_ir._convenience', 'because it is an empty sequence'):
        made = torch.onnx.export(
            export_program(portable, size), (), input_names=['src', 'bgr'], output_names=names, opset_version=opset,
            external_data=False, verbose=False,
        )  # fmt: skip
        assert made is not None
        model = made.model_proto
    if model.opset_import[0].version != opset:
        written = model.opset_import[0].version
        raise ValueError(f'--onnx-opset-version {opset}: torch {torch.__version__} wrote {written}; use that')
    # Intermediate shapes under generated names, and for each node the path of the code that it comes from.
    graph = model.graph
    del graph.value_info[:]
    for thing in (graph, *graph.node, *graph.input, *graph.output):
        del thing.metadata_props[:]
    multiple = 4 if refines and size is None else 1
    for value in (*graph.input, *graph.output):
        if size is None:
            _name_axes(value)
        value.doc_string = OUTPUT_MEANINGS.get(value.name) or PICTURE.format(multiple)
    made_with = {'precision': precision, 'sides_multiple_of': str(multiple), 'torch': torch.__version__}
    made_with |= {'refine_form': form} if refines else {}
    onnx.helper.set_model_props(model, {**(about or {}), **made_with, 'outputs': ' '.join(names)})
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to a file."""
    path.write_bytes(model.SerializeToString())


def select_outputs(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return a copy with some of the outputs, in the model's order, without the nodes that only the others need."""
    names = [output.name for output in model.graph.output if output.name in outputs]
    extracted = onnx.utils.Extractor(model).extract_model([value.name for value in model.graph.input], names)
    extracted.graph.name, extracted.producer_name = model.graph.name, model.producer_name
    about = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(extracted, about | {'outputs': ' '.join(names)})
    return extracted


def prove(
    path: Path,
    model: onnx.ModelProto,
    original: MattingBase,
    precision: str,
    files: Sequence[Path] = (),
    size: Size | None = None,
) -> None:
    """Run a written file in ONNX Runtime, two pictures at once, then one by one at other sizes, and compare.

    Args:
        path: of the file, with some or all of the model's outputs.
        model: what `convert` returned.
        original: the network, float32, with BatchNorm not folded.
        precision: that it was converted to.
        files: a photograph and its plate, as for `parity.pairs`.
        size: of the file, as for `convert`; there its pictures are compared one by one, and nowhere else.

    Raises:
        ParityError: ONNX Runtime cannot run it, or the results differ.
    """
    compared = _compare_pictures(path, model, original, precision, files, size)
    parity.require_equal(compared, LIMITS[precision], 'proved equal by running the file in ONNX Runtime')


def _compare_pictures(
    path: Path, model: onnx.ModelProto, original: MattingBase, precision: str, files: Sequence[Path], size: Size | None
) -> Iterator[PairComparison]:
    refines = isinstance(original, MattingRefine)
    with _as_parity_error(path.name):
        sessions = [_session(path_or_content(path))]
        if refines and 'ref_sm' not in [output.name for output in sessions[0].get_outputs()]:
            # Only with the refined cells can rounding be told from errors.
            sessions.append(_session(select_outputs(model, ['ref_sm']).SerializeToString()))
    sizes = [size] if size else REFINE_SIZES if refines else BASE_SIZES
    for name, src, bgr in _pictures(sizes, files, together=size is None):
        expected = parity.outputs_of(original, src, bgr)
        with _as_parity_error(name):
            found = {key: value for session in sessions for key, value in run(session, src, bgr).items()}
            rounded = partial(parity.rounded_outputs, original, src, bgr, getattr(torch, precision))
            comparison = parity.compare(name, expected, found, LIMITS[precision], rounded)
        yield comparison


def run(session: onnxruntime.InferenceSession, src: Tensor, bgr: Tensor) -> dict[str, Tensor]:
    """Return a file's outputs by name for pictures (B, 3, H, W), float 0..1."""
    dtype = {'tensor(float)': torch.float32, 'tensor(float16)': torch.float16}[session.get_inputs()[0].type]
    inputs = {'src': src.to(dtype).numpy(), 'bgr': bgr.to(dtype).numpy()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(names, inputs))))


def _session(file: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file, options)


def _pictures(sizes: Sequence[Size], files: Sequence[Path], together: bool) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield names and batches: one by one, at the first size all pictures as one if `together`."""
    for i, (width, height) in enumerate(sizes):
        pairs = parity.pairs(width, height, files)
        if i == 0 and together:
            src, bgr = (torch.cat(x) for x in zip(*(pair.tensors() for pair in pairs)))
            yield f'{len(pairs)} of {width}x{height}', src, bgr
        else:
            yield from ((pair.name, *pair.tensors()) for pair in pairs)


@contextlib.contextmanager
def _as_parity_error(name: str) -> Iterator[None]:
    """Turn whatever ONNX Runtime raises, which has no type in common, into a ParityError."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ValueError) and not type(error).__module__.startswith('onnxruntime'):
            raise
        raise ParityError(f'nothing written: {name}: ONNX Runtime {onnxruntime.__version__}: {error}') from error


class _Pooling(nn.Sequential):
    """The mean of a picture's features, repeated for each of its pixels.

    In the original network that is an enlargement of one pixel, for which OpenCV 5.0 reads memory outside of it and
    silently returns noise.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).expand(-1, -1, x.shape[2], x.shape[3])


def _name_axes(value: onnx.ValueInfoProto) -> None:
    """Give the axes plain names in place of torch's formulas."""
    suffix = '_cells' if value.name == 'ref_sm' else '_sm' if value.name.endswith('_sm') else ''
    axes = value.type.tensor_type.shape.dim
    for axis, name in ((0, 'batch'), (2, f'height{suffix}'), (3, f'width{suffix}')):
        axes[axis].dim_param = name
