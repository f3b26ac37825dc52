"""Sheets of samples and tables of curves: what they show, and that making them costs a training nothing."""

import csv
import errno
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support import sabotage
from support.runs import flags, names
from support.small_run import END, finish, make_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_base
import training.logs
from common.files import Disk
from dataset.augmentation import Composite
from training.curves import Curves, draw
from training.logs import Logger
from training.sheets import COLUMNS, GAP, LEAST_SIDE, LINE, MOST, Sheet, thin_out
from training.validation import Prediction

SIDE = 180


def prediction(count=2, side=SIDE, value=0.5):
    """A batch of which the network says `value` everywhere, and a quarter of which is the subject."""
    true_pha = torch.zeros(count, 1, side, side)
    true_pha[..., : side // 2, : side // 2] = 1
    src, bgr = torch.full((count, 3, side, side), 0.25), torch.full((count, 3, side, side), 0.75)
    fgr = torch.ones(count, 3, side, side)
    return Prediction({}, torch.full_like(true_pha, value), fgr, {}, Composite(src, bgr, fgr, true_pha))


def drawn(sheet):
    """The sheet's cells by column, for each row, as uint8 arrays."""
    path = Path('sheet.jpg')
    path.write_bytes(sheet.draw('title', 'run')[0])
    picture = np.array(Image.open(path).convert('RGB'))
    side = sheet.rows[0][1][0].shape[0]
    return [
        {
            name: picture[top : top + side, GAP + i * (side + GAP) :][:, :side].astype(int)
            for i, name in enumerate(COLUMNS)
        }
        for top in (2 * LINE + row * (side + LINE + 2 * GAP) for row in range(len(sheet.rows)))
    ]


def test_a_sheet_shows_what_was_predicted_beside_what_is_true(in_tmp):
    sheet = Sheet(batches=1)
    sheet.look(['data/fgr/a.png', 'data/fgr/b.png'], prediction())
    (label, _), _ = sheet.rows
    # A quarter is half too little, three quarters half too much.
    assert label == 'fgr/a.png: mean error of alpha 0.5000'
    for row in drawn(sheet):
        subject, around = (np.s_[20:60, 20:60], np.s_[100:140, 100:140])
        levels = {name: (cell[subject].mean(), cell[around].mean()) for name, cell in row.items()}
        assert levels['source'] == pytest.approx((64, 64), abs=3)
        assert levels['plate'] == pytest.approx((191, 191), abs=3)
        assert levels['alpha'] == pytest.approx((128, 128), abs=3)
        assert levels['true alpha'] == pytest.approx((255, 0), abs=3)
        red, _, blue = row['error'][around].mean((0, 1))
        assert red > blue + 100, 'too much is orange'
        red, _, blue = row['error'][subject].mean((0, 1))
        assert blue > red + 100, 'too little is blue'
        cut_out = row['cut-out'][around]
        assert cut_out.max() - cut_out.min() > 20, 'squares show through'


def test_small_pictures_are_enlarged_and_large_ones_made_small(in_tmp):
    for side, expected in ((64, LEAST_SIDE), (180, 180), (1024, 320)):
        sheet = Sheet(1)
        sheet.look(['a'], prediction(1, side))
        assert {cell.shape for cell in sheet.rows[0][1]} == {(expected, expected, 3)}


@pytest.mark.parametrize('figures', [1, 12])
def test_all_of_the_title_and_the_legend_is_there_on_small_sheets(figures):
    sheet = Sheet(1)
    sheet.look(['a'], prediction(1, 64))
    picture = np.array(Image.open(io.BytesIO(sheet.draw('valid_metric 0.12345, ' * figures + '|', 'run')[0])))
    title, legend = picture[:LINE].min((0, 2)), picture[LINE : 2 * LINE].min((0, 2))
    assert title[:100].min() < 100
    assert title[-GAP:].min() > 200, 'cut off at the right'
    column = (LEAST_SIDE + GAP) * (1 + COLUMNS.index('error'))
    assert legend[column - GAP : column].min() > 200, 'runs into the next column'


@pytest.mark.parametrize(
    ('sizes', 'expected'),
    [
        ([4, 4], ['0-0', '0-2', '1-0', '1-2']),
        ([1, 1, 1], ['0-0', '1-0', '2-0']),
        ([8] * 6 + [2], ['0-0', '2-0', '4-0', '6-0']),
        ([8], ['0-0', '0-2', '0-4', '0-6']),
        ([2], ['0-0', '0-1']),
    ],
)
def test_the_samples_are_spread_over_the_validation_and_the_same_each_time(sizes, expected):
    for _ in range(2):
        sheet = Sheet(len(sizes))
        for i, size in enumerate(sizes):
            sheet.look([f'{i}-{j}' for j in range(size)], prediction(size, 8))
        assert [label.partition(':')[0] for label, _ in sheet.rows] == expected


def test_thinning_keeps_the_first_the_newest_the_best_and_an_even_spread(tmp_path):
    sheets, best = {}, 130
    for step in range(0, 3000, 10):
        sheets[step] = tmp_path / f'valid-{step}.jpg'
        sheets[step].touch()
        thin_out(Disk(), sheets, best)
        sheets = {step: path for step, path in sheets.items() if path.exists()}
        assert len(sheets) <= MOST
    steps = list(sheets)
    assert {0, best, 2990} <= set(steps)
    gaps = np.diff([step for step in steps if step != best])[:-1]
    assert gaps.max() <= 4 * gaps.min()


@pytest.fixture
def tiny(in_tmp, monkeypatch):
    sabotage.tiny(monkeypatch.setattr)
    return flags('run', ema_decay=0.9, monitor='ema_loss', epoch_end=1)


def test_a_short_run_leaves_a_sheet_a_table_and_a_picture_of_it(tiny, monkeypatch, capsys):
    monkeypatch.setattr(training.logs, 'draw', draw)
    assert train_base.main(tiny) == 0
    folder = Path('log/run')
    assert {'valid-2.jpg', 'curves.csv', 'curves.png'} <= set(names(folder))
    assert not [name for name in names(folder) if name.endswith('.tmp')]
    (event,) = EventAccumulator(str(folder)).Reload().Images('valid_samples')
    assert event.step == 2
    assert event.encoded_image_string == (folder / 'valid-2.jpg').read_bytes()
    with Image.open(folder / 'curves.png') as picture:
        assert min(picture.size) > 500
    rows = list(csv.DictReader((folder / 'curves.csv').open()))
    assert [(row['step'], row['epoch']) for row in rows] == [('0', '0'), ('1', '0'), ('2', '0')]
    assert [bool(row['valid_ema_sad']) for row in rows] == [False, False, True]
    out = capsys.readouterr().out
    assert 'best: valid_ema_loss ' in out
    assert 'at step 2, checkpoint/run/epoch-0.ema.pth' in out
    assert 'pictures and curves in log/run: valid-2.jpg, curves.png, curves.csv; tensorboard --logdir log' in out


def test_a_new_run_sets_aside_what_another_of_its_name_has_left(tiny, caplog):
    assert train_base.main(tiny) == 0
    folder = Path('log/run')
    former = {name: (folder / name).read_bytes() for name in ('curves.csv', 'valid-2.jpg')}
    (folder / 'valid-1.jpg').write_bytes(b'of the user')
    for path in Path('checkpoint/run').iterdir():
        path.unlink()
    assert train_base.main([*tiny, '--log-valid-interval', '1']) == 0
    assert {name: (folder / f'{name}.aside').read_bytes() for name in former} == former
    assert (folder / 'valid-1.jpg.aside').read_bytes() == b'of the user'
    assert (folder / 'valid-2.jpg').read_bytes() != former['valid-2.jpg']


def test_what_a_cut_run_has_left_beyond_its_checkpoint_goes_and_nothing_else(tmp_path):
    def begin(start):
        logger = Logger(tmp_path, start, 99, run='mine', epoch_steps=2)
        for step in range(start, start + 4):
            logger.scalars(step, {'loss': step / 8})
            sheet = Sheet(1)
            sheet.look(['a'], prediction(1, 8))
            logger.sheet = sheet
            logger.validation(step, {'valid_loss': float(step)}, SimpleNamespace(standing=lambda _: (True, None)))
        logger.flush()
        return logger

    begin(0)
    (tmp_path / 'valid-7.jpg').write_bytes((tmp_path / 'valid-1.jpg').read_bytes())
    Image.new('RGB', (8, 8)).save(tmp_path / 'valid-8.jpg', comment=b'of another run')
    logger = Logger(tmp_path, 2, 99, run='mine', epoch_steps=2)
    logger.scalars(2, {'loss': 9.0, 'new': 1.0})
    logger.flush()
    assert {name for name in names(tmp_path) if name.endswith('.jpg')} == {'valid-0.jpg', 'valid-1.jpg', 'valid-8.jpg'}
    assert (tmp_path / 'curves.csv').read_text().splitlines() == [
        'step,epoch,loss,valid_loss,new', '0,0,0,0,', '1,0,0.125,1,', '2,1,9,,1',
    ]  # fmt: skip


def test_a_validation_that_was_made_up_for_stands_in_the_row_of_its_step(tmp_path):
    path = tmp_path / 'curves.csv'
    first = Curves(path, 0, 10)
    first.add(3, {'loss': 1.0})
    path.write_bytes(first.to_bytes())
    again = Curves(path, 4, 10)
    again.add(3, {'valid_loss': 2.0})
    again.add(4, {'loss': 0.5})
    assert again.to_bytes() == b'step,epoch,loss,valid_loss\n3,0,1,2\n4,0,0.5,\n'


def test_a_file_that_is_no_table_of_curves_is_set_aside(tmp_path, caplog):
    (tmp_path / 'curves.csv').write_text('mine\n')
    logger = Logger(tmp_path, 5, 9)
    logger.scalars(5, {'loss': 1.0})
    logger.flush()
    assert (tmp_path / 'curves.csv.aside').read_text() == 'mine\n'
    assert (tmp_path / 'curves.csv').read_text() == 'step,epoch,loss\n5,0,1\n'


def test_a_long_curve_is_thinned_out_and_gaps_are_none(tmp_path):
    curves = Curves(tmp_path / 'curves.csv', 0, 100)
    for step in range(10_000):
        curves.add(step, {'loss': 1.0} | ({'valid_loss': 2.0} if step % 5000 == 4999 else {}))
    points = curves.points()
    assert len(points['loss'][0]) <= 2000
    assert points['valid_loss'][0].tolist() == [4999, 9999]
    assert draw(curves, best=4999).startswith(b'\x89PNG')


@pytest.mark.parametrize('where', ['create', 'fsync', 'replace'])
def test_a_failure_to_write_files_costs_one_warning_and_no_training(tiny, monkeypatch, capsys, where):
    real = getattr(Disk, where)

    def fail(self, subject, *more):
        if 'log/run' in str(subject if isinstance(subject, Path) else subject.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, subject, *more)

    monkeypatch.setattr(Disk, where, fail)
    assert train_base.main([*tiny, '--log-valid-interval', '1']) == 0
    out = capsys.readouterr().out
    for what in ('curves.csv', 'curves.png', 'sheets of validation samples'):
        assert out.count(f'{what} cannot be made') == 1
    assert names('log/run')[1:] == []


def test_pictures_that_cannot_be_drawn_end_no_training(tmp_path, caplog):
    run = make_run(tmp_path, seed=0)
    run.logger = Logger(tmp_path / 'log', 0, END)
    finish(run)  # what this stage predicts has no pictures
    assert caplog.text.count('sheets of validation samples cannot be made') == 1


def test_without_matplotlib_only_the_picture_of_the_curves_is_missing(tiny, monkeypatch, capsys):
    monkeypatch.setattr(training.logs, 'draw', draw)
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert train_base.main(tiny) == 0
    assert 'curves.png cannot be made' in capsys.readouterr().out
    assert {'valid-2.jpg', 'curves.csv'} <= set(names('log/run'))


def test_sheets_and_curves_draw_no_random_numbers(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    sheet, curves = Sheet(1), Curves(tmp_path / 'curves.csv', 0, 9)
    sheet.look(['a', 'b'], prediction())
    sheet.draw('title', 'run')
    curves.add(0, {'loss': 1.0})
    draw(curves, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.random.get_state()[1].tolist() == before[1]
