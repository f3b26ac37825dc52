"""What `Matting` takes and what a result can do: pictures of any kind in, files and composites out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.inference_case import read, room, save

from inference.matte import Matte
from inference.pixels import as_pixels

PIXELS = room(3, 12, 8)


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture
def matte() -> Matte:
    pha = np.zeros((8, 12), np.uint8)
    pha[2:6, 3:9], pha[2, 3] = 255, 51
    return Matte(pha, PIXELS)


def test_a_picture_of_any_kind_is_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / 'x.png', PIXELS)
    turned = Image.fromarray(np.rot90(PIXELS, 1))  # upright again by 90 degrees to the right
    turned.getexif()[0x0112] = 6
    with_alpha = Image.fromarray(np.dstack([PIXELS, np.full((8, 12), 9, np.uint8)]))
    halves = planes(PIXELS).to(torch.float32) / 255
    for picture in (path, str(path), Image.open(path), turned, with_alpha, PIXELS, planes(PIXELS), halves):
        pixels = as_pixels(picture)
        assert np.array_equal(pixels, PIXELS), type(picture)
        assert pixels.dtype == np.uint8
    assert torch.equal(halves, planes(PIXELS).to(torch.float32) / 255)  # the caller's own is left as it is
    grey = as_pixels(Image.fromarray(PIXELS[..., 0]))
    assert np.array_equal(grey, PIXELS[..., :1].repeat(3, 2))


@pytest.mark.parametrize(
    ('picture', 'reason'),
    [
        (planes(PIXELS).float(), r'a float tensor must be in 0\.\.1, not in .*\.\.2'),
        (planes(PIXELS)[None], r'a tensor must be RGB \(3, H, W\), .* not torch.uint8 \(1, 3, 8, 12\); `predict`'),
        (torch.from_numpy(PIXELS), r'not torch.uint8 \(8, 12, 3\)'),
        (PIXELS / 255, r'an array must be uint8 RGB \(H, W, 3\), not float64'),
        (None, 'a picture must be a path, a PIL image, an array or a tensor, not NoneType'),
    ],
)
def test_what_is_no_picture_is_told_what_would_be(picture: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        as_pixels(picture)


def test_a_result_is_saved_as_a_cut_out_or_in_parts(matte: Matte, tmp_path: Path) -> None:
    for kind, suffix in (('com', 'png'), ('com', 'webp'), ('pha', 'png'), ('fgr', 'webp')):
        matte.save(tmp_path / f'x.{suffix}', kind)
        assert np.array_equal(read(tmp_path / f'x.{suffix}'), getattr(matte, kind)), (kind, suffix)
    matte.save(str(tmp_path / 'x.jpg'), 'pha')
    assert np.abs(read(tmp_path / 'x.jpg').astype(int) - matte.pha).max() < 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ['x.jpg', 'x.png', 'x.webp']


@pytest.mark.parametrize(
    ('name', 'kind', 'reason'),
    [
        ('x.jpg', 'com', 'jpg has no alpha; use .png, .webp'),
        ('x.tif', 'pha', 'not a format of pictures; use .png, .webp, .jpg'),
        ('x.png', 'err', 'err: no such result; ask for err and ref in the call'),
        ('x.png', 'alpha', 'alpha: must be one of com, pha, fgr, err, ref'),
    ],
)
def test_what_cannot_be_saved_is_told(matte: Matte, tmp_path: Path, name: str, kind: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        matte.save(tmp_path / name, kind)
    assert not list(tmp_path.iterdir())


def test_a_background_is_a_colour_or_a_picture(matte: Matte, tmp_path: Path) -> None:
    for white in ('white', '#ffffff', (255, 255, 255), [255, 255, 255], np.full((5, 9, 3), 255, np.uint8)):
        com = matte.composite(white)
        assert (com.dtype, com.shape) == (np.uint8, (8, 12, 3))
        assert np.array_equal(com[4, 5], PIXELS[4, 5])
        assert np.array_equal(com[0, 0], (255, 255, 255))
        expected = PIXELS[2, 3] * 0.2 + 255 * 0.8
        assert np.abs(com[2, 3] - expected).max() <= 1
    picture = room(4, 24, 16)  # twice the size
    path = save(tmp_path / 'beach.png', picture)
    for background in (path, str(path), Image.fromarray(picture), planes(picture)):
        assert np.array_equal(matte.composite(background), matte.composite(picture))
    assert np.abs(matte.composite(picture)[0, 0] - picture[:2, :2].mean((0, 1))).max() <= 1


def test_what_is_no_background_is_told(matte: Matte) -> None:
    with pytest.raises(ValueError, match=r'a colour must be \(red, green, blue\), each 0..255, not \(0, 256, 0\)'):
        matte.composite((0, 256, 0))
    with pytest.raises(FileNotFoundError, match=r'beach\.png: no such file'):
        matte.composite('beach.png')
