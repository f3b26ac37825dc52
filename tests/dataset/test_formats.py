"""Formats beyond JPEG, PNG and WebP: TIFF, HEIC, AVIF and OpenEXR, as colour and as mattes."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.exr_files import OPENEXR, save_exr
from support.pictures import noise, save, smooth

import dataset
from common import console
from dataset import ImagesDataset, VideoDataset
from dataset.checks import check_files
from dataset.paths import DataPaths, find_images
from dataset.readers import ImageError, alpha_source, image_size, read_alpha, read_rgb
from dataset.sources import MatteFiles
from inference.images.inputs import find_jobs

needs_exr = pytest.mark.skipif(not OPENEXR, reason="OpenEXR is not installed: pip install '.[exr]'")
ORIENTATION = 0x0112


@pytest.fixture
def heif():
    return pytest.importorskip('pillow_heif', reason="pillow_heif is not installed: pip install '.[heic]'")


def save_heic(heif, path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Without loss."""
    image = heif.from_pillow(Image.fromarray(pixels))
    image.save(path, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return path


# TIFF


@pytest.mark.parametrize('orientation', range(1, 9))
def test_tiff_is_turned_once(tmp_path, orientation):
    tags, pixels = Image.Exif(), noise(4, 6, 4)
    tags[ORIENTATION] = orientation
    tif = save(tmp_path / 'a.tif', pixels, exif=tags)
    png = save(tmp_path / 'a.png', pixels, exif=tags)
    assert image_size(tif) == image_size(png)
    np.testing.assert_array_equal(read_rgb(tif), read_rgb(png))
    np.testing.assert_array_equal(read_alpha(tif), read_alpha(png))


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_tiff_of_16_bits_is_read_as_png_is(tmp_path, channels):
    deep = np.random.default_rng(0).integers(0, 2**16, (5, 7, channels), np.uint16)
    for suffix in ('tif', 'png'):
        cv2.imwrite(str(tmp_path / f'a.{suffix}'), deep)
    for read in (read_rgb, read_alpha):
        np.testing.assert_array_equal(read(tmp_path / 'a.tif'), read(tmp_path / 'a.png'))


def test_a_damaged_tiff_is_refused(tmp_path):
    path = save(tmp_path / 'a.tiff', noise(64, 64, 3), compression='tiff_lzw')
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(ImageError, match=r'a\.tiff: cannot be read'):
        read_rgb(path)


# HEIC and AVIF


def test_avif_is_read_and_turned(tmp_path):
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    path = save(tmp_path / 'a.avif', smooth(40, 60), quality=100, subsampling='4:4:4', exif=tags)
    assert image_size(path) == (40, 60)
    assert np.abs(read_rgb(path).astype(int) - np.rot90(smooth(40, 60), -1)).max() <= 3


@pytest.mark.parametrize('tiles', [{}, {'tile_size': 64}])
def test_heic_is_read_whole(tmp_path, heif, tiles):
    pixels = noise(80, 72, 3)
    path = save_heic(heif, tmp_path / 'a.heic', pixels, **tiles)
    assert (b'grid' in path.read_bytes()) == bool(tiles)  # the last ones are cut off
    np.testing.assert_array_equal(read_rgb(path), pixels)
    assert image_size(path) == (72, 80)
    np.testing.assert_array_equal(np.array(ImagesDataset(path)[0]), pixels)
    path.rename(tmp_path / 'b.jpg')  # as phones' messengers name them
    np.testing.assert_array_equal(read_rgb(tmp_path / 'b.jpg'), pixels)


def test_heic_is_turned_once(tmp_path, heif):
    pixels, tags = noise(64, 96, 3), Image.Exif()
    tags[ORIENTATION] = 6
    image = Image.fromarray(pixels)
    image.info['exif'] = tags.tobytes()
    heif.register_heif_opener()
    image.save(tmp_path / 'a.heic', quality=-1, chroma=444, matrix_coefficients=0)
    assert image_size(tmp_path / 'a.heic') == (64, 96)
    np.testing.assert_array_equal(read_rgb(tmp_path / 'a.heic'), np.rot90(pixels, -1))


def test_a_thumbnail_in_a_heic_is_not_its_picture(tmp_path, heif):
    image = heif.from_pillow(Image.fromarray(smooth(128, 192)))
    image.save(tmp_path / 'a.heic', quality=-1, chroma=444, matrix_coefficients=0, thumbnails=[100])
    least = (40, 30)
    np.testing.assert_array_equal(
        read_rgb(tmp_path / 'a.heic', least), read_rgb(save(tmp_path / 'a.png', smooth(128, 192)), least)
    )


def test_a_heic_of_pq_is_told_of(tmp_path, heif, monkeypatch, capsys):
    monkeypatch.setattr(console, '_said', bytearray(2**16))
    for name, codes in (('sdr', (1, 13)), ('pq', (9, 16)), ('p3', (12, 13))):
        codes = dict(zip(('color_primaries', 'transfer_characteristics'), codes))
        path = tmp_path / f'{name}.heic'
        heif.from_pillow(Image.fromarray(smooth(16, 16))).save(path, matrix_coefficients=6, full_range_flag=1, **codes)
        read_rgb(path)
        told = 'its nclx box is of other colours than sRGB' in capsys.readouterr().err
        assert told == (name == 'pq')  # once of all


def test_a_heic_that_was_cut_is_refused(tmp_path, heif):
    path = save_heic(heif, tmp_path / 'a.heic', noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ImageError, match=r'a\.heic: cannot be read'):
        read_rgb(path)


@pytest.mark.parametrize(
    ('head', 'module', 'extra'),
    [(b'\0\0\0\x18ftypheic\0\0\0\0', 'pillow_heif', 'heic'), (b'v/1\x01\x02\0\0\0', 'OpenEXR', 'exr')],
)
def test_what_is_not_installed_is_named_with_its_command(tmp_path, monkeypatch, head, module, extra):
    path = tmp_path / 'a.png'
    path.write_bytes(head)
    monkeypatch.setattr(sys, 'meta_path', [Missing(module), *sys.meta_path])
    for name in (module, 'dataset.exr'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(dataset, 'exr', raising=False)
    monkeypatch.setattr(Image, 'ID', [name for name in Image.ID if name not in ('EXR', 'HEIF')])  # of other tests
    for read in (read_rgb, read_alpha, image_size):
        with pytest.raises(ImageError, match=rf"a\.png: cannot be read: {module} is not .* -e '\.\[{extra}\]'$"):
            read(path)
    with pytest.raises(ValueError, match=f'{module} is not'):  # once, and not for each picture
        find_jobs(path, path, tmp_path / 'out', False)


class Missing:
    """Finds everything but one module."""

    def __init__(self, module: str):
        self.module = module

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.module:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)


# OpenEXR

# Linear values and their levels of sRGB: both pieces of the transfer, what is out of range, and what is no number.
SHOWN = {0.0: 0, 0.002: 7, 0.18: 118, 0.5: 188, 1.0: 255, 4.0: 255, np.inf: 255, -1.0: 0, -np.inf: 0, np.nan: 0}
LINEAR = np.array([[*SHOWN]], np.float32)


@needs_exr
@pytest.mark.parametrize('kind', [np.float16, np.float32])
def test_scene_linear_values_get_the_transfer_of_srgb(tmp_path, kind):
    plane = LINEAR.astype(kind)
    rgb = save_exr(tmp_path / 'rgb.exr', {'R': plane, 'G': 0 * LINEAR.astype(kind).clip(0, 1), 'B': plane})
    np.testing.assert_array_equal(read_rgb(rgb)[0, :, 0], [*SHOWN.values()])
    np.testing.assert_array_equal(read_rgb(rgb)[..., 2], read_rgb(rgb)[..., 0])
    assert image_size(rgb) == (len(SHOWN), 1)
    grey = save_exr(tmp_path / 'grey.exr', {'Y': plane, 'Z': plane})
    np.testing.assert_array_equal(read_rgb(grey)[0, :, 1], [*SHOWN.values()])


@needs_exr
def test_mattes_are_taken_as_they_are(tmp_path):
    values = np.array([[0, 0.25, 0.5, 1]], np.float16)
    expected = [[0, 64, 128, 255]]
    for names in ('Y', 'RGB', 'A'):
        path = save_exr(tmp_path / f'{names}.exr', dict.fromkeys(names, values))
        assert alpha_source(path) == 'luminance'
        assert read_alpha(path).tolist() == expected
    path = save_exr(tmp_path / 'rgba.exr', {**dict.fromkeys('RGB', 0 * values + 1), 'A': values})
    assert alpha_source(path) == 'alpha'
    assert read_alpha(path).tolist() == expected


@needs_exr
def test_colour_is_divided_by_alpha(tmp_path):
    alpha = np.array([[0.25, 1, 0]], np.float16)
    planes = {name: np.float16(share) * alpha for name, share in zip('RGB', (0.5, 1, 0.25))}
    planes['R'][0, 2] = 0.5  # light alone
    path = save_exr(tmp_path / 'a.exr', {**planes, 'A': alpha})
    assert read_rgb(path).tolist() == [[[188, 255, 137], [188, 255, 137], [188, 0, 0]]]


@needs_exr
def test_the_display_window_is_the_picture(tmp_path):
    plane = np.arange(1, 13, dtype=np.float16).reshape(3, 4) / 16

    def window(*corners):
        return tuple(np.array(corner, np.int32) for corner in corners)

    path = save_exr(
        tmp_path / 'a.exr', {'Y': plane}, dataWindow=window((8, 11), (11, 13)), displayWindow=window((10, 10), (14, 12))
    )
    assert image_size(path) == (5, 3)
    shown = np.zeros((3, 5))
    shown[1:, :2] = plane[:2, 2:]
    assert read_alpha(path).tolist() == np.rint(shown * 255).tolist()


@needs_exr
def test_the_layer_that_is_the_picture_is_found_or_none_is_taken(tmp_path):
    import OpenEXR

    one, half = np.ones((2, 2), np.float16), np.full((2, 2), 0.5, np.float16)
    layer = {f'view.Combined.{name}': half for name in 'RGBA'}
    assert read_rgb(save_exr(tmp_path / 'a.exr', {**layer, 'view.Depth.Z': one}))[0, 0].tolist() == [255] * 3
    parts = [OpenEXR.Part({}, {'Z': one}, 'depth'), OpenEXR.Part({}, dict.fromkeys('RGB', half), 'beauty')]
    OpenEXR.File(parts).write(str(tmp_path / 'b.exr'))
    assert read_rgb(tmp_path / 'b.exr')[0, 0].tolist() == [188] * 3
    two = save_exr(tmp_path / 'c.exr', {f'{part}.{name}': one for part in ('a', 'b') for name in 'RGB'})
    luminance = save_exr(tmp_path / 'd.exr', dict.fromkeys(('Y', 'RY', 'BY'), one))
    for path in (two, luminance, save_exr(tmp_path / 'e.exr', {'Z': one})):
        with pytest.raises(ImageError, match='which of its channels are the picture is not clear: '):
            read_rgb(path)


@needs_exr
def test_a_damaged_exr_is_refused(tmp_path):
    whole = save_exr(tmp_path / 'a.exr', {'Y': np.random.default_rng(0).random((64, 64)).astype(np.float16)})
    data = whole.read_bytes()
    for part in (data[:-1], data[:40], data[: len(data) // 2].ljust(len(data), b'\0')):
        whole.write_bytes(part)
        with pytest.raises(ImageError, match=r'a\.exr: cannot be read'):
            read_rgb(whole)


@needs_exr
def test_values_above_1_are_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, '_said', bytearray(2**16))
    paths = [save_exr(tmp_path / f'{i}.exr', {'Y': np.array([[i]], np.float16)}) for i in (1, 2, 3)]
    for path in paths:
        read_alpha(path)
    assert capsys.readouterr().err == ''
    for path in paths:
        read_rgb(path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'note: {paths[1]}: values above 1 count as 1')


@needs_exr
def test_training_reads_them(tmp_path):
    half = np.full((16, 16), 0.5, np.float16)
    fgr = save_exr(tmp_path / 'fgr/a.EXR', dict.fromkeys('RGB', half))
    pha = save_exr(tmp_path / 'pha/a.exr', {'Y': np.eye(16, dtype=np.float16)})
    save(tmp_path / 'bgr/b.tif', noise(16, 16, 3))
    assert find_images(tmp_path / 'fgr') == [Path('a.EXR')]
    folders = [tmp_path / kind for kind in ('fgr', 'pha', 'fgr', 'pha', 'bgr', 'bgr')]
    report = check_files(DataPaths(*folders))
    assert (report.findings, report.train_pairs) == ([], [(fgr.absolute(), pha.absolute())])
    subject = MatteFiles(report.train_pairs).read(0)
    np.testing.assert_array_equal(subject[..., 3], np.eye(16) * 255)
    assert (subject[np.eye(16) > 0, :3] == 188).all()


def test_a_picture_is_no_video(tmp_path):
    with pytest.raises(ValueError, match='a picture, not a video; ImagesDataset reads pictures'):
        VideoDataset(save(tmp_path / 'a.tif', noise(64, 64, 3)))
