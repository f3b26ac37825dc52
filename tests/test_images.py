"""Readers, file sources and the published toolkit's data sets."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset import ImagesDataset, SampleDataset, ZipDataset
from dataset.images import (
    BackgroundFiles,
    ImageError,
    MatteFiles,
    alpha_source,
    image_size,
    read_alpha,
    read_rgb,
    spread_colour,
)
from dataset.paths import find_images, match_pairs

ORIENTATION = 0x0112


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps within a few levels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 200 / width + 20, y * 200 / height + 20, (x + y) * 100 / (width + height) + 60], -1).astype(
        np.uint8
    )


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


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


def disc(side: int) -> np.ndarray:
    """A soft-edged disc, alpha 0..255."""
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return (np.clip((0.35 * side - np.hypot(x, y)) / (0.03 * side) + 0.5, 0, 1) * 255).astype(np.uint8)


def test_matte_files_leave_the_subject_alone_and_fill_around_it(tmp_path):
    alpha = disc(128)
    colour = noise(128, 128, 3) // 4 + 150
    colour[alpha == 0] = 0
    mattes = MatteFiles([(save(tmp_path / 'f.png', colour), save(tmp_path / 'p.png', alpha))])
    assert len(mattes) == 1
    assert mattes.name(0) == str(tmp_path / 'f.png')
    rgba = mattes.read(0)
    assert rgba.shape == (128, 128, 4)
    assert rgba.dtype == np.uint8
    np.testing.assert_array_equal(rgba[..., 3], alpha)
    np.testing.assert_array_equal(rgba[alpha > 0][:, :3], colour[alpha > 0])
    ring = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((7, 7))) - (alpha > 0)
    assert rgba[ring == 1][:, :3].min() >= 140  # the subject has 150..213, the file 0 here
    assert rgba[0, 0, :3].max() == 0  # far away nothing is worth the work


def test_specks_of_a_lossy_alpha_count_as_outside(tmp_path):
    alpha = disc(128)
    colour = np.full((128, 128, 3), 180, np.uint8)
    colour[alpha == 0] = 0
    pair = (save(tmp_path / 'f.png', colour), save(tmp_path / 'p.jpg', alpha, quality=85))
    rgba = MatteFiles([pair]).read(0)
    near = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((5, 5))) == 1
    specks = near & (alpha == 0) & (rgba[..., 3] > 0) & (rgba[..., 3] <= 8)
    assert specks.sum() > 50
    assert (rgba[specks][:, :3] > 120).mean() > 0.9  # a few specks are above 8


@pytest.mark.parametrize('kinds', ['png png', 'jpg png', 'png jpg', 'jpg jpg', 'webp webp'])
@pytest.mark.parametrize('side', [256, 251])
def test_reduced_mattes_have_no_dark_fringe(tmp_path, kinds, side):
    fgr_kind, pha_kind = kinds.split()
    alpha = disc(side)
    colour = np.zeros((side, side, 3), np.uint8)
    colour[alpha > 0] = (230, 200, 180)
    options = {'quality': 95}
    pair = (save(tmp_path / f'f.{fgr_kind}', colour, **options), save(tmp_path / f'p.{pha_kind}', alpha, **options))
    rgba = MatteFiles([pair]).read(0, min_size=(60, 60))
    assert rgba.shape == (-(-side // 4), -(-side // 4), 4)
    shown = rgba[..., 3] > 12
    assert np.abs(rgba[shown][:, :3].astype(int) - (230, 200, 180)).max() <= 24
    whole = alpha[: side // 4 * 4, : side // 4 * 4].reshape(side // 4, 4, side // 4, 4).mean((1, 3))
    assert np.abs(rgba[: side // 4, : side // 4, 3] - whole).max() <= 4


def test_matte_files_refuse_two_sizes(tmp_path):
    pair = (save(tmp_path / 'f.png', noise(20, 30, 3)), save(tmp_path / 'p.png', noise(20, 31)))
    with pytest.raises(ImageError, match=r'f\.png is 30x20 and its alpha .*p\.png is 31x20'):
        MatteFiles([pair]).read(0)


def test_one_rgba_file_serves_as_both(tmp_path):
    colour, alpha = noise(32, 32, 3), noise(32, 32, seed=1) | 1
    path = save(tmp_path / 'a.png', np.dstack([colour, alpha]))
    np.testing.assert_array_equal(MatteFiles([(path, path)]).read(0), np.dstack([colour, alpha]))


def test_spread_colour_takes_the_near_side(tmp_path):
    rgb = np.zeros((40, 40, 3), np.uint8)
    known = np.zeros((40, 40), np.uint8)
    rgb[:, :15], known[:, :15] = (200, 0, 0), 255
    rgb[:, 25:], known[:, 25:] = (0, 0, 200), 255
    before = rgb.copy()
    spread = spread_colour(rgb, known)
    np.testing.assert_array_equal(rgb, before)
    assert np.abs(spread[20, 16].astype(int) - (200, 0, 0)).max() <= 2
    assert np.abs(spread[20, 23].astype(int) - (0, 0, 200)).max() <= 2


def test_background_files(tmp_path):
    pixels = noise(20, 30, 3)
    backgrounds = BackgroundFiles([save(tmp_path / 'b.png', pixels)])
    assert len(backgrounds) == 1
    assert backgrounds.name(0) == str(tmp_path / 'b.png')
    np.testing.assert_array_equal(backgrounds.read(0), pixels)
    assert backgrounds.read(0, min_size=(15, 10)).shape == (10, 15, 3)


def test_find_images_takes_every_suffix_and_case_nested_and_linked(tmp_path):
    root = tmp_path / 'root'
    for name in ('b.JPG', 'a.jpeg', 'sub/deep/c.WebP', 'sub/d.png', '._a.jpeg', '.hidden/e.png', 'notes.txt', '.png'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere/f.png').touch()
    (root / 'link').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
    (root / 'sub/loop').symlink_to(root, target_is_directory=True)
    expected = ['a.jpeg', 'b.JPG', 'link/f.png', 'sub/d.png', 'sub/deep/c.WebP']
    assert [path.as_posix() for path in find_images(root)] == expected
    with pytest.raises(FileNotFoundError, match='nowhere'):
        find_images(tmp_path / 'nowhere')


def test_match_pairs_ignores_the_suffix(tmp_path):
    for name in ('f/a/x.jpg', 'f/y.v2.png', 'f/only.png', 'f/twice.png', 'f/twice.webp'):
        save(tmp_path / name, noise(4, 4, 3))
    for name in ('p/a/x.png', 'p/y.v2.jpg', 'p/x.png', 'p/twice.png'):
        save(tmp_path / name, noise(4, 4))
    found = match_pairs(tmp_path / 'f', tmp_path / 'p')
    f, p = tmp_path / 'f', tmp_path / 'p'
    assert found.pairs == [
        (f / 'a/x.jpg', p / 'a/x.png'),
        (f / 'twice.png', p / 'twice.png'),
        (f / 'y.v2.png', p / 'y.v2.jpg'),
    ]
    assert found.only_fgr == [f / 'only.png']
    assert found.only_pha == [p / 'x.png']
    assert found.duplicates == [(f / 'twice.png', f / 'twice.webp')]


def test_images_dataset(tmp_path):
    for name in ('b.png', 'a/c.JPEG', 'a.webp'):
        save(tmp_path / name, smooth(12, 16), **({'format': 'JPEG'} if name.endswith('JPEG') else {}))
    dataset = ImagesDataset(tmp_path)
    assert dataset.filenames == [str(tmp_path / name) for name in ('a.webp', 'a/c.JPEG', 'b.png')]
    assert len(dataset) == 3
    assert [image.mode for image in dataset] == ['RGB'] * 3
    np.testing.assert_array_equal(np.asarray(dataset[-1]), smooth(12, 16))
    assert ImagesDataset(tmp_path, mode='L', transforms=lambda image: (image.mode, image.size))[0] == ('L', (16, 12))
    assert len(ImagesDataset(tmp_path / 'b.png')) == 1
    assert ImagesDataset(str(tmp_path), mode='RGBA')[0].mode == 'RGBA'
    with pytest.raises(FileNotFoundError, match='nowhere'):
        ImagesDataset(tmp_path / 'nowhere')


def test_zip_dataset_repeats_the_shorter():
    zipped = ZipDataset([range(3), range(10, 15)])
    assert len(zipped) == 5
    assert list(zipped) == [(0, 10), (1, 11), (2, 12), (0, 13), (1, 14)]
    assert zipped[-1] == (1, 14)
    assert ZipDataset([range(2), range(2)], transforms=lambda a, b: a + b, assert_equal_length=True)[1] == 2
    with pytest.raises(ValueError, match=r'\[3, 5\]'):
        ZipDataset([range(3), range(5)], assert_equal_length=True)
    with pytest.raises(ValueError, match=r'\[3, 0\]'):
        ZipDataset([range(3), range(0)])


@pytest.mark.parametrize(('length', 'samples'), [(10, 4), (10, 10), (10, 50), (7, 1), (1, 5), (100, 99), (1000, 50)])
def test_sample_dataset_spreads_evenly_from_first_to_last(length, samples):
    chosen = list(SampleDataset(range(length), samples))
    assert len(chosen) == len(set(chosen)) == min(length, samples)
    assert chosen[0] == 0
    if len(chosen) > 1:
        assert chosen[-1] == length - 1
        steps = np.diff(chosen)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


def test_sample_dataset_refuses_no_samples():
    with pytest.raises(ValueError, match='samples is 0'):
        SampleDataset(range(3), 0)
