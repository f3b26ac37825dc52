"""Pictures from files: one reader for colour, one for alpha, and the sources that training draws from.

Pillow decodes, because it raises on a truncated file where OpenCV returns half a picture. Every reader honours
EXIF rotation and gives 8 bits per channel, whatever the file holds (the upper 8 of 16-bit colour).

Pillow's limit against decompression bombs is switched off for the whole process: rigs and scanners take pictures
above it, and training data is not hostile input. Do not point these readers at files that strangers upload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import ExifTags, Image

Image.MAX_IMAGE_PIXELS = None

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A file that cannot be read as a picture. The message names the file and the cause."""


def read_rgb(path: Path, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a picture's colour as uint8 RGB (H, W, 3). An alpha channel is dropped.

    Args:
        path: a picture; 8 or 16 bit, grey, palette, CMYK, with or without alpha.
        min_size: (width, height) that is enough, in terms of the upright picture. The result is smaller than the
            file by 2, 4 or 8 where both sides stay at least that. JPEG decodes faster for it.

    Raises:
        ImageError: the file is no picture, or a damaged one.
        FileNotFoundError: there is no such file.
    """
    pixels, size = _decode(path, 'RGB', _rgb_pixels, min_size)
    return _reduce(pixels, size, min_size)


def read_alpha(path: Path, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a matte as uint8 (H, W), 255 = subject, from where `alpha_source` says.

    Arguments and errors are those of `read_rgb`.
    """
    pixels, size = _decode(path, 'L', _matte_pixels, min_size)
    return _reduce(pixels, size, min_size)


def alpha_source(path: Path) -> Literal['alpha', 'luminance']:
    """Say where `read_alpha` takes a file's matte from: its alpha channel, or its brightness if it has none.

    An alpha channel that is 255 everywhere tells nothing, and some editors add one to every grey picture: then it
    is the brightness. A file with an alpha channel is decoded to find out, others are not.
    """
    with open_picture(path) as image:
        return 'luminance' if _alpha_channel(image) is None else 'alpha'


def image_size(path: Path) -> tuple[int, int]:
    """Read (width, height) of the upright picture from the file's header."""
    with open_picture(path) as image:
        return _swapped(image.size, image)


class MatteFiles:
    """Subjects to cut out, from pairs of files: colour from the first, alpha from the second."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Name a sample in messages: the path of its foreground."""
        return str(self.pairs[index][0])

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Read one subject as uint8 (H, W, 4): RGB, not multiplied by alpha, and alpha.

        Colour where alpha is 0 is whatever the cutting tool left there, often black. Resampling would mix it into
        the soft edge as a dark fringe, so near the subject it is replaced (`spread_colour`), and a picture is
        reduced by averaging only the pixels whose alpha is above 0. These keep their colour exactly. Lossy files
        (JPEG, WebP) need more: an alpha has specks around edges, so up to 8 counts as 0; a reduced foreground
        has the outside mixed in, so colour within a pixel of alpha 0 is replaced as well.

        Raises:
            ImageError: a file cannot be read, or the two differ in size.
            FileNotFoundError: a file is missing.
        """
        fgr, pha = self.pairs[index]
        rgb, size = _decode(fgr, 'RGB', _rgb_pixels, min_size)
        alpha, alpha_size = _decode(pha, 'L', _matte_pixels, min_size)
        if size != alpha_size:
            raise ImageError(
                f'{fgr} is {size[0]}x{size[1]} and its alpha {pha} is {alpha_size[0]}x{alpha_size[1]}: '
                'make both the same size'
            )
        specks = 8 if pha.suffix.lower() != '.png' else 0
        known = _above(alpha, specks)
        mixed = fgr.suffix.lower() != '.png' and _factor(size, min_size) > 1
        if not mixed and alpha.shape == size[::-1]:
            rgb = _reduce_where(rgb, known, size, min_size)
            alpha = _reduce(alpha, size, min_size)
            known = _above(_reduce(known, size, min_size), 0)
        else:
            rgb, alpha = _reduce(rgb, size, min_size), _reduce(alpha, size, min_size)
            known = cv2.erode(_above(alpha, specks), np.ones((3, 3), np.uint8))
        rgba = cv2.cvtColor(spread_colour(rgb, known), cv2.COLOR_RGB2RGBA)
        rgba[..., 3] = alpha
        return rgba


class BackgroundFiles:
    """Background pictures from files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Name a sample in messages: its path."""
        return str(self.paths[index])

    def read(self, index: int, min_size: tuple[int, int] | None = None) -> np.ndarray:
        """Read one background as uint8 RGB (H, W, 3); see `read_rgb`."""
        return read_rgb(self.paths[index], min_size)


def spread_colour(rgb: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give pixels around a subject the subject's colour nearby. About 5 ms per megapixel.

    Args:
        rgb: uint8 (H, W, 3).
        known: uint8 (H, W), 255 where the colour is the subject's, 0 elsewhere.

    Returns:
        uint8 (H, W, 3): `rgb`, but where not known and within 4 to 8 pixels of where it is, the mean of the known
        colours: of a few pixels around where there are any within 2 to 4, else of a dozen.
    """
    half, half_known = _average(cv2.copyTo(rgb, known), 2), _average(known, 2)
    near, is_near = _local_mean(half, half_known)
    far, is_far = _local_mean(_average(half, 2), _average(half_known, 2))
    fill = cv2.copyTo(near, is_near, _double(far, half_known.shape))
    filled = _double(_double(is_far, half_known.shape), known.shape)
    return cv2.copyTo(_double(fill, known.shape), cv2.subtract(filled, known), rgb.copy())


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture with Pillow. Whatever goes wrong with it inside the block becomes an `ImageError`."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        cause = 'not a picture' if isinstance(error, Image.UnidentifiedImageError) else error
        raise ImageError(f'{path}: cannot be read: {cause}') from error


def _decode(
    path: Path,
    draft_mode: str,
    to_pixels: Callable[[Image.Image], np.ndarray],
    min_size: tuple[int, int] | None,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Upright pixels, reduced if the codec can, and the (width, height) of the whole upright picture."""
    with open_picture(path) as image:
        full = _swapped(image.size, image)
        image.draft(draft_mode, min_size and _swapped(min_size, image))
        return to_pixels(upright(image)), full


def _orientation(image: Image.Image) -> int:
    try:
        # The base class's method: PNG's own decodes the whole picture in case EXIF follows it, which is rare enough
        # to be ignored. Pillow keeps the answer, so it is the same before and after decoding.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF that cannot be parsed is no reason to lose the picture
        return 1


def _swapped(size: tuple[int, int], image: Image.Image) -> tuple[int, int]:
    """Turn a (width, height) between the file's orientation and the upright one."""
    return size[::-1] if _orientation(image) in (5, 6, 7, 8) else size


def upright(image: Image.Image) -> Image.Image:
    """Turn an opened picture as its EXIF orientation says."""
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(('I', 'F')):
        return cv2.cvtColor(_deep_grey(image), cv2.COLOR_GRAY2RGB)
    if image.mode in ('P', 'PA'):
        image = image.convert('RGBA')  # straight to RGB, Pillow warns about palettes with transparency
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))


def _matte_pixels(image: Image.Image) -> np.ndarray:
    alpha = _alpha_channel(image)
    if alpha is not None:
        return alpha
    if image.mode.startswith(('I', 'F')):
        return _deep_grey(image)
    return np.array(image if image.mode == 'L' else Image.fromarray(_rgb_pixels(image)).convert('L'))


def _alpha_channel(image: Image.Image) -> np.ndarray | None:
    """The alpha channel (H, W), None if there is none or if it is 255 everywhere."""
    if image.mode == 'P' and 'transparency' in image.info:
        image = image.convert('RGBA')
    if image.mode not in ('RGBA', 'LA', 'PA'):
        return None
    alpha = np.array(image.getchannel('A'))
    return None if alpha.min() == 255 else alpha


def _deep_grey(image: Image.Image) -> np.ndarray:
    """Grey of 16 bits, in whichever of Pillow's modes for it, as uint8."""
    if image.mode == 'F':
        raise ImageError('floating point pictures have no defined white: save it with 8 or 16 bits')
    values = np.array(image).astype(np.uint32).clip(0, 65535)
    return ((values + 128) // 257).astype(np.uint8)


def _factor(size: tuple[int, int], min_size: tuple[int, int] | None) -> int:
    """How much a picture may shrink: the powers of 2 that JPEG decoders offer, so that all files agree."""
    if min_size is None:
        return 1
    room = min(size[0] // min_size[0], size[1] // min_size[1])
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(room, 1))


def _reduce(pixels: np.ndarray, size: tuple[int, int], min_size: tuple[int, int] | None) -> np.ndarray:
    """Average over squares, as far as `min_size` allows and the codec has not done it."""
    done = pixels.shape[:2] != size[::-1]
    return pixels if done else _average(pixels, _factor(size, min_size))


def _average(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Shrink by a whole factor. Squares that reach over the edge are filled up, as JPEG decoders do."""
    if factor == 1:
        return pixels
    bottom, right = -pixels.shape[0] % factor, -pixels.shape[1] % factor
    if bottom or right:
        pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    target = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)


def _reduce_where(
    rgb: np.ndarray, known: np.ndarray, size: tuple[int, int], min_size: tuple[int, int] | None
) -> np.ndarray:
    """Average over squares, counting only the pixels where `known` is 255."""
    if _factor(size, min_size) == 1:
        return rgb
    total = _reduce(cv2.copyTo(rgb, known), size, min_size)
    share = _reduce(known, size, min_size)
    # Rounded to uint8 before the division: the less of a square is known, the coarser its colour, and the less its
    # alpha lets it show. Half a level in a composite, for a quarter of the time that floats would take.
    return cv2.divide(total, cv2.cvtColor(share, cv2.COLOR_GRAY2RGB), scale=255)


def _above(alpha: np.ndarray, level: int) -> np.ndarray:
    return cv2.threshold(alpha, level, 255, cv2.THRESH_BINARY)[1]


def _local_mean(total: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over 3x3 of a colour weighted by `share`, and a mask (255) of where there is any weight."""
    total = cv2.boxFilter(total, cv2.CV_32F, (3, 3), normalize=False)
    share = cv2.boxFilter(share, cv2.CV_32F, (3, 3), normalize=False)
    mean = cv2.divide(total, cv2.cvtColor(share, cv2.COLOR_GRAY2RGB), scale=255, dtype=cv2.CV_8U)
    return mean, np.where(share > 0, np.uint8(255), np.uint8(0))


def _double(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)[: shape[0], : shape[1]]
