"""Colours of files with a profile, in whatever way they are read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.pictures import save, smooth
from support.png_files import with_chunks
from support.profiles import P3, SRGB, grey_profile, made, rgb_profile, table_profile

from common import console
from dataset import ImagesDataset, tags
from dataset.readers import read_alpha, read_rgb, read_tagged
from dataset.sources import BackgroundFiles, MatteFiles

DISPLAY_P3 = rgb_profile()
# The same colours, as the matrices of the two spaces have them.
IN_SRGB = np.array([[[200, 60, 40], [60, 160, 90], [128, 128, 128], [40, 30, 140]]], np.uint8)
IN_P3 = np.array([[[185, 71, 50], [89, 158, 97], [128, 128, 128], [38, 30, 134]]], np.uint8)


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, '_said', bytearray(2**16))


def warned(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def close(pixels: np.ndarray, expected: np.ndarray, most: int = 1) -> None:
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(expected, pixels.shape).astype(int), atol=most)


def test_a_picture_is_read_in_srgb_or_in_the_colours_asked_for(tmp_path: Path) -> None:
    wide = save(tmp_path / 'wide.png', IN_P3, icc_profile=DISPLAY_P3)
    plain = save(tmp_path / 'plain.png', IN_SRGB)
    close(read_rgb(wide), IN_SRGB)
    close(read_rgb(plain, profile=DISPLAY_P3), IN_P3)
    for path, profile, pixels in ((wide, DISPLAY_P3, IN_P3), (plain, None, IN_SRGB)):
        np.testing.assert_array_equal(read_rgb(path, profile=profile), pixels)
        own, found = read_tagged(path)
        np.testing.assert_array_equal(own, pixels)
        assert found == tags.Tags(profile, b'')
    converted, found = read_tagged(wide, srgb=True)
    close(converted, IN_SRGB)
    assert found == tags.NO_TAGS


def test_black_stays_black_and_what_srgb_lacks_is_cut(tmp_path: Path) -> None:
    wide = save(tmp_path / 'a.png', np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8),
                icc_profile=DISPLAY_P3)  # fmt: skip
    np.testing.assert_array_equal(read_rgb(wide), [[[0, 0, 0], [255, 255, 255], [255, 0, 0]]])


@pytest.mark.parametrize(
    ('suffix', 'options'), [('jpg', {}), ('jpg', {'progressive': True}), ('webp', {}), ('png', {})]
)
def test_every_format_has_its_profile(tmp_path: Path, suffix: str, options: dict[str, bool]) -> None:
    flat = np.full((32, 32, 3), IN_P3[0, 0])
    path = save(tmp_path / f'a.{suffix}', flat, icc_profile=DISPLAY_P3, quality=95, **options)
    close(read_rgb(path), IN_SRGB[0, 0], 2)
    close(read_rgb(path, (8, 8)), IN_SRGB[0, 0], 2)
    palette = tmp_path / 'palette.png'
    Image.fromarray(flat).quantize(4).save(palette, icc_profile=DISPLAY_P3)
    close(read_rgb(palette), IN_SRGB[0, 0])


def test_training_mixes_colours_in_one_space(tmp_path: Path) -> None:
    fgr = save(tmp_path / 'fgr.png', np.tile(IN_P3, (4, 1, 1)), icc_profile=DISPLAY_P3)
    grey = np.full((4, 4), 100, np.uint8)
    pha = save(tmp_path / 'pha.png', grey, icc_profile=grey_profile(1.0))
    subject = MatteFiles([(fgr, pha)]).read(0)
    close(subject[..., :3], IN_SRGB)
    np.testing.assert_array_equal(subject[..., 3], grey)  # alpha is no colour
    close(BackgroundFiles([fgr]).read(0), IN_SRGB)
    close(np.array(ImagesDataset(fgr)[0]), IN_SRGB)


def test_what_counts_as_srgb_is_left_to_the_bit(tmp_path: Path) -> None:
    pixels = smooth(16, 16)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    for profile in (rgb_profile(SRGB), own):
        path = save(tmp_path / 'a.png', pixels, icc_profile=profile)
        np.testing.assert_array_equal(read_rgb(path), pixels)
        close(read_rgb(path, profile=DISPLAY_P3), tags.converted(pixels, None, DISPLAY_P3))
        assert read_tagged(path)[1].profile == profile  # outputs have what the picture has
    dark = save(tmp_path / 'dark.png', np.full((1, 1, 3), 5, np.uint8), icc_profile=rgb_profile(SRGB, (2.2,)))
    np.testing.assert_array_equal(read_rgb(dark), [[[1, 1, 1]]])  # a straight line begins sRGB


def test_cmyk_and_grey_have_profiles_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ink = Image.new('CMYK', (8, 8), (0, 0, 0, 102))
    ink.save(tmp_path / 'ink.jpg', icc_profile=table_profile('CMYK', [100, *[0] * 15]))
    pixels, found = read_tagged(tmp_path / 'ink.jpg')
    assert found.profile is None  # no output could have it
    close(pixels, np.array([145, 145, 145]))  # L* of 60; 153 is 255 less the ink
    grey = np.full((8, 8), 55, np.uint8)
    for name, levels in (('8.png', grey), ('16.png', grey.astype(np.uint16) * 257), ('8.jpg', grey)):
        linear = save(tmp_path / name, levels, icc_profile=grey_profile(1.0))
        close(read_rgb(linear), np.array([128, 128, 128]))  # 0.2157 of light
        np.testing.assert_array_equal(read_alpha(linear), 55)
    np.testing.assert_array_equal(read_rgb(save(tmp_path / 'rgb.png', grey, icc_profile=DISPLAY_P3)), 55)
    assert warned(capsys) == []


@pytest.mark.parametrize(
    ('profile', 'cause'),
    [
        (b'not a profile', 'is damaged'),
        (DISPLAY_P3[:200], 'is damaged'),
        (made('RGB', {}), 'is damaged'),
        (grey_profile(1.0), 'is one of GRAY, and it is not'),
        (table_profile('CMYK', [50] * 16), 'is one of CMYK, and it is not'),
    ],
)
def test_a_profile_that_is_no_use_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], profile: bytes, cause: str
) -> None:
    for name in ('a.png', 'b.png'):
        path = save(tmp_path / name, IN_P3, icc_profile=profile)
        np.testing.assert_array_equal(read_rgb(path), IN_P3)
        assert read_tagged(path)[1].profile is None
    expected = f'{tmp_path}/a.png: its colour profile {cause}: taken as sRGB; said once of all pictures like it'
    assert warned(capsys) == [f'warning: {expected}']


def test_a_profile_that_outputs_cannot_have_is_converted(tmp_path: Path) -> None:
    scanner = table_profile('RGB', [0, 10, 20, 30, 40, 50, 60, 100])
    long = (len(DISPLAY_P3) + 2**17).to_bytes(4) + DISPLAY_P3[4:] + bytes(2**17)
    for profile in (scanner, long, DISPLAY_P3 + bytes(4)):
        path = save(tmp_path / 'a.png', IN_P3, icc_profile=profile)
        pixels, found = read_tagged(path)
        assert found.profile is None
        np.testing.assert_array_equal(pixels, read_rgb(path))
        assert np.abs(pixels.astype(int) - IN_P3).max() > 8


@pytest.mark.parametrize(
    ('chunks', 'said'),
    [
        ({b'gAMA': struct.pack('>I', 45455)}, ''),
        ({b'gAMA': struct.pack('>I', 51000), b'cICP': b'\1\1\0\1'}, ''),  # FFmpeg's, of any film
        ({b'gAMA': struct.pack('>I', 100000)}, 'gAMA'),
        ({b'gAMA': struct.pack('>I', 100000), b'sRGB': b'\0'}, ''),
        ({b'cHRM': struct.pack('>8I', 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)}, ''),
        ({b'cHRM': struct.pack('>8I', 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)}, 'cHRM'),
        ({b'cICP': b'\x09\x10\0\1'}, 'cICP'),  # BT.2100 PQ
        ({b'gAMA': struct.pack('>I', 100000), b'iCCP': b'x\0\0' + zlib.compress(rgb_profile(SRGB))}, ''),
    ],
)
def test_chunks_of_png_are_told_where_they_mean_other_colours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], chunks: dict[bytes, bytes], said: str
) -> None:
    path = save(tmp_path / 'a.png', IN_P3)
    path.write_bytes(with_chunks(path.read_bytes(), chunks))
    np.testing.assert_array_equal(read_rgb(path), IN_P3)
    told = f'its {said} chunk is of other colours than sRGB, which is not followed: taken as sRGB'
    assert [told in line for line in warned(capsys)] == [True] * bool(said)


def test_exif_that_is_worth_keeping(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.update({0x010F: 'Maker', 0x0110: 'Model', 0x0112: 6, 0x0132: '2024:05:06 07:08:09', 0x8298: 'c' * 2000})
    exif.get_ifd(0x8769).update({0x9003: '2024:05:06 07:08:08', 0xA001: 0xFFFF, 0x927C: b'notes', 0x920A: 35.0})
    exif.get_ifd(0x8825).update({1: 'N', 2: (47.0, 1.0, 2.0)})
    pixels = smooth(8, 12)
    own, found = read_tagged(save(tmp_path / 'a.png', pixels, exif=exif))
    np.testing.assert_array_equal(own, np.rot90(pixels, -1))
    kept = Image.Exif()
    kept.load(found.exif)
    assert {k: v for k, v in kept.items() if k != 0x8769} == {
        0x010F: 'Maker', 0x0110: 'Model', 0x0112: 1, 0x0132: '2024:05:06 07:08:09'
    }  # fmt: skip
    assert kept.get_ifd(0x8769) == {0x9003: '2024:05:06 07:08:08', 0x920A: 35.0}
    assert not kept.get_ifd(0x8825)  # where it was taken
    assert read_tagged(save(tmp_path / 'b.jpg', pixels, exif=b'Exif\0\0MM junk'))[1] == tags.NO_TAGS


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-8'])
def test_names_keep_their_letters(tmp_path: Path, encoding: str) -> None:
    texts = [text.encode(encoding) for text in ('Zoë Müller', '© 2024 Zoë', 'Objektiv für Köpfe')]
    fillers = [str(i) * len(text) for i, text in enumerate(texts)]
    exif = Image.Exif()
    exif.update({0x013B: fillers[0], 0x8298: fillers[1]})
    exif.get_ifd(0x8769).update({0xA434: fillers[2]})
    content = exif.tobytes()
    for text, filler in zip(texts, fillers):
        content = content.replace(filler.encode(), text)
    _, found = read_tagged(save(tmp_path / 'a.jpg', smooth(8, 8), exif=content))
    assert [text + b'\0' in found.exif for text in texts] == [True] * 3


def test_p3_is_as_it_is_defined() -> None:
    """`IN_P3` follows from `IN_SRGB` by the primaries in `P3` and `SRGB`."""
    levels = IN_SRGB / 255
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    light = light @ np.array(SRGB) @ np.linalg.inv(P3)
    close(np.rint(255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)), IN_P3, 0)
