"""The data configuration, and the checks before training: one test per finding."""

from __future__ import annotations

import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset.checks import check_files
from dataset.paths import DataPaths, drawn_part, read_data_config

CONFIG = """
[people.train]
fgr = "people/train/fgr"
pha = "/absolute/pha"
[people.valid]
fgr = "~/people/fgr"
pha = "people/valid/pha"
[backgrounds]
train = "bgr/train"
valid = "bgr/valid"
[things.train]
fgr = "x"
"""


def test_config_paths_count_from_the_file(tmp_path, monkeypatch):
    (tmp_path / 'data.toml').write_text(CONFIG)
    monkeypatch.chdir('/')
    monkeypatch.setenv('HOME', '/home/me')
    assert read_data_config(tmp_path / 'data.toml', 'people') == DataPaths(
        train_fgr=tmp_path / 'people/train/fgr',
        train_pha=Path('/absolute/pha'),
        valid_fgr=Path('/home/me/people/fgr'),
        valid_pha=tmp_path / 'people/valid/pha',
        train_bgr=tmp_path / 'bgr/train',
        valid_bgr=tmp_path / 'bgr/valid',
    )


def test_config_lists_the_names_there_are(tmp_path):
    (tmp_path / 'data.toml').write_text(CONFIG)
    with pytest.raises(ValueError, match=r'--dataset-name peple: .*data\.toml .*: people, things, synthetic'):
        read_data_config(tmp_path / 'data.toml', 'peple')
    with pytest.raises(ValueError, match='no such data set'):
        read_data_config(tmp_path / 'data.toml', 'backgrounds')


def test_config_names_every_missing_key(tmp_path):
    (tmp_path / 'data.toml').write_text(CONFIG.replace('valid = "bgr/valid"', 'valid = ""'))
    with pytest.raises(ValueError, match=r'data\.toml lacks') as caught:
        read_data_config(tmp_path / 'data.toml', 'things')
    for key in ('[things.train] pha', '[things.valid] fgr', '[things.valid] pha', '[backgrounds] valid'):
        assert key in str(caught.value)
    assert '[things.train] fgr' not in str(caught.value)
    assert '[backgrounds] train' not in str(caught.value)


def test_config_that_is_missing_or_no_toml(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'--data-config .*none\.toml: no such file; copy data_path\.example'):
        read_data_config(tmp_path / 'none.toml', 'people')
    (tmp_path / 'data.toml').write_text('[people.train\nfgr = C:\\data')
    with pytest.raises(ValueError, match=r'data\.toml cannot be read as TOML: .*line 1'):
        read_data_config(tmp_path / 'data.toml', 'people')
    (tmp_path / 'data.toml').write_text('people = 3\n[backgrounds]\ntrain = "a"')
    with pytest.raises(ValueError, match='no such data set'):
        read_data_config(tmp_path / 'data.toml', 'people')


@pytest.mark.parametrize('path', [r'C:\data\fgr', r'D:\Users\x', r'D:\new\train'])
def test_a_windows_path_in_double_quotes_is_told_of(tmp_path, path):
    """The last one is valid TOML, of a line feed and a tab."""
    config = tmp_path / 'data.toml'
    config.write_text(CONFIG.replace('"people/train/fgr"', f'"{path}"'))
    assert path in config.read_text()
    with pytest.raises(ValueError, match=r'use forward slashes .* or single quotes'):
        read_data_config(config, 'people')
    config.write_text(config.read_text().replace(f'"{path}"', f"'{path}'"))
    assert read_data_config(config, 'people').train_fgr.name.endswith(path.rpartition('\\')[2])


@pytest.mark.parametrize('name', ['videomatte240k', 'photomatte13k', 'distinctions646'])
def test_the_template_names_the_papers_sets(name):
    template = Path(__file__).parents[2] / 'data_path.example.toml'
    paths = read_data_config(template, name)
    assert (
        len({paths.train_fgr, paths.train_pha, paths.valid_fgr, paths.valid_pha, paths.train_bgr, paths.valid_bgr}) == 6
    )
    assert all(template.parent in path.parents for name, path in vars(paths).items() if 'share' not in name)
    assert paths.valid_share is paths.valid_bgr_share is None


SHARES = """
[people]
train.fgr = "fgr"
train.pha = "pha"
valid = 0.3
[backgrounds]
train = "bgr"
valid = 0.25
"""


def test_config_with_shares_instead_of_validation_folders(tmp_path):
    (tmp_path / 'data.toml').write_text(SHARES)
    folders = [tmp_path / name for name in ('fgr', 'pha', 'fgr', 'pha', 'bgr', 'bgr')]
    assert read_data_config(tmp_path / 'data.toml', 'people') == DataPaths(*folders, 0.3, 0.25)


@pytest.mark.parametrize('share', ['0', '1', '1.5', '-0.1', 'nan', 'true'])
def test_config_refuses_what_is_no_share(tmp_path, share):
    (tmp_path / 'data.toml').write_text(SHARES.replace('0.3', share))
    with pytest.raises(ValueError, match=r'\[people\] valid = .*: a share must be above 0 and below 1'):
        read_data_config(tmp_path / 'data.toml', 'people')


def test_config_without_validation_hints_at_a_share(tmp_path):
    (tmp_path / 'data.toml').write_text(SHARES.replace('valid = 0.3\n', ''))
    with pytest.raises(ValueError, match=r'lacks \[people.valid\] fgr, .*"valid = 0.1" under \[people\]'):
        read_data_config(tmp_path / 'data.toml', 'people')


def test_a_share_is_drawn_by_name_and_stays_as_pictures_come():
    names = [Path(f'{folder}/{i:04d}.jpg') for folder in ('anna', 'ben') for i in range(1000)]
    train, valid = (drawn_part(names, 0.1, split) for split in ('train', 'valid'))
    assert sorted([*train, *valid]) == names
    assert 150 < len(valid) < 250
    assert {path.parent.name for path in valid} == {'anna', 'ben'}
    # The same for ever: a run that goes on sees the pictures that it saw.
    assert [path.stem for path in valid[:4]] == ['0000', '0038', '0055', '0060']
    # Names alone count: neither other pictures, nor their order, nor the suffix, nor how a disk spells an umlaut.
    assert drawn_part(names[::-2], 0.1, 'valid') == [name for name in names[::-2] if name in set(valid)]
    assert [
        name.with_suffix('.jpg') for name in drawn_part([n.with_suffix('.png') for n in names], 0.1, 'valid')
    ] == valid
    assert set(valid) < set(drawn_part(names, 0.2, 'valid'))
    composed = [Path(unicodedata.normalize('NFC', f'Bär {i}.png')) for i in range(100)]
    decomposed = [Path(unicodedata.normalize('NFD', str(path))) for path in composed]
    drawn = drawn_part(composed, 0.5, 'valid')
    assert drawn_part(decomposed, 0.5, 'valid') == [decomposed[composed.index(path)] for path in drawn]
    assert drawn_part(names, None, 'train') == drawn_part(names, None, 'valid') == names


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def photograph(seed: int, colour: bool = True) -> np.ndarray:
    """Smooth clouds of mid tones, as most of a photograph is."""
    small = np.random.default_rng(seed).integers(30, 220, (6, 8, 3), dtype=np.uint8)
    picture = cv2.resize(small, (64, 48), interpolation=cv2.INTER_LINEAR)
    return picture if colour else picture[..., 1]


def matte(seed: int) -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    centre = np.random.default_rng(seed).uniform(16, 40, 2)
    return (np.clip((14 - np.hypot(x - centre[1], y - centre[0])) / 3, 0, 1) * 255).astype(np.uint8)


@pytest.fixture
def data(tmp_path) -> DataPaths:
    """Four good pairs to train on, two to validate on, and backgrounds."""
    for split, count in (('train', 4), ('valid', 2)):
        for i in range(count):
            save(tmp_path / f'{split}/fgr/sub/{i}.jpg', photograph(i))
            save(tmp_path / f'{split}/pha/sub/{i}.png', matte(i))
            save(tmp_path / f'{split}/bgr/{i}.webp', photograph(10 + i))
    folders = [tmp_path / split / role for split in ('train', 'valid') for role in ('fgr', 'pha')]
    return DataPaths(*folders, train_bgr=tmp_path / 'train/bgr', valid_bgr=tmp_path / 'valid/bgr')


def only_finding(paths: DataPaths) -> str:
    findings = check_files(paths).findings
    assert len(findings) == 1, findings
    return findings[0]


def test_good_data_has_no_findings(data):
    report = check_files(data)
    assert report.findings == []
    assert report.notes == []
    report.raise_for_findings()
    assert report.train_pairs == [(data.train_fgr / f'sub/{i}.jpg', data.train_pha / f'sub/{i}.png') for i in range(4)]
    assert len(report.valid_pairs) == 2
    assert report.train_bgr == [data.train_bgr / f'{i}.webp' for i in range(4)]
    assert len(report.valid_bgr) == 2


@pytest.mark.parametrize('role', ['train_fgr', 'train_pha', 'valid_fgr', 'valid_pha', 'train_bgr', 'valid_bgr'])
def test_a_missing_and_an_empty_folder(data, role):
    folder = getattr(data, role)
    label = role.replace('_bgr', ' backgrounds').replace('_', ' ')
    assert only_finding(replace(data, **{role: folder / 'nowhere'})).startswith(
        f'{label}: {folder / "nowhere"}: no such folder.'
    )
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / 'readme.txt').touch()
    finding = only_finding(data)
    assert finding.startswith(f'{label}: {folder} holds no pictures')
    assert 'webp' in finding


def test_unmatched_pairs_are_counted_and_the_first_named(data):
    for i in range(5):
        save(data.train_fgr / f'extra{i}.png', photograph(i))
    finding = only_finding(data)
    assert finding.startswith('train: 5 files of fgr have no pha: ')
    assert str(data.train_fgr / 'extra0.png') in finding
    assert 'extra3' not in finding
    assert '2 more' in finding
    save(data.valid_pha / 'sub/lonely.png', matte(0))
    assert 'valid: 1 files of pha have no fgr' in check_files(data).findings[1]


def test_duplicates(data):
    save(data.valid_pha / 'sub/1.webp', matte(1))
    finding = only_finding(data)
    assert finding.startswith('valid: 1 names occur twice: ')
    assert f'{data.valid_pha / "sub/1.png"} and {data.valid_pha / "sub/1.webp"}' in finding


def test_sizes_that_differ_within_a_pair(data):
    save(data.train_pha / 'sub/2.png', matte(2)[:40])
    finding = only_finding(data)
    assert finding.startswith('train: 1 of 4 compared pairs differ in size')
    assert f'{data.train_fgr / "sub/2.jpg"} is 64x48, {data.train_pha / "sub/2.png"} is 64x40' in finding


def test_sizes_are_compared_upright(data):
    tags = Image.Exif()
    tags[0x0112] = 6
    save(data.train_fgr / 'sub/2.jpg', np.rot90(photograph(2)).copy(), exif=tags)
    assert check_files(data).findings == []


@pytest.mark.parametrize('role', ['train_fgr', 'train_pha', 'valid_bgr'])
def test_pictures_that_cannot_be_read_are_named_with_the_cause(data, role):
    folder = getattr(data, role)
    path = next(path for path in sorted(folder.rglob('*')) if path.is_file())
    path.write_bytes(path.read_bytes()[:-200])
    finding = only_finding(data)
    assert '1 of the sampled pictures cannot be read' in finding
    assert str(path) in finding
    path.write_bytes(b'')
    assert f'{path}: cannot be read: not a picture' in only_finding(data)


def test_a_truncated_picture_outside_the_sample_is_not_looked_for(data):
    path = data.train_fgr / 'sub/1.jpg'
    path.write_bytes(path.read_bytes()[:-200])
    assert check_files(data, sample=2).findings == []  # the first and the last
    assert str(path) in check_files(data, sample=4).findings[0]


@pytest.mark.parametrize('colour', [True, False])
@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_alpha_that_looks_like_a_photograph(data, colour, suffix):
    for i in range(3):
        (data.train_pha / f'sub/{i}.png').unlink()
        save(data.train_pha / f'sub/{i}.{suffix}', photograph(i, colour))
    finding = only_finding(data)
    assert finding.startswith('train: pha looks like photographs: 3 of 4 sampled files')
    assert str(data.train_pha / f'sub/0.{suffix}') in finding


def test_opaque_rgba_photographs_are_no_alphas(data):
    for i in range(4):
        save(data.train_pha / f'sub/{i}.png', np.dstack([photograph(i), np.full((48, 64), 255, np.uint8)]))
    assert 'train: pha looks like photographs: 4 of 4' in only_finding(data)


def test_a_cut_out_on_black_is_no_alpha(data):
    for i in range(4):
        save(data.train_pha / f'sub/{i}.png', np.where(matte(i)[..., None] > 128, photograph(i), 0).astype(np.uint8))
    assert 'train: pha looks like photographs: 4 of 4' in only_finding(data)


def test_soft_mattes_are_not_taken_for_photographs(data):
    # Hair out of focus and smoke: soft all over, but with an outside.
    for i in range(3):
        soft = cv2.GaussianBlur(matte(i), (0, 0), 6)
        save(data.train_pha / f'sub/{i}.png', soft)
    # A pane of glass over the whole picture, as RGB and JPEG.
    (data.train_pha / 'sub/3.png').unlink()
    save(data.train_pha / 'sub/3.jpg', np.dstack([photograph(3, colour=False)] * 3), quality=70)
    assert check_files(data).findings == []


def test_few_coloured_alphas_are_a_note(data):
    save(data.train_pha / 'sub/1.png', photograph(1))
    report = check_files(data)
    assert report.findings == []
    assert report.notes == [
        'train: 1 of 4 sampled alphas are coloured; their brightness is taken: '
        + str(data.train_pha / 'sub/1.png')
        + '.'
    ]


def test_alpha_from_the_alpha_channel_is_said(data):
    for i in range(2):
        save(data.valid_pha / f'sub/{i}.png', np.dstack([photograph(i), matte(i)]))
    save(data.train_pha / 'sub/0.png', np.dstack([photograph(0), matte(0)]))
    report = check_files(data)
    assert report.findings == []
    assert report.notes == [
        'train: pha is read from the alpha channel of 1 of 4 sampled files, from the brightness of the others.',
        'valid: pha is read from the alpha channel of 2 of 2 sampled files.',
    ]


def test_shares_divide_pairs_and_backgrounds(data):
    shared = replace(
        data, valid_fgr=data.train_fgr, valid_pha=data.train_pha, valid_bgr=data.train_bgr, valid_share=0.5,
        valid_bgr_share=0.6,
    )  # fmt: skip
    whole, report = check_files(data), check_files(shared)
    assert report.findings == []
    assert sorted([*report.train_pairs, *report.valid_pairs]) == whole.train_pairs
    assert sorted([*report.train_bgr, *report.valid_bgr]) == whole.train_bgr
    for part in (report.train_pairs, report.valid_pairs, report.train_bgr, report.valid_bgr):
        assert part
    assert all(fgr.stem == pha.stem for fgr, pha in [*report.train_pairs, *report.valid_pairs])
    assert report.notes == [
        f'validation takes {len(report.valid_pairs)} of the 4 pairs, drawn by name (valid = 0.5).',
        f'validation takes {len(report.valid_bgr)} of the 4 backgrounds, drawn by name (valid = 0.6).',
    ]


@pytest.mark.parametrize(('share', 'lacks'), [(1e-6, 'validation. Raise'), (1 - 1e-6, 'training. Lower')])
def test_a_share_that_leaves_nothing_is_a_finding(data, share, lacks):
    finding = only_finding(replace(data, valid_bgr=data.train_bgr, valid_bgr_share=share))
    assert finding.startswith(f'valid = {share}: none of the 4 backgrounds in {data.train_bgr} is left for {lacks} it')


def test_shared_folders_are_a_note(data):
    report = check_files(replace(data, valid_bgr=data.train_bgr))
    assert report.findings == []
    assert report.notes == ['train and valid share their backgrounds: the validation loss will look too good.']


def test_all_findings_come_in_one_message(data):
    save(data.train_pha / 'sub/2.png', matte(2)[:40])
    (data.valid_fgr / 'sub/0.jpg').unlink()
    report = check_files(replace(data, train_bgr=data.train_bgr / 'nowhere', valid_bgr=data.valid_bgr / 'nowhere'))
    with pytest.raises(ValueError, match=r'not ready \(4 found\)') as caught:
        report.raise_for_findings()
    lines = str(caught.value).splitlines()
    assert [line[:8] for line in lines[1:]] == ['  1. tra', '  2. val', '  3. tra', '  4. val']
    assert 'differ in size' in lines[1]
    assert 'have no fgr' in lines[2]
    assert 'train backgrounds' in lines[3]
    assert 'valid backgrounds' in lines[4]


def test_a_large_folder_is_sampled(data, monkeypatch):
    monkeypatch.setattr('dataset.checks._HEADERS', 3)
    save(data.train_pha / 'sub/1.png', matte(1)[:40])  # the middle one of 0, 1, 3
    report = check_files(data, sample=1)
    assert 'train: 1 of 3 compared pairs' in report.findings[0]
    assert report.notes == ['train: sizes are compared for 3 of 4 pairs.']
