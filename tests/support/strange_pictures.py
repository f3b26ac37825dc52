"""The strangest pictures that people put in: each a row of a table, with what is right at two of its pixels."""

from __future__ import annotations

import io
import os
import struct
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from .exr_files import OPENEXR, save_exr
from .png_files import interlaced, packed, png, with_chunks
from .profiles import grey_profile, rgb_profile, table_profile
from .tiff_files import FLOAT, GREY, GREY_WHITE_IS_0, RGB, SIGNED, tiff

try:
    import pillow_heif
except ImportError:
    pillow_heif = None

SIZE = WIDTH, HEIGHT = 48, 32
PROBES = (8, 10), (8, 36)  # row and column of a pixel on the left and of one on the right, both in the upper half

Colour = tuple[int, int, int]
Two = tuple[int, int]


@dataclass(frozen=True)
class Strange:
    """A picture of WIDTH x HEIGHT, its colours in sRGB at the two probes, the matte there, and levels it may be off."""

    name: str  # below the folder, with the suffix
    content: bytes
    colours: tuple[Colour, Colour]
    alphas: Two
    off: int = 0


@dataclass(frozen=True)
class Refused:
    """A file that is no whole picture, the cause that is said, and whether its header already tells."""

    name: str
    content: bytes | None  # None: a link to nothing
    cause: str
    at_once: bool = True


def quarters(*colours: Sequence[int] | int, kind: type = np.uint8) -> np.ndarray:
    """Four colours: the two of the probes, and two below that tell how a picture is turned."""
    places = np.add.outer(2 * (np.arange(HEIGHT) >= HEIGHT // 2), np.arange(WIDTH) >= WIDTH // 2)
    return np.array(colours, kind)[places]


def halves(left: Sequence[int] | int, right: Sequence[int] | int, kind: type = np.uint8) -> np.ndarray:
    return quarters(left, right, left, right, kind=kind)


LEFT, RIGHT = (200, 60, 40), (60, 160, 90)
SCENE = quarters(LEFT, RIGHT, (40, 30, 140), (128, 128, 128))
BRIGHTNESS = (100, 122)  # 0.299 R + 0.587 G + 0.114 B
IN_P3 = quarters((185, 71, 50), (89, 158, 97), (38, 30, 134), (128, 128, 128))
P3_BRIGHTNESS = (103, 130)
LEVELS = quarters(*BRIGHTNESS, 40, 200)
# How a picture is stored for each orientation of EXIF.
STORED = {
    1: SCENE, 2: SCENE[:, ::-1], 3: SCENE[::-1, ::-1], 4: SCENE[::-1], 5: SCENE.swapaxes(0, 1), 6: np.rot90(SCENE),
    7: SCENE[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(SCENE, -1),
}  # fmt: skip


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    image.save(file, kind, **options)
    return file.getvalue()


def coloured(name: str, content: bytes, off: int = 0, alphas: Two = BRIGHTNESS) -> Strange:
    return Strange(name, content, (LEFT, RIGHT), alphas, off)


def grey(name: str, content: bytes, levels: Two = BRIGHTNESS, off: int = 0, alphas: Two | None = None) -> Strange:
    return Strange(name, content, ((levels[0],) * 3, (levels[1],) * 3), alphas or levels, off)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def good() -> list[Strange]:
    """The table of what is read; no two files have one name but for the suffix."""
    made = (*jpegs(), *pngs(), *transparent(), *other_formats(), *profiles(), *extras(), *liars())
    return [*(replace(row, name='{0}-{1}.{1}'.format(*row.name.rsplit('.', 1))) for row in made), *names()]


def jpegs() -> Iterator[Strange]:
    for sampling in ('4:4:4', '4:2:2', '4:2:0'):
        yield coloured(f'{sampling.replace(":", "")}.jpg', encoded(SCENE, 'JPEG', subsampling=sampling, quality=95), 3)
    yield coloured('progressive.jpg', encoded(SCENE, 'JPEG', progressive=True, quality=95), 3)
    yield coloured('restarts.jpg', encoded(SCENE, 'JPEG', restart_marker_blocks=1, quality=95), 3)
    yield coloured('filming.jpg', encoded(SCENE, 'JPEG', quality=95) + bytes(99) + b'ftypmp42', 3)  # a phone's
    yield grey('grey.jpg', encoded(LEVELS, 'JPEG', quality=95), off=2)
    for orientation, stored in STORED.items():
        exif = turned(orientation)
        yield coloured(f'turned{orientation}.jpg', encoded(stored, 'JPEG', quality=95, exif=exif), 3)
    yield coloured('exif.jpg', encoded(SCENE, 'JPEG', quality=95, exif=b'Exif\0\0II*\0\xff\xff\xff\xff'), 3)
    ink = Image.merge('CMYK', [*Image.fromarray(255 - SCENE).split(), Image.new('L', (WIDTH, HEIGHT))])
    whole = encoded(ink, 'JPEG', quality=95, subsampling='4:4:4')
    yield coloured('cmyk.jpg', whole, 3)
    luma = [x.point(lambda x: 255 - x) for x in Image.fromarray(255 - SCENE).convert('YCbCr').split()]
    ycck = encoded(Image.merge('CMYK', [*luma, Image.new('L', (WIDTH, HEIGHT))]), 'JPEG', quality=95)
    place = ycck.index(b'Adobe') + 11
    yield coloured('ycck.jpg', ycck[:place] + b'\2' + ycck[place + 1 :], 4)
    two = Image.fromarray(SCENE)
    yield coloured('two.jpg', encoded(two, 'MPO', save_all=True, append_images=[two.rotate(180)], quality=95), 3)


def pngs() -> Iterator[Strange]:
    for depth, levels in ((1, (0, 1)), (2, (1, 2)), (4, (5, 10)), (8, BRIGHTNESS), (16, (25700, 31354))):
        shown = tuple(round(x * 255 / (2**depth - 1)) for x in levels)
        yield grey(f'grey{depth}.png', png(packed(*levels, depth, WIDTH, HEIGHT), depth, 0), shown)
    flat = Image.fromarray(SCENE)
    for bits in (2, 4, 8):
        yield coloured(f'palette{bits}.png', encoded(flat.quantize(4), 'PNG', bits=bits))
    yield coloured('palette1.png', encoded(Image.fromarray(halves(LEFT, RIGHT)).quantize(2), 'PNG', bits=1))
    yield coloured('deep.png', png(SCENE.astype('>u2') * 257, 16, 2))
    alpha = quarters(90, 255, 0, 7)
    deep = np.dstack([SCENE, alpha]).astype('>u2') * 257
    yield coloured('deep-alpha.png', png(deep, 16, 6), alphas=(90, 255))
    yield grey('deep-grey-alpha.png', png(np.dstack([LEVELS, alpha]).astype('>u2') * 257, 16, 4), alphas=(90, 255))
    yield grey('grey-alpha.png', encoded(np.dstack([LEVELS, alpha]), 'PNG'), alphas=(90, 255))
    yield coloured('soft.png', encoded(np.dstack([SCENE, alpha]), 'PNG'), alphas=(90, 255))
    yield coloured('hidden-colour.png', encoded(np.dstack([SCENE, 255 - alpha // 255 * 255]), 'PNG'), alphas=(255, 0))
    yield coloured('opaque.png', encoded(np.dstack([SCENE, 0 * alpha + 255]), 'PNG'))
    yield coloured('interlaced.png', interlaced(SCENE))
    yield coloured('moving.png', encoded(flat, 'PNG', save_all=True, append_images=[flat.rotate(180)]))
    yield coloured('turned.png', encoded(STORED[6], 'PNG', exif=turned(6)))
    text = PngInfo()
    text.add_text('history', 'x' * 3_000_000, zip=True)
    yield coloured('history.png', encoded(flat, 'PNG', pnginfo=text))


def transparent() -> Iterator[Strange]:
    """One value or colour that is transparent: that of the left probe."""
    for depth, levels in ((1, (0, 1)), (2, (1, 2)), (4, (5, 10)), (8, BRIGHTNESS), (16, (25700, 25701))):
        rows, shown = packed(*levels, depth, WIDTH, HEIGHT), tuple(round(x * 255 / (2**depth - 1)) for x in levels)
        key = struct.pack('>H', levels[0])
        yield grey(f'key-grey{depth}.png', png(rows, depth, 0, key), shown, alphas=(0, 255))
    yield coloured('key8.png', png(SCENE, 8, 2, struct.pack('>3H', *LEFT)), alphas=(0, 255))
    key = struct.pack('>3H', *(x * 257 for x in LEFT))
    yield coloured('key16.png', png(SCENE.astype('>u2') * 257, 16, 2, key), alphas=(0, 255))
    indexed = Image.fromarray(SCENE).quantize(4)
    alphas = bytes(90 if indexed.getpixel(PROBES[0][::-1]) == index else 255 for index in range(4))
    yield coloured('key-palette.png', encoded(indexed, 'PNG', transparency=alphas), alphas=(90, 255))


def other_formats() -> Iterator[Strange]:
    flat, alpha = Image.fromarray(SCENE), quarters(90, 255, 0, 7)
    four = np.dstack([SCENE, alpha])
    yield coloured('lossless.webp', encoded(SCENE, 'WEBP', lossless=True))
    yield coloured('lossy.webp', encoded(SCENE, 'WEBP', quality=95), 5)
    yield coloured('alpha.webp', encoded(four, 'WEBP', lossless=True), alphas=(90, 255))
    yield coloured('moving.webp', encoded(flat, 'WEBP', lossless=True, save_all=True, append_images=[flat.rotate(180)]))
    yield coloured('turned.webp', encoded(STORED[8], 'WEBP', lossless=True, exif=turned(8)))
    for compression in ('raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'):
        yield coloured(f'{compression}.tif', encoded(SCENE, 'TIFF', compression=compression))
    yield coloured('jpeg.tif', encoded(SCENE, 'TIFF', compression='jpeg', quality=95), 3)
    yield coloured('pages.tiff', encoded(flat, 'TIFF', save_all=True, append_images=[flat.rotate(180)]))
    yield coloured('alpha.tif', encoded(four, 'TIFF'), alphas=(90, 255))
    yield coloured('turned.tif', encoded(STORED[5], 'TIFF', exif=turned(5)))
    yield coloured('palette.tif', encoded(flat.quantize(4), 'TIFF'))
    ink = Image.merge('CMYK', [*Image.fromarray(255 - SCENE).split(), Image.new('L', (WIDTH, HEIGHT))])
    yield coloured('cmyk.tif', encoded(ink, 'TIFF'))
    yield grey('bit.tif', encoded(Image.fromarray(halves(0, 255)).convert('1'), 'TIFF'), (0, 255))
    yield grey('fax.tif', encoded(Image.fromarray(halves(0, 255)).convert('1'), 'TIFF', compression='group4'), (0, 255))
    yield grey('deep.tif', encoded(LEVELS.astype(np.uint16) * 257, 'TIFF'))
    yield grey('deep-big-endian.tif', encoded(LEVELS.astype('>u2') * 257, 'TIFF'))
    dark = (255 - LEVELS).astype('<u2') * 257
    yield grey('white-is-0.tif', tiff(SIZE, dark, GREY_WHITE_IS_0, 16))
    yield grey('12-bits.tif', tiff(SIZE, packed(1606, 1959, 12, *SIZE), GREY, 12))
    # L* of 60 and 100.
    lightness = Image.merge('LAB', [*map(Image.fromarray, (halves(153, 255), *[halves(128, 128)] * 2))])
    yield grey('lab.tif', encoded(lightness, 'TIFF'), (145, 255), 1)
    yield coloured('ycc.tif', encoded(flat.convert('YCbCr'), 'TIFF'), 2)
    yield coloured('a.avif', encoded(SCENE, 'AVIF', quality=95, subsampling='4:4:4'), 4)
    yield coloured('turned.avif', encoded(STORED[7], 'AVIF', quality=95, subsampling='4:4:4', exif=turned(7)), 4)
    yield coloured('alpha.avif', encoded(four, 'AVIF', quality=95, subsampling='4:4:4'), 4, (90, 255))


def profiles() -> Iterator[Strange]:
    wide = rgb_profile()
    yield coloured('p3.png', encoded(IN_P3, 'PNG', icc_profile=wide), 1, P3_BRIGHTNESS)
    yield coloured('p3.jpg', encoded(IN_P3, 'JPEG', icc_profile=wide, quality=95), 4, P3_BRIGHTNESS)
    yield coloured('p3.webp', encoded(IN_P3, 'WEBP', icc_profile=wide, lossless=True), 1, P3_BRIGHTNESS)
    yield coloured('p3.tif', encoded(IN_P3, 'TIFF', icc_profile=wide), 1, P3_BRIGHTNESS)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    yield coloured('srgb.png', encoded(SCENE, 'PNG', icc_profile=srgb))
    yield coloured('damaged-profile.png', encoded(SCENE, 'PNG', icc_profile=wide[:200]))
    yield coloured('grey-profile.png', encoded(SCENE, 'PNG', icc_profile=grey_profile(1.0)))
    yield coloured('large-profile.png', encoded(SCENE, 'PNG', icc_profile=bytes(2_000_000)))
    linear = {'icc_profile': grey_profile(1.0)}  # 0.2157 of light, and all of it
    for name, levels in (('linear.png', halves(55, 255)), ('linear16.png', halves(55 * 257, 65535, kind=np.uint16))):
        yield grey(name, encoded(levels, 'PNG', **linear), (128, 255), 1, (55, 255))
    ink = Image.merge('CMYK', [*[Image.new('L', (WIDTH, HEIGHT))] * 3, Image.fromarray(halves(102, 0))])
    press = table_profile('CMYK', [100, *[0] * 15])
    for kind in ('JPEG', 'TIFF'):
        content = encoded(ink, kind, icc_profile=press)
        yield grey(f'press.{kind.lower().replace("ff", "f")}', content, (145, 255), 2, (153, 255))
    plain = encoded(SCENE, 'PNG')
    for kind, content in (
        (b'gAMA', struct.pack('>I', 100000)),
        (b'cHRM', struct.pack('>8I', 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
        (b'cICP', b'\x09\x10\0\1'),
    ):
        yield coloured(f'{kind.decode()}.png', with_chunks(plain, {kind: content}))


def extras() -> Iterator[Strange]:
    """What needs a package beyond those of the toolkit, where it is there."""
    if pillow_heif:
        file = io.BytesIO()
        exact = {'quality': -1, 'chroma': 444, 'matrix_coefficients': 0}
        pillow_heif.from_pillow(Image.fromarray(SCENE)).save(file, **exact)
        yield coloured('a.heic', file.getvalue())
        yield coloured('sent.jpg', file.getvalue())  # as messengers name them
    if OPENEXR:
        light = ((SCENE / 255 + 0.055) / 1.055) ** 2.4
        planes = {name: light[..., i].astype(np.float16) for i, name in enumerate('RGB')}
        linear = [round(255 * float(np.dot(light[probe], (0.299, 0.587, 0.114)))) for probe in PROBES]
        half = np.full((HEIGHT, WIDTH), 0.5, np.float16)
        held = {name: plane * half for name, plane in planes.items()}
        for name, channels, alphas in (('a.exr', planes, linear), ('alpha.exr', {**held, 'A': half}, (128, 128))):
            yield coloured(name, _exr(channels), 1, (alphas[0], alphas[1]))


def _exr(channels: dict[str, np.ndarray]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return save_exr(Path(folder) / 'a.exr', channels).read_bytes()


def liars() -> Iterator[Strange]:
    """Files of another format than their suffix says."""
    yield coloured('png.jpg', encoded(SCENE, 'PNG'))
    yield coloured('jpeg.png', encoded(SCENE, 'JPEG', quality=95), 3)
    yield coloured('webp.jpeg', encoded(SCENE, 'WEBP', lossless=True))
    yield coloured('bmp.png', encoded(SCENE, 'BMP'))
    yield coloured('png.exr', encoded(SCENE, 'PNG'))
    yield coloured('gif.webp', encoded(Image.fromarray(SCENE).quantize(4), 'GIF'))


def names() -> Iterator[Strange]:
    plain = encoded(SCENE, 'PNG')
    spelled = [
        'IMG_2.png', 'IMG_10.png', 'UPPER.PNG', 'a.b.c.png', 'twice.jpg.png', ' spaces .png', '-dash.png', '%05d.png',
        "quote'\".png", 'line\nbreak.png', '*[a-z]?.png', '#$&;.png', '日本.png', '🎬.png',
        unicodedata.normalize('NFC', 'Zoë.png'), unicodedata.normalize('NFD', 'Ångström.png'),
        'x' * 246 + '.png', 'folder.png/inside.png', 'frame_00000/images/cam_A.png', 'frame_00000/images/cam_B.png',
        'frame_00001/images/cam_A.png', 'frame_00001/images/cam_B.png',
    ]  # fmt: skip
    for name in spelled + [os.fsdecode(b'caf\xe9.png')] * (sys.platform == 'linux'):
        yield coloured(name, plain)


def refused() -> list[Refused]:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    planes = SCENE.transpose(2, 0, 1).astype('<u2') * 257
    kinds = [('jpg', 'JPEG', {}), ('jpeg', 'JPEG', {'progressive': True}), ('png', 'PNG', {})]
    halved = ((suffix, encoded(noise, kind, **options)) for suffix, kind, options in kinds)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    return [
        Refused('empty.png', b'', 'not a picture'),
        Refused('text.jpg', b'no picture at all\n' * 99, 'not a picture'),
        Refused('zeros.png', bytes(5000), 'not a picture'),
        Refused('svg.png', svg, 'not a picture'),
        Refused('jxl.jpg', b'\0\0\0\x0cJXL \r\n\x87\n' + bytes(99), 'not a picture'),
        Refused('film.png', b'\0\0\0\x18ftypmp42\0\0\0\0mp42isom' + bytes(99), 'not a picture'),
        Refused('nowhere.png', None, 'no such file'),
        Refused('float.tif', encoded(LEVELS.astype(np.float32) / 255, 'TIFF'), 'no defined white'),
        Refused('float-rgb.tif', tiff(SIZE, SCENE.astype('<f4'), RGB, 32, FLOAT), 'a TIFF of a kind that is not read'),
        Refused('32-bits.tif', tiff(SIZE, LEVELS.astype('<u4') << 24, GREY, 32), 'no defined white'),
        Refused('signed.tif', tiff(SIZE, LEVELS.astype('<i2') << 7, GREY, 16, SIGNED), 'no defined white'),
        Refused('planes.tif', tiff(SIZE, planes, RGB, 16, planes=True), 'save it interleaved'),
        Refused('half-webp.webp', _half(encoded(noise, 'WEBP')), 'decoder'),
        Refused('half-avif.avif', _half(encoded(noise, 'AVIF')), 'not a picture'),
        Refused('half-tif.tif', _half(encoded(noise, 'TIFF', compression='tiff_lzw')), 'damaged'),
        *(Refused(f'half-{suffix}.{suffix}', _half(content), 'truncated', at_once=False) for suffix, content in halved),
    ]


def left_out() -> dict[str, bytes]:
    """Files that are not looked at."""
    plain = encoded(SCENE, 'PNG')
    others = {f'a.{kind.lower()}': encoded(SCENE, kind) for kind in ('BMP', 'GIF', 'PPM')}
    others |= {f'a.{suffix}': b'x' for suffix in ('psd', 'jxl', 'svg', 'txt')}
    return {'.hidden.png': plain, '._IMG_2.png': b'\0\5\x16\7', '.thumbnails/IMG_2.png': plain, **others}


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]
