"""All reading of picture files: upright pixels of 8 bits (the upper 8 of 16), reduced where that is enough.

Pillow decodes, because it raises on a truncated file where OpenCV returns half a picture. Only JPEGs that are complete
are decoded by OpenCV: both call the same library and give the same pixels, but Pillow copies them three times on their
way into an array, which takes as long as decoding. For a file with a few stray or missing bytes inside, libjpeg then
prints a line to stderr, where Pillow is silent.

Pillow's limits against decompression bombs are switched off for the whole process, but for 1 GB of texts and colour
profile: camera rigs and scanners take pictures above them, editors write their history into a file, and training data
is not hostile input. Do not use these readers on files that strangers upload.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from common.files import EXR_MAGIC
from common.installation import import_problem
from common.stores import StoreError

from .stores import Picture
from .tags import Profile, Tags, converted, kept_exif, own_colours

# EXIF that is damaged costs no picture, and what Pillow prints of it names none.
warnings.filterwarnings('ignore', module=r'PIL\.TiffImagePlugin')
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**30


def _read_cicp(stream: PngImagePlugin.PngStream, _: int, length: int) -> bytes:
    """Note a chunk of PNG that Pillow passes over: the primaries and the transfer of film and television."""
    content = stream.fp.read(length) if stream.fp else b''
    stream.im_info['cicp'] = tuple(content[:2])
    return content


PngImagePlugin.PngStream.chunk_cICP = _read_cicp  # type: ignore[attr-defined]

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_REDUCED = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
# What Pillow multiplies grey of few bits by, but not the value that is transparent.
_GREY_STEPS = {'L;2': 85, 'L;4': 17}
_NO_WHITE = 'floating point, signed and 32-bit numbers have no defined white: save it with 8 or 16 bits'
# Tags of TIFF.
_BITS, _PHOTOMETRIC, _PLANES, _NUMBERS = 258, 262, 284, 339
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Any marker but a stuffed byte, a fill byte and the eight restart markers.
_END_OF_SCAN = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]')


class ImageError(ValueError):
    """A file cannot be read as a picture. The message names the file and the cause."""


def read_rgb(path: Picture, min_size: tuple[int, int] | None = None, profile: Profile = None) -> np.ndarray:
    """Read a picture's colour as uint8 RGB (H, W, 3), in sRGB. An alpha channel is dropped.

    Args:
        path: a picture; 8 or 16 bit, grey, palette, CMYK, with or without alpha.
        min_size: (width, height) of the upright picture that is enough, None for all there is. The result is smaller
            than the file by 2, 4 or 8 where both sides stay at least that large. JPEG decodes faster then.
        profile: the colours to convert into, whatever the file's own, instead of sRGB; `read_tagged` gives it.

    Raises:
        ImageError: the file is no picture, or a damaged one.
        FileNotFoundError: there is no such file.
    """
    pixels, size = decode(path, 'colour', min_size, profile)
    return reduce(pixels, size, min_size)


def read_tagged(path: Picture, srgb: bool = False) -> tuple[np.ndarray, Tags]:
    """Read a picture's colour in its own profile, and what files that are made of it carry.

    `srgb` converts it, and the tags are without a profile. Otherwise like `read_rgb`.
    """
    with open_picture(path) as image:
        pixels, profile, _ = _decoded(path, image, 'colour', None)
        if srgb:
            pixels, profile = converted(pixels, profile, None), None
        return pixels, Tags(profile, kept_exif(image))


def read_alpha(path: Picture, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a matte as uint8 (H, W), 255 = subject, from where `alpha_source` says.

    Arguments and errors are those of `read_rgb`.
    """
    pixels, size = decode(path, 'matte', min_size)
    return reduce(pixels, size, min_size)


def alpha_source(path: Picture) -> Literal['alpha', 'luminance']:
    """Return where `read_alpha` takes a matte from: the file's alpha channel, or its brightness.

    An alpha channel that is 255 everywhere says nothing, and some editors add one to every grey picture: then it is
    the brightness. Only a file with an alpha channel is decoded for this.
    """
    with open_picture(path) as image:
        return 'luminance' if alpha_channel(image) is None else 'alpha'


def image_size(path: Picture) -> tuple[int, int]:
    """Read (width, height) of the upright picture from the file's header."""
    with open_picture(path) as image:
        return upright_size(image)


def decode(
    path: Picture, kind: Literal['colour', 'matte'], min_size: tuple[int, int] | None, profile: Profile = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an upright picture: 'colour' as `read_rgb` does, a 'matte' as `read_alpha` does.

    Returns:
        uint8 (H, W, 3) or (H, W), reduced by `reduction` if the codec can, else whole; and the (width, height) of the
        whole picture.
    """
    with open_picture(path) as image:
        pixels, own, full = _decoded(path, image, kind, min_size)
        return converted(pixels, own, profile), full


def reduction(size: tuple[int, int], min_size: tuple[int, int] | None) -> int:
    """Return by how much a picture may shrink: 1, 2, 4 or 8, as JPEG decoders offer, whatever the format."""
    if min_size is None:
        return 1
    room = min(size[0] // min_size[0], size[1] // min_size[1])
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(room, 1))


def reduce(pixels: np.ndarray, size: tuple[int, int], min_size: tuple[int, int] | None) -> np.ndarray:
    """Shrink decoded pixels of a picture of `size` by its `reduction`, unless the codec has done so."""
    done = pixels.shape[:2] != size[::-1]
    return pixels if done else average(pixels, reduction(size, min_size))


def average(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Shrink uint8 (H, W[, C]) by a whole factor, averaging over squares.

    Sides that are no multiple of it are padded with their last pixels, as JPEG decoders do.
    """
    if factor == 1:
        return pixels
    bottom, right = -pixels.shape[0] % factor, -pixels.shape[1] % factor
    if bottom or right:
        pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    target = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)


@contextmanager
def open_picture(path: Picture) -> Iterator[ImageFile.ImageFile]:
    """Open a picture with Pillow; whatever goes wrong with it inside the block becomes an `ImageError`."""
    try:
        with _opened(path) as image:
            if image.format == 'TIFF':
                image.filename = ''  # or Pillow maps files that lie on their side into memory with wrong sides
                _check_tiff(image)
            if image.format == 'EXR':
                image.filename = str(path)  # which a note names
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except (MemoryError, StoreError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        cause: object = 'not a picture' if isinstance(error, Image.UnidentifiedImageError) else error
        if isinstance(error, ImportError):
            cause = import_problem(error) or error
        raise ImageError(f'{path}: cannot be read: {cause}') from error


def _opened(path: Picture) -> ImageFile.ImageFile:
    """Open a picture; where Pillow does not know its format, by the package of an extra if there is one for it."""
    file = path if isinstance(path, Path) else BytesIO(path.read_bytes())
    try:
        return Image.open(file)
    except Image.UnidentifiedImageError:
        with file.open('rb') if isinstance(file, Path) else BytesIO(file.getvalue()) as opened:
            head = opened.read(11)
        if head[4:] in (b'ftyphei', b'ftyphev', b'ftypmif', b'ftypmsf'):
            import pillow_heif

            pillow_heif.register_heif_opener()
        elif head[:4] == EXR_MAGIC:
            from . import exr  # noqa: F401
        elif head[:4] in (b'II*\0', b'MM\0*'):
            message = 'damaged, or a TIFF of a kind that is not read: save it as grey or RGB of 8 or 16 bits'
            raise ImageError(message) from None
        else:
            raise
    return Image.open(file)


def _check_tiff(image: ImageFile.ImageFile) -> None:
    """Raise an `ImageError` for a TIFF whose white is not defined, or of which Pillow would give wrong pixels."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = max(tags.get(_BITS, (1,)))
    if bits > 16 or not {1, 4}.issuperset(tags.get(_NUMBERS, ())):
        raise ImageError(_NO_WHITE)
    if bits == 16 and tags.get(_PLANES) == 2 and len(image.tile) > 1 and image.tile[0][0] == 'raw':
        raise ImageError('16 bits, one colour after the other, are read only compressed: save it interleaved')


def upright(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """Rotate or flip a picture as its EXIF orientation says, or another's."""
    method = _UPRIGHT.get(orientation or _orientation(image))
    return image if method is None else image.transpose(method)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) of an opened picture once it is upright."""
    return _swapped(image.size, image)


def rgb_pixels(image: Image.Image, name: object) -> tuple[np.ndarray, Profile]:
    """Return the colour of an opened picture, upright, as uint8 RGB (H, W, 3), and its profile; see `own_colours`.

    An alpha channel is dropped.

    Raises:
        ImageError: it is one of floating point numbers.
    """
    image = upright(image)
    return own_colours(image, _rgb(image), name)


def alpha_channel(image: ImageFile.ImageFile) -> np.ndarray | None:
    """Return the alpha channel (H, W) of an opened picture, upright; None if there is none or it is 255 everywhere.

    It may be a palette's, or one value or colour that a PNG calls transparent.
    """
    if image.mode in ('RGBA', 'LA', 'PA'):
        alpha = image.getchannel('A')
    elif 'transparency' in image.info:
        alpha = image.convert('RGBA').getchannel('A') if image.mode == 'P' else _unlike_key(image)
    else:
        return None
    return None if alpha.getextrema() == (255, 255) else np.array(upright(alpha, _orientation(image)))


def _decoded(
    path: Picture, image: ImageFile.ImageFile, kind: Literal['colour', 'matte'], min_size: tuple[int, int] | None
) -> tuple[np.ndarray, Profile, tuple[int, int]]:
    """Return the pixels of an opened picture, the profile of colour, and the (width, height) of the whole picture."""
    full, mode = upright_size(image), 'RGB' if kind == 'colour' else 'L'
    simple = image.format == 'JPEG' and image.mode in ('RGB', 'L') and _orientation(image) == 1
    if image.format != 'HEIF':  # it would decode a thumbnail in place of the picture
        image.draft(mode, min_size and _swapped(min_size, image))
    pixels = _whole_jpeg(image, mode, reduction(full, min_size)) if simple else None
    if pixels is not None and pixels.shape[:2] != image.size[::-1]:
        pixels = None
    if kind == 'matte':
        return _matte_pixels(image) if pixels is None else pixels, None, full
    return *(rgb_pixels(image, path) if pixels is None else own_colours(image, pixels, path)), full


def _orientation(image: Image.Image) -> int:
    if image.format == 'TIFF':  # Pillow turns them itself, as libheif does HEIF files
        return 1
    try:
        # The base class's method: PNG's own decodes the whole picture in case EXIF follows it, which is rare enough
        # to be ignored. Pillow keeps the answer, so it is the same before and after decoding.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF that cannot be parsed is no reason to lose the picture
        return 1


def _swapped(size: tuple[int, int], image: Image.Image) -> tuple[int, int]:
    """Convert a (width, height) between the file's orientation and the upright one, either way."""
    return size[::-1] if _orientation(image) in (5, 6, 7, 8) else size


def _whole_jpeg(image: ImageFile.ImageFile, mode: str, factor: int) -> np.ndarray | None:
    """Decode an opened JPEG with OpenCV; return None where that would be less strict than Pillow, or fails."""
    data = _content(image)
    if not _one_whole_scan(data):
        return None
    flags = _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_COLOR_RGB if mode == 'RGB' else 0)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _content(image: ImageFile.ImageFile) -> bytes:
    """Return the file of an opened picture that is not decoded yet."""
    assert image.fp is not None
    image.fp.seek(0)  # a decoder goes to its data by itself
    return image.fp.read()


def _one_whole_scan(data: bytes) -> bool:
    """Return whether a JPEG is one scan that ends with the end mark. Progressive files have several scans."""
    position, marker = 2, None
    while marker != _START_OF_SCAN:
        try:
            prefix, marker, length = struct.unpack_from('>BBH', data, position)
        except struct.error:
            return False
        if prefix != 0xFF:
            return False
        position += 2 + length
    end = _END_OF_SCAN.search(data, position)
    return end is not None and data[end.end() - 1] == _END_OF_IMAGE


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(('I', 'F')):
        return cv2.cvtColor(_deep_grey(image), cv2.COLOR_GRAY2RGB)
    if image.mode in ('P', 'PA'):
        image = image.convert('RGBA')  # straight to RGB, Pillow warns about palettes with transparency
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))


def _unlike_key(image: ImageFile.ImageFile) -> Image.Image:
    """Return 0 where an opened PNG has its transparent value or colour, else 255."""
    layout, key = str(image.tile[0].args), image.info['transparency']
    content = _content(image) if layout == 'RGB;16B' else b''
    image.load()  # raises where the file is damaged
    if content:  # Pillow keeps the upper 8 bits
        whole = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert whole is not None
        return Image.fromarray((whole[..., 3] > 0).astype(np.uint8) * 255)
    pixels = np.array(image.convert('L') if image.mode == '1' else image)
    differs = pixels != np.multiply(key, _GREY_STEPS.get(layout, 1))
    return Image.fromarray((differs.any(-1) if differs.ndim == 3 else differs).astype(np.uint8) * 255)


def _matte_pixels(image: ImageFile.ImageFile) -> np.ndarray:
    alpha = alpha_channel(image)
    if alpha is not None:
        return alpha
    grey = upright(image)
    if grey.mode.startswith(('I', 'F')):
        return _deep_grey(grey)
    return np.array(grey if grey.mode == 'L' else Image.fromarray(_rgb(grey)).convert('L'))


def _deep_grey(image: Image.Image) -> np.ndarray:
    """Convert grey of 12 or 16 bits, in any of Pillow's modes for it, to uint8."""
    if image.mode == 'F':
        raise ImageError(_NO_WHITE)
    tags = getattr(image, 'tag_v2', {})
    white = 2 ** tags.get(_BITS, (16,))[0] - 1
    values = np.array(image).clip(0, white).astype(np.uint32)
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0, which Pillow minds with fewer bits
        values = white - values
    return ((values * 255 + white // 2) // white).astype(np.uint8)
