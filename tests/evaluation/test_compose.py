"""Test sets: the disturbed plate, the exact composite, and that every byte follows from the seed and the name."""

import dataclasses
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.inference_case import files, read
from support.pictures import noise, save, smooth
from support.testset_case import contents, make, make_sources, manifest

from evaluation.testset.compose import compose_testset, composite, disturbed, pictures
from evaluation.testset.layout import read_manifest
from evaluation.testset.recipes import Recipe, Sources, plan
from evaluation.testset.recipes import TestsetSettings as Settings  # pytest collects what is called Test...
from metrics.trimap import trimap

NO_SHIFT = (0.0, 0.0)


@pytest.fixture
def sources(tmp_path):
    return make_sources(tmp_path / 'in')


# The plate and the composite


def test_a_plate_that_nothing_is_done_to_stays():
    plate = noise(5, 6, 3)
    assert np.array_equal(disturbed(plate, NO_SHIFT, 1.0, 0.0, 0), plate)


def test_the_plate_moves_to_the_right_and_down_and_repeats_its_border():
    plate = np.array([[0.0, 0.4, 0.8], [1.0, 0.6, 0.2]], np.float32)[..., None]
    moved = disturbed(plate, (0.25, 0.0), 1.0, 0.0, 0)[..., 0]
    assert moved == pytest.approx(np.array([[0, 0.3, 0.7], [1, 0.7, 0.3]]), abs=1e-6)
    moved = disturbed(plate, (0.0, -0.5), 1.0, 0.0, 0)[..., 0]
    assert moved == pytest.approx(np.array([[0.5, 0.5, 0.5], [1, 0.6, 0.2]]), abs=1e-6)
    moved = disturbed(plate, (-1.0, 1.0), 1.0, 0.0, 0)[..., 0]
    assert moved == pytest.approx(np.array([[0.4, 0.8, 0.8], [0.4, 0.8, 0.8]]), abs=1e-6)


def test_a_shift_that_is_no_32nd_of_a_pixel_is_kept_exactly():
    ramp = np.tile(np.linspace(0, 1, 11, dtype=np.float32), (3, 1))[..., None]
    moved = disturbed(ramp, (0.123, 0.0), 1.0, 0.0, 0)
    assert moved[:, 1:-1, 0] == pytest.approx(ramp[:, 1:-1, 0] - 0.0123, abs=1e-6)


def test_gamma_is_an_exponent_and_bytes_are_rounded():
    levels = np.arange(256, dtype=np.uint8)[:, None, None]
    expected = [round(255 * (level / 255) ** 1.15) for level in range(256)]
    assert disturbed(levels, NO_SHIFT, 1.15, 0.0, 0).ravel().tolist() == expected
    assert disturbed(levels / 255, NO_SHIFT, 0.85, 0.0, 0) == pytest.approx((levels / 255) ** 0.85)


def test_noise_is_gaussian_of_its_sigma_and_mean_and_follows_from_its_seed():
    plate = np.full((200, 200, 3), 0.5, np.float32)
    first, same, other = (disturbed(plate, NO_SHIFT, 1.0, 0.02, seed, mean=0.01) for seed in (7, 7, 8))
    assert np.array_equal(first, same)
    added = first - plate
    assert added.mean() == pytest.approx(0.01, abs=3e-4)
    assert added.std() == pytest.approx(0.02, rel=0.01)
    assert (np.abs(added - 0.01) < 0.02).mean() == pytest.approx(0.6827, abs=0.005)
    assert abs(np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(added.ravel(), (other - plate).ravel())[0, 1]) < 0.02


def test_the_order_is_shift_then_gamma_then_noise_and_white_stays_white():
    plate = np.array([[0.0, 1.0]], np.float32)[..., None]
    expected = np.array([0, 0.5**1.15]) + 0.1
    assert disturbed(plate, (0.5, 0.0), 1.15, 0.0, 0, mean=0.1)[0, :, 0] == pytest.approx(expected, abs=1e-6)
    assert disturbed(plate, NO_SHIFT, 1.0, 0.0, 0, mean=0.1)[0, :, 0].tolist() == pytest.approx([0.1, 1.0])


def test_the_arguments_stay_as_they_are():
    plate = np.full((4, 4, 3), 0.5, np.float32)
    disturbed(plate, (0.2, 0.1), 0.9, 0.1, 0)
    assert np.all(plate == 0.5)


def test_the_composite_is_the_nearest_level_for_every_alpha():
    f, a, b = np.meshgrid(np.arange(0, 256, 15), np.arange(256), np.arange(0, 256, 15), indexing='ij')
    pixel = [np.stack([x.reshape(18 * 18, 256).astype(np.uint8)] * 3, -1) for x in (f, b)]
    src = composite(pixel[0], a.reshape(18 * 18, 256).astype(np.uint8), pixel[1])
    exact = (f * a + b * (255 - a)).reshape(18 * 18, 256) / 255
    assert src.dtype == np.uint8
    assert np.abs(src - exact[..., None]).max() < 0.5


def test_a_composite_of_different_sizes_or_types_is_refused():
    fgr, pha = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    for wrong in ((fgr, pha[:1], fgr), (fgr, pha, fgr[:1]), (fgr, pha / 255, fgr)):
        with pytest.raises(ValueError, match='must be uint8 and of one size'):
            composite(*wrong)


# What is made


def test_src_is_the_exact_composite_and_the_plate_alone_is_disturbed(sources, tmp_path):
    folder = make(tmp_path / 'set', sources, Settings(backgrounds_per_foreground=2))
    for entry in manifest(folder)['pictures']:
        name, (width, height) = entry['name'], entry['size']
        fgr, pha = read(sources.fgr / entry['fgr']), read(sources.pha / entry['pha'])
        assert (width, height) == fgr.shape[1::-1]
        back = cv2.cvtColor(cv2.imread(str(sources.bgr / entry['background'])), cv2.COLOR_BGR2RGB)
        cover = max(width / back.shape[1], height / back.shape[0])
        assert entry['scaled'] == [round(side * cover) for side in back.shape[1::-1]]
        scale = [own / scaled for own, scaled in zip(back.shape[1::-1], entry['scaled'])] * 2
        x, y, w, h = (round(side * ratio) for side, ratio in zip((*entry['crop'], width, height), scale))
        part = back[min(y, back.shape[0] - h) :, min(x, back.shape[1] - w) :][:h, :w]
        back = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if w > width else cv2.INTER_LINEAR)

        assert np.array_equal(read(folder / f'pha/{name}.png'), pha)
        assert np.array_equal(read(folder / f'fgr/{name}.png'), fgr * (pha > 0)[..., None])
        assert np.array_equal(read(folder / f'trimap/{name}.png'), trimap(pha))
        exact = (pha[..., None] / 255) * fgr + (1 - pha[..., None] / 255) * back
        src = read(folder / f'src/{name}.png')
        assert np.abs(src - exact).max() <= 0.5 + 1e-9
        assert np.array_equal(src[pha == 0], back[pha == 0])

        plate = disturbed(back, entry['shift'], entry['gamma'], entry['sigma'], entry['noise_seed'], entry['mean'])
        assert np.array_equal(read(folder / f'bgr/{name}.png'), plate)
        assert not np.array_equal(plate, back)


def test_draws_are_within_the_papers_ranges_and_fill_them(sources):
    many = [recipe for seed in range(60) for recipe in plan(sources, Settings(seed=seed, noise=(0.08, 0.15)))]
    for values, low, high in (
        ([r.shift[0] for r in many], -0.3, 0.3),
        ([r.shift[1] for r in many], -0.3, 0.3),
        ([r.gamma for r in many], 0.85, 1.15),
        ([r.mean for r in many], -0.02, 0.02),
        ([r.sigma for r in many], 0.08, 0.15),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert len({r.noise_seed for r in many}) == len(many)
    assert {r.background for r in many} == {'0.jpg', '1.jpg', '2.jpg'}
    assert 0 < sum(ann.background == shots.background for ann, shots in zip(many[::3], many[1::3])) < 60
    assert {(r.crop[0] > 0, r.crop[1] > 0) for r in many} >= {(True, False), (False, True)}
    assert all(r.crop[i] + r.size[i] <= r.scaled[i] for r in many for i in (0, 1))


def test_without_noise_nothing_is_added(sources):
    for recipe in plan(sources, Settings(noise=(0, 0))):
        assert (recipe.sigma, recipe.mean) == (0, 0)


def test_a_panorama_is_cut_before_it_is_scaled(sources, monkeypatch):
    save(sources.bgr / '0.jpg', smooth(4, 900))
    recipe = replace(plan(sources, Settings(size=(60, 40)))[0], background='0.jpg', scaled=(9000, 40), crop=(8000, 0))
    largest = []
    resize = cv2.resize
    monkeypatch.setattr(cv2, 'resize', lambda x, *args, **more: largest.append(resize(x, *args, **more)) or largest[-1])
    made = dict(pictures(recipe, sources))
    assert max(picture.size for picture in largest) <= 60 * 40 * 4
    outside = made['pha/ann-00.png'] == 0
    expected = resize(read(sources.bgr / '0.jpg')[:, 800:806], (60, 40), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(made['src/ann-00.png'][outside], expected[outside])


def test_a_part_at_the_end_of_a_small_background_is_there(sources):
    save(sources.bgr / '0.jpg', smooth(4, 30))
    recipe = replace(plan(sources, Settings(size=(60, 40)))[0], background='0.jpg', scaled=(9000, 40), crop=(8940, 0))
    assert dict(pictures(recipe, sources))['src/ann-00.png'].shape == (40, 60, 3)


def test_the_files_and_their_hashes(sources, tmp_path):
    folder = make(tmp_path / 'set', sources)
    names = ('ann-00', 'shots/b.1-00', 'zoe-00')
    expected = {f'{kind}/{name}.png' for kind in ('src', 'bgr', 'fgr', 'pha', 'trimap') for name in names}
    assert files(folder) == expected | {'manifest.json'}
    hashes = {path: sha for entry in manifest(folder)['pictures'] for path, sha in entry['sha256'].items()}
    assert hashes == {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in expected}
    assert manifest(folder)['roots'] == {k: str(getattr(sources, k)) for k in ('fgr', 'pha', 'bgr')}


def test_neither_threads_nor_order_change_a_byte_and_the_seed_does(sources, tmp_path):
    settings = Settings(backgrounds_per_foreground=2, seed=5)
    one = contents(make(tmp_path / 'one', sources, settings, threads=1))
    assert contents(make(tmp_path / 'many', sources, settings, threads=7)) == one
    compose_testset(tmp_path / 'back', plan(sources, settings)[::-1], sources, settings)
    backward = contents(tmp_path / 'back')
    assert backward.keys() == one.keys()
    assert all(backward[path] == one[path] for path in one if path != 'manifest.json')
    other = contents(make(tmp_path / 'other', sources, replace(settings, seed=6)))
    assert all(other[path] != one[path] for path in one if path.startswith('bgr/'))


def test_a_picture_does_not_depend_on_the_others(sources, tmp_path):
    some = contents(make(tmp_path / 'some', sources, Settings(limit=2)))
    everything = contents(make(tmp_path / 'all', sources, Settings(backgrounds_per_foreground=3)))
    assert {path for path in some if path.startswith('src/')} == {'src/ann-00.png', 'src/zoe-00.png'}
    assert all(everything[path] == some[path] for path in some if path != 'manifest.json')
    backgrounds = [entry['background'] for entry in manifest(tmp_path / 'all')['pictures'][:3]]
    assert sorted(backgrounds) == ['0.jpg', '1.jpg', '2.jpg']


@pytest.mark.parametrize('frames', [1, 3])
def test_one_picture_is_made_again_from_its_entry(sources, tmp_path, frames):
    settings = Settings(seed=2, size=(80, 48), clip_frames=frames, noise=(0.0, 0.05))
    folder = make(tmp_path / 'set', sources, settings)
    about = manifest(folder)
    entry = about['pictures'][1]
    roots = Sources(**{kind: Path(root) for kind, root in about['roots'].items()})
    recipe = Recipe(**{field.name: entry[field.name] for field in dataclasses.fields(Recipe)})
    again = dict(pictures(recipe, roots))
    assert again.keys() == entry['sha256'].keys()
    for path, picture in again.items():
        assert np.array_equal(read(folder / path), picture)
        alone = tmp_path / 'alone.png'
        turned = picture if picture.ndim == 2 else picture[..., ::-1]
        alone.write_bytes(cv2.imencode('.png', turned)[1].tobytes())
        assert hashlib.sha256(alone.read_bytes()).hexdigest() == entry['sha256'][path]


def test_a_size_fits_the_foreground_in_and_pads_it_with_alpha_0(sources, tmp_path):
    folder = make(tmp_path / 'set', sources, Settings(size=(120, 120)))
    entry = manifest(folder)['pictures'][0]
    assert entry['placed'] == [0, 20, 120, 80]
    pha = read(folder / 'pha/ann-00.png')
    assert pha.shape == (120, 120)
    assert not pha[:20].any()
    assert not pha[100:].any()
    assert np.array_equal(pha[20:100], cv2.resize(read(sources.pha / 'ann.png'), (120, 80)))
    assert read(folder / 'src/ann-00.png').shape == (120, 120, 3)
    assert read(folder / 'bgr/ann-00.png').shape == (120, 120, 3)


def all_white(sources):
    """One subject that fills its picture of 40x40, and one background."""
    for folder in sources.fgr, sources.pha, sources.bgr:
        shutil.rmtree(folder)
        save(folder / 'white.png', np.full((40, 40) if folder == sources.pha else (40, 40, 3), 255, np.uint8))


def test_alpha_is_0_beyond_the_foreground_and_rounded_where_it_moves(sources):
    all_white(sources)
    (recipe,) = plan(sources, Settings(size=(60, 40)))
    moved = replace(recipe, positions=((0.26, 1.0), (-21.0, 0.0)))
    still, frames = dict(pictures(recipe, sources)), dict(pictures(moved, sources))
    assert still['pha/white-00.png'].tolist() == [[0] * 10 + [255] * 40 + [0] * 10] * 40
    assert (
        frames['pha/white-00/0000.png'].tolist() == [[0] * 60] + [[0] * 10 + [189] + [255] * 39 + [66] + [0] * 9] * 39
    )
    assert frames['pha/white-00/0001.png'].tolist() == [[255] * 29 + [0] * 31] * 40


def test_nothing_dark_comes_into_an_edge_that_is_cut_by_the_picture(sources, tmp_path):
    """A white subject that fills its picture: moved over white, the frames are white."""
    all_white(sources)
    folder = make(tmp_path / 'set', sources, Settings(size=(90, 40), clip_frames=4))
    soft = 0
    for entry in read_manifest(folder):
        pha = read(entry.pha)
        soft += np.count_nonzero((pha > 0) & (pha < 255))
        assert np.all(read(entry.src) == 255)
        assert np.all(read(entry.fgr)[pha > 0] == 255)
    assert soft > 100


def test_an_alpha_of_16_bits_is_rounded(sources, tmp_path):
    deep = np.full((31, 33), 200 * 257 + 128, np.uint16)
    deep[0] = 200 * 257 + 129
    cv2.imwrite(str(sources.pha / 'zoe.png'), deep)
    pha = read(make(tmp_path / 'set', sources) / 'pha/zoe-00.png')
    assert pha.dtype == np.uint8
    assert np.all(pha[0] == 201)
    assert np.all(pha[1:] == 200)


# Clips


def centre(pha):
    y, x = np.mgrid[0 : pha.shape[0], 0 : pha.shape[1]]
    return np.array([(x * pha).sum(), (y * pha).sum()]) / pha.sum()


def test_the_subject_moves_steadily_before_one_still_background(sources, tmp_path):
    folder = make(tmp_path / 'set', sources, Settings(size=(160, 120), clip_frames=5, seed=3))
    entries = read_manifest(folder)
    assert [e.name for e in entries if e.clip == 'zoe-00'] == [f'zoe-00/000{i}' for i in range(5)]
    assert {e.bgr for e in entries} == {folder / f'bgr/{name}-00.png' for name in ('ann', 'shots/b.1', 'zoe')}
    for number, name in enumerate(('ann-00', 'shots/b.1-00', 'zoe-00')):
        frames = [e for e in entries if e.clip == name]
        positions = np.array(manifest(folder)['pictures'][number]['positions'])
        steps = np.diff(positions, axis=0)
        assert steps == pytest.approx(np.tile(steps[0], (4, 1)))
        assert np.all(np.abs(steps) <= (1.6, 1.2))
        assert np.all(np.abs(positions[2]) <= (8, 6))
        assert np.hypot(*steps[0]) > 0.1
        # Fractions of a pixel are kept, to the rounding of alphas.
        centres = np.array([centre(read(frame.pha).astype(float)) for frame in frames])
        assert np.diff(centres, axis=0) == pytest.approx(steps, abs=0.02)
        nowhere = np.all([read(frame.pha) == 0 for frame in frames], axis=0)
        backs = [read(frame.src)[nowhere] for frame in frames]
        assert all(np.array_equal(back, backs[0]) for back in backs)
        for frame in frames:
            assert np.array_equal(read(frame.trimap), trimap(read(frame.pha)))


def test_a_long_clip_stays_in_the_picture(sources):
    for recipe in plan(sources, Settings(clip_frames=500)):
        way = np.ptp(np.array(recipe.positions), axis=0)
        assert np.all(way <= np.array(recipe.size) * 0.3)


def test_clips_have_the_plates_of_stills(sources, tmp_path):
    stills = contents(make(tmp_path / 'stills', sources))
    clips = contents(make(tmp_path / 'clips', sources, Settings(clip_frames=2)))
    plates = [path for path in stills if path.startswith('bgr/')]
    assert len(plates) == 3
    assert all(clips[path] == stills[path] for path in plates)
