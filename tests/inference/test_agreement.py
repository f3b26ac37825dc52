"""Does the plate fit: known disturbances are found, harmless ones are not."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from support.rooms import HEIGHT, WIDTH, crop, disturbed, scene, with_subject

from evaluation.testset.compose import disturbed as as_test_sets_do
from inference.plates.agreement import plate_agreement


@pytest.mark.parametrize('cover', [0.1, 0.4, 0.7])
@pytest.mark.parametrize('gamma', [0.95, 1.0, 1.05])
def test_a_plate_that_fits_gives_no_warning(cover: float, gamma: float) -> None:
    bgr = crop(scene())
    agreement = plate_agreement(disturbed(with_subject(bgr, cover), 1), disturbed(bgr, 2, gamma))
    assert agreement.warnings() == []
    assert agreement.shift == (0, 0)
    assert agreement.gain == (1, 1, 1)
    assert 0.8 * (1 - cover) < agreement.near <= 1 - cover + 0.05


def shaded(seed: int) -> np.ndarray:
    """A scene whose brightness falls off from corner to corner, as skies and walls do, with faint edges, for `crop`."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(10, 250, (2, 2, 3)).astype(np.float32)
    edges = (scene(seed).astype(np.float32) - 128) * 0.03
    picture = cv2.resize(corners, edges.shape[1::-1], interpolation=cv2.INTER_LINEAR) + edges
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('gamma', [0.85, 1.15])
@pytest.mark.parametrize('seed', range(8))
def test_a_plate_as_test_sets_disturb_it_gives_no_warning(seed: int, gamma: float) -> None:
    bgr = crop(shaded(seed))
    plate = as_test_sets_do(bgr, (0.3, -0.3), gamma, 0.01, seed)
    agreement = plate_agreement(with_subject(bgr, 0.5), plate)
    assert agreement.warnings() == []
    assert agreement.shift == (0, 0)
    assert agreement.near_corrected > 0.4


def test_a_plate_that_lies_elsewhere_is_not_taken_for_one_exposed_otherwise() -> None:
    room = shaded(1)
    src = disturbed(with_subject(crop(room, 24, 0), 0.4), 1)
    agreement = plate_agreement(src, disturbed(crop(room), 2))
    assert agreement.shift[0] == pytest.approx(24 / WIDTH, abs=0.004)  # a pixel of the copies
    assert agreement.gain == (1, 1, 1)


def smooth(seed: int) -> np.ndarray:
    """A scene that shades off without any edge, uint8 RGB (HEIGHT, WIDTH, 3)."""
    levels = np.random.default_rng(seed).uniform(40, 215, (3, 4, 3)).astype(np.float32)
    return cv2.resize(levels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def in_other_light(plate: np.ndarray, seed: int) -> np.ndarray:
    """Make a plate up to a tenth brighter or darker, otherwise in each region."""
    light = np.random.default_rng(seed).uniform(-0.1, 0.1, (3, 3)).astype(np.float32)
    light = cv2.resize(light, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(plate * (1 + light[..., None]), 0, 255).astype(np.uint8)


def test_light_that_changed_before_a_smooth_wall_is_no_move() -> None:
    shifts = []
    for seed in range(12):
        plate = in_other_light(smooth(seed), seed)
        shifts.append(plate_agreement(disturbed(with_subject(smooth(seed), 0.4), 1), disturbed(plate, 2)).shift)
    assert shifts == [(0, 0)] * 12


@pytest.mark.parametrize('share', [0.0125, 0.025, 0.05])
def test_a_move_is_found_in_other_light(share: float) -> None:
    room, dx = scene(3), round(share * WIDTH)
    src = disturbed(with_subject(crop(room, dx, 0), 0.5), 1)
    agreement = plate_agreement(src, disturbed(in_other_light(crop(room), 2), 2))
    assert agreement.shift == pytest.approx((share, 0), abs=0.004)


def test_another_white_balance_is_reported() -> None:
    bgr = crop(scene())
    warm = (with_subject(bgr, 0.3) * [1.1, 1.0, 0.9]).astype(np.uint8)
    (warning,) = plate_agreement(disturbed(warm, 1), disturbed(bgr, 2)).warnings()
    assert re.search(r'red \+(9|10|11)%, green [+-][01]%, blue -(9|10|11)%', warning)


def test_a_garment_darker_than_the_wall_behind_is_no_exposure() -> None:
    wall = crop(scene(1)) // 8 + 150
    src = wall.copy()
    src[60:, 100:420] = wall[60:, 100:420] * 0.7
    agreement = plate_agreement(disturbed(src, 1), disturbed(wall, 2))
    assert agreement.gain == (1, 1, 1)
    assert agreement.warnings() == []


@pytest.mark.parametrize('size', [(1, 1), (16, 8000), (8000, 16), (15, 40), (17, 17)])
def test_pictures_too_narrow_for_quarters_are_measured_as_a_whole(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert plate_agreement(picture, picture).shift == (0, 0)


@pytest.mark.parametrize('cover', [0.1, 0.7])
@pytest.mark.parametrize('gain', [0.8, 1.25])
def test_an_exposure_shift_is_measured(cover: float, gain: float) -> None:
    bgr = crop(scene())
    agreement = plate_agreement(disturbed(with_subject(bgr, cover), 1, gain=gain), disturbed(bgr, 2))
    assert agreement.gain == pytest.approx((gain,) * 3, abs=0.02)
    (warning,) = agreement.warnings()
    assert f'red {gain - 1:+.0%}'[:6] in warning
    assert 'exposure' in warning


@pytest.mark.parametrize('cover', [0.1, 0.7])
@pytest.mark.parametrize(('dx', 'dy'), [(10, 0), (0, -10), (-7, 7)])
def test_a_shifted_plate_is_measured(cover: float, dx: int, dy: int) -> None:
    room = scene()
    agreement = plate_agreement(disturbed(with_subject(crop(room, dx, dy), cover), 1), disturbed(crop(room), 2))
    assert agreement.shift == pytest.approx((dx / WIDTH, dy / HEIGHT), abs=0.003)
    (warning,) = agreement.warnings()
    assert f'{agreement.shift[0]:+.1%} of the width' in warning


def test_exposure_and_shift_together_are_both_reported() -> None:
    room = scene()
    src = with_subject(crop(room, 10, 0), 0.3)
    exposure, shift = plate_agreement(disturbed(src, 1, gain=0.8), disturbed(crop(room), 2)).warnings()
    assert 'red -2' in exposure
    assert 'width' in shift


def test_the_plate_of_another_scene_is_refused_in_one_sentence() -> None:
    src = with_subject(crop(scene(0)), 0.3)
    (warning,) = plate_agreement(src, crop(scene(5))).warnings()
    assert 'is it the plate of this camera and scene?' in warning


@pytest.mark.parametrize('size', [(16, 16), (17, 300), (40, 24)])
def test_small_pictures_can_be_compared(size: tuple[int, int]) -> None:
    picture = crop(scene())[: size[0], : size[1]]
    assert plate_agreement(picture, picture).warnings() == []


def test_pictures_of_two_sizes_cannot_be_compared() -> None:
    picture = crop(scene())
    with pytest.raises(ValueError, match=r'\(320, 480, 3\) and \(320, 470, 3\)'):
        plate_agreement(picture, picture[:, :470])
