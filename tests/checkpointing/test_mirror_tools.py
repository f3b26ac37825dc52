"""What checkpoints.py does with the URL of a mirror."""

import json
from dataclasses import replace

import pytest
from support.faults import SAVES, auto, holds, snapshot
from support.stores import train

import checkpoints


@pytest.fixture
def mirrored(tmp_path, capsys):
    """A run, its curves, and the URL of its mirror beside others."""
    train(tmp_path / 'run', SAVES)
    (tmp_path / 'log').mkdir()
    (tmp_path / 'log/curves.csv').write_text('step,epoch\n')
    (tmp_path / 'store').mkdir()
    url = f'file://{tmp_path}/store/run'
    assert call('sync', tmp_path / 'run', url, '--log', tmp_path / 'log') == 0
    assert 'now has the 4 checkpoints of' in capsys.readouterr().out
    return tmp_path, url


def call(*words):
    return checkpoints.main([str(word) for word in words])


def damage(folder, pattern):
    (path,) = folder.glob(pattern)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


def test_a_run_comes_back_as_it_was(mirrored):
    folder, url = mirrored
    assert call('sync', url, folder / 'back', '--log', folder / 'back-log') == 0
    assert holds(folder / 'back', auto(folder / 'back').record)
    here, back = snapshot(folder / 'run'), snapshot(folder / 'back')
    assert {name: data for name, data in here.items() if name.startswith('epoch-')} == {
        name: data for name, data in back.items() if name.startswith('epoch-')
    }
    assert snapshot(folder / 'back-log') == snapshot(folder / 'log')
    assert call('sync', folder / 'back', url) == 0  # the same run, so nothing is to be done


@pytest.mark.parametrize('pattern', [f'epoch-0.{"?" * 16}.pth', 'epoch-0.*.ema.pth', 'epoch-2-iter-13.*.state.pth'])
def test_a_file_that_is_gone_from_a_mirror_comes_again(mirrored, pattern):
    folder, url = mirrored
    (gone,) = (folder / 'store/run').glob(pattern)
    gone.unlink()
    assert call('verify', url) == 1
    assert call('sync', folder / 'run', url) == 0
    assert call('verify', url) == 0


@pytest.mark.parametrize('up', [False, True])
def test_curves_that_go_further_are_not_written_over(mirrored, capsys, up):
    folder, url = mirrored
    older, newer = folder / 'older', folder / 'log'
    assert call('sync', url, older, '--log', folder / 'older-log') == 0
    train(folder / 'run', [replace(SAVES[-1], step=20, names={'epoch-3': 'end of epoch'})])
    (newer / 'curves.csv').write_text('step,epoch\n20,3\n')
    if up:
        assert call('sync', folder / 'run', url, '--log', newer) == 0
        assert call('sync', older, url, '--log', folder / 'older-log') == 0
        assert call('sync', url, folder / 'back', '--log', folder / 'back-log') == 0
        assert (folder / 'back-log/curves.csv').read_text() == 'step,epoch\n20,3\n'
    else:
        assert call('sync', url, folder / 'run', '--log', newer) == 0
        assert (newer / 'curves.csv').read_text() == 'step,epoch\n20,3\n'
        # Where there are none at all, they come.
        assert call('sync', url, older, '--log', folder / 'third-log') == 0
        assert (folder / 'third-log/curves.csv').read_text() == 'step,epoch\n'


def test_what_is_left_out_is_said_and_an_error(mirrored, capsys):
    folder, url = mirrored
    damage(folder / 'store/run', 'epoch-2-iter-13.*.state.pth')
    damage(folder / 'store/run', 'epoch-1.json')
    assert call('sync', url, folder / 'back') == 1
    assert capsys.readouterr().out == (
        f'{folder}/back now has 2 of the 4 checkpoints of {url}; left out as damaged: epoch-1, epoch-2-iter-13\n'
    )


def test_list_and_verify_read_every_byte(mirrored, capsys):
    folder, url = mirrored
    parent = url.rpartition('/')[0]
    assert call('list', parent) == 0
    text = capsys.readouterr().out
    assert text.startswith(f'{url}: ')
    assert text.count(' yes') == 4
    assert call('verify', parent) == 0
    assert capsys.readouterr().out.endswith('11 files, 0 damaged\n')
    damage(folder / 'store/run', 'epoch-2-iter-13.*.state.pth')
    assert call('list', '--fast', url) == 0
    assert 'DAMAGED' not in capsys.readouterr().out
    assert call('list', url) == 0
    assert 'DAMAGED: epoch-2-iter-13.state.pth: does not have the sha256' in capsys.readouterr().out
    assert call('verify', url) == 1
    text = capsys.readouterr().out
    assert f'{url}/epoch-2-iter-13.state.pth: DAMAGED: does not have the sha256 of its record' in text
    assert text.endswith('11 files, 1 damaged\n')
    damage(folder / 'store/run', 'epoch-1.json')
    assert call('verify', url) == 1
    assert f'{url}/epoch-1.json: DAMAGED: a damaged record' in capsys.readouterr().out


def test_show_and_pin_take_the_names_of_the_run(mirrored, capsys):
    folder, url = mirrored
    assert call('show', f'{url}/epoch-2-iter-13.pth') == 0
    text = capsys.readouterr().out
    assert text.startswith(f'{url}/epoch-2-iter-13.pth: ')
    assert 'weights of epoch-2-iter-13: base run run, step 13' in text
    assert call('show', f'{url}/epoch-7.pth') == 2
    assert f'error: {url}: holds no epoch-7.pth; there are epoch-0.ema.pth, ' in capsys.readouterr().err
    assert call('pin', f'{url}/epoch-0.pth') == 0
    assert (folder / 'store/run/epoch-0.pin').is_file()
    assert call('pin', '--remove', f'{url}/epoch-0.pth') == 0
    assert not (folder / 'store/run/epoch-0.pin').exists()


def test_files_of_a_mirror_are_those_of_the_folder(mirrored, capsys):
    folder, url = mirrored
    run = folder / 'run'
    for number, (here, there) in enumerate(
        [
            ((run / 'epoch-0.pth', run / 'best.pth'), (f'{url}/epoch-0.pth', f'{url}/best.pth')),
            (('--best', 2, '--run', run), ('--best', 2, '--run', url)),
        ]
    ):
        made = []
        for place, words in (('here', here), ('there', there)):
            output = folder / f'{place}-{number}.pth'
            assert call('average', *words, '-o', output) == 0
            members = json.loads(output.with_suffix('.provenance.json').read_text())['members']
            assert [member['step'] for member in members] == [5, 11]
            made.append((capsys.readouterr().out, members, output.read_bytes()))
        (text, members, content), expected = (repr(part).replace(f'{run}/', f'{url}/') for part in made[0]), made[1]
        assert (text.replace('/here-', '/there-'), members, content) == tuple(map(repr, expected))
    assert call('diff', f'{url}/best.pth', run / 'best.pth') == 0
    assert call('diff', f'{url}/last.pth', run / 'best.pth') == 1
    assert call('convert', f'{url}/last.pth', '-o', folder / 'last.pth') == 0
    assert capsys.readouterr().out.count(f'{url}/last.pth: ') == 1
    assert call('interval', url, '--mtbf', 6, '--save-seconds', 1) == 0
    assert capsys.readouterr().out.startswith(f'{url}, base run run: a save takes 1 s of training (as given); ')


def test_a_damaged_file_of_a_mirror_is_never_used(mirrored, capsys):
    folder, url = mirrored
    damage(folder / 'store/run', f'epoch-1*.{"?" * 16}.pth')
    for words in (('show', f'{url}/best.pth'), ('average', '--best', 2, '--run', url, '-o', folder / 'mean.pth')):
        assert call(*words) == 2
        assert capsys.readouterr().err.endswith(' does not have the size and sha256 of its record\n')
    assert not (folder / 'mean.pth').exists()


def test_refusals_are_one_line(mirrored, capsys):
    folder, url = mirrored
    train(folder / 'other', SAVES[:1], run='other')
    (folder / 'two').mkdir()
    for name in ('run', 'other'):
        assert call('sync', folder / name, f'file://{folder}/two/{name}') == 0
    for words, problem in (
        (('sync', folder / 'other', url), f'{url}: is the mirror of another run, run'),
        (('sync', url, folder / 'other'), f'{url} is the mirror of run run, and {folder}/other holds run other: '),
        (('sync', folder / 'run', folder / 'other'), f'sync {folder}/run {folder}/other: give the folder of a run and'),
        (('sync', folder / 'log', url), f'{folder}/log: holds no checkpoint with a record'),
        (('sync', folder / 'run', url, '--log', folder / 'lgo'), f'--log {folder}/lgo: no such folder'),
        (('list', f'file://{folder}/nothing'), f'file://{folder}/nothing: holds no mirror of a run'),
        (
            ('sync', 'sftp://user:S3cr3t@host/a', 'sftp://user:S3cr3t@host/b'),
            'sync sftp://***@host/a sftp://***@host/b: give the folder of a run and',
        ),
        *(
            (words, f'sftp://***@host/a: {words[0]} takes a path of this computer here, no URL')
            for words in (
                ('list', '--checkpoint-dir', 'sftp://user:S3cr3t@host/a'),
                ('convert', folder / 'run/epoch-0.pth', '-o', 'sftp://user:S3cr3t@host/a'),
            )
        ),
        *(
            (words, 's3x://***@host/x: Protocol not known: s3x')
            for words in (
                ('prune', 's3x://user:S3cr3t@host/x'),
                ('interval', 's3x://user:S3cr3t@host/x', '--mtbf', 1),
                ('average', '--last', 2, '--run', 's3x://user:S3cr3t@host/x', '-o', folder / 'mean.pth'),
                ('average', 's3x://u:S3cr3t@host/x/a.pth', 's3x://u:S3cr3t@host/x/b.pth', '-o', folder / 'mean.pth'),
                ('diff', 's3x://user:S3cr3t@host/x/a.pth', folder / 'run/epoch-0.pth'),
                ('convert', 's3x://user:S3cr3t@host/x/a.pth', '-o', folder / 'a.pth'),
                ('show', 's3x://user:S3cr3t@host/x/a.pth'),
            )
        ),
        *(
            (
                (word, 's3://u:S3cr3t@host/x/best.pth?key=S3cr3t'),
                's3://***@host/x/best.pth: a query (?...) is not read; leave it out',
            )
            for word in ('show', 'pin')
        ),
        (('show', 's3://u:S3cr3t@host/x'), 's3://***@host/x: a URL, but of no .pth file in the mirror of a run'),
        (('interval', url, '--mtbf', 1), f'{url}, base run run: what a save costs is measured on the disk of a run'),
        *(
            ((*words, f'file://{folder}/two'), f'file://{folder}/two: which run? There are 2 mirrors (file://{folder}')
            for words in (('prune',), ('interval', '--mtbf', 1), ('average', '--last', 2, '-o', 'x.pth', '--run'))
        ),
        (('list', 's3x://user:S3cr3t@host/x'), 's3x://***@host/x: Protocol not known: s3x'),
    ):
        assert call(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'error: {problem}')


def test_a_folder_of_runs_is_no_run(mirrored, capsys):
    folder, url = mirrored
    parent = url.rpartition('/')[0]
    for words in (
        ('show', f'{parent}/best.pth'), ('verify', f'{parent}/best.pth'), ('pin', f'{parent}/last.pth'),
        ('convert', f'{parent}/best.pth', '-o', folder / 'best.pth'),
    ):  # fmt: skip
        assert call(*words) == 2
        assert capsys.readouterr().err == (
            f'error: {parent}: holds no mirror of a run; name the one that is meant of the folders in it (run)\n'
        )
    assert not [*(folder / 'store').rglob('*.pin')]


def test_files_are_verified_by_their_names(mirrored, capsys):
    folder, url = mirrored
    assert call('verify', f'{url}/best.pth', f'{url}/epoch-0.pth') == 0
    text = capsys.readouterr().out
    assert f'{url}/best.pth: whole, by the sha256 of its record' in text
    assert text.endswith('2 files, 0 damaged\n')
    (path,) = (folder / 'store/run').glob(f'epoch-0.{"?" * 16}.pth')
    path.unlink()
    assert call('verify', f'{url}/epoch-0.pth') == 1
    assert f'{url}/epoch-0.pth: DAMAGED: missing' in capsys.readouterr().out
    assert call('verify', f'{url}/epoch-7.pth') == 2
    assert f'error: {url}: holds no epoch-7.pth; there are ' in capsys.readouterr().err


def test_messages_name_urls_not_temporary_paths(mirrored, capsys):
    folder, url = mirrored
    assert call('convert', f'{url}/last.state.pth', '-o', folder / 'x.pth') == 2
    assert f'error: {url}: holds no last.state.pth; there are ' in capsys.readouterr().err
    assert call('convert', f'{url}/epoch-2-iter-13.state.pth', '-o', folder / 'x.pth') == 2
    assert capsys.readouterr().err.startswith(f'error: {url}/epoch-2-iter-13.state.pth: ')
    for path in (folder / 'store/run').glob('*.json'):
        path.write_text('no record')
    assert call('interval', url, '--mtbf', 6, '--save-seconds', 1) == 2
    assert capsys.readouterr().err == f'error: {url}: holds no checkpoint with a record\n'


def test_a_folder_that_is_a_mirror_is_known_by_its_path(mirrored, capsys):
    folder, url = mirrored
    assert call('list', url) == 0
    expected = capsys.readouterr().out
    for path in (folder / 'store/run', folder / 'store'):
        assert call('list', path) == 0
        assert capsys.readouterr().out == expected


def test_a_mirror_without_curves_is_known_by_its_path_and_a_run_is_none(mirrored, capsys):
    folder, url = mirrored
    (folder / 'store/run/curves.index').unlink()
    assert call('verify', folder / 'store/run') == 0
    assert f'{url}/epoch-0.pth: whole' in capsys.readouterr().out
    assert call('sync', folder / 'store/run', folder / 'back') == 0
    assert holds(folder / 'back', auto(folder / 'back').record)
    # Not so a run in whose folder somebody put a file of the mirror.
    (copied,) = (folder / 'store/run').glob(f'epoch-0.{"?" * 16}.pth')
    (folder / 'run' / copied.name).write_bytes(copied.read_bytes())
    assert call('verify', folder / 'run') == 0
    assert f'{folder}/run/epoch-0.pth: whole' in capsys.readouterr().out


def test_what_two_checkpoints_share_is_nobodys_leftover(mirrored, capsys):
    folder, url = mirrored
    store = folder / 'store/run'
    records = [json.loads(path.read_text()) for path in store.glob('*.json')]
    steps = [record['step'] for record in records]
    names = [record['name'] for record in records if steps.count(record['step']) > 1]
    (first,) = (name for name in names if any(store.glob(f'{name}.*.pth')))
    (store / f'{first}.json').unlink()
    assert call('list', url) == 0
    assert 'without a record' not in capsys.readouterr().out
