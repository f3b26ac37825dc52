"""Training on pictures in folders."""

from pathlib import Path

import cv2
import numpy as np
from support.runs import flags, names

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
