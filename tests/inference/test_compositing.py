"""What is behind the subject, brought to size, and the subject before it."""

import numpy as np

from inference.compositing import covering
from inference.matte import Matte


def test_composite_and_covering() -> None:
    rng = np.random.default_rng(0)
    fgr, target = rng.integers(0, 256, (2, 64, 96, 3), np.uint8)
    pha = rng.choice(np.array([0, 1, 100, 128, 254, 255], np.uint8), (64, 96))
    made = Matte(pha, fgr).composite(target)
    share = pha[..., None] / 255
    assert np.abs(made - (fgr * share + target * (1 - share))).max() <= 1
    assert np.array_equal(made[pha == 0], target[pha == 0])
    assert np.array_equal(made[pha == 255], fgr[pha == 255])
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, 30:50] = 200
    assert np.array_equal(covering(wide, (20, 20)), np.full((20, 20, 3), 200))
    assert np.array_equal(covering(wide, (40, 40)), np.full((40, 40, 3), 200))
    assert covering(wide, (30, 70)).shape == (70, 30, 3)
