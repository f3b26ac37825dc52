"""Networks as Core ML models: their inputs and outputs, conversion, quantization."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.network import OUTPUTS
from export import without_messages
from export.portable import PortableBase, PortableRefine
from model import MattingBase, MattingRefine

# Outputs that can be images: fgr of 8 bits a channel, pha of one half-precision number a pixel.
IMAGES = ('pha', 'fgr')
PLATE = 'plate'


@dataclass(frozen=True)
class PackageSettings:
    """How a network becomes a package."""

    sizes: Sequence[tuple[int, int]]  # (width, height) in pixels, each of one function; the first is the default
    outputs: Sequence[str] = ('pha', 'fgr')  # some of the network's outputs and 'com', the cut-out
    precision: str = 'float16'  # of the computation, 'float16' or 'float32'
    target: str = 'iOS16'  # the oldest system, such as 'iOS16'; several sizes and a plate as state need iOS18
    image_inputs: bool = True  # take pictures as images instead of arrays of 0..1
    image_outputs: bool = True  # return alpha and foreground as images instead of arrays of 0..1
    plate_state: bool = False  # the plate is a state of the model instead of an input
    quantize: str = 'none'  # 'none', 'int8' or 'palette6'
    form: str = 'gather'  # of the refiner, as in `export.portable.PortableRefine`


class PackagedNetwork(nn.Module):
    """A network with the inputs and outputs of a package, for pictures of `size` (width, height)."""

    def __init__(self, network: PortableBase, settings: PackageSettings, size: tuple[int, int]):
        super().__init__()
        self.network = network
        self.settings = settings
        self.names = OUTPUTS['mattingrefine' if isinstance(network, PortableRefine) else 'mattingbase']
        if settings.plate_state:
            self.register_buffer(PLATE, torch.zeros(1, 3, size[1], size[0]))

    def forward(self, src: Tensor, bgr: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the package's outputs for pictures (1, 3, H, W), 0..1; `bgr` is None where the plate is a state."""
        if bgr is None:
            plate: Tensor = self.get_buffer(PLATE)
            bgr = plate / 255
            plate.mul_(1)  # only a buffer that the program writes becomes a state
        results = dict(zip(self.names, self.network(src, bgr)))
        pha, fgr = results['pha'], results['fgr']
        if 'com' in self.settings.outputs:
            results['com'] = torch.cat([fgr * pha, pha], 1)
        if self.settings.image_outputs:
            results['fgr'] = fgr * 255
        return tuple(results[name] for name in self.settings.outputs)


def convert(network: MattingBase, settings: PackageSettings, size: tuple[int, int]) -> Any:
    """Convert a network, BatchNorm folded, for pictures of one size; return a coremltools `MLModel`."""
    with quiet():
        import coremltools as ct
    portable = PortableRefine(network, settings.form) if isinstance(network, MattingRefine) else PortableBase(network)
    shape = (1, 3, size[1], size[0])
    # Two tensors, since one given twice would become one input.
    example = [torch.rand(shape) for _ in range(1 if settings.plate_state else 2)]
    with torch.no_grad(), quiet():
        packaged = PackagedNetwork(portable, settings, size).eval()
        program = torch.export.export(packaged, tuple(example)).run_decompositions({})
        inputs = [
            ct.ImageType(name, shape, scale=1 / 255, color_layout=ct.colorlayout.RGB)
            if settings.image_inputs
            else ct.TensorType(name, shape)
            for name in ('src', 'bgr')[: len(example)]
        ]
        state = ct.StateType(ct.TensorType(shape=shape, dtype=np.float16), name=PLATE)
        return ct.convert(
            program, inputs=inputs, outputs=[_output(ct, name, settings) for name in settings.outputs],
            states=[state] if settings.plate_state else None, pass_pipeline=_pipeline(ct), skip_model_load=True,
            compute_precision=getattr(ct.precision, settings.precision.upper()),
            minimum_deployment_target=getattr(ct.target, settings.target),
        )  # fmt: skip


def _output(ct: Any, name: str, settings: PackageSettings) -> Any:
    if name not in IMAGES or not settings.image_outputs:
        return ct.TensorType(name)
    layout = ct.colorlayout.GRAYSCALE_FLOAT16 if name == 'pha' else ct.colorlayout.RGB
    return ct.ImageType(name, color_layout=layout)


def _pipeline(ct: Any) -> Any:
    """Return the default passes without one that silently ruins large pictures.

    For iOS 17 and later in half precision it turns indices into 16-bit integers, which end at 65,535. A picture of
    1920 x 1080 has 129,600 cells, and nearly all refined cells would land in the wrong place.
    """
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes({'common::add_int16_cast'})
    return pipeline


def quantize(model: Any, kind: str) -> Any:
    """Return a model with smaller weights: 'int8', 8 bits linear per channel, or 'palette6', 64 values per tensor.

    Tensors of less than 10,000 numbers stay as they are. These are the convolutions of single channels, 2 % of the
    size, which lose most by it: leaving them out halves the difference from the original.
    """
    with quiet():
        import coremltools.optimize.coreml as cto

        if kind == 'int8':
            linear = cto.OpLinearQuantizerConfig(mode='linear_symmetric', weight_threshold=10_000)
            return cto.linear_quantize_weights(model, cto.OptimizationConfig(linear))
        palette = cto.OpPalettizerConfig(mode='kmeans', nbits=6, weight_threshold=10_000)
        return cto.palettize_weights(model, cto.OptimizationConfig(palette))


# Needless messages of coremltools: that its compiled half is missing, which only macOS has, and that it was not tested
# with these versions of other packages, which the tests here do.
_NOISE = ('libcoremlpython', 'has not been tested with coremltools', 'scikit-learn version', 'value type of int64')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress messages known to be harmless, and stderr for the converter's progress bars; errors are raised."""
    with without_messages('coremltools', *_NOISE), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.filterwarnings('ignore', message='Saving value type of int64')
        yield
