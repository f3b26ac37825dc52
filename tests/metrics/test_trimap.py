"""The paper's trimap: thresholds, what closing does, the picture's border; and a restatement pixel by pixel."""

import cv2
import numpy as np
import pytest

from dataset.readers import read_alpha
from metrics.trimap import trimap, unknown


def test_levels_and_thresholds_of_bytes():
    levels = np.array([0, 15, 16, 128, 244, 245, 255], np.uint8)
    pha = np.zeros((30, 7 * 30), np.uint8)
    places = [(15, 15 + 30 * i) for i in range(7)]  # too far from each other to be joined
    for place, level in zip(places, levels):
        pha[place] = level
    assert [trimap(pha)[place] for place in places] == [0, 0, 128, 128, 128, 255, 255]
    assert np.count_nonzero(trimap(pha)) == 5


def test_thresholds_of_floats_are_inclusive():
    low, high = np.float32(0.06), np.float32(0.96)
    values = np.array([np.nextafter(low, 0), low, high, np.nextafter(high, np.float32(1))], np.float32)
    assert [int(trimap(np.full((1, 1), value))[0, 0]) for value in values] == [0, 128, 128, 255]


def test_floats_and_bytes_agree():
    pha = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    pha[:, 25:] = 255
    assert np.array_equal(trimap(pha), trimap(pha / 255))
    assert np.array_equal(trimap(pha), trimap((pha / 255).astype(np.float32)))


def test_one_soft_pixel_is_not_widened():
    pha = np.zeros((41, 41), np.uint8)
    pha[20, 20] = 100
    expected = np.zeros((41, 41), np.uint8)
    expected[20, 20] = 128
    assert np.array_equal(trimap(pha), expected)


@pytest.mark.parametrize(('gap', 'closed'), [(20, True), (21, False)])
def test_two_long_hairs_are_joined_across_20_pixels(gap, closed):
    pha = np.zeros((60, 81), np.uint8)
    pha[15] = pha[16 + gap] = 100
    between = trimap(pha)[16 : 16 + gap]
    assert np.all(between == 128) if closed else np.all(between[:, 20:60] == 0)
    assert not trimap(pha)[:15].any()


def test_an_edge_along_the_border_is_joined_with_it():
    pha = np.zeros((60, 60), np.uint8)
    pha[:, 10] = 100
    assert np.all(trimap(pha)[:, :11] == 128)
    pha = np.zeros((60, 60), np.uint8)
    pha[:, 11] = 100
    assert not trimap(pha)[:, :11].any()


def test_inside_the_unknown_region_nothing_is_certain():
    pha = np.full((60, 60), 255, np.uint8)
    pha[20, :] = pha[30, :] = 100
    result = trimap(pha)
    assert np.all(result[20:31] == 128)
    assert np.all(result[:20] == 255)
    assert np.all(result[31:] == 255)


def test_a_hard_edge_has_no_unknown_region():
    pha = np.zeros((20, 20), np.uint8)
    pha[5:] = 255
    assert np.array_equal(trimap(pha), pha)


def restated(pha):
    """The definition, pixel by pixel; pixels outside the picture have no say."""
    height, width = pha.shape

    def neighbours(y, x):
        cross = ((y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        return [(j, i) for j, i in cross if 0 <= j < height and 0 <= i < width]

    region = {(y, x): 0.06 <= pha[y, x] / 255 <= 0.96 for y in range(height) for x in range(width)}
    for rule in [any] * 10 + [all] * 10:
        region = {place: rule(region[other] for other in neighbours(*place)) for place in region}
    result = np.zeros((height, width), np.uint8)
    for place, is_unknown in region.items():
        result[place] = 128 if is_unknown else 255 if pha[place] / 255 > 0.96 else 0
    return result


def test_it_is_the_definition_pixel_by_pixel():
    g = np.random.default_rng(1)
    pha = np.where(g.random((44, 52)) < 0.5, 0, 255).astype(np.uint8)
    soft = g.random(pha.shape) < 0.015
    pha[soft] = g.integers(1, 255, soft.sum())
    expected = restated(pha)
    assert {*np.unique(expected)} == {0, 128, 255}
    assert np.count_nonzero(expected == 128) > 2 * soft.sum()
    assert np.array_equal(trimap(pha), expected)


def test_unknown_is_what_is_nearer_to_128_than_to_the_ends():
    levels = np.array([[0, 1, 63, 64, 127, 128, 129, 191, 192, 254, 255]], np.uint8)
    assert unknown(levels).tolist() == [[False] * 3 + [True] * 5 + [False] * 3]


def test_a_lossy_trimap_has_the_region_of_the_lossless_one(tmp_path):
    y, x = np.mgrid[0:120, 0:160]
    distance = np.hypot(x - 80, y - 60)
    picture = np.where(distance < 30, 255, np.where(distance < 45, 128, 0)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'trimap.jpg'), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    lossy = read_alpha(tmp_path / 'trimap.jpg')
    assert np.count_nonzero((lossy != picture) & (lossy > 0) & (lossy < 255)) > 1000
    assert np.array_equal(unknown(lossy), unknown(picture))


@pytest.mark.parametrize('pha', [np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((4, 4), bool)])
def test_what_is_no_alpha_is_refused(pha):
    with pytest.raises(ValueError, match=r'pha must be \(H, W\) of uint8 or float'):
        trimap(pha)
