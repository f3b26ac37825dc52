"""`Matting`: a trained network as a function from a picture and its plate to alpha and foreground."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.devices import choose_device, choose_precision, on_device
from common.network import PUBLISHED, RefinerSettings, Size
from dataset.readers import read_rgb
from dataset.tags import Profile
from model import MattingBase, MattingRefine
from model.base import check_pair
from model.folding import folded
from model.refiner import Pyramid, fastest_ops
from model.weights import LoadReport

from .compositing import fitted
from .graphs import Graphs, Work, in_default_stream, stacked
from .matte import Matte, NotFiniteError, Pending
from .networks import FoundNetwork, find_network
from .pipeline import Recent
from .pixels import Picture, as_pixels, as_tagged, channels_first, enlarged, to_bytes, to_float

__all__ = ['Matte', 'Matting', 'NotFiniteError', 'Plate']

PLATES_KEPT = 4


@dataclass(frozen=True, eq=False)
class Plate:
    """A background plate, uint8 RGB (H, W, 3), in the computer's memory and in the device's."""

    pixels: np.ndarray
    tensor: Tensor


class Matting:
    """A trained network that cuts subjects out of pictures.

        matting = Matting()  # the starter model; your own: Matting.from_checkpoint('epoch-0.pth')
        matte = matting('photo.jpg', 'plate.jpg')
        matte.save('cut-out.png')

    Pictures are RGB, of any size from 16 x 16, and may be: paths (str or Path; turned upright, alpha dropped); PIL
    images of any mode but F (the same is done); NumPy arrays uint8 (H, W, 3), 0..255; tensors (3, H, W) on any device,
    uint8 0..255 or float 0..1, which are rounded to 8 bits. Results are uint8, see `Matte`, in the picture's own
    colours: those of its colour profile if it is a path or a PIL image with one, else sRGB. Its plate is converted into
    them. A plate given as a path is read once and kept on the device for the pictures that follow; `plate` does that
    with others.

    Attributes:
        about: one line: what the checkpoint holds, and which settings were taken from where; '' without a checkpoint.

    Args:
        model: a `MattingBase` or `MattingRefine`, which is copied, or another module with the same arguments and
            results, which is moved to the device and put in evaluation mode; what `find_network` found in a file; the
            starter model if left out.
        device: 'auto' (cuda, else mps, else cpu), or what `torch.device` takes.
        precision: of the weights: 'float32', 'bfloat16', 'float16', or 'auto': float16 on cuda, float32 elsewhere.
        compiled: compile the network for the sizes that come (torch.compile): the first picture of a size takes half a
            minute or more, the others less than without.
        graphs: on cuda, record what a network of `model` does to a size of pictures, the second time that it comes, and
            replay that from then on, as a CUDA graph. Hooks on modules are not called then, and weights may be changed
            in place only.

    Raises:
        ValueError: the device is not there, or cannot compute in that precision; the starter model is damaged.
        FileNotFoundError: the starter model is missing.
    """

    def __init__(
        self,
        model: nn.Module | FoundNetwork | None = None,
        device: str | torch.device = 'auto',
        precision: str = 'auto',
        compiled: bool = False,
        graphs: bool = True,
    ):
        self.about = ''
        self.loaded: LoadReport | None = None
        # Settings by the size of pictures, where they follow it.
        self._refiner_for: Callable[[Size], RefinerSettings | None] | None = None
        if model is None:
            model = find_network('starter', backend='pytorch')
        if isinstance(model, FoundNetwork):
            model = self._take(model)
        self.device = choose_device(device) if isinstance(device, str) else device
        on_cuda = self.device.type == 'cuda'
        if on_cuda and self.device.index is None:  # another one may be current later, or in another thread
            self.device = torch.device('cuda', torch.cuda.current_device())
        self.dtype = choose_precision(precision, self.device)
        # The weights of the networks here are converted once; what is unknown gets autocast.
        self._autocast = self.dtype != torch.float32 and not isinstance(model, MattingBase)
        self.model = _prepared(model, self.device, self.dtype)
        self._compiled, self._compiled_graphs = compiled, compiled and on_cuda
        self._graphs = Graphs(self.device) if graphs and on_cuda and not compiled else None
        self._lock = threading.Lock() if on_cuda else nullcontext()
        self._compile(self.model)
        if on_cuda and isinstance(self.model, MattingRefine) and not compiled:
            with on_device(self.device), torch.inference_mode():
                self.model.refiner.ops = fastest_ops(self.device, self._picture_dtype, self.dtype)
        self._with_settings = Recent(len(PUBLISHED), self._refining)
        self._plates = Recent(PLATES_KEPT, lambda key: self._uploaded(read_rgb(key[0], profile=key[3]), key[2]))
        self._reduced = Recent(1, self._reduced_plate)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path = 'starter',
        model_type: str | None = None,
        backbone: str | None = None,
        device: str | torch.device = 'auto',
        precision: str = 'auto',
        compiled: bool = False,
        graphs: bool = True,
        **refine: Any,
    ) -> Matting:
        """Build the predictor from a weight file.

        Settings of the refiner that are not given are those that it was trained with, by the record beside the file;
        without one, backbone scale and refined pixels follow the size of each picture as published. `about` says in
        one line what was taken from where.

        Args:
            path: weights; 'starter' for the model of the toolkit.
            model_type: 'mattingbase' or 'mattingrefine'; what the file holds if left out.
            backbone: 'resnet101', 'resnet50' or 'mobilenetv2'; what the file holds if left out, as is the kernel size.
            device: as for `Matting`.
            precision: as for `Matting`.
            compiled: as for `Matting`.
            graphs: as for `Matting`.
            refine: settings of the refiner: backbone_scale, refine_mode, refine_sample_pixels, refine_threshold, as
                for `MattingRefine`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file holds no weights, or those of another network or refiner.
            TypeError: there is no such setting.
        """
        found = find_network(path, model_type, backbone, backend='pytorch', **refine)
        return cls(found, device, precision, compiled, graphs)

    def _take(self, found: FoundNetwork) -> MattingBase:
        """Build the network of a file, and take over what this says of itself."""
        model, self.loaded = found.build()
        self.about = str(found)
        if found.by_size:
            self.about += '; other sizes as published for them'
            self._refiner_for = replace(found, weights=None).refiner_for  # they need not be held twice
        return model

    def __call__(self, src: Picture, bgr: Picture, err: bool = False, ref: bool = False) -> Matte:
        """Matte one picture.

        Args:
            src: the picture, in any of the forms above.
            bgr: its plate, of the same size.
            err: return the predicted error as well.
            ref: return the refined regions as well.

        Raises:
            ValueError: no such picture, sizes that differ or are too small, or `ref` of a MattingBase.
            NotFiniteError: the network's results hold NaN; it is a ValueError.
            dataset.sources.ImageError: a file cannot be read.
        """
        return self.batch([src], [bgr], err, ref)[0]

    def batch(
        self, srcs: Sequence[Picture], bgrs: Sequence[Picture], err: bool = False, ref: bool = False
    ) -> list[Matte]:
        """Matte pictures of equal size at once; `bgrs` holds one plate for all, or one each. Otherwise like a call."""
        if not srcs or len(bgrs) not in (1, len(srcs)):
            raise ValueError(f'{len(srcs)} pictures and {len(bgrs)} plates: give one plate for all, or one each')
        pictures, tags = zip(*map(as_tagged, srcs))
        wanted = [(i % len(bgrs), tag.profile) for i, tag in enumerate(tags)]
        plates = {(i, profile): self.plate(bgrs[i], profile=profile) for i, profile in dict.fromkeys(wanted)}
        pending = self.submit([self.staged(x) for x in pictures], [plates[key] for key in wanted], err, ref)
        return [replace(matte, tags=tag) for matte, tag in zip(pending.result(), tags)]

    def plate(self, source: Picture, size: tuple[int, int] | None = None, profile: Profile = None) -> Plate:
        """Put a plate on the device, resized to `size`, (width, height), if given; any thread may call it.

        It is converted into the colour profile of its pictures. The last few that came from files are kept.
        """
        if not isinstance(source, (str, Path)):
            return self._uploaded(as_pixels(source, profile).copy(), size)  # the caller may go on to change it
        return self._plates.get((Path(source).absolute(), Path(source).stat().st_mtime_ns, size, profile))

    def _uploaded(self, pixels: np.ndarray, size: tuple[int, int] | None) -> Plate:
        if size is not None:
            pixels = fitted(pixels, size)
        with in_default_stream(self.device):
            return Plate(pixels, self.staged(pixels).to(self.device, non_blocking=True))

    def staged(self, pixels: np.ndarray) -> Tensor:
        """Return a picture as a tensor that the device can copy while the CPU goes on: in pinned memory for cuda."""
        tensor = torch.from_numpy(
            np.require(as_pixels(pixels), requirements=['C', 'W'])
        )  # Pillow's arrays are read-only
        if self.device.type != 'cuda':
            return tensor
        with on_device(self.device):
            return tensor.pin_memory()

    @torch.inference_mode()
    def submit(self, srcs: Sequence[Tensor], plates: Sequence[Plate], err: bool = False, ref: bool = False) -> Pending:
        """Start a batch and return without waiting for the device.

        Args:
            srcs: pictures of one size, from `staged`.
            plates: one each, from `plate`.
            err, ref: as for a call, which raises the same errors.
        """
        sizes = {tuple(x.shape) for x in [*srcs, *(plate.tensor for plate in plates)]}
        if len(sizes) > 1:
            listed = ', '.join(sorted(f'{width}x{height}' for height, width, _ in sizes))
            raise ValueError(f'pictures and plates of one batch must be of one size, not {listed}')
        same_plate = all(plate is plates[0] for plate in plates)
        network = self.network_for(srcs[0].shape)
        if type(network) is MattingRefine:
            check_pair(*[channels_first(srcs[0][None])] * 2)
        work = partial(self._mattes, network, len(srcs), err=err, ref=ref)
        pictures = [*srcs] if same_plate else [*srcs, *(plate.tensor for plate in plates)]
        with in_default_stream(self.device), self._lock:
            kept: Sequence[Tensor] = ()
            if same_plate:
                kept = self._reduced.get(plates[0])
            results, finite = self._computed(network, (len(srcs), err, ref), work, pictures, kept)
            return Pending(results, finite, self.dtype)

    def _mattes(
        self, network: nn.Module, count: int, pictures: Tensor, *kept: Tensor, err: bool, ref: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the results of pictures uint8 (B, H, W, 3) in bytes, and which are finite (B,).

        The first `count` are what to matte, the others their plates; without others, `kept` is the plate of all, which
        is a pyramid where the network refines.
        """
        src, plates = channels_first(pictures[:count]), channels_first(pictures[count:])
        if type(network) is MattingRefine:
            pyramid = Pyramid(*kept) if kept else network.pyramid(plates, self._picture_dtype)
            plate = Pyramid(*(x.expand(count, -1, -1, -1) for x in pyramid))
            outputs: tuple[Tensor, ...] = network.matte(network.pyramid(src, self._picture_dtype), plate, src.shape[2:])
        else:
            bgr = to_float(channels_first(kept[0]) if kept else plates)
            src = to_float(src)
            outputs = self._run(src, bgr.expand_as(src))
        results = _chosen(outputs, err, ref)
        # Results in 0..1 cannot overflow a sum, and it makes no copies of their size.
        sums = torch.stack([x.sum((1, 2, 3), dtype=torch.float32) for x in results.values()])
        if not isinstance(self.model, MattingBase):
            # Another network may return its input, a view, or what it keeps: `to_bytes` works in place.
            results = {name: x.clone() for name, x in results.items()}
        return {name: to_bytes(x) for name, x in results.items()}, sums.isfinite().all(0)

    @torch.inference_mode()
    def predict(self, src: Tensor, bgr: Tensor, err: bool = False, ref: bool = False) -> dict[str, Tensor]:
        """Return the network's results at the picture's size, for callers that have tensors.

        Args:
            src: float (B, 3, H, W), RGB, 0..1, on the predictor's device.
            bgr: the same shape.
            err, ref: as for a call.

        Returns:
            'pha' (B, 1, H, W), 'fgr' (B, 3, H, W), and 'err' and 'ref' (B, 1, H, W) if asked for, all 0..1.

        Raises:
            ValueError: shapes that differ or are too small, or `ref` of a MattingBase.
        """
        network = self.network_for(src.shape[2:])
        replays = self._replays(network) and src.dtype == bgr.dtype
        with in_default_stream(self.device) as callers, self._lock:
            if not replays:
                results = self._floats((src, bgr), err, ref)
            else:
                check_pair(src, bgr)
                pictures = [x.permute(0, 2, 3, 1) for x in (src, bgr)]
                results = self._computed(
                    network, (err, ref), lambda x: self._floats([*map(channels_first, x)], err, ref), pictures
                )
            if replays or self._compiled_graphs:  # it writes its next results where these are
                results = {name: x.clone() for name, x in results.items()}
            if callers:
                for x in results.values():
                    x.record_stream(callers)
        return results

    def _floats(self, pair: Sequence[Tensor], err: bool, ref: bool) -> dict[str, Tensor]:
        return {name: x.float() for name, x in _chosen(self._run(*pair), err, ref).items()}

    def _computed(
        self, network: nn.Module, key: Hashable, work: Work, pictures: Sequence[Tensor], kept: Sequence[Tensor] = ()
    ) -> Any:
        """Return `work(stacked(pictures), *kept)`; by a recorded graph, if what the network does can be recorded."""
        if not self._replays(network):
            return work(stacked(pictures, self.device), *kept)
        assert self._graphs is not None
        return self._graphs.run((network, *_settings(network), key), work, pictures, kept)

    @property
    def memory_factor(self) -> int:
        """How many times the memory of refining the cells of largest error a picture takes; 0 where that is unknown."""
        if not isinstance(self.model, MattingBase):
            return 0
        if not isinstance(self.model, MattingRefine):
            return 8  # the coarse network sees the whole picture
        return 1 if self.model.refiner.mode == 'sampling' else 4

    def _replays(self, network: nn.Module) -> bool:
        """Return whether graphs are wanted, the network is known, and its shapes do not follow the pictures' values."""
        refines = type(network) is MattingRefine and network.refiner.mode != 'thresholding'
        return self._graphs is not None and (refines or type(network) is MattingBase)

    def _run(self, src: Tensor, bgr: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self._autocast):
            return self.network_for(src.shape[2:])(src, bgr)

    def network_for(self, sides: Sequence[int]) -> nn.Module:
        """Return the network as it runs on pictures of these sides (H, W)."""
        if self._refiner_for is None:
            return self.model
        return self._with_settings.get(self._refiner_for((sides[1], sides[0])))

    def _refining(self, refiner: RefinerSettings) -> nn.Module:
        """Return the network with another scale and number of refined pixels, sharing its weights."""
        network = copy.deepcopy(self.model, {id(x): x for x in (*self.model.parameters(), *self.model.buffers())})
        assert isinstance(network, MattingRefine)
        network.backbone_scale, network.refiner.sample_pixels = refiner.backbone_scale, refiner.refine_sample_pixels
        vars(network).pop('matte', None)  # compiled for other settings
        self._compile(network)
        return network

    def _compile(self, network: nn.Module) -> None:
        mode = 'reduce-overhead' if self._compiled_graphs else None
        if self._compiled and isinstance(network, MattingRefine):
            # Without the pyramids of pictures: those of plates are kept across calls.
            network.matte = torch.compile(network.matte, mode=mode)  # type: ignore[method-assign]
        elif self._compiled:
            network.compile(mode=mode)

    def _reduced_plate(self, plate: Plate) -> Sequence[Tensor]:
        """Return what the network reads of a plate that serves a whole batch."""
        network = self.network_for(plate.tensor.shape)
        if type(network) is not MattingRefine:
            return [plate.tensor[None]]
        return network.pyramid(channels_first(plate.tensor[None]), self._picture_dtype)

    @property
    def _picture_dtype(self) -> torch.dtype:
        """The dtype that pictures are computed in: bfloat16 has too few digits for them."""
        return torch.float16 if self.dtype == torch.float16 else torch.float32


def _chosen(outputs: tuple[Tensor, ...], err: bool, ref: bool) -> dict[str, Tensor]:
    """Return the results by name, at the picture's size."""
    pha, fgr, *rest = outputs
    results = {'pha': pha, 'fgr': fgr}
    refined = len(rest) == 4  # pha_sm, fgr_sm, err_sm, ref_sm; MattingBase gives err, hid
    if err:
        results['err'] = enlarged(rest[2], pha, 'bilinear') if refined else rest[0]
    if ref:
        if not refined:
            raise ValueError('MattingBase refines nothing: there is no ref')
        results['ref'] = enlarged(rest[3], pha, 'nearest')
    return results


def _settings(network: nn.Module) -> tuple[object, ...]:
    """Return what may be changed of a network while it is in use."""
    if not isinstance(network, MattingRefine):
        return ()
    refiner = network.refiner
    return network.backbone_scale, refiner.mode, refiner.sample_pixels, refiner.prevent_oversampling


def _prepared(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Prepare a network for evaluation; ours as a copy with folded BatchNorm, fastest layout and weights in `dtype`."""
    if not isinstance(model, MattingBase):
        return model.to(device).eval()
    return folded(model).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
