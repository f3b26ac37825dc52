"""A network as a Core ML model: what it takes and gives, conversion, quantization."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.network import OUTPUTS
from export.portable import PortableBase, PortableRefine
from model import MattingBase, MattingRefine

# Of images, which Core ML holds as 8 bits a channel or, for alpha, as one half-precision number.
IMAGES = ('pha', 'fgr')
PLATE = 'plate'


@dataclass(frozen=True)
class Settings:
    """How a network becomes a package.

    Attributes:
        sizes: (width, height) in pixels, of one function each; the first is the default.
        outputs: of the network's names and 'com'.
        precision: of computing, 'float16' or 'float32'.
        target: least system, such as 'iOS16'; several sizes and a plate as state need iOS18.
        image_inputs: take pictures as images instead of arrays of 0..1.
        image_outputs: give alpha and foreground as images instead of arrays of 0..1.
        plate_state: the plate is a state of the model instead of an input.
        quantize: 'none', 'int8' or 'palette6'.
        form: of the refiner, as in `export.portable.PortableRefine`.
    """

    sizes: Sequence[tuple[int, int]]
    outputs: Sequence[str] = ('pha', 'fgr')
    precision: str = 'float16'
    target: str = 'iOS16'
    image_inputs: bool = True
    image_outputs: bool = True
    plate_state: bool = False
    quantize: str = 'none'
    form: str = 'gather'


class Cutter(nn.Module):
    """A network with the inputs and outputs of a package.

    Args:
        network: in its portable form.
        settings: of the package.
        size: (width, height) of its pictures.
    """

    def __init__(self, network: PortableBase, settings: Settings, size: tuple[int, int]):
        super().__init__()
        self.network = network
        self.settings = settings
        self.names = OUTPUTS['mattingrefine' if isinstance(network, PortableRefine) else 'mattingbase']
        if settings.plate_state:
            self.register_buffer(PLATE, torch.zeros(1, 3, size[1], size[0]))

    def forward(self, src: Tensor, bgr: Tensor | None = None) -> tuple[Tensor, ...]:
        """Takes pictures (1, 3, H, W), 0..1, and returns the outputs asked for."""
        if bgr is None:
            plate: Tensor = self.get_buffer(PLATE)
            bgr = plate / 255
            plate.mul_(1)  # only what the program writes becomes a state
        results = dict(zip(self.names, self.network(src, bgr)))
        pha, fgr = results['pha'], results['fgr']
        if 'com' in self.settings.outputs:
            results['com'] = torch.cat([fgr * pha, pha], 1)
        if self.settings.image_outputs:
            results['fgr'] = fgr * 255
        return tuple(results[name] for name in self.settings.outputs)


def convert(network: MattingBase, settings: Settings, size: tuple[int, int]) -> Any:
    """Converts a network, BatchNorm folded, for pictures of one size; returns a coremltools `MLModel`."""
    with quiet():
        import coremltools as ct
    portable = PortableRefine(network, settings.form) if isinstance(network, MattingRefine) else PortableBase(network)
    shape = (1, 3, size[1], size[0])
    # Two tensors: one given twice would be one input.
    example = [torch.rand(shape) for _ in range(1 if settings.plate_state else 2)]
    with torch.no_grad(), quiet():
        program = torch.export.export(Cutter(portable, settings, size).eval(), tuple(example)).run_decompositions({})
        names = ('src', 'bgr')[: len(example)]
        return ct.convert(
            program,
            inputs=[
                ct.ImageType(name, shape, scale=1 / 255, color_layout=ct.colorlayout.RGB)
                if settings.image_inputs
                else ct.TensorType(name, shape)
                for name in names
            ],
            outputs=[_output(ct, name, settings) for name in settings.outputs],
            states=[ct.StateType(ct.TensorType(shape=shape, dtype=np.float16), name=PLATE)]
            if settings.plate_state
            else None,
            compute_precision=getattr(ct.precision, settings.precision.upper()),
            minimum_deployment_target=getattr(ct.target, settings.target),
            pass_pipeline=_pipeline(ct),
            skip_model_load=True,
        )


def _output(ct: Any, name: str, settings: Settings) -> Any:
    if name not in IMAGES or not settings.image_outputs:
        return ct.TensorType(name)
    layout = ct.colorlayout.GRAYSCALE_FLOAT16 if name == 'pha' else ct.colorlayout.RGB
    return ct.ImageType(name, color_layout=layout)


def _pipeline(ct: Any) -> Any:
    """The default passes, but for one that ruins large pictures without a word.

    For iOS 17 and later in half precision it makes indices 16-bit integers, which end at 65,535. A picture of
    1920 x 1080 has 129,600 cells, and nearly all refined cells would land elsewhere.
    """
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes({'common::add_int16_cast'})
    return pipeline


def quantized(model: Any, settings: Settings) -> Any:
    """A model with smaller weights: linear 8 bits for each channel, or 64 values for each tensor.

    Of large tensors alone: those below 10,000 numbers are the convolutions of single channels, which lose most by it,
    and 2 % of the size. Leaving them halves the difference to the original.
    """
    if settings.quantize == 'none':
        return model
    with quiet():
        import coremltools.optimize.coreml as cto

        return _quantized(model, settings.quantize, cto)


def _quantized(model: Any, kind: str, cto: Any) -> Any:
    if kind == 'int8':
        linear = cto.OpLinearQuantizerConfig(mode='linear_symmetric', weight_threshold=10_000)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(linear))
    palette = cto.OpPalettizerConfig(mode='kmeans', nbits=6, weight_threshold=10_000)
    return cto.palettize_weights(model, cto.OptimizationConfig(palette))


# What coremltools says without need: that it misses its compiled half, which only macOS has, and that it was not tested
# with versions that the tests here prove.
_NOISE = (
    'libcoremlpython',
    'has not been tested with coremltools',
    'scikit-learn version',
    'Saving value type of int64',
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves out what is known to be harmless, and the converter's progress bars."""

    def known(record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in _NOISE)

    logger = logging.getLogger('coremltools')
    logger.addFilter(known)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='Saving value type of int64')
            # Its bars; what goes wrong is raised or logged.
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logger.removeFilter(known)
