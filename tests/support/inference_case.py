"""A folder of pictures and plates with inference_images.py called on it; networks with outputs over the whole range."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

import inference_images
from checkpointing.record import File, Record, refiner_identity
from common.files import digest
from common.network import RefinerSettings
from inference import Matting
from model import MattingBase, MattingRefine

WIDTH, HEIGHT = 96, 64
ROOT = Path(inference_images.__file__).parent


@torch.no_grad()
def spread_out(model: MattingBase | MattingRefine) -> None:
    """Whatever the first weights are: alpha and error of a picture then lie around 0.5 and 0.3."""
    bgr = room(0)
    pictures = [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (photo(bgr, 1), bgr)]
    rescale(model, model.decoder.conv4, {0: (0.5, 0.25), 4: (0.3, 0.15)}, pictures)
    if not isinstance(model, MattingRefine):
        assert model(*pictures)[2].std() > 0.05
        return
    rescale(model, model.refiner.conv4, {0: (0.5, 0.25)}, pictures)
    pha, _, _, _, err_sm, ref_sm = model(*pictures)
    assert pha.std() > 0.1
    assert err_sm.std() > 0.05
    assert 0 < ref_sm.mean() < 1


def save_networks(folder: Path) -> dict[str, Path]:
    """Saves weights of both networks; alpha, error and the refined cells vary over each picture."""
    torch.manual_seed(3)
    paths = {}
    for name, model in (
        ('mattingbase', MattingBase('mobilenetv2')),
        ('mattingrefine', MattingRefine('mobilenetv2', refine_sample_pixels=800)),
    ):
        spread_out(model.eval())
        paths[name] = folder / f'{name}.pth'
        torch.save(model.state_dict(), paths[name])
    return paths


def rescale(
    model: torch.nn.Module,
    conv: torch.nn.Conv2d,
    aims: dict[int, tuple[float, float]],
    pictures: list[torch.Tensor],
) -> None:
    """Gives channels of a convolution's output on the pictures the mean and the standard deviation aimed at."""
    outputs: list[torch.Tensor] = []
    hook = conv.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(*pictures)
    hook.remove()
    assert conv.bias is not None
    for channel, (mean, deviation) in aims.items():
        measured = outputs[0][:, channel]
        factor = deviation / measured.std()
        conv.weight[channel] *= factor
        conv.bias[channel] = (conv.bias[channel] - measured.mean()) * factor + mean


def room(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A textured plate, uint8 RGB."""
    blotches = np.random.default_rng(seed).integers(30, 226, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)


def photo(bgr: np.ndarray, seed: int) -> np.ndarray:
    """The plate with a disc of another texture before it."""
    mask = np.zeros(bgr.shape[:2], np.uint8)
    cv2.circle(mask, (bgr.shape[1] // 2, bgr.shape[0] // 2), min(bgr.shape[:2]) // 4, 255, -1)
    return cv2.copyTo(room(100 + seed, bgr.shape[1], bgr.shape[0]), mask, bgr.copy())


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return path


def read(path: Path) -> np.ndarray:
    """As saved: grey (H, W), RGB or RGBA (H, W, C)."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    if picture.ndim == 2:
        return picture
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB if picture.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def through_jpeg(picture: np.ndarray) -> np.ndarray:
    """A picture after it was a JPEG of the default quality."""
    turned = picture[..., ::-1] if picture.ndim == 3 else picture
    decoded = cv2.imdecode(cv2.imencode('.jpg', turned, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_UNCHANGED)
    return decoded[..., ::-1] if picture.ndim == 3 else decoded


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


class Case:
    """A folder with pictures, plates and an output folder, and the script run on it."""

    def __init__(self, folder: Path, checkpoints: dict[str, Path]):
        self.src, self.bgr, self.out = folder / 'src', folder / 'bgr', folder / 'out'
        self.checkpoints = checkpoints

    def run(self, *flags: object, model_type: str = 'mattingrefine', types: tuple[str, ...] = ('pha',)) -> int:
        fixed = {
            '--model-type': model_type,
            '--model-backbone': 'mobilenetv2',
            '--model-checkpoint': self.checkpoints[model_type],
            '--model-refine-sample-pixels': 800,
            '--images-src': self.src,
            '--images-bgr': self.bgr,
            '--output-dir': self.out,
            '--device': 'cpu',
            '--num-workers': 2,
        }
        words = [str(word) for pair in fixed.items() for word in pair]
        return inference_images.main([*words, '--output-types', *types, *map(str, flags)])

    def matting(self, model_type: str = 'mattingrefine') -> Matting:
        refine = {'refine_sample_pixels': 800} if model_type == 'mattingrefine' else {}
        return Matting.from_checkpoint(self.checkpoints[model_type], device='cpu', **refine)


def with_record(weights: Path, path: Path, side: int, refiner: RefinerSettings) -> Path:
    """A copy of weights as a run of the refine stage leaves it: trained on squares of that side, with a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights.read_bytes())
    file = File(path.name, path.stat().st_size, digest(path))
    identity = {'resolution': side, **refiner_identity(refiner)}
    record = Record('run1', 'refine', path.stem, 29, 3, {}, 'epoch', identity, {'weights': file})
    path.with_suffix('.json').write_bytes(record.to_bytes())
    return path
