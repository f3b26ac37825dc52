"""Does the plate fit: known disturbances are found, harmless ones are not."""

from __future__ import annotations

import numpy as np
import pytest
from support.rooms import HEIGHT, WIDTH, crop, disturbed, scene, with_subject

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


@pytest.mark.parametrize('size', [(1, 1), (16, 8000), (8000, 16), (15, 40), (17, 17)])
def test_pictures_too_narrow_for_quarters_are_measured_as_a_whole(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert plate_agreement(picture, picture).shift == (0, 0)


@pytest.mark.parametrize('cover', [0.1, 0.7])
@pytest.mark.parametrize('gain', [0.85, 1.15])
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
