"""Frames of a video by index."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.videos import INTERLACED, edges, interlaced, write_video

from dataset import VideoDataset, ZipDataset
from dataset.video import open_capture
from inference.webcam.camera import Camera

FRAMES = 12
UNMARKED = {'codec': 'png', 'pixel_format': 'rgb24'}


@pytest.fixture
def video(tmp_path) -> Path:
    """Frame i is a grey of about 20 * i with a red left half; MJPEG, 10 frames per second, 64 x 48."""
    noise = np.random.default_rng(0).integers(-9, 10, (48, 64, 1))  # so that frames take more room than the header
    path = tmp_path / 'v.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, (64, 48))
    for i in range(FRAMES):
        frame = np.clip(20 * i + noise + [0, 0, 0], 0, 255).astype(np.uint8)
        frame[:, :32] = (0, 0, 250)  # OpenCV writes BGR
        writer.write(frame)
    writer.release()
    return path


class Spy:
    """A VideoCapture that counts seeks and can claim another number of frames."""

    real = cv2.VideoCapture
    seeks = 0
    claimed: int | None = None

    def __init__(self, path: str) -> None:
        self.capture = Spy.real(path)

    def __getattr__(self, name: str) -> object:
        return getattr(self.capture, name)

    def set(self, prop: int, value: float) -> bool:
        Spy.seeks += 1
        return self.capture.set(prop, value)

    def get(self, prop: int) -> float:
        if prop == cv2.CAP_PROP_FRAME_COUNT and Spy.claimed is not None:
            return Spy.claimed
        return self.capture.get(prop)


@pytest.fixture
def spy(monkeypatch) -> type[Spy]:
    monkeypatch.setattr(Spy, 'seeks', 0)
    monkeypatch.setattr(Spy, 'claimed', None)
    monkeypatch.setattr(cv2, 'VideoCapture', Spy)
    return Spy


def shade(image) -> int:
    """Which frame an image is."""
    return round(float(np.asarray(image)[:, 48:].mean()) / 20)


def test_frames_are_rgb_images_in_order(video):
    with VideoDataset(video) as dataset:
        assert (dataset.width, dataset.height, dataset.frame_rate, dataset.frame_count) == (64, 48, 10, FRAMES)
        assert len(dataset) == FRAMES
        images = list(dataset)
        assert [shade(image) for image in images] == list(range(FRAMES))
        assert {(image.mode, image.size) for image in images} == {('RGB', (64, 48))}
        red, green, blue = np.asarray(images[3])[:, :28].reshape(-1, 3).mean(0)
        assert red > 200
        assert green < 40
        assert blue < 40


def test_any_frame_can_be_asked_for(video):
    with VideoDataset(str(video)) as dataset:
        assert [shade(dataset[i]) for i in (7, 2, 11, 0, 1, -1, -FRAMES)] == [7, 2, 11, 0, 1, 11, 0]
        assert [shade(image) for image in dataset[3:9:2]] == [3, 5, 7]
        for index in (FRAMES, -FRAMES - 1):
            with pytest.raises(IndexError):
                dataset[index]


def test_reading_in_order_does_not_seek(video, spy):
    with VideoDataset(video) as dataset:
        assert [shade(dataset[i]) for i in range(FRAMES)] == list(range(FRAMES))
        assert spy.seeks == 0
        assert shade(dataset[4]) == 4
        assert [shade(dataset[i]) for i in (5, 6)] == [5, 6]
        assert spy.seeks == 1


def test_a_header_that_claims_too_many_frames_ends_at_the_last_good_one(video):
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    with VideoDataset(video) as dataset:
        shades = [shade(image) for image in dataset]
        good = len(shades)
        assert shades[:-1] == list(range(good - 1))  # FFmpeg makes something up for the one that is cut through
        assert 3 < good < FRAMES
        assert len(dataset) >= good
        with pytest.raises(IndexError):
            dataset[FRAMES - 1]
        assert [shade(image) for image in dataset] == shades


def test_a_header_that_claims_far_too_many(video, spy):
    spy.claimed = 1000
    with VideoDataset(video) as dataset:
        assert len(dataset) == 1000
        assert [shade(image) for image in dataset] == list(range(FRAMES))
        with pytest.raises(IndexError, match=r'v\.avi: frame 500 of 1000'):
            dataset[500]
        assert shade(dataset[2]) == 2


def test_a_stream_without_header_or_index(tmp_path):
    path = tmp_path / 'raw.mjpeg'
    frames = [cv2.imencode('.jpg', np.full((48, 64, 3), 20 * i, np.uint8))[1].tobytes() for i in range(FRAMES)]
    path.write_bytes(b''.join(frames))
    with VideoDataset(path) as dataset:
        assert len(dataset) == FRAMES
        for _ in range(2):
            assert [shade(image) for image in dataset] == list(range(FRAMES))
        assert [shade(dataset[i]) for i in (7, 2, 3, 11, 0)] == [7, 2, 3, 11, 0]


def test_transforms_and_zip(video):
    with VideoDataset(video, transforms=shade) as dataset:
        assert list(ZipDataset([dataset, range(3)]))[:5] == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]


@pytest.mark.parametrize(('suffix', 'options'), [('mp4', {'flags': INTERLACED}), ('mov', UNMARKED)])
def test_interlaced_frames_are_whole_or_as_they_are_but_never_garbled(tmp_path, suffix, options):
    frames = interlaced(FRAMES)
    path = write_video(tmp_path / f'a.{suffix}', frames, field_order=2, **options)
    for deinterlace, later in ((True, 0), (False, 2)):
        with VideoDataset(path, deinterlace=deinterlace) as dataset:
            assert (len(dataset), dataset.width, dataset.height, dataset.frame_rate) == (FRAMES, 96, 64, 25)
            for index in (0, 1, 7, 3, FRAMES - 1):
                assert edges(np.asarray(dataset[index])) == {8 * index % 72 + 4, 8 * index % 72 + 4 + later}
                assert np.abs(np.asarray(dataset[index]).astype(int) - frames[index]).mean() < 8
    with Camera(str(path), (0, 0), every=True) as camera:
        seen = [edges(camera.latest(5).picture) for _ in range(FRAMES)]
    assert seen == [{8 * index % 72 + 4} for index in range(FRAMES)]


def test_an_interlaced_file_goes_on_after_a_damaged_frame(tmp_path):
    path = write_video(tmp_path / 'a.mov', interlaced(FRAMES), field_order=2, **UNMARKED)
    data, mark = path.read_bytes(), b'IHDR'
    at = [i for i in range(len(data)) if data.startswith(mark, i)][5]
    path.write_bytes(data[:at] + b'lost' + data[at + len(mark) :])
    capture, whole = open_capture(path)
    seen = []
    while (read := capture.read())[0]:
        seen.append(min(edges(read[1])))
    assert whole
    assert seen == [8 * index % 72 + 4 for index in range(FRAMES) if index != 5]
    capture.release()
    assert not capture.isOpened()


def test_files_that_are_no_video(tmp_path):
    (tmp_path / 'text.mp4').write_text('not a video')
    with pytest.raises(ValueError, match=r'text\.mp4'):
        VideoDataset(tmp_path / 'text.mp4')
    with pytest.raises(FileNotFoundError, match=r'none\.mp4'):
        VideoDataset(tmp_path / 'none.mp4')
