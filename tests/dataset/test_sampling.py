"""Which samples a step sees, and that every draw follows from its key."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import kornia
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common import console
from common.console import say_once
from dataset.augmentation import Draws, _affine, _move, _turn_hue, compose_training
from dataset.geometry import Affine, AffineRange, draw_affine, warp
from dataset.loaders import TrainingBatches, ValidationBatches, WarpedPairs, collate
from dataset.readers import ImageError
from dataset.sampling import (
    VALIDATION,
    Sample,
    SamplingPlan,
    StepSampler,
    default_multiple,
    rng,
    split,
    validation_samples,
)
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes

PLAN = SamplingPlan(mattes=23, backgrounds=7, batch_size=6, resolution=64, multiple=4, seed=5)


# The modules of the data's way from a file to a batch: each may import earlier ones alone.
WAY = [
    'shards', 'cache', 'stores', 'pairing', 'paths', 'tags', 'exr', 'readers', 'images', 'video', 'checks', 'fringes',
    'sources', 'textures', 'drawing', 'people', 'subjects', 'scenery', 'synthetic', 'sampling', 'geometry',
    'augmentation', 'loaders',
]  # fmt: skip


def test_no_module_imports_a_later_one():
    folder = Path(__file__).parents[2] / 'dataset'
    assert sorted(WAY) == sorted(path.stem for path in folder.glob('*.py') if path.stem != '__init__')
    for i, name in enumerate(WAY):
        imported = re.findall(r'^ *from \.(\w+) import', (folder / f'{name}.py').read_text(), re.MULTILINE)
        assert set(imported) <= set(WAY[:i]), name


def epoch(plan, number):
    steps = range(number * plan.steps_per_epoch, (number + 1) * plan.steps_per_epoch)
    return [plan.step(step) for step in steps]


@pytest.mark.parametrize('number', [0, 3])
def test_every_sample_once_per_epoch(number):
    batches = epoch(PLAN, number)
    assert len(batches) == 4
    assert sorted(s.matte for batch in batches for s in batch) == list(range(23))
    counts = np.bincount([s.background for batch in batches for s in batch], minlength=7)
    assert counts.min() >= 3
    assert counts.max() <= 4
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= 6
    assert max(sizes) - min(sizes) <= 1
    assert PLAN.smallest_batch == min(sizes)


def test_epochs_differ_in_order_and_pairs():
    pairs = [{(s.matte, s.background) for batch in epoch(PLAN, n) for s in batch} for n in (0, 1)]
    assert len(pairs[0] & pairs[1]) < 12
    assert [s.matte for s in PLAN.step(0)] != [s.matte for s in PLAN.step(4)]


def test_a_step_is_found_without_what_came_before():
    batches = list(StepSampler(PLAN, 0, 9))
    assert list(StepSampler(PLAN, 5, 9)) == batches[5:]
    assert PLAN.step(10**9) == PLAN.step(10**9)


@pytest.mark.parametrize(('accumulate', 'world'), [(1, 2), (2, 1), (2, 2), (1, 3)])
def test_ranks_and_parts_share_a_steps_samples(accumulate, world):
    plan = SamplingPlan(48, 48, 12, 64, seed=1)
    ranks = [list(StepSampler(plan, 0, 4, accumulate, rank, world)) for rank in range(world)]
    for step in range(4):
        parts = [ranks[r][step * accumulate + a] for a in range(accumulate) for r in range(world)]
        assert [s for part in parts for s in part] == plan.step(step)
        assert sum(len(part) / part[0].step_size for part in parts) == pytest.approx(1)


def test_a_rank_without_a_sample_keeps_the_others_company():
    plan = SamplingPlan(5, 5, 4, 64, seed=1)
    ranks = [list(StepSampler(plan, 0, 2, 1, rank, 4)) for rank in range(4)]
    for step in range(2):
        counted = [s for rank in ranks for s in rank[step] if s.step_size]
        assert counted == plan.step(step)
        assert all(len(rank[step]) == 1 for rank in ranks)
    assert sum(s.step_size == 0 for rank in ranks for part in rank for s in part) == 3


def test_crops_stay_within_half_and_all_of_the_resolution():
    crops = np.array([SamplingPlan(9, 9, 3, 2048, 4, unit=4).crop(step) for step in range(500)])
    assert crops.min() >= 1024
    assert crops.max() <= 2047
    assert not (crops % 4).any()
    assert (crops[:, 0] != crops[:, 1]).mean() > 0.9


@pytest.mark.parametrize(('resolution', 'unit', 'multiple'), [(512, 1, 64), (2048, 4, 256), (128, 1, 16), (64, 4, 8)])
def test_crops_are_the_published_ones_in_few_sizes(resolution, unit, multiple):
    assert default_multiple(resolution, unit) == multiple
    draws = np.array([rng(3, 'crop', step).integers(resolution // 2, resolution, 2) for step in range(2000)])
    published, crops = (
        np.array([SamplingPlan(9, 9, 3, resolution, m, 3, unit).crop(step) for step in range(2000)])
        for m in (unit, multiple)
    )
    assert np.array_equal(published, draws // unit * unit)
    assert len(np.unique(crops, axis=0)) == 16
    assert not (crops % multiple).any()
    assert published.min() - multiple / 2 < crops.min() <= crops.max() <= published.max()
    assert np.abs(crops - published).max() < multiple
    assert crops.mean() == pytest.approx(published.mean(), rel=0.03)
    assert crops.std() == pytest.approx(published.std(), rel=0.12)


def test_validation_samples_do_not_depend_on_the_run():
    samples = validation_samples(100, 30, 50, 64)
    assert len({s.matte for s in samples}) == 50
    assert (samples[0].matte, samples[-1].matte) == (0, 99)
    assert validation_samples(3, 2, 50, 64) == validation_samples(3, 2, 3, 64)
    assert validation_samples(5, 5, 1, 64)[0].matte == 0


def test_split_covers():
    assert [split(list(range(7)), 3, i) for i in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]


def test_affine_scale_one_covers_the_output():
    picture = np.full((40, 90, 1), 255, np.uint8)
    whole = warp(picture, Affine(0, 0, 0, 1, 0, False), 64, 64, cv2.BORDER_CONSTANT)
    assert whole[1:-1].min() == 255
    half = warp(picture, Affine(0, 0, 0, 0.5, 0, False), 64, 64, cv2.BORDER_CONSTANT)
    assert half[:15].max() == 0
    assert half[17:47, 1:-1].min() == 255


def test_the_warp_equals_flip_resize_and_crop():
    g = np.random.default_rng(0)
    picture = cv2.GaussianBlur(g.integers(0, 256, (50, 50, 3), np.uint8), (0, 0), 3)
    out = warp(picture, Affine(0, 0, 0, 1.6, 0, True), 60, 80, cv2.BORDER_CONSTANT)
    resized = cv2.resize(picture[:, ::-1], (128, 128), interpolation=cv2.INTER_LINEAR)
    expected = resized[24:104, 34:94]
    assert np.abs(out.astype(int) - expected).max() <= 3


def test_large_reductions_average():
    checkers = np.indices((512, 512)).sum(0).astype(np.uint8)[..., None] % 2 * 255
    small = warp(checkers, Affine(0, 0, 0, 1, 0, False), 64, 64, cv2.BORDER_REFLECT_101)
    assert 126 <= small.min() <= small.max() <= 129


@pytest.mark.parametrize('channels', [3, 4])
@pytest.mark.parametrize('border', [cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT_101, cv2.BORDER_REPLICATE])
def test_a_warp_misses_nothing_by_leaving_out_what_is_not_seen(channels, border):
    g = np.random.default_rng(0)
    for turn in (5, 180):
        for shift in (0.1, 1.5):
            for _ in range(25):
                height, width, out_height, out_width = g.integers(2, 120, 4).tolist()
                picture = g.integers(0, 256, (height, width, channels), np.uint8)
                affine = draw_affine(g, AffineRange((0.6, 3), degrees=turn, translate=shift))
                matrix = affine.matrix(width, height, out_width, out_height)
                whole = cv2.warpAffine(picture, matrix, (out_width, out_height), borderMode=border)
                if min(height, width) // max(1, affine.needed_side(out_width, out_height)) < 2:
                    got = warp(picture, affine, out_width, out_height, border)
                    assert np.abs(got.astype(int) - whole).max() <= 1


def test_affine_draws_fill_their_ranges():
    ranges = AffineRange((0.3, 1), degrees=5, translate=0.1, shear=5)
    draws = [draw_affine(rng(0, i), ranges) for i in range(1000)]
    for name, low, high in (('angle', -5, 5), ('shift_x', -0.1, 0.1), ('scale', 0.3, 1), ('shear', -5, 5)):
        values = np.array([getattr(d, name) for d in draws])
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    assert 0.45 < np.mean([d.flip for d in draws]) < 0.55


@pytest.fixture(scope='module')
def compositions():
    return WarpedPairs(SyntheticMattes(12), SyntheticBackgrounds(12), AffineRange((0.4, 1)), AffineRange((1, 2)))


def batches(compositions, accumulate=1, rank=0, world=1, workers=0, start=0):
    plan = SamplingPlan(12, 12, 6, 64, seed=2)
    sampler = StepSampler(plan, start, 2, accumulate, rank, world)
    return list(TrainingBatches(compositions, sampler, workers, pin=False))


def test_a_sample_looks_the_same_in_any_batch_rank_or_worker(compositions):
    whole = [batch.compose() for batch in batches(compositions, workers=1)]
    for rank in (0, 1):
        for step, batch in enumerate(batches(compositions, rank=rank, world=2)):
            part = batch.compose()
            for name in ('src', 'bgr', 'fgr', 'pha'):
                together = getattr(whole[step], name)[3 * rank : 3 * rank + 3]
                torch.testing.assert_close(getattr(part, name), together, atol=1e-6, rtol=0)


class Telling(SyntheticMattes):
    def read(self, index, min_size=None):
        say_once('kind', f'note: {index % 2}')
        say_once(index % 2, f'note: {index % 2}')
        return super().read(index, min_size)


@pytest.mark.parametrize('workers', [0, 2])
def test_what_is_said_once_is_said_once_by_all_workers(compositions, workers, capfd, monkeypatch):
    monkeypatch.setattr(console, '_said', bytearray(2**16))
    say_once('kind', 'first')
    for _ in range(2):
        batches(replace(compositions, mattes=Telling(12)), workers=workers)
    assert sorted(capfd.readouterr().err.splitlines()) == ['first', 'note: 0', 'note: 1']
    said = console.shared_said()
    monkeypatch.setattr(console, '_said', bytearray(2**16))
    monkeypatch.setattr(console, '_saying', threading.Lock())
    console.share_said(said)  # as a worker does that does not inherit it
    say_once('kind', 'second')
    assert capfd.readouterr().err == ''


def is_shared(items):
    batch = collate(items)
    return batch.mattes.is_shared() and batch.backgrounds.is_shared()


def test_a_worker_collates_into_shared_memory(compositions):
    keys = [PLAN.step(0)[:2]]
    assert list(DataLoader(compositions, batch_sampler=keys, num_workers=1, collate_fn=is_shared)) == [True]
    assert list(DataLoader(compositions, batch_sampler=keys, num_workers=0, collate_fn=is_shared)) == [False]


def test_batches_from_the_middle_are_the_same(compositions):
    first, later = batches(compositions)[1], batches(compositions, start=1)[0]
    assert torch.equal(first.mattes, later.mattes)
    assert torch.equal(first.compose().bgr, later.compose().bgr)


def test_composites_hold_what_they_say():
    count, side = 400, 16
    samples = [Sample(0, 0, i, i, i, side, side, count, side) for i in range(count)]
    mattes = torch.zeros(count, side, side, 4, dtype=torch.uint8)
    mattes[..., :3], mattes[:, :, : side // 2, 3] = 200, 255
    backgrounds = torch.full((count, side, side, 3), 100, dtype=torch.uint8)
    got = compose_training(mattes, backgrounds, Draws.from_samples(samples))
    assert got.src.shape == (count, 3, side, side)
    for tensor in (got.src, got.bgr, got.fgr, got.pha):
        assert tensor.min() >= 0
        assert tensor.max() <= 1
    noisy = got.bgr.flatten(2).std(2).mean(1) > 1e-3
    assert 0.3 < noisy.float().mean() < 0.5
    # Where the subject is opaque, src is the foreground, up to noise of sigma 0.03; elsewhere it darkens at most.
    inside = (got.pha == 1).expand_as(got.src)
    assert (got.src - got.fgr)[inside].abs().max() < 0.2
    outside = (got.pha == 0).expand_as(got.src)
    assert got.src[outside].mean() < 100 / 255 + 0.01
    jitter = got.fgr.flatten(2).mean(2)[:, 0] / (200 / 255)
    assert 0.8 < jitter.min() < 0.9 < 1.05 < jitter.max() < 1.3


@pytest.mark.parametrize('draw', [(0, 3, -2, 1, 0), (5, 0, 0, 1, 0), (-4, 2.5, 1, 1.3, 0), (3, -2, 4, 0.7, 5)], ids=str)
def test_moving_on_the_device_equals_the_warp_on_the_cpu(draw):
    angle, shift_x, shift_y, scale, shear = draw
    picture = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (60, 60, 3), np.uint8), (0, 0), 4)
    affine = torch.from_numpy(_affine(60, 60, *draw)).float()
    moved = _move(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), affine[None], 'zeros')[0].permute(1, 2, 0)
    affine = Affine(angle, shift_x / 60, shift_y / 60, scale, shear, False)
    expected = warp(picture, affine, 60, 60, cv2.BORDER_CONSTANT)
    assert np.abs(moved.numpy() - expected)[2:-2, 2:-2].max() < 4


def test_turning_the_hue_equals_kornias():
    x = torch.randint(0, 256, (3, 3, 80, 80), generator=torch.Generator().manual_seed(0)) / 255
    x[0] = x[0].round()  # black, white, primaries
    x[1, :, :40] = x[1, :1, :40]  # greys
    angle = torch.tensor([-0.6, 0.3, 0.6])
    turned = _turn_hue(x, angle)
    torch.testing.assert_close(turned, kornia.enhance.adjust_hue(x, angle), atol=2e-6, rtol=0)
    assert torch.equal(turned[1, :, :40], x[1, :, :40])
    assert (turned - x).abs().mean() > 0.05


def test_augmentation_never_touches_the_truth_it_composes_with(compositions):
    for batch in batches(compositions):
        got = batch.compose()
        clean = got.fgr * got.pha + got.bgr * (1 - got.pha)
        # The plate differs from the source's background by jitter, noise, shadow, shift; but not by another picture.
        assert (got.src - clean).abs().mean() < 0.15


def test_validation_is_fixed_and_its_plate_disturbed(compositions):
    first, second = (next(iter(ValidationBatches(compositions, 4, 64, 4, 0, False))) for _ in range(2))
    a, b = first.compose(), second.compose()
    assert first.samples[0].epoch == VALIDATION
    assert torch.equal(a.src, b.src)
    assert torch.equal(a.bgr, b.bgr)
    background = (a.pha == 0).expand_as(a.src)
    difference = (a.src - a.bgr)[background].abs()
    assert 0.003 < difference.mean() < 0.12


class Black:
    """A source some of whose pictures cannot be read."""

    def __init__(self, count, channels, broken=()):
        self.count, self.channels, self.broken = count, channels, broken

    def __len__(self):
        return self.count

    def name(self, index):
        return f'picture {index}'

    def read(self, index, min_size=None):
        if index in self.broken:
            raise ImageError(f'picture {index} is broken')
        return np.zeros((64, 64, self.channels), np.uint8)


def breaking_batches(count, broken):
    still = AffineRange((1, 1))
    data = WarpedPairs(Black(count, 4, broken), Black(count, 3), still, still)
    plan = SamplingPlan(count, count, 10, 64, seed=0)
    return TrainingBatches(data, StepSampler(plan, 0, plan.steps_per_epoch), 0, pin=False)


def test_a_broken_picture_is_named_counted_and_replaced(caplog):
    loader = breaking_batches(120, {7})
    assert sum(len(batch) for batch in loader) == 120
    assert loader.unreadable == {0: ['picture 7 is broken']}
    assert 'picture 7 is broken' in caplog.text


def test_more_than_one_percent_broken_stops_the_run():
    with pytest.raises(ImageError, match=r'2 pictures of epoch 0 cannot be read, more than 1 % of its 120'):
        list(breaking_batches(120, {7, 70}))
