"""A plate that follows the camera: noise does not reach it, movement does, and a still camera leaves it untouched."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.rooms import HEIGHT, WIDTH, crop, disturbed, scene, with_subject

from inference.plates.alignment import AlignmentResult
from inference.plates.steady import CornerFilter, SteadyPlate
from inference.plates.tracking import PlateTracker, _evened

CORNERS = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float32)


def to_the_right(way: float) -> np.ndarray:
    return np.tile([way, 0.0], (4, 1))


def followed(ways: np.ndarray, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What is measured of a camera that turns by `ways`, and what the filter makes of it: (frames, 4, 2) both."""
    rng = np.random.default_rng(seed)
    measured = np.stack([to_the_right(way) for way in ways]) + rng.normal(0, noise, (len(ways), 4, 2))
    corners = CornerFilter()
    found = []
    for one in measured:
        corners.follow(one)
        found.append(corners.corners)
    return measured, np.stack(found)


def trembling(corners: np.ndarray) -> float:
    """Root mean square step of a corner from frame to frame."""
    return float(np.sqrt((np.diff(corners, axis=0) ** 2).sum(2).mean()))


def start_at(way: float, frames: int = 20) -> CornerFilter:
    corners = CornerFilter()
    rng = np.random.default_rng(3)
    for _ in range(frames):
        corners.follow(to_the_right(way) + rng.normal(0, 0.1, (4, 2)))
    return corners


@pytest.mark.parametrize('noise', [0.05, 0.3, 1.0])
@pytest.mark.parametrize('way', [0.0, 5.0])
def test_noise_is_averaged_away(noise: float, way: float) -> None:
    measured, found = followed(np.full(400, way), noise)
    assert trembling(measured[100:]) > 40 * trembling(found[100:])
    assert np.abs(found[100:] - to_the_right(way)).max() < 0.6 * noise


@pytest.mark.parametrize(('drift', 'lag', 'worst'), [(0.05, 0.4, 0.6), (0.2, 0.4, 0.9), (1.0, 0.5, 3.1)])
@pytest.mark.parametrize('noise', [0.0, 0.1, 0.3])
def test_a_drift_is_followed(drift: float, lag: float, worst: float, noise: float) -> None:
    ways = np.r_[np.zeros(50), drift * np.arange(100)]
    _, found = followed(ways, noise)
    behind = ways - found[:, :, 0].mean(1)
    assert np.abs(behind).max() < worst
    assert np.abs(behind[100:]).mean() < lag


@pytest.mark.parametrize('noise', [0.0, 0.1, 0.3])
def test_a_jump_is_followed_at_the_third_frame(noise: float) -> None:
    _, found = followed(np.r_[np.zeros(50), np.full(50, 10.0)], noise)
    assert np.abs(found[50:52]).max() <= noise
    assert np.abs(found[52] - to_the_right(10)).max() <= 4 * noise
    assert np.abs(found[62:] - to_the_right(10)).max() <= noise


def test_a_small_jump_is_followed_within_half_a_second() -> None:
    _, found = followed(np.r_[np.zeros(50), np.full(50, 0.8)], 0.1)
    assert np.abs(found[62:, :, 0].mean(1) - 0.8).max() < 0.2


def test_a_fast_turn_is_followed() -> None:
    ways = np.r_[np.zeros(20), 2.5 * np.arange(40)]
    _, found = followed(ways, 0.1)
    behind = np.abs(ways - found[:, :, 0].mean(1))
    assert behind.max() < 3 * 2.5
    assert behind[23:].mean() < 1


@pytest.mark.parametrize('outliers', [[15.0], [15.0, 15.0], [15.0, -15.0, 15.0], [8.0, 30.0, -8.0, 9.0]])
def test_outliers_move_nothing(outliers: list[float]) -> None:
    corners = start_at(2.0)
    before = corners.corners
    for outlier in outliers:
        corners.follow(to_the_right(outlier))
        assert (corners.corners == before).all()
    corners.follow(to_the_right(2.0))
    corners.follow(to_the_right(15.0))
    corners.follow(to_the_right(15.0))
    assert corners.corners == pytest.approx(before, abs=0.05)


def test_the_first_measurement_is_believed_at_once() -> None:
    corners = CornerFilter()
    corners.follow(to_the_right(30.0))
    assert (corners.corners == to_the_right(30.0)).all()
    corners.follow(to_the_right(60.0))
    assert (corners.corners == to_the_right(30.0)).all()


def test_more_noise_than_expected_is_learned() -> None:
    _, found = followed(np.full(400, 6.0), 4.0)
    assert np.abs(found[200:] - to_the_right(6)).max() < 3


def frame(room: np.ndarray, way: int, number: int, gain: float = 1.0) -> np.ndarray:
    """A noisy frame of a camera turned so that the room lies `way` pixels further right."""
    return disturbed(with_subject(crop(room, way), 0.3), 100 + number, gain=gain)


def corners_of(result: AlignmentResult) -> np.ndarray:
    assert result.homography is not None
    return cv2.perspectiveTransform(CORNERS[None], result.homography)[0] - CORNERS


@pytest.mark.parametrize('gain', [0.85, 1.0, 1.15])
def test_a_still_camera_leaves_the_plate_untouched(gain: float) -> None:
    room = scene()
    plate = disturbed(crop(room), 2)
    steady = SteadyPlate(plate)
    results = [steady.aligned(frame(room, 0, number, gain)) for number in range(10)]
    assert all(result.bgr is plate and result.homography is None for result in results)
    assert all(result.inliers > 50 and result.warning is None for result in results)


@pytest.mark.parametrize('way', [3, 25])
def test_a_nudged_camera_is_followed_from_the_first_frame(way: int) -> None:
    room = scene()
    steady = SteadyPlate(disturbed(crop(room), 2))
    results = [steady.aligned(frame(room, way, number)) for number in range(10)]
    for result in results:
        assert corners_of(result) == pytest.approx(to_the_right(way), abs=1)
        assert np.abs(result.bgr.astype(int) - crop(room, way))[:, 40:-40].mean() < 4
    assert trembling(np.stack([corners_of(result) for result in results[2:]])) < 0.1


def test_what_did_not_move_is_the_same_array() -> None:
    room = scene()
    steady = SteadyPlate(disturbed(crop(room), 2))
    src = frame(room, 6, 0)
    results = [steady.aligned(src) for _ in range(4)]
    assert results[2].bgr is results[1].bgr is results[3].bgr


def test_a_knocked_camera_is_followed_and_back_again() -> None:
    room = scene()
    plate = disturbed(crop(room), 2)
    steady = SteadyPlate(plate)
    results = [steady.aligned(frame(room, way, i)) for i, way in enumerate([0] * 4 + [10] * 4 + [0] * 4)]
    assert all(result.bgr is plate for result in [*results[:6], *results[10:]])
    for result in results[6:10]:
        assert corners_of(result) == pytest.approx(to_the_right(10), abs=0.6)


def test_frames_that_fail_keep_the_last_alignment_and_say_why() -> None:
    room = scene()
    steady = SteadyPlate(disturbed(crop(room), 2))
    before = [steady.aligned(frame(room, 8, number)) for number in range(3)][-1]
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    for number in range(5):
        result = steady.aligned(disturbed(wall, 100 + number))
        assert result.bgr is before.bgr
        assert str(result.warning).startswith('the plate stays as in the frame before: only ')
    assert steady.aligned(frame(room, 8, 9)).warning is None


def test_a_plate_of_a_flat_wall_stays_as_it_is() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    plate = disturbed(wall, 2)
    steady = SteadyPlate(plate)
    for number in range(3):
        result = steady.aligned(disturbed(with_subject(wall, 0.3), 100 + number))
        assert result.bgr is plate
        assert 'points' in str(result.warning)


@pytest.mark.parametrize('gain', [0.85, 1.15])
def test_tracked_points_are_the_backgrounds(gain: float) -> None:
    room = scene()
    tracker = PlateTracker(disturbed(crop(room), 2))
    copy = tracker.copy(disturbed(with_subject(crop(room, 5), 0.5), 100, gain=gain))
    points, aims = tracker._tracked(_evened(copy), np.eye(3))
    right = np.linalg.norm(aims - points - [5, 0], axis=1) < 0.5
    assert len(points) > 100
    assert right.mean() > 0.65


def test_features_help_where_tracking_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    none = np.zeros((0, 2), np.float32)
    monkeypatch.setattr(PlateTracker, '_tracked', lambda *_: (none, none))
    room = scene()
    steady = SteadyPlate(disturbed(crop(room), 2))
    assert corners_of(steady.aligned(frame(room, 12, 0))) == pytest.approx(to_the_right(12), abs=1)


def test_a_far_alignment_that_makes_it_worse_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.array([[1, 0, 9], [0, 1, 0], [0, 0, 1]], float)
    monkeypatch.setattr(PlateTracker, 'find', lambda *_: (wrong, 50, ''))
    room = scene()
    plate = disturbed(crop(room), 2)
    steady = SteadyPlate(plate)
    for number in range(4):
        result = steady.aligned(frame(room, 0, number))
        assert result.bgr is plate
        assert 'would differ no less' in str(result.warning)


def test_large_frames_are_measured_on_a_copy() -> None:
    room = scene()
    plate, src = (
        cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        for picture in (crop(room), with_subject(crop(room, 5), 0.3))
    )
    result = SteadyPlate(plate).aligned(src)
    assert result.bgr.shape == plate.shape
    assert corners_of(result) == pytest.approx(to_the_right(20), abs=1)


def test_frames_of_another_size_are_refused() -> None:
    picture = crop(scene())
    with pytest.raises(ValueError, match=r'\(320, 470, 3\) and \(320, 480, 3\)'):
        SteadyPlate(picture).aligned(picture[:, :470])
