"""Reading test sets, made ones and others, and make_testset.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.pictures import noise, save
from support.testset_case import contents, make, make_sources, manifest, refusal, script

import make_testset
from dataset.checks import check_files
from dataset.paths import read_data_config
from evaluation.testset.layout import find_testset, read_manifest
from evaluation.testset.recipes import TestsetSettings as Settings  # pytest collects what is called Test...

ROOT = Path(make_testset.__file__).parent


@pytest.fixture
def sources(tmp_path):
    return make_sources(tmp_path / 'in')


# Reading


def test_a_manifest_is_read(sources, tmp_path):
    folder = make(tmp_path / 'set', sources)
    entries = find_testset(folder)
    assert entries == read_manifest(folder)
    assert [entry.name for entry in entries] == ['ann-00', 'shots/b.1-00', 'zoe-00']
    entry = entries[1]
    assert entry.clip is None
    assert [each.subject for each in entries] == ['ann.png', 'shots/b.1.png', 'zoe.png']
    paths = {kind: folder / kind / 'shots/b.1-00.png' for kind in ('src', 'bgr', 'fgr', 'pha', 'trimap')}
    assert {kind: getattr(entry, kind) for kind in paths} == paths


def test_a_set_with_missing_files_is_refused(sources, tmp_path):
    folder = make(tmp_path / 'set', sources)
    (folder / 'pha/zoe-00.png').unlink()
    with pytest.raises(ValueError, match=r'set: 1 of 15 files are missing: pha/zoe-00\.png'):
        find_testset(folder)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'cannot be read as JSON'),
        ('[]', 'not the manifest of a test set'),
        ('{"format": "matting test set", "version": 2}', 'version 2; this program reads version 1'),
        ('{"format": "matting test set", "version": 1}', "damaged: KeyError: 'pictures'"),
        ('{"format": "matting test set", "version": 1, "pictures": []}', r'manifest\.json: lists no pictures'),
    ],
)
def test_a_foreign_manifest_is_refused(tmp_path, text, message):
    (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        find_testset(tmp_path)


def own_set(folder, *names):
    for name in names:
        save(folder / name, noise(4, 4, 3))


def test_a_set_of_ones_own_needs_no_manifest(tmp_path):
    own_set(tmp_path, 'src/a.jpg', 'bgr/a.png', 'pha/a.png', 'fgr/a.png', 'src/deep/b.x.png', 'bgr/deep/b.x.jpg')
    own_set(tmp_path, 'pha/deep/b.x.png', 'trimap/deep/b.x.png', 'pha/surplus.png')
    own_set(tmp_path, *(f'{kind}/walk/{i}.png' for kind in ('src', 'pha') for i in (9, 10, 11)), 'bgr/walk.jpg')
    first, second, *walk = find_testset(tmp_path)
    assert (first.name, first.clip, first.fgr, first.trimap) == ('a', None, tmp_path / 'fgr/a.png', None)
    assert (first.src, first.bgr) == (tmp_path / 'src/a.jpg', tmp_path / 'bgr/a.png')
    assert (second.name, second.clip, second.bgr) == ('deep/b.x', None, tmp_path / 'bgr/deep/b.x.jpg')
    assert (second.fgr, second.trimap) == (None, tmp_path / 'trimap/deep/b.x.png')
    assert [(e.name, e.clip) for e in walk] == [(f'walk/{i}', 'walk') for i in (9, 10, 11)]
    assert {e.bgr for e in walk} == {tmp_path / 'bgr/walk.jpg'}


def test_what_is_no_test_set_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder'):
        find_testset(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r'no test set: it has no manifest\.json, and lacks src/, bgr/, pha/'):
        find_testset(tmp_path)
    with pytest.raises(ValueError, match=r'no test set: it has no manifest\.json'):
        read_manifest(tmp_path)
    own_set(tmp_path, 'src/a.png', 'src/b.png', 'bgr/a.png', 'pha/b.png')
    with pytest.raises(ValueError, match='2 pictures are missing: pha/a, bgr/b'):
        find_testset(tmp_path)
    own_set(tmp_path, 'src/a.jpg')
    with pytest.raises(ValueError, match=r'a\.jpg and .*a\.png: of one name'):
        find_testset(tmp_path)


# The script


def test_the_script_makes_a_set_of_a_data_set(sources, tmp_path, capsys):
    config = tmp_path / 'data.toml'
    parts = ''.join(f'[mine.{split}]\nfgr = "in/fgr"\npha = "in/pha"\n' for split in ('train', 'valid'))
    config.write_text(f'{parts}[backgrounds]\ntrain = "nowhere"\nvalid = "in/bgr"\n')
    flags = ['--dataset-name', 'mine', '--data-config', str(config), '--backgrounds-per-foreground', '2']
    assert make_testset.main([*flags, '--noise', '0.02', '0.03', '--output-dir', str(tmp_path / 'out')]) == 0
    assert '6 pictures of 3 foregrounds' in capsys.readouterr().out
    assert len(find_testset(tmp_path / 'out')) == 6
    assert all(0.02 <= entry['sigma'] <= 0.03 for entry in manifest(tmp_path / 'out')['pictures'])
    assert script(sources, tmp_path / 'same', '--backgrounds-per-foreground', 2, '--noise', 0.02, 0.03) == 0
    assert contents(tmp_path / 'same') == contents(tmp_path / 'out')
    assert make_testset.main([*flags, '--split', 'train', '--output-dir', str(tmp_path / 'no')]) == 2
    assert 'nowhere: no such folder' in capsys.readouterr().err


def test_flags_reach_the_set(sources, tmp_path):
    assert script(sources, tmp_path / 'out', '--resolution', 50, 44, '--clip-frames', 2, '--limit', 1, '--seed', 4) == 0
    assert manifest(tmp_path / 'out')['settings'] == {
        'seed': 4,
        'backgrounds_per_foreground': 1,
        'size': [50, 44],
        'clip_frames': 2,
        'noise': [0.01, 0.01],
        'limit': 1,
    }
    assert [entry.name for entry in find_testset(tmp_path / 'out')] == ['ann-00/0000', 'ann-00/0001']


def test_all_problems_come_in_one_message(sources, tmp_path, capsys):
    (tmp_path / 'out').write_text('')
    flags = ('--clip-frames', 0, '--noise', 0.2, 0.1, '--resolution', 0, 5, '--limit', 0, '--seed', -1)
    assert script(sources, tmp_path / 'out', *flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == 'error: 6 problems:'
    assert [line.split(':')[0].strip() for line in lines[1:]] == [
        '--limit 0',
        '--clip-frames 0',
        '--seed -1',
        '--resolution 0 5',
        '--noise 0.2 0.1',
        f'--output-dir {tmp_path / "out"}',
    ]
    for low, high in (('nan', 0.1), (-0.1, 0.1), (0.1, 1.5)):
        assert f'--noise {low} {high}: must be' in refusal(capsys, sources, tmp_path / 'new', '--noise', low, high)


def test_problems_of_flags_and_of_folders_come_together(sources, tmp_path, capsys):
    shutil.rmtree(sources.bgr)
    assert script(sources, tmp_path / 'out', '--clip-frames', 0) == 2
    assert capsys.readouterr().err.splitlines() == [
        'error: 2 problems:',
        '  --clip-frames 0: must be at least 1',
        f'  --bgr {sources.bgr}: no such folder',
    ]


def test_unusable_sources_are_all_named_before_anything_is_written(sources, tmp_path, capsys):
    out = tmp_path / 'out'
    assert 'holds only 3 pictures' in refusal(capsys, sources, out, '--backgrounds-per-foreground', 4)
    (sources.fgr / 'zoe.png').write_bytes(b'no picture')
    save(sources.pha / 'ann.png', noise(5, 5))
    message = refusal(capsys, sources, out)
    assert '1 pictures cannot be read' in message
    assert 'ann.png is 60x40' in message
    save(sources.pha / 'zoe.jpg', noise(5, 5))
    (sources.pha / 'shots/b.1.png').unlink()
    message = refusal(capsys, sources, out)
    assert '1 pictures have no partner of their name' in message
    assert '1 names occur twice' in message
    shutil.rmtree(sources.bgr)
    sources.bgr.mkdir()
    assert f'{sources.bgr}: no pictures' in refusal(capsys, sources, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--fgr', 'a', '--bgr', 'b'], '--pha missing'),
        (['--dataset-name', 'x', '--pha', 'a'], '--pha a: not together with --dataset-name'),
        (['--dataset-name', 'synthetic'], 'it is drawn and has no files'),
        (['--dataset-name', 'x'], '--data-config data_path.toml: no such file'),
    ],
)
def test_contradicting_sources_are_refused(in_tmp, capsys, flags, message):
    assert make_testset.main([*flags, '--output-dir', 'out']) == 2
    assert message in capsys.readouterr().err


def test_a_share_of_the_data_set_is_what_training_leaves_out(sources, in_tmp, capsys):
    for i in range(5):
        save(sources.bgr / f'more/{i}.png', noise(40, 40, 3, seed=i))
    folders = f'train = {{ fgr = "{sources.fgr}", pha = "{sources.pha}" }}'
    Path('data_path.toml').write_text(
        f'[mine]\n{folders}\nvalid = 0.5\n[backgrounds]\ntrain = "{sources.bgr}"\nvalid = 0.4'
    )
    report = check_files(read_data_config(Path('data_path.toml'), 'mine'))
    for split, pairs, backgrounds in (
        ('train', report.train_pairs, report.train_bgr), ('valid', report.valid_pairs, report.valid_bgr),
    ):  # fmt: skip
        words = ['--dataset-name', 'mine', '--split', split, '--backgrounds-per-foreground', str(len(backgrounds))]
        assert make_testset.main([*words, '--output-dir', split]) == 0
        made = manifest(Path(split))
        assert {sources.fgr / picture['fgr'] for picture in made['pictures']} == {fgr for fgr, _ in pairs}
        assert {sources.bgr / picture['background'] for picture in made['pictures']} == set(backgrounds)
        assert made['roots'].keys() == {'fgr', 'pha', 'bgr'}
    Path('data_path.toml').write_text(Path('data_path.toml').read_text().replace('0.5', '0.000001'))
    assert make_testset.main(['--dataset-name', 'mine', '--output-dir', 'none']) == 2
    assert 'with valid = 1e-06 none of its 3 pictures is of --split valid' in capsys.readouterr().err


def test_a_folder_with_files_is_refused_without_y(sources, tmp_path, capsys):
    out = make(tmp_path / 'out', sources, Settings(seed=9))
    save(out / 'src/mine.png', noise(3, 3))
    before = contents(out)
    assert script(sources, out) == 2
    assert 'not empty' in capsys.readouterr().err
    assert contents(out) == before
    assert script(sources, out, '-y') == 0
    assert contents(out)['src/mine.png'] == before['src/mine.png']
    assert contents(out)['bgr/ann-00.png'] != before['bgr/ann-00.png']
    assert len(find_testset(out)) == 3


@pytest.mark.parametrize('folder', ['in', 'in/fgr', 'in/bgr/src'])
def test_the_sources_are_never_written_to(sources, tmp_path, capsys, folder):
    before = contents(tmp_path / 'in')
    assert script(sources, tmp_path / folder, '-y') == 2
    assert 'it would write among the pictures of' in capsys.readouterr().err
    assert contents(tmp_path / 'in') == before


def test_sources_within_what_would_be_written_are_refused(sources, tmp_path, capsys):
    within = make_sources(tmp_path / 'out/pha')
    before = contents(tmp_path / 'out')
    assert script(within, tmp_path / 'out', '-y') == 2
    assert 'it would write among the pictures of' in capsys.readouterr().err
    assert contents(tmp_path / 'out') == before


def test_making_a_set_needs_no_torch(sources, tmp_path):
    folders = {'fgr': sources.fgr, 'pha': sources.pha, 'bgr': sources.bgr, 'output-dir': tmp_path / 'out'}
    flags = [word for name, folder in folders.items() for word in (f'--{name}', str(folder))]
    check = f'import sys, make_testset\nassert make_testset.main({flags!r}) == 0\nassert "torch" not in sys.modules'
    subprocess.run([sys.executable, '-c', check], check=True, cwd=ROOT)
