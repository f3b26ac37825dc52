"""Can a plate be aligned: known moves of the camera are found, doubtful ones leave the plate as it is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.rooms import HEIGHT, WIDTH, crop, disturbed, scene, with_subject

from inference.plates import alignment
from inference.plates.agreement import plate_agreement
from inference.plates.alignment import align_plate, warped


@pytest.mark.parametrize('size', [(16, 16), (17, 300), (40, 24)])
def test_small_pictures_are_left_alone(size: tuple[int, int]) -> None:
    picture = crop(scene())[: size[0], : size[1]]
    assert align_plate(picture, picture).homography is None


def test_pictures_of_two_sizes_cannot_be_aligned() -> None:
    picture = crop(scene())
    with pytest.raises(ValueError, match=r'\(320, 480, 3\) and \(320, 470, 3\)'):
        align_plate(picture, picture[:, :470])


def nudged(room: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plate of a camera that was nudged, and the homography from it to the picture."""
    corners = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float32)
    moved = corners + np.array([[6, -4], [2, 5], [-5, 3], [-3, -6]], np.float32)
    truth = cv2.getPerspectiveTransform(moved, corners)
    to_plate = np.linalg.inv(truth) @ np.array([[1, 0, -40], [0, 1, -40], [0, 0, 1]], float)
    return cv2.warpPerspective(room, to_plate, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC), truth


@pytest.mark.parametrize('cover', [0.1, 0.5])
def test_a_known_homography_is_recovered(cover: float) -> None:
    room = scene()
    bgr, truth = nudged(room)
    src = with_subject(crop(room), cover)
    result = align_plate(disturbed(src, 1), disturbed(bgr, 2))
    assert result.warning is None
    assert result.homography is not None
    grid = np.stack(np.meshgrid(np.linspace(0, WIDTH, 5), np.linspace(0, HEIGHT, 5)), -1).reshape(1, -1, 2)
    error = cv2.perspectiveTransform(grid, result.homography) - cv2.perspectiveTransform(grid, truth)
    assert np.linalg.norm(error, axis=2).max() < 1.0
    assert plate_agreement(src, bgr).warnings() != []
    assert plate_agreement(src, result.bgr).warnings() == []


def test_large_pictures_are_aligned_on_a_copy_without_losing_half_a_pixel() -> None:
    room = scene()
    bgr, truth = nudged(room)
    factor = 6  # 2880 x 1920, and the copy is 1280 wide
    large = [cv2.resize(x, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for x in (crop(room), bgr)]
    result = align_plate(*large)
    assert result.homography is not None
    # A pixel's centre at x is at (x + 0.5) * factor - 0.5 in the large picture.
    grid = np.stack(np.meshgrid(np.linspace(20, WIDTH - 20, 5), np.linspace(20, HEIGHT - 20, 5)), -1).reshape(1, -1, 2)
    target = (cv2.perspectiveTransform(grid, truth) + 0.5) * factor - 0.5
    found = cv2.perspectiveTransform((grid + 0.5) * factor - 0.5, result.homography)
    assert np.linalg.norm(found - target, axis=2).max() < 0.25 * factor
    assert abs(np.mean(found - target)) < 0.5


def test_an_aligned_plate_is_left_alone() -> None:
    bgr = crop(scene())
    plate = disturbed(bgr, 2)
    result = align_plate(disturbed(with_subject(bgr, 0.4), 1), plate)
    assert result.homography is None
    assert result.warning is None
    assert result.bgr is plate


def test_a_flat_wall_falls_back_with_a_reason() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    result = align_plate(disturbed(with_subject(wall, 0.3), 1), disturbed(wall, 2))
    assert result.homography is None
    assert result.warning is not None
    assert 'points match' in result.warning


def test_features_in_one_corner_are_not_trusted() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    poster = crop(scene())[:90, :120]
    src, bgr = wall.copy(), wall.copy()
    src[10:100, 10:130] = poster
    bgr[14:104, 16:136] = poster
    result = align_plate(src, bgr)
    assert result.homography is None
    assert 'too little of the picture' in str(result.warning)


def test_features_in_one_strip_are_not_trusted() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    src, bgr = wall.copy(), wall.copy()
    src[100:150] = crop(scene())[100:150]
    bgr[103:153] = src[100:150]
    assert 'too little of the picture' in str(align_plate(src, bgr).warning)


def test_points_that_leave_the_corners_open_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    points = (rng.uniform(0.32, 0.68, (24, 2)) * (WIDTH, HEIGHT)).astype(np.float32)
    aims = points + rng.normal(0, 0.8, points.shape).astype(np.float32)
    monkeypatch.setattr(alignment, '_matches', lambda *_: (points, aims))
    picture = crop(scene())
    assert 'leave the corners uncertain' in str(align_plate(picture, picture).warning)


def test_a_zoomed_plate_is_too_far_from_its_picture() -> None:
    room = crop(scene())
    zoomed = cv2.resize(room[48:-48, 72:-72], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    assert 'moves a corner by more than 10%' in str(align_plate(zoomed, room).warning)


def test_a_mirrored_plate_is_refused() -> None:
    mirror = np.array([[-1, 0, WIDTH], [0, 1, 0], [0, 0, 1]], float)
    fold = np.array([[1, 0, 0], [0, 1, 0], [-1.01 / WIDTH, 0, 1]], float)
    assert not alignment._is_gentle(mirror, WIDTH, HEIGHT)
    assert not alignment._is_gentle(fold, WIDTH, HEIGHT)
    assert alignment._is_gentle(np.eye(3), WIDTH, HEIGHT)


def test_an_alignment_that_makes_it_worse_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1]], float)
    monkeypatch.setattr(alignment, 'homography_between', lambda *_: (wrong, 50, ''))
    bgr = crop(scene())
    result = align_plate(with_subject(bgr, 0.3), bgr)
    assert result.homography is None
    assert 'would fit hardly better' in str(result.warning)


def test_a_warp_must_make_the_background_fit_clearly_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dark subject lets the mean difference fall although the plate fits worse; a real move is undone as before."""
    bgr = crop(scene())
    src = with_subject(bgr, 0.5)
    plate = warped(bgr, np.array([[1, 0, 0.3], [0, 1, -0.3], [0, 0, 1]], float))
    slightly = np.array([[1, 0, -0.5], [0, 1, 0.2], [0, 0, 1]], float)
    monkeypatch.setattr(alignment, 'homography_between', lambda *_: (slightly, 50, ''))
    result = align_plate(src, plate)
    assert result.bgr is plate
    assert 'would fit hardly better' in str(result.warning)


def test_the_plate_of_another_scene_is_not_aligned() -> None:
    result = align_plate(with_subject(crop(scene(0)), 0.2), crop(scene(5)))
    assert result.homography is None
    assert result.warning is not None


def test_what_the_warp_leaves_empty_repeats_the_border() -> None:
    room = scene()
    result = align_plate(crop(room), crop(room, 20, 0))
    assert result.homography is not None
    assert (result.bgr[:, -15:].max(2) > 0).all()
