"""Training on pictures in folders."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from support import sabotage
from support.runs import flags, names, record

import train_base


def write_pictures(folder, count=6, side=80):
    g = np.random.default_rng(0)
    for split, kinds in {'train': ('fgr', 'pha', 'bgr'), 'valid': ('fgr', 'pha', 'bgr')}.items():
        for kind in kinds:
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                picture = cv2.GaussianBlur(g.integers(0, 256, (side, side, 3), np.uint8), (0, 0), 4)
                if kind == 'pha':
                    picture = cv2.circle(np.zeros((side, side), np.uint8), (40, 40), 20 + i, 255, -1, cv2.LINE_AA)
                assert cv2.imwrite(str(folder / split / kind / f'{i}.png'), picture)
    Path('data_path.toml').write_text(
        '[mine.train]\nfgr = "train/fgr"\npha = "train/pha"\n[mine.valid]\nfgr = "valid/fgr"\npha = "valid/pha"\n'
        '[backgrounds]\ntrain = "train/bgr"\nvalid = "valid/bgr"\n'
    )


def test_files_train_too_and_findings_stop_before(in_tmp, capsys):
    write_pictures(in_tmp)
    assert train_base.main(flags('run', dataset_name='mine', max_steps=2)) == 0
    assert 'epoch-0-iter-1.pth' in names('checkpoint/run')
    Path('train/pha/3.png').unlink()
    Path('valid/fgr/0.png').write_bytes(b'broken')
    assert train_base.main(flags('other', dataset_name='mine', max_steps=2)) == 2
    err = capsys.readouterr().err
    assert '3.png' in err
    assert '0.png' in err
    assert not Path('checkpoint/other').exists()


def test_a_picture_that_breaks_during_training_is_named(in_tmp, capsys, monkeypatch):
    import dataset.readers
    import dataset.sources

    write_pictures(in_tmp)
    real = dataset.sources.MatteFiles.read

    def read(self, index, min_size=None):
        if index == 2:
            raise dataset.readers.ImageError(f'{self.name(index)}: broke just now')
        return real(self, index, min_size)

    monkeypatch.setattr(dataset.sources.MatteFiles, 'read', read)
    assert train_base.main(flags('run', dataset_name='mine', epoch_end=1)) == 1
    captured = capsys.readouterr()
    assert 'broke just now' in captured.out
    assert 'more than 1 % of its 6 samples' in captured.err


@pytest.fixture
def trained(in_tmp, monkeypatch):
    """Pictures in folders, and a run on them of two steps of the small network."""
    sabotage.tiny(monkeypatch.setattr)
    write_pictures(in_tmp)
    assert train_base.main(flags('run', dataset_name='mine', max_steps=2)) == 0
    return in_tmp


def test_a_share_of_the_training_pictures_validates(trained, capsys):
    config = Path('data_path.toml')
    text = '[mine]\ntrain = { fgr = "train/fgr", pha = "train/pha" }\nvalid = 0.5\n[backgrounds]\ntrain = "train/bgr"\n'
    config.write_text(f'{text}valid = 0.5\n')
    assert train_base.main(flags('share', dataset_name='mine', max_steps=1)) == 0
    identity = record('checkpoint/share', 'epoch-0')['identity']
    train, valid = identity['pictures'][0], identity['validation'][1]
    assert train + valid == 6
    assert f'validation takes {valid} of the 6 pairs, drawn by name (valid = 0.5)' in capsys.readouterr().out
    again = flags('share', dataset_name='mine', max_steps=2, model_last_checkpoint='auto')
    config.write_text(f'{text}valid = 0.4\n')
    assert train_base.main(again) == 2
    assert 'training backgrounds: ' in capsys.readouterr().err
    config.write_text(f'{text}valid = 0.5\n')
    assert train_base.main(again) == 0


def replace(path):
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[::2, ::2])


def add(kinds):
    for kind in kinds:
        Path(f'train/{kind}/9.png').write_bytes(Path(f'train/{kind}/0.png').read_bytes())


CHANGES = {
    'all replaced': (
        lambda: [replace(path) for path in Path('train/bgr').iterdir()],
        'training backgrounds: 6 of another size (0.png, 1.png, 2.png and 3 more)',
    ),
    'renamed': (
        lambda: Path('valid/bgr/3.png').rename('valid/bgr/a.png'),
        'validation backgrounds: 1 added (a.png), 1 gone (3.png)',
    ),
    'added': (
        lambda: add(['fgr', 'pha']),
        'pictures: [6, 6] in the checkpoint, [7, 6] now; training foregrounds: 1 added (9.png); training alphas: 1 '
        'added (9.png)',
    ),
    'list lost': (
        lambda: (replace(Path('train/bgr/1.png')), [path.unlink() for path in Path('checkpoint/run').glob('data-*')]),
        'training backgrounds: not the same files',
    ),
}  # fmt: skip


@pytest.mark.parametrize('change', CHANGES)
def test_a_run_does_not_go_on_with_changed_pictures_unless_told_to(trained, capsys, change):
    make, words = CHANGES[change]
    make()
    before = names('checkpoint/run')
    again = {'dataset_name': 'mine', 'model_last_checkpoint': 'auto'}
    assert train_base.main(flags('run', **again, max_steps=3)) == 2
    assert f'settings ({words}). Use' in (err := capsys.readouterr().err)
    assert '--accept-changed-data goes on with what is there now' in err
    assert names('checkpoint/run') == before
    assert train_base.main(flags('run', **again, max_steps=3, seed=1, accept_changed_data=True)) == 2
    assert train_base.main(flags('run', **again, max_steps=3, accept_changed_data=True)) == 0
    assert f'data changed since epoch-0-iter-1, as accepted: {words}' in capsys.readouterr().out
    assert train_base.main(flags('run', **again, max_steps=4)) == 0
    assert 'data changed' not in capsys.readouterr().out
    assert not [name for name in names('checkpoint/run') if 'aside' in name or name.endswith('.tmp')]


def test_other_ways_to_the_same_pictures_are_the_same_data(trained):
    Path('train').rename('moved')
    config = Path('data_path.toml')
    config.write_text(config.read_text().replace('"train/', f'"{trained}/moved/'))
    again = flags('run', dataset_name='mine', model_last_checkpoint='auto', max_steps=3)
    assert train_base.main(again) == 0
    assert record('checkpoint/run', 'epoch-1-iter-2')['step'] == 2
