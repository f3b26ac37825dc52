"""Tar shards: the samples of their folders, an index that is checked, and what make_shards.py writes and refuses."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import pytest
import torch
from support.pictures import noise, save
from support.shards import batches, data_paths, findings, write_folders, write_shards, write_tar

import make_shards
import make_testset
from dataset.checks import check_files
from dataset.paths import find_images, list_sizes
from dataset.shards import INDEX, index_shard, member_name, picture_name
from dataset.shards import write_shards as make_set
from dataset.stores import open_folder
from evaluation.testset.recipes import Sources


@pytest.fixture
def root(tmp_path, capsys) -> Path:
    write_folders(tmp_path)
    write_shards(tmp_path)
    capsys.readouterr()
    return tmp_path


def of_shards(root):
    return data_paths(root / 'shards.toml', 'shards/pairs/fgr', 'shards/pairs/pha', 'shards/bgr')


def of_folders(root):
    return data_paths(root / 'folders.toml', 'fgr', 'pha', 'bgr')


@pytest.mark.parametrize(
    ('name', 'role', 'member'),
    [
        ('anna/1.jpg', 'fgr', 'anna/1.fgr.jpg'),
        ('a.b/take.1%.JPG', 'pha', 'a.b/take%2E1%25.pha.JPG'),
        ('x%2E.png', '', 'x%252E.png'),
        ('fgr.png', '', 'fgr.png'),
    ],
)
def test_a_name_comes_back_from_what_it_is_called_in_a_tar(name, role, member):
    assert member_name(name, role) == member
    assert picture_name(f'./{member}') == (f'{role}/{name}' if role else name)


def test_a_folder_and_its_shards_give_the_same_samples_whatever_reads_them(root):
    folders, shards = check_files(of_folders(root)), check_files(of_shards(root))
    expected = list(batches(folders, workers=0))
    for workers, start in ((0, 0), (2, 0), (1, 3)):  # the last as after a resume
        found = list(batches(shards, workers, start))
        assert len(found) == len(expected) - start
        for a, b in zip(found, expected[start:]):
            assert a.samples == b.samples
            assert torch.equal(a.mattes, b.mattes)
            assert torch.equal(a.backgrounds, b.backgrounds)
            assert not a.errors


def test_a_run_on_folders_goes_on_with_their_shards(root):
    for name in ('train_fgr', 'train_pha', 'train_bgr'):
        plain, sharded = (getattr(paths, name) for paths in (of_folders(root), of_shards(root)))
        lists = [
            list_sizes(folder, [folder.absolute() / picture for picture in find_images(folder, by_text=True)])
            for folder in (plain, sharded)
        ]
        assert lists[0] == lists[1]


@pytest.mark.parametrize('both', ['.', 'shards/pairs'])
def test_a_set_named_as_a_whole_is_told_its_parts(root, both):
    found = findings(data_paths(root / 'whole.toml', both, both, 'bgr'))
    place = root / both
    assert found.splitlines()[0] == f'train: {place} holds pairs, in two parts: name {place}/fgr and {place}/pha.'


def test_part_of_a_set_is_a_folder(root):
    part = open_folder('shards/pairs/fgr/anna', root)
    assert sorted(map(str, find_images(part))) == ['1.png', '3.tif']
    assert (part / '1.png').read_bytes() == (root / 'fgr/anna/1.png').read_bytes()
    assert str(part / '1.png') == str(root / 'shards/pairs/fgr/anna/1.png')


def rewrite(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


def other_picture(content: bytes) -> bytes:
    at = content.index(b'\xff\xd8\xff') + 200
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE = [
    ('without its index', lambda x: (x / INDEX).unlink(), rf'holds tars and no {INDEX}: make_shards.py --index'),
    ('index cut', lambda x: rewrite(x / INDEX, lambda c: c[:-9]), r'shards.json: no index of tar shards, or damaged'),
    ('another index', lambda x: (x / INDEX).write_text('{"a": 1}'), r'shards.json: no index of tar shards, or damaged'),
    (
        'later index',
        lambda x: rewrite(x / INDEX, lambda c: c.replace(b'"version": 1', b'"version": 2')),
        r'shards.json: of version 2; this program reads version 1',
    ),
    ('tar gone', lambda x: (x / '000000.tar').rename(x / 'x.tar'), r'000000.tar is missing, which shards.json names'),
    ('tar cut', lambda x: rewrite(x / '000000.tar', lambda c: c[:-9]), r'has \d+ bytes, and \d+ by shards.json: '),
    ('other bytes', lambda x: rewrite(x / '000000.tar', other_picture), r'000000.tar does not hold it where its index'),
]  # fmt: skip


@pytest.mark.parametrize(('change', 'message'), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_damaged_set_is_one_line_before_training(root, change, message):
    change(root / 'shards/bgr')
    found = findings(of_shards(root)).splitlines()
    assert len(found) == 2  # train and valid
    assert re.search(message, found[0])
    assert str(root / 'shards/bgr') in found[0]


def test_pictures_of_a_set_are_checked_as_those_of_folders(root):
    jpg = (root / 'fgr/take.0.jpg').read_bytes()
    alpha = (root / 'pha/take.0.png').read_bytes()
    write_tar(root / 'others/a.tar', {
        './1.fgr.jpg': jpg, './1.pha.png': alpha, './2.fgr.jpg': jpg, './3.fgr.jpg': b'no picture',
        './3.pha.png': alpha, './1.json': b'{}', './.hidden.jpg': jpg,
    })  # fmt: skip
    assert make_shards.main(['--index', str(root / 'others')]) == 0
    found = findings(data_paths(root / 'others.toml', 'others/fgr', 'others/pha', 'bgr'))
    assert f'1 files of fgr have no pha: {root}/others/fgr/2.jpg' in found
    assert f'{root}/others/fgr/3.jpg: cannot be read: not a picture' in found
    assert sorted(open_folder('others', root).pictures) == [
        'fgr/1.jpg',
        'fgr/2.jpg',
        'fgr/3.jpg',
        'pha/1.png',
        'pha/3.png',
    ]


def test_tars_are_cut_to_size_with_pairs_together_and_equal_pictures_make_equal_tars(tmp_path):
    for i in range(8):
        for kind in ('fgr', 'pha'):
            save(tmp_path / f'{kind}/{i}.png', noise(200, 300, 3, seed=i))
    first, again = write_shards_of(tmp_path, 'first'), write_shards_of(tmp_path, 'again')
    assert len(first) > 2
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    for path in first:
        assert path.stat().st_size <= 1_000_000
        with tarfile.open(path) as tar:
            names = tar.getnames()
        assert names == [f'{name[0]}.{kind}.png' for name in names[::2] for kind in ('fgr', 'pha')]


def test_long_names_count_when_tars_are_cut(tmp_path):
    samples = [{f'{i}{"x" * 200}.png': tmp_path / f'{i}.png'} for i in range(9)]
    for (picture,) in (sample.values() for sample in samples):
        picture.write_bytes(bytes(500))
    shards = list(make_set(tmp_path / 'set', samples, 16384))
    assert [len(shard.members) for shard in shards] == [3, 3, 3]
    assert max(shard.size for shard in shards) <= 16384


def test_a_member_stored_in_pieces_is_refused(tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w', format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo('1.png')
        info.size = 10
        info.pax_headers = {'GNU.sparse.map': '0,10', 'GNU.sparse.size': '1000'}
        tar.addfile(info, io.BytesIO(bytes(10)))
    with pytest.raises(ValueError, match=r'a\.tar: .*: 1\.png is stored in pieces; pack it without --sparse'):
        index_shard(tmp_path / 'a.tar')


@pytest.mark.parametrize('place', ['{}', '{}/.', 'file://{}'])
def test_a_set_is_never_written_over_while_it_is_read(root, capsys, place):
    at = root / 'shards/bgr'
    before = {path: path.read_bytes() for path in at.iterdir()}
    assert make_shards.main(['--bgr', place.format(at), '--output-dir', str(at), '-y']) == 2
    assert f'--output-dir {at}: holds the tars that are read; choose another folder' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in at.iterdir()} == before


def test_a_set_of_links_to_tars_is_not_written_over(root, capsys):
    at, links = root / 'shards/bgr', root / 'links'
    links.mkdir()
    (links / '000000.tar').symlink_to(at / '000000.tar')
    (links / INDEX).write_bytes((at / INDEX).read_bytes())
    for output in (at, links):
        assert make_shards.main(['--bgr', str(links), '--output-dir', str(output), '-y']) == 2
        assert 'holds the tars that are read' in capsys.readouterr().err
    assert make_shards.main(['--bgr', str(links), '--output-dir', str(root / 'new')]) == 0


def test_backgrounds_are_no_foregrounds_whatever_their_folder_is_called(tmp_path, capsys):
    save(tmp_path / 'bgr/fgr/1.png', noise(9, 9, 3))
    assert make_shards.main(['--bgr', f'{tmp_path}/bgr', '--output-dir', f'{tmp_path}/new']) == 0
    assert capsys.readouterr().out == f'1 pictures in 1 tars: {tmp_path}/new\n'


def test_a_local_set_resolves_to_where_it_lies(root):
    (root / 'link').symlink_to(root / 'shards')
    assert open_folder('link/pairs/fgr', root).resolve() == (root / 'shards/pairs/fgr').resolve()
    assert open_folder('s3://bucket/fgr').resolve() == open_folder('s3://bucket/fgr')
    sources = Sources(*(open_folder(f'shards/{name}', root) for name in ('pairs/fgr', 'pairs/pha', 'bgr')))
    (found,) = make_testset.folder_problems(root / 'shards/pairs', sources, overwrite=True)
    assert 'it would write among the pictures of' in found


def write_shards_of(root, name):
    words = ['--fgr', f'{root}/fgr', '--pha', f'{root}/pha', '--shard-megabytes', '1', '--output-dir', f'{root}/{name}']
    assert make_shards.main(words) == 0
    return sorted((root / name).glob('*.tar'))


def test_a_set_that_was_interrupted_is_not_read(root, monkeypatch, capsys):
    again = ['--bgr', f'{root}/bgr', '--output-dir', f'{root}/shards/bgr']
    assert make_shards.main(again) == 2
    assert 'not empty' in capsys.readouterr().err
    gone = root / 'bgr/2.jpg'
    monkeypatch.setattr(make_shards, 'samples', lambda args, found=make_shards.samples: gone_after(found(args), gone))
    assert make_shards.main([*again, '-y']) == 1
    assert str(gone) in capsys.readouterr().err
    assert [path.name for path in (root / 'shards/bgr').iterdir()] == ['000000.tar']  # that of the first time
    assert 'holds tars and no' in findings(of_shards(root))


def gone_after(found, path):
    path.unlink()
    return found


def test_what_cannot_be_indexed_is_one_line(tmp_path, capsys):
    whole = tmp_path / 'a.tar'
    write_tar(whole, {'1.png': b'x' * 3000, '2.png': b'y' * 3000})
    content = whole.read_bytes()
    second = content.index(b'2.png')
    damaged = content[:second] + b'#' + content[second + 1 :]
    for bytes_ in (b'hello', gzip.compress(content), content[: second + 600], content[:second], damaged):
        (tmp_path / 'b.tar').write_bytes(bytes_)
        with pytest.raises(ValueError, match=r'b\.tar: not a whole tar without compression: '):
            index_shard(tmp_path / 'b.tar')
    (tmp_path / 'b.tar').write_bytes(content)
    assert make_shards.main(['--index', str(tmp_path)]) == 1
    assert 'two pictures of the set are called 1.png' in capsys.readouterr().err
    assert not (tmp_path / INDEX).exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--fgr', 'fgr', '--output-dir', 'new'], '--fgr: give --fgr and --pha, or --bgr alone, or --index alone'),
        (['--bgr', 'bgr'], '--output-dir: must be given'),
        (['--bgr', 'nowhere', '--output-dir', 'new'], 'nowhere: no such folder'),
        (['--index', 'nowhere'], '--index nowhere: no such folder'),
        (['--fgr', 'fgr', '--pha', 'fgr/anna', '--output-dir', 'new'], 'pictures have no partner of their name'),
        (['--bgr', 'bgr', '--output-dir', 'new', '--shard-megabytes', '0'], '--shard-megabytes 0: must be at least 1'),
    ],
)
def test_a_mistake_on_the_command_line_is_said_at_once(root, words, message, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert make_shards.main(words) == 2
    assert message in capsys.readouterr().err
    assert not Path('new').exists()


def test_the_index_is_plain_json(root):
    index = json.loads((root / 'shards/bgr' / INDEX).read_text())
    assert index['shards'][0]['size'] == (root / 'shards/bgr/000000.tar').stat().st_size
    name, offset, size, _ = index['shards'][0]['members'][0]
    content = (root / 'shards/bgr/000000.tar').read_bytes()[offset : offset + size]
    assert content == (root / 'bgr' / name).read_bytes()
