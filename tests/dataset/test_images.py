"""Readers of colour and alpha: rotation, depth, modes, damage."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.pictures import noise, save, smooth

from dataset import ImagesDataset, readers
from dataset.readers import ImageError, alpha_source, image_size, read_alpha, read_rgb

ORIENTATION = 0x0112


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


# How a viewer that honours EXIF shows stored pixels.
SHOWN = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation_is_honoured_in_size_colour_and_alpha(tmp_path, orientation):
    stored = noise(20, 30, 3)
    path = save(tmp_path / 'a.png', stored, exif=exif(orientation))
    shown = SHOWN[orientation](stored)
    assert image_size(path) == (shown.shape[1], shown.shape[0])
    np.testing.assert_array_equal(read_rgb(path), shown)
    grey = save(tmp_path / 'b.webp', np.dstack([stored, stored[..., 0]]), exif=exif(orientation), lossless=True)
    np.testing.assert_array_equal(read_alpha(grey), SHOWN[orientation](stored[..., 0]))
    assert ImagesDataset(path)[0].size == image_size(path)
    assert ImagesDataset(path, mode='HSV')[0].size == image_size(path)


def test_exif_that_cannot_be_parsed_is_ignored(tmp_path):
    path = save(tmp_path / 'a.jpg', smooth(16, 24), exif=b'Exif\0\0garbage')
    assert image_size(path) == (24, 16)
    assert read_rgb(path).shape == (16, 24, 3)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp'])
def test_min_size_counts_after_rotation(tmp_path, suffix):
    # Stored 640x320, shown 320x640: (100, 400) and (200, 100) leave no room, (100, 200) a third, so a factor of 2.
    path = save(tmp_path / f'a.{suffix}', smooth(320, 640), exif=exif(6))
    assert read_rgb(path, min_size=(100, 400)).shape == (640, 320, 3)
    assert read_rgb(path, min_size=(200, 100)).shape == (640, 320, 3)
    assert read_rgb(path, min_size=(100, 200)).shape == (320, 160, 3)
    assert read_alpha(path, min_size=(100, 200)).shape == (320, 160)
    assert read_rgb(path, min_size=(10, 10)).shape == (80, 40, 3)
    assert read_rgb(path, min_size=(1000, 1000)).shape == (640, 320, 3)


@pytest.mark.parametrize('size', [(200, 300), (201, 299), (203, 301)])
@pytest.mark.parametrize('factor', [2, 4, 8])
def test_reduced_decoding_agrees_between_codecs(tmp_path, size, factor):
    pixels = smooth(*size)
    least = (size[1] // factor, size[0] // factor)
    png = read_rgb(save(tmp_path / 'a.png', pixels), least)
    jpg = read_rgb(save(tmp_path / 'a.jpg', pixels, quality=100, subsampling=0), least)
    assert png.shape == jpg.shape == (-(-size[0] // factor), -(-size[1] // factor), 3)
    assert np.abs(png.astype(int) - jpg).max() <= 3
    rows, columns = size[0] // factor * factor, size[1] // factor * factor
    mean = pixels[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor, 3).mean((1, 3))
    assert np.abs(png[: rows // factor, : columns // factor] - mean).max() <= 0.5


@pytest.mark.parametrize('shape', [(40, 50), (40, 50, 3), (40, 50, 4)])
def test_16_bit_png(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    values.reshape(-1)[:4] = (0, 128, 65407, 65535)
    path = tmp_path / 'a.png'
    assert cv2.imwrite(str(path), values)  # OpenCV's order is BGR(A)
    expected = values / 257
    if len(shape) == 2:
        np.testing.assert_array_equal(read_alpha(path), np.round(expected))
        np.testing.assert_array_equal(read_rgb(path), np.repeat(np.round(expected)[..., None], 3, -1))
        assert read_rgb(save_rotated_16_bit(tmp_path / 'r.png', values)).shape == (50, 40, 3)
    else:
        assert np.abs(read_rgb(path) - expected[..., 2::-1]).max() <= 1
    if shape[-1] == 4:
        assert np.abs(read_alpha(path) - expected[..., 3]).max() <= 1


def save_rotated_16_bit(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path, exif=exif(6))
    return path


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'P transparent', 'RGB', 'RGBA', 'CMYK', 'I;16'])
def test_every_mode_gives_8_bit_rgb_and_alpha_without_a_warning(tmp_path, mode):
    image = Image.fromarray(smooth(24, 32))
    options = {}
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    elif mode == 'P transparent':
        image, options = image.convert('P'), {'transparency': bytes([0, 128] + [255] * 254)}
    else:
        image = image.convert(mode)
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    image.save(path, **options)
    with Image.open(path) as stored:
        assert stored.mode == mode.split()[0]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rgb, alpha = read_rgb(path), read_alpha(path)
    assert rgb.shape == (24, 32, 3)
    assert alpha.shape == (24, 32)
    assert rgb.dtype == alpha.dtype == np.uint8


def test_cmyk_and_palette_keep_their_colours(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8) + np.array([204, 51, 51], np.uint8)  # in the web palette
    Image.fromarray(red).convert('CMYK').save(tmp_path / 'a.jpg', quality=100)
    Image.fromarray(red).convert('P').save(tmp_path / 'a.png')
    assert np.abs(read_rgb(tmp_path / 'a.jpg').astype(int) - red).max() <= 3
    np.testing.assert_array_equal(read_rgb(tmp_path / 'a.png'), red)


def test_alpha_is_read_from_a_real_alpha_channel(tmp_path):
    colour, alpha = noise(20, 30, 3), noise(20, 30, seed=1)
    rgba = save(tmp_path / 'rgba.png', np.dstack([colour, alpha]))
    grey_alpha = tmp_path / 'la.png'
    Image.merge('LA', [Image.fromarray(colour[..., 0]), Image.fromarray(alpha)]).save(grey_alpha)
    for path in (rgba, grey_alpha):
        assert alpha_source(path) == 'alpha'
        np.testing.assert_array_equal(read_alpha(path), alpha)
    np.testing.assert_array_equal(read_rgb(rgba), colour)


def test_alpha_is_read_from_a_transparent_palette(tmp_path):
    indices = (noise(20, 30) % 4).astype(np.uint8)
    image = Image.fromarray(indices).convert('L')
    image = Image.frombytes('P', (30, 20), indices.tobytes())
    image.putpalette([10, 10, 10, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    levels = bytes([0, 90, 180, 255])
    image.save(tmp_path / 'a.png', transparency=levels)
    assert alpha_source(tmp_path / 'a.png') == 'alpha'
    np.testing.assert_array_equal(read_alpha(tmp_path / 'a.png'), np.frombuffer(levels, np.uint8)[indices])
    assert tuple(read_rgb(tmp_path / 'a.png')[indices == 2][0]) == (0, 200, 0)


@pytest.mark.parametrize('suffix', ['png', 'webp'])
def test_an_opaque_alpha_channel_is_no_matte(tmp_path, suffix):
    grey = noise(20, 30)
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    path = save(tmp_path / f'a.{suffix}', opaque, lossless=True)
    assert alpha_source(path) == 'luminance'
    np.testing.assert_array_equal(read_alpha(path), grey)


def test_grey_rgb_gives_its_grey(tmp_path):
    grey = noise(20, 30)
    path = save(tmp_path / 'a.png', np.dstack([grey] * 3))
    assert alpha_source(path) == 'luminance'
    np.testing.assert_array_equal(read_alpha(path), grey)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp'])
@pytest.mark.parametrize('min_size', [None, (32, 32)])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, suffix, min_size):
    path = save(tmp_path / f'whole.{suffix}', noise(128, 128, 3))
    broken = tmp_path / f'broken.{suffix}'
    broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_rgb, read_alpha):
        with pytest.raises(ImageError, match=f'broken.{suffix}'):
            read(broken, min_size)


def test_what_is_no_picture_is_an_error_that_names_it(tmp_path):
    (tmp_path / 'empty.png').touch()
    (tmp_path / 'text.jpg').write_text('hello')
    (tmp_path / 'folder.png').mkdir()
    for name in ('empty.png', 'text.jpg', 'folder.png'):
        for read in (read_rgb, read_alpha, image_size, alpha_source):
            with pytest.raises(ImageError, match=name):
                read(tmp_path / name)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / 'deep.tif')
    with pytest.raises(ImageError, match=r'deep\.tif.*floating point'):
        read_rgb(tmp_path / 'deep.tif')
    with pytest.raises(FileNotFoundError, match=r'missing\.png'):
        read_rgb(tmp_path / 'missing.png')


BASELINE = [{}, {'subsampling': 0}, {'restart_marker_blocks': 3}, {'optimize': True}, {'keep_rgb': True}]


@pytest.mark.parametrize('options', [*BASELINE, {'progressive': True}], ids=str)
@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('min_size', [None, (60, 60), (16, 16)])
def test_a_jpeg_decodes_as_pillow_decodes_it(tmp_path, monkeypatch, options, mode, min_size):
    path = tmp_path / 'a.jpg'
    grain = (smooth(131, 150) // 2 + noise(131, 150, 3) // 8).astype(np.uint8)
    Image.fromarray(grain).convert(mode).save(path, quality=80, **(options if mode == 'RGB' else {}))
    path.write_bytes(path.read_bytes() + b'what a camera appends')
    fast = read_rgb(path, min_size), read_alpha(path, min_size)
    progressive = mode == 'RGB' and 'progressive' in options
    assert readers._one_whole_scan(path.read_bytes()) is not progressive
    monkeypatch.setattr(readers, '_whole_jpeg', lambda *_: None)
    np.testing.assert_array_equal(fast[0], read_rgb(path, min_size))
    np.testing.assert_array_equal(fast[1], read_alpha(path, min_size))


def test_only_pixels_of_a_whole_jpeg_come_from_opencv(tmp_path, monkeypatch):
    given = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, 'imdecode', lambda *args: given.append(args) or decode(*args))
    path = save(tmp_path / 'a.jpg', noise(128, 128, 3))
    read_rgb(path)
    assert len(given) == 1
    read_rgb(save(tmp_path / 'turned.jpg', noise(128, 128, 3), exif=exif(6)))
    data = path.read_bytes()
    # A marker that means nothing here: OpenCV would give the upper half of the picture and say nothing.
    (tmp_path / 'b.jpg').write_bytes(data[: len(data) // 2] + b'\xff\xc8' + data[len(data) // 2 :])
    assert decode(np.fromfile(tmp_path / 'b.jpg', np.uint8), cv2.IMREAD_COLOR) is not None
    for damaged in (data[: len(data) // 2], data[:-2], (tmp_path / 'b.jpg').read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=r'a\.jpg'):
            read_rgb(path)
    assert len(given) == 1


def test_a_damaged_byte_in_a_png_is_an_error(tmp_path):
    path = save(tmp_path / 'a.png', noise(64, 64, 3))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r'a\.png'):
        read_rgb(path)


def test_pictures_above_pillows_limit_are_opened_without_a_warning(tmp_path):
    # Only a header: the point is that nothing refuses or warns, not to decode 400 megapixels.
    header = struct.pack('>IIBBBBB', 20_000, 20_000, 8, 0, 0, 0, 0)
    chunk = struct.pack('>I', 13) + b'IHDR' + header + struct.pack('>I', zlib.crc32(b'IHDR' + header))
    (tmp_path / 'a.png').write_bytes(
        b'\x89PNG\r\n\x1a\n' + chunk + struct.pack('>I', 0) + b'IDAT' + b'\x35\xaf\x06\x1e'
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert image_size(tmp_path / 'a.png') == (20_000, 20_000)


def test_damaged_exif_costs_no_picture_and_prints_nothing(tmp_path):
    path = save(tmp_path / 'a.jpg', noise(16, 16, 3), exif=b'Exif\0\0II*\0\xff\xff\xff\xff')
    code = f'from dataset.readers import *; print(read_rgb(Path({str(path)!r})).shape)'
    # In a process of its own: pytest has warnings of its own.
    ran = subprocess.run([sys.executable, '-c', code], cwd=Path(readers.__file__).parents[1], capture_output=True)
    assert (ran.stdout, ran.stderr) == (b'(16, 16, 3)\n', b'')
