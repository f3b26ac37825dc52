"""What a picture's file says beside its pixels: its colour profile (ICC), and EXIF that is worth keeping.

A profile is the bytes of an ICC file; None is sRGB, as is one that changes no colour by more than a level: of the many
files called sRGB hardly two are equal. LittleCMS converts, relative colorimetric with black point compensation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms

from common.console import say_once

Profile = bytes | None

_GREY = ('1', 'L', 'LA', 'I', 'I;16', 'I;16B', 'I;16L', 'I;16N')
_MOST_IN_JPEG = 65_000  # bytes of a profile that OpenCV can write
# Of cICP and nclx: what films of today's and of older television are tagged with is shown as sRGB by everything.
_PRIMARIES, _TRANSFERS = (1, 2, 5, 6, 7), (1, 2, 6, 13, 14, 15)
_SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)

_KEPT = [ExifTags.Base[name] for name in ('Make', 'Model', 'DateTime', 'Artist', 'Copyright')]
_KEPT_DETAILS = [
    ExifTags.Base[name]
    for name in (
        'DateTimeOriginal', 'DateTimeDigitized', 'OffsetTime', 'OffsetTimeOriginal', 'OffsetTimeDigitized',
        'SubsecTime', 'SubsecTimeOriginal', 'SubsecTimeDigitized', 'BodySerialNumber', 'LensMake', 'LensModel',
        'ExposureTime', 'FNumber', 'ISOSpeedRatings', 'FocalLength', 'FocalLengthIn35mmFilm',
    )
]  # fmt: skip


class _Text(str):
    """A text of EXIF. Pillow reads Latin-1, whatever it is, but writes '?' for what is not in ASCII."""

    __slots__ = ()

    def encode(self, encoding: str = '', errors: str = '') -> bytes:
        del encoding, errors
        return super().encode('latin-1')


@dataclass(frozen=True)
class Tags:
    """What files made of a picture carry of it.

    Attributes:
        profile: of its pixels, one of RGB.
        exif: date, camera, exposure and author, with the orientation of upright pixels, as Pillow takes it; b'' where
            the file has none of them.
    """

    profile: Profile = None
    exif: bytes = b''


NO_TAGS = Tags()


def converted(pixels: np.ndarray, profile: Profile, into: Profile) -> np.ndarray:
    """Convert uint8 RGB (H, W, 3) from one profile into another; return the pixels themselves where that is nothing."""
    transform = None if profile == into else _transform(profile, into, 'RGB')
    return pixels if transform is None else _applied(transform, Image.fromarray(pixels))


def own_colours(image: Image.Image, pixels: np.ndarray, name: object) -> tuple[np.ndarray, Profile]:
    """Return a picture's pixels, and their profile, which what is made of the picture can have as well.

    It is the picture's own, if that is one of RGB, can be converted into, and fits into every format of outputs.
    Otherwise the pixels are converted to sRGB. Of a profile that is damaged, or not for such pixels, a line is said.

    Args:
        image: an upright picture with its `info`; its content is needed in CMYK only.
        pixels: the same as uint8 RGB (H, W, 3), as if there were no profile.
        name: what the line calls the picture.
    """
    if 'icc_profile' not in image.info:
        if unlike := _unlike_srgb(image.info):
            _tell(name, unlike, f'its {unlike} is of other colours than sRGB, which is not followed')
        return pixels, None
    profile = image.info['icc_profile'] or b''  # Pillow's for a damaged one is None
    try:
        space = ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space.strip()
        if space == 'RGB' and image.mode != 'CMYK':
            return (pixels, profile) if _serves(profile) else (converted(pixels, profile, None), None)
        if space == 'CMYK' and image.mode == 'CMYK':
            return _applied(_transform(profile, None, 'CMYK'), image), None
        if space == 'GRAY' and image.mode in _GREY:
            return _applied(_transform(profile, None, 'L'), Image.fromarray(pixels[..., 0])), None
        cause = f'is one of {space}, and it is not'
    except (ImageCms.PyCMSError, OSError):
        cause = 'is damaged'
    _tell(name, profile, f'its colour profile {cause}')
    return pixels, None


def kept_exif(image: Image.Image) -> bytes:
    """Return what is worth keeping of an opened picture's EXIF, as Pillow takes it; b'' if there is nothing."""
    try:
        found, kept = Image.Image.getexif(image), Image.Exif()  # PNG's own method decodes the picture
        kept.update(_chosen(found, _KEPT))
        kept.get_ifd(ExifTags.IFD.Exif).update(_chosen(found.get_ifd(ExifTags.IFD.Exif), _KEPT_DETAILS))
        if not (kept or kept.get_ifd(ExifTags.IFD.Exif)):
            return b''
        kept[ExifTags.Base.Orientation] = 1
        return kept.tobytes()
    except Exception:  # EXIF that cannot be parsed is no reason to lose the picture
        return b''


def _chosen(found: Mapping[int, Any], tags: list[ExifTags.Base]) -> dict[int, Any]:
    held = {int(tag): found[tag] for tag in tags if tag in found and len(str(found[tag])) < 1000}
    return {tag: _Text(value) if isinstance(value, str) else value for tag, value in held.items()}


def _applied(transform: ImageCms.ImageCmsTransform | None, image: Image.Image) -> np.ndarray:
    assert transform is not None
    return np.array(ImageCms.applyTransform(image, transform))


@lru_cache(64)
def _transform(profile: Profile, into: Profile, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a picture in one of Pillow's modes to RGB; None where no colour changes by over a level.

    Raises:
        ImageCms.PyCMSError: a profile is damaged, or cannot be converted into, as a scanner's.
    """
    source, target = (
        ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB') if x is None else BytesIO(x)) for x in (profile, into)
    )
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(source, target, mode, 'RGB', intent, flags)
    if mode == 'RGB':
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
        if cv2.norm(_applied(transform, Image.fromarray(colours)), colours, cv2.NORM_INF) <= 1:
            return None
    return transform


@lru_cache(64)
def _serves(profile: bytes) -> bool:
    """Return whether outputs can have this profile of RGB: some are for one direction, some do not fit into a file.

    Raises:
        ImageCms.PyCMSError: it is damaged.
    """
    _transform(profile, None, 'RGB')
    try:
        _transform(None, profile, 'RGB')
    except ImageCms.PyCMSError:
        return False
    if len(profile) > _MOST_IN_JPEG or len(profile) % 4 or len(profile) != int.from_bytes(profile[:4]):
        return False
    # PNG's library has rules of its own, and writes nothing at all where one of them is broken.
    content = np.frombuffer(profile, np.uint8)
    return cv2.imencodeWithMetadata('.png', np.zeros((1, 1, 3), np.uint8), [cv2.IMAGE_METADATA_ICCP], [content])[0]


def _unlike_srgb(info: Mapping[Any, Any]) -> str:
    """Return what tells of other colours than sRGB in a file without a profile, as a PNG's chunk; '' if nothing does.

    A gamma of 1.7 to 2.5 is what programs write by habit: FFmpeg 1.96 for every film.
    """
    if 'srgb' in info:
        return ''
    heif = info.get('nclx_profile')
    if codes := (heif['color_primaries'], heif['transfer_characteristics']) if heif else info.get('cicp'):
        fine = all(code in known for code, known in zip(codes, (_PRIMARIES, _TRANSFERS)))
        return '' if fine else 'nclx box' if heif else 'cICP chunk'
    if not 1 / 2.5 <= info.get('gamma', 1 / 2.2) <= 1 / 1.7:
        return 'gAMA chunk'
    chromaticity = info.get('chromaticity', _SRGB_CHROMATICITY)
    return '' if np.allclose(chromaticity, _SRGB_CHROMATICITY, atol=0.02) else 'cHRM chunk'


def _tell(name: object, key: object, text: str) -> None:
    say_once((key, text), f'warning: {name}: {text}: taken as sRGB; said once of all pictures like it')
