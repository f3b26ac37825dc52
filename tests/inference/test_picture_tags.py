"""Colour profile and EXIF from a picture, past its plate, to what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.inference_case import Case, photo, room
from support.pictures import save
from support.profiles import rgb_profile

from dataset.readers import read_rgb
from dataset.tags import NO_TAGS, Tags, converted
from evaluation import rows
from inference.images.inputs import Job
from inference.images.stages import compute, load_pair, write
from inference.images.writer import PictureWriter
from inference.matte import Matte
from inference.predictor import Matting

pytestmark = pytest.mark.usefixtures('one_thread')

P3 = rgb_profile()
FLAT = np.full((16, 16, 3), (200, 60, 40), np.uint8)
WIDE = np.full((16, 16, 3), (185, 71, 50), np.uint8)  # the same colour in Display P3
SPLIT = np.where(np.arange(16)[:, None, None] < 8, FLAT, np.uint8(128))  # grey is the same in both


class Difference(torch.nn.Module):
    """Alpha is how much the plate differs, the foreground the picture."""

    def forward(self, src: torch.Tensor, bgr: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pha = (src - bgr).abs().amax(1, keepdim=True)
        return pha, src, pha, pha


@pytest.fixture
def matting() -> Matting:
    return Matting(Difference(), 'cpu')


def dated(path: Path) -> str:
    with Image.open(path) as image:
        return image.getexif().get(0x0132, '')


def test_a_plate_is_seen_in_the_colours_of_its_picture(matting: Matting, tmp_path: Path) -> None:
    wide = save(tmp_path / 'wide.png', WIDE, icc_profile=P3)
    plain = save(tmp_path / 'plain.png', FLAT)
    for src, bgr in ((wide, plain), (plain, wide), (Image.open(wide), FLAT), (FLAT, Image.open(wide))):
        matte = matting(src, bgr)
        assert matte.pha.max() <= 1
        assert np.array_equal(matte.fgr, WIDE if matte.tags.profile else FLAT)
    assert [x.tags.profile for x in matting.batch([wide, plain, wide], [plain])] == [P3, None, P3]
    assert max(x.pha.max() for x in matting.batch([wide, plain, wide], [plain])) <= 1


def test_what_lies_behind_is_converted_too(tmp_path: Path) -> None:
    matte = Matte(np.zeros((16, 16), np.uint8), WIDE, tags=Tags(P3))
    for background in (FLAT, (200, 60, 40), 'rgb(200, 60, 40)', save(tmp_path / 'wide.png', WIDE, icc_profile=P3)):
        assert np.abs(matte.composite(background).astype(int) - WIDE).max() <= 1
    assert np.array_equal(Matte(matte.pha, FLAT).composite((200, 60, 40)), FLAT)


@pytest.mark.parametrize('srgb', [False, True])
@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp'])
def test_outputs_have_the_profile_and_the_date_of_their_picture(
    matting: Matting, tmp_path: Path, suffix: str, srgb: bool
) -> None:
    exif = Image.Exif()
    exif.update({0x0132: '2024:05:06 07:08:09', 0x0112: 3})
    src = save(tmp_path / 'src.png', converted(SPLIT, None, P3)[::-1], icc_profile=P3, exif=exif)
    bgr = save(tmp_path / 'bgr.png', FLAT)
    formats = {'fgr': suffix, 'pha': suffix, 'com': 'png'}
    writer = PictureWriter(tmp_path / 'out', formats, jpeg_quality=100)
    loaded = load_pair(Job('a', src, bgr), matting, False, False, srgb)
    (result,) = (write(x, writer) for x in compute([loaded], matting, 1, set(formats)))
    assert result.error is None
    for kind in ('fgr', 'com'):
        path = writer.path(kind, 'a')
        with Image.open(path) as image:
            assert image.info.get('icc_profile') == (None if srgb else P3)
            assert image.getexif().get(0x0112) == 1
        assert dated(path) == '2024:05:06 07:08:09'
        away = 3 if suffix != 'png' else 1
        shown = read_rgb(path).astype(int)
        rows = slice(12, None) if kind == 'com' else [0, 1, 2, 3, -1]  # where alpha is not 0, and far from the edge
        assert np.abs(shown - SPLIT)[rows].max() <= away
    with Image.open(writer.path('pha', 'a')) as image:
        assert 'icc_profile' not in image.info
        assert not image.getexif()
        alpha = np.array(image)
    assert np.abs(alpha[:8].astype(int)).max() <= 1
    assert alpha[8:].min() > 60


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp'])
def test_a_result_is_saved_with_its_tags(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0132] = '2024:05:06 07:08:09'
    matte = Matte(WIDE[..., 0], WIDE, tags=Tags(P3, exif.tobytes()))
    matte.save(tmp_path / f'fgr.{suffix}', 'fgr')
    assert np.abs(read_rgb(tmp_path / f'fgr.{suffix}').astype(int) - FLAT).max() <= 2
    assert dated(tmp_path / f'fgr.{suffix}') == '2024:05:06 07:08:09'
    matte.save(tmp_path / f'pha.{suffix}', 'pha')
    with Image.open(tmp_path / f'pha.{suffix}') as image:
        assert 'icc_profile' not in image.info
    Matte(WIDE[..., 0], WIDE).save(tmp_path / 'plain.png', 'fgr')
    with Image.open(tmp_path / 'plain.png') as image:
        assert 'icc_profile' not in image.info


def test_one_flag_converts_a_folder(case: Case) -> None:
    bgr = room(0)
    save(case.src / 'wide.png', converted(photo(bgr, 1), None, P3), icc_profile=P3)
    case.bgr = save(case.bgr / 'plate.png', bgr)
    assert case.run('--srgb', '--picture-format', 'fgr=png', types=('fgr',)) == 0
    with Image.open(case.out / 'fgr/wide.png') as image:
        assert 'icc_profile' not in image.info


def test_figures_of_a_network_are_of_colours_like_the_truth(matting: Matting, tmp_path: Path) -> None:
    job = Job('a', save(tmp_path / 'wide.png', WIDE, icc_profile=P3), save(tmp_path / 'plain.png', FLAT))
    (computed,) = compute([load_pair(job, matting, False, False)], matting, 1, set())
    _, fgr = rows._finish(*computed, None, True)
    assert fgr is not None
    assert np.abs(fgr.astype(int) - FLAT).max() <= 1


def test_files_without_tags_are_written_as_before(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path, {'fgr': 'png', 'com': 'webp'})
    writer.write('a', Matte(WIDE[..., 0], WIDE, tags=NO_TAGS))
    for path in (writer.path('fgr', 'a'), writer.path('com', 'a')):
        with Image.open(path) as image:
            assert not {'icc_profile', 'exif'} & set(image.info)
