"""OpenEXR as source, plate and output of inference, and as the frames of a film; what is no film."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.exr_files import OPENEXR, load_exr, save_exr
from support.inference_case import Case, photo, room
from support.video_case import case as film
from support.video_case import loaded_once
from support.videos import moving

from dataset.readers import read_alpha, read_rgb
from inference.images.writer import PictureWriter, is_whole
from inference.matte import Matte
from inference.video.pictures import open_video
from inference.video.plate import read_plate
from inference.video.reader import VideoReader

__all__ = ['film', 'loaded_once']
pytestmark = pytest.mark.usefixtures('one_thread')
needs_exr = pytest.mark.skipif(not OPENEXR, reason="OpenEXR is not installed: pip install '.[exr]'")


def linear(levels: np.ndarray) -> np.ndarray:
    values = levels / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def save_rgb(path: Path, pixels: np.ndarray) -> Path:
    """Bytes of sRGB as scene-linear halves."""
    return save_exr(path, dict(zip('RGB', np.moveaxis(linear(pixels).astype(np.float16), -1, 0))))


@needs_exr
def test_what_is_written_as_exr_is_scene_linear(tmp_path: Path) -> None:
    fgr = np.array([[[0, 10, 118], [255, 188, 1]]], np.uint8)
    matte = Matte(np.array([[51, 255]], np.uint8), fgr)
    writer = PictureWriter(tmp_path, dict.fromkeys(('com', 'pha', 'fgr'), 'exr'))
    writer.write('a', matte)
    pha, com, rgb = (load_exr(writer.path(kind, 'a')) for kind in ('pha', 'com', 'fgr'))
    assert {plane.dtype for planes in (pha, com, rgb) for plane in planes.values()} == {np.dtype(np.float16)}
    assert pha['Y'].tolist() == [[np.float16(0.2), 1]]
    for name, levels in zip('RGB', np.moveaxis(fgr, -1, 0)):
        assert rgb[name].tolist() == linear(levels).astype(np.float16).tolist()
        np.testing.assert_allclose(com[name], linear(levels) * [0.2, 1], rtol=1e-3)
    assert com['A'].tolist() == pha['Y'].tolist()
    for kind in ('com', 'fgr'):  # back through the readers
        np.testing.assert_array_equal(read_rgb(writer.path(kind, 'a')), fgr)
    for kind in ('com', 'pha'):
        np.testing.assert_array_equal(read_alpha(writer.path(kind, 'a')), matte.pha)


@needs_exr
def test_the_foreground_keeps_what_8_bits_lose_of_the_source(tmp_path: Path) -> None:
    values = np.array([[0.1234, 3.5, 0.0007, 60000, np.nan, -1, np.inf]], np.float16)
    src = save_exr(tmp_path / 'src.exr', dict.fromkeys('RGB', values))
    fgr = read_rgb(src)
    matte = Matte(np.full((1, 7), 255, np.uint8), fgr)
    writer = PictureWriter(tmp_path, dict.fromkeys(('com', 'fgr'), 'exr'))
    writer.write('same', matte, src)
    expected = [[*values[0, :4].tolist(), 0, 0, 65504]]
    for kind in ('com', 'fgr'):
        assert load_exr(writer.path(kind, 'same'))['G'].tolist() == expected
    fgr[0, 1] -= 30  # what the network changes is added, with the transfer of sRGB
    writer.write('changed', matte, src)
    encoded = 1.055 * 3.5 ** (1 / 2.4) - 0.055 - 30 / 255
    changed = load_exr(writer.path('fgr', 'changed'))['G'][0]
    assert changed[1] == pytest.approx(((encoded + 0.055) / 1.055) ** 2.4, rel=1e-3)
    assert changed[0] == expected[0][0]


@needs_exr
def test_a_grey_source_of_another_size_goes_through(tmp_path: Path) -> None:
    src = save_exr(tmp_path / 'src.exr', {'Y': np.full((4, 6), 2, np.float16)})
    writer = PictureWriter(tmp_path, dict.fromkeys(('com', 'fgr'), 'exr'))
    writer.write('a', Matte(np.full((8, 12), 255, np.uint8), np.full((8, 12, 3), 255, np.uint8)), src)
    for kind in ('com', 'fgr'):
        assert [np.unique(load_exr(writer.path(kind, 'a'))[band]).tolist() for band in 'RGB'] == [[2]] * 3


@needs_exr
def test_an_exr_that_was_cut_is_not_whole(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path, {'pha': 'exr', 'fgr': 'exr'})
    for kind, picture in (('pha', room(0)[..., 0]), ('fgr', room(0, 100, 50)), ('fgr', room(0, 16, 16))):
        writer.write_picture(kind, 'a', picture)
        path = writer.path(kind, 'a')
        assert is_whole(path)
        whole = path.read_bytes()
        for part in (
            whole[:-1],
            whole[:50],
            whole[:9],
            whole + b'0',
            whole[: len(whole) // 2].ljust(len(whole), b'\0'),
        ):
            path.write_bytes(part)
            assert not is_whole(path)


@needs_exr
def test_exr_pictures_and_plates_are_matted_as_their_bytes_are(case: Case) -> None:
    source, plate = photo(room(0), 1), room(0)
    save_rgb(case.src / 'a.exr', source)
    save_rgb(case.bgr / 'plate.exr', plate)
    assert case.run('--picture-format', 'pha=exr', 'fgr=exr', types=('pha', 'fgr')) == 0
    expected = case.matting()(source, plate)
    np.testing.assert_array_equal(read_alpha(case.out / 'pha/a.exr'), expected.pha)
    np.testing.assert_array_equal(read_rgb(case.out / 'fgr/a.exr'), expected.fgr)


@needs_exr
def test_frames_may_be_exr_in_and_out(film) -> None:
    folder = film.src.parent / 'frames'
    frames = moving(3)
    for index, pixels in enumerate(frames):
        save_rgb(folder / f'{index:05}.exr', pixels)
    bright = load_exr(folder / '00001.exr')
    bright['R'][:, :] = 2
    save_exr(folder / '00001.exr', bright)
    film.src = folder / '%05d.exr'
    with open_video(film.src, Fraction(24)) as reader:
        np.testing.assert_array_equal(next(iter(reader)).pixels(), frames[0])
    flags = (
        '--output-format',
        'image_sequences',
        '--picture-format',
        'fgr=exr',
        'com=exr',
        '--video-target-bgr',
        film.bgr,
    )
    assert film.run(*flags, types=('fgr', 'com')) == 0
    assert load_exr(film.out / 'fgr/000001.exr')['R'].max() > 1
    assert load_exr(film.out / 'com/000001.exr')['R'].max() <= 1  # before a background of 8 bits
    assert load_exr(film.out / 'fgr/000000.exr')['R'].max() <= 1


@pytest.mark.parametrize('suffix', ['bmp', 'gif', 'tif', 'png', 'ppm', 'avif', 'txt'])
def test_a_still_is_no_film_whatever_it_is_called(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'plate.{suffix}'
    path.write_text('text\n' * 99) if suffix == 'txt' else Image.fromarray(room(0)).save(path)
    path = path.rename(path.with_suffix('.mov' if suffix != 'txt' else '.nfo'))
    if suffix == 'gif':  # whole, and of the values that it has
        assert read_plate(path).shape == room(0).shape
        return
    with pytest.raises(
        ValueError, match=r'(not a film, .* of pictures, jpg, jpeg, png, webp, |cannot be read as a video)'
    ):
        read_plate(path)


def test_a_heic_is_no_film(tmp_path: Path) -> None:
    heif = pytest.importorskip('pillow_heif', reason="pillow_heif is not installed: pip install '.[heic]'")
    heif.from_pillow(Image.fromarray(room(0))).save(tmp_path / 'plate.heic')
    assert read_plate(tmp_path / 'plate.heic').shape == room(0).shape
    with pytest.raises(ValueError, match='not a film, for which FFmpeg takes it; of pictures, jpg, '):
        read_plate((tmp_path / 'plate.heic').rename(tmp_path / 'plate.mp4'))


@pytest.mark.parametrize(
    'suffix', ['mp4', 'mkv', 'avi', 'mpg', 'ts', 'flv', 'nut', 'mxf', 'gif', 'y4m', 'h264', 'mjpeg']
)
def test_containers_of_films_are_films(tmp_path: Path, suffix: str) -> None:
    codec = {'mpg': 'mpeg2video', 'gif': 'gif', 'y4m': 'wrapped_avframe', 'mxf': 'mpeg2video'}
    codec |= {'mjpeg': 'mjpeg', 'avi': 'mjpeg'}
    with av.open(str(tmp_path / f'a.{suffix}'), 'w') as container:
        stream = container.add_stream(codec.get(suffix, 'libx264'), rate=25)
        stream.width, stream.height = 64, 64
        stream.pix_fmt = {'gif': 'rgb8', 'mjpeg': 'yuvj420p', 'avi': 'yuvj420p'}.get(suffix, 'yuv420p')
        for pixels in moving(3, 64, 64):
            frame = av.VideoFrame.from_ndarray(pixels, 'rgb24').reformat(format=stream.pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(tmp_path / f'a.{suffix}') as reader:
        assert (reader.width, reader.height) == (64, 64)
