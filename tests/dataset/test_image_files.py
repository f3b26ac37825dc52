"""File sources, pairs of files, and the published toolkit's data sets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.pictures import noise, save, smooth

from dataset import ImagesDataset, SampleDataset, ZipDataset, fringes
from dataset.fringes import cut_out
from dataset.pairing import match_listed
from dataset.paths import find_images
from dataset.readers import ImageError, read_rgb
from dataset.sources import BackgroundFiles, MatteFiles


def disc(side: int) -> np.ndarray:
    """Draw a soft-edged disc, alpha 0..255."""
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return (np.clip((0.35 * side - np.hypot(x, y)) / (0.03 * side) + 0.5, 0, 1) * 255).astype(np.uint8)


def test_of_a_file_that_is_no_picture_only_the_head_is_read(tmp_path, monkeypatch):
    (tmp_path / 'a.jpg').write_bytes(b'text')
    monkeypatch.delattr(Path, 'read_bytes')
    with pytest.raises(ImageError, match='not a picture'):
        read_rgb(tmp_path / 'a.jpg')


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


def test_the_colour_around_a_subject_is_that_of_the_near_side():
    rgb = np.zeros((40, 40, 3), np.uint8)
    known = np.zeros((40, 40), np.uint8)
    rgb[:, :15], known[:, :15] = (200, 0, 0), 255
    rgb[:, 25:], known[:, 25:] = (0, 0, 200), 255
    alpha, before = noise(40, 40), rgb.copy()
    cut = cut_out(rgb, alpha, known)
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(cut[..., 3], alpha)
    np.testing.assert_array_equal(cut[known == 255][:, :3], rgb[known == 255])
    assert np.abs(cut[20, 16, :3].astype(int) - (200, 0, 0)).max() <= 2
    assert np.abs(cut[20, 23, :3].astype(int) - (0, 0, 200)).max() <= 2


@pytest.mark.parametrize('tile', [4, 16, 64])
@pytest.mark.parametrize('size', [(96, 160), (97, 158), (61, 67)])
def test_cutting_out_by_tiles_leaves_no_seams(monkeypatch, size, tile):
    rgb, alpha = noise(*size, 3), noise(*size, seed=1)
    blotches = cv2.GaussianBlur(noise(*size, seed=2), (0, 0), 6)
    known = np.where(blotches > np.median(blotches), np.uint8(255), np.uint8(0))
    monkeypatch.setattr(fringes, '_TILE', 1024)
    whole = cut_out(rgb, alpha, known)
    changed = (whole[..., :3] != rgb).any(-1)
    assert changed.sum() > 0.1 * changed.size
    assert not changed[known == 255].any()
    monkeypatch.setattr(fringes, '_TILE', tile)
    np.testing.assert_array_equal(cut_out(rgb, alpha, known), whole)


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


def test_matching_ignores_the_suffix(tmp_path):
    for name in ('f/a/x.jpg', 'f/y.v2.png', 'f/only.png', 'f/twice.png', 'f/twice.webp'):
        save(tmp_path / name, noise(4, 4, 3))
    for name in ('p/a/x.png', 'p/y.v2.jpg', 'p/x.png', 'p/twice.png'):
        save(tmp_path / name, noise(4, 4))
    f, p = tmp_path / 'f', tmp_path / 'p'
    found = match_listed(f, find_images(f), p, find_images(p))
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
