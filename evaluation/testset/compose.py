"""Test sets made of files: foregrounds over backgrounds, each with a plate that is disturbed as a real one is.

A plate that equals the picture's background to the last bit exists in no studio, and subtracting it would solve the
task. So the plate alone is moved by a part of a pixel, made brighter or darker, and given noise (paper, appendix D.2);
the picture is the exact composite of the files beside it.

Every draw is a function of the seed and the picture's name and stands in the manifest, from which any one picture can
be made again. Neither the order nor the number of threads can change a byte; another version of OpenCV or NumPy might.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from common.files import write_atomic
from dataset.readers import read_rgb
from dataset.sources import MatteFiles
from metrics.trimap import trimap

from .layout import FORMAT, MANIFEST, UNFINISHED, VERSION, frame_names
from .recipes import Recipe, Sources, TestsetSettings

Hashes = dict[str, str]  # a path below the test set's folder to the sha256 of its file


def disturbed(
    plate: np.ndarray, shift: tuple[float, float], gamma: float, sigma: float, seed: int, mean: float = 0.0
) -> np.ndarray:
    """Disturb a plate: move it, change its exposure, add noise, as a camera does that takes the scene again.

    Validation during training does the same in torch, on the device, whose interpolation, powers and random numbers
    round differently: one function for both would change either every test set or the losses of every run.

    Args:
        plate: uint8 or float 0..1, (H, W, C).
        shift: pixels to the right and down; bilinear, and the border repeats.
        gamma: exponent; above 1 darkens.
        sigma, seed, mean: of the Gaussian noise, in parts of white, drawn for each pixel and channel.

    Returns:
        Cut to 0..1, in the plate's type: float32, or uint8 rounded to the nearest level.
    """
    x = plate.astype(np.float32) / 255 if plate.dtype == np.uint8 else plate.astype(np.float32)
    x = _moved(x, shift, 'edge')
    # In double precision, but without an array of it: a power in single precision differs between processors.
    np.power(x, gamma, out=x, dtype=np.float64, casting='same_kind')
    if sigma or mean:
        noise = np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32)
        x += noise * np.float32(sigma) + np.float32(mean)
    np.clip(x, 0, 1, out=x)
    return np.rint(x * 255).astype(np.uint8) if plate.dtype == np.uint8 else x


def composite(fgr: np.ndarray, pha: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Put a foreground over a background: alpha x foreground + (1 - alpha) x background.

    All are uint8, (H, W, 3), and (H, W) for alpha. It is computed in whole numbers and rounded to the nearest level,
    which is never a tie.

    Raises:
        ValueError: sizes differ, or types are others.
    """
    if not fgr.shape[:2] == pha.shape == back.shape[:2] or {fgr.dtype, pha.dtype, back.dtype} != {np.dtype(np.uint8)}:
        different = ', '.join(f'{x.shape} of {x.dtype}' for x in (fgr, pha, back))
        raise ValueError(f'fgr, pha and background must be uint8 and of one size; they are {different}')
    alpha = pha[..., None].astype(np.uint16)
    return ((fgr * alpha + back * (255 - alpha) + 127) // 255).astype(np.uint8)


def pictures(recipe: Recipe, sources: Sources) -> Iterator[tuple[str, np.ndarray]]:
    """Make the pictures of one foreground over one background.

    Yields:
        The path below the test set's folder, and the picture: uint8, RGB (H, W, 3), or grey (H, W) for pha and trimap.

    Raises:
        dataset.readers.ImageError: a source cannot be read.
        FileNotFoundError: a source is missing.
    """
    back, matte = _background(recipe, sources), _matte(recipe, sources)
    plate = disturbed(back, recipe.shift, recipe.gamma, recipe.sigma, recipe.noise_seed, recipe.mean)
    yield f'bgr/{recipe.name}.png', plate
    names = frame_names(recipe.name, len(recipe.positions)) if recipe.positions else [recipe.name]
    for name, position in zip(names, recipe.positions or [(0.0, 0.0)]):
        fgr, pha = _placed(matte, position)
        yield f'src/{name}.png', composite(fgr, pha, back)
        yield f'fgr/{name}.png', cv2.copyTo(fgr, pha)  # what lies where alpha is 0 is a means of resampling
        yield f'pha/{name}.png', pha
        yield f'trimap/{name}.png', trimap(pha)


def compose_testset(
    folder: Path,
    recipes: list[Recipe],
    sources: Sources,
    settings: TestsetSettings,
    spread: Callable[[Callable[[Recipe], Hashes], Iterable[Recipe]], Iterable[Hashes]] = map,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Make a test set: `folder`/{src,bgr,fgr,pha,trimap}/<name>.png and, last of all, `folder`/manifest.json.

    Foregrounds are black where alpha is 0. In a clip the pictures are <name>/<frame>.png, and its one plate is
    bgr/<name>.png. Files of equal name are replaced, but a manifest is removed first of all: until there is one again,
    this is no test set.

    Args:
        folder: made if it does not exist.
        recipes, sources, settings: what `plan` gives, and what it was given; they go into the manifest.
        spread: `map`, or a function of the same arguments that works on several at once and gives the results in
            order; each holds a few pictures of floats.
        stopped: asked between pictures, on any thread: once it is true, no more are made. `spread` must raise then.

    Raises:
        dataset.readers.ImageError: a source cannot be read.
        OSError: a source is missing, or a file cannot be written.
    """
    write_atomic(folder / UNFINISHED, b'This test set is being made, or its making was interrupted.\n')
    (folder / MANIFEST).unlink(missing_ok=True)
    failed = threading.Event()

    def make(recipe: Recipe) -> Hashes:
        hashes = {}
        for path, picture in pictures(recipe, sources):
            if failed.is_set() or stopped():  # a clip may have a thousand frames to go
                break
            data = _png(picture)
            write_atomic(folder / path, data)
            hashes[path] = hashlib.sha256(data).hexdigest()
        return hashes

    try:
        made = list(spread(make, recipes))
    except BaseException:
        failed.set()
        raise
    write_atomic(folder / MANIFEST, _manifest(recipes, made, sources, settings).encode())
    (folder / UNFINISHED).unlink()


def _manifest(recipes: list[Recipe], made: list[Hashes], sources: Sources, settings: TestsetSettings) -> str:
    """Format JSON with a line per picture or clip, so that two manifests can be compared by eye."""
    head = {
        'format': FORMAT,
        'version': VERSION,
        'settings': asdict(settings),
        'roots': {kind: str(getattr(sources, kind).absolute()) for kind in ('fgr', 'pha', 'bgr')},
        'made_with': {'numpy': np.__version__, 'opencv': cv2.__version__},
    }
    lines = [json.dumps({**asdict(recipe), 'sha256': files}) for recipe, files in zip(recipes, made)]
    return json.dumps(head, indent=1)[:-2] + ',\n "pictures": [\n' + ',\n'.join(lines) + '\n ]\n}\n'


def _background(recipe: Recipe, sources: Sources) -> np.ndarray:
    whole = read_rgb(sources.bgr / recipe.background, recipe.scaled)
    # Cut out first: a long panorama that covers a picture is a hundred times as large when it is scaled.
    left, width = _span(recipe.crop[0], recipe.size[0], recipe.scaled[0], whole.shape[1])
    top, height = _span(recipe.crop[1], recipe.size[1], recipe.scaled[1], whole.shape[0])
    return _resized(whole[top : top + height, left : left + width], recipe.size)


def _span(start: int, length: int, scaled: int, own: int) -> tuple[int, int]:
    """Return start and length, on a side of length `own`, of a part given on the same side scaled to `scaled`."""
    there = max(1, round(length * own / scaled))
    return min(round(start * own / scaled), own - there), there


def _matte(recipe: Recipe, sources: Sources) -> np.ndarray:
    """Put the subject in its place, uint8 (H, W, 4).

    Beyond the foreground picture its border's colour goes on, so that moving mixes no black into an edge; alpha is 0
    there.
    """
    left, top, width, height = recipe.placed
    files = MatteFiles([(sources.fgr / recipe.fgr, sources.pha / recipe.pha)])
    rgba = _resized(files.read(0, (width, height)), (width, height))
    right, bottom = recipe.size[0] - left - width, recipe.size[1] - top - height
    matte = cv2.copyMakeBorder(rgba, top, bottom, left, right, cv2.BORDER_REPLICATE)
    matte[..., 3] = cv2.copyMakeBorder(rgba[..., 3], top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    return matte


def _placed(matte: np.ndarray, position: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return foreground and alpha, moved by pixels to the right and down, and rounded to the nearest level."""
    fgr, pha = np.ascontiguousarray(matte[..., :3]), np.ascontiguousarray(matte[..., 3])
    if not any(position):
        return fgr, pha
    fgr, pha = _moved(fgr.astype(np.float32), position, 'edge'), _moved(pha.astype(np.float32), position, 'constant')
    return np.rint(fgr).astype(np.uint8), np.rint(pha).astype(np.uint8)


def _moved(x: np.ndarray, shift: tuple[float, float], outside: Literal['edge', 'constant']) -> np.ndarray:
    """Move float32 (H, W[, C]) to the right and down, bilinearly; outside is what the edge shows, or 0.

    By hand, because OpenCV rounds positions to 1/32 of a pixel, which is a tenth of the largest shift of a plate.
    """
    for axis, distance in ((1, shift[0]), (0, shift[1])):
        length, whole = x.shape[axis], math.floor(-distance)
        border = abs(whole) + 1
        padded = np.pad(x, [(border, border) if i == axis else (0, 0) for i in range(x.ndim)], outside)
        start = border + whole
        first, second = (padded[(slice(None),) * axis + (slice(i, i + length),)] for i in (start, start + 1))
        x = second - first
        x *= np.float32(-distance - whole)
        x += first
    return x


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height), averaging where it shrinks, else bilinearly. May return the picture itself."""
    if picture.shape[1::-1] == tuple(size):
        return picture
    shrinks = picture.shape[1] > size[0]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _png(picture: np.ndarray) -> bytes:
    picture = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.png', picture)[1].tobytes()
