"""What people put in: names of every kind, rigs of every layout, folders that go on, PNG files of every kind."""

from __future__ import annotations

import io
import logging
import os
import struct
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support import pictures
from support.evaluate_case import disc, make_set, refused
from support.inference_case import Case, files, photo, room, save
from support.png_files import png
from support.testset_case import make_sources, script

import inference_images
from common.console import say
from common.files import path_or_content
from dataset import ImagesDataset
from dataset.checks import check_files
from dataset.pairing import by_last_parts, natural_order
from dataset.paths import DataPaths, describe_changes, find_images, list_sizes
from dataset.readers import alpha_source, read_alpha, read_rgb
from evaluation.folders import find_predictions
from evaluation.testset.layout import find_testset, find_truth
from inference.images.inputs import find_jobs
from inference.images.writer import PictureWriter, is_whole, overwriting_problems
from inference.processes import Shard
from training import logs

pytestmark = pytest.mark.usefixtures('one_thread')

NOT_TEXT = os.fsdecode(b'caf\xe9')
NFC, NFD = (unicodedata.normalize(form, 'Zoë') for form in ('NFC', 'NFD'))


def make(folder: Path, *names: str, kind: str = 'RGB') -> Path:
    """Pictures of 4 x 4 pixels."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(kind, (4, 4), 128).save(folder / name)
    return folder


def plates_of(src: Path, bgr: Path) -> tuple[dict[str, str | None], list[str], list[str]]:
    """Plate by picture, both below their folders; problems; notes."""
    jobs, problems, notes = find_jobs(src, bgr, src.parent / 'out', False)
    found = {job.src.relative_to(src).as_posix(): job.bgr and job.bgr.relative_to(bgr).as_posix() for job in jobs}
    return found, problems, notes


# Order


def test_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    expected = ['01/b', '1/a', '2/a', 'a', 'a1', 'a2', 'a2b', 'a10', 'a10b2', 'a10b11', 'b']
    assert sorted(expected, key=natural_order) == expected
    make(tmp_path / 'src', *(f'{name}.png' for name in expected))
    assert [path.with_suffix('').as_posix() for path in find_images(tmp_path / 'src')] == expected
    assert ImagesDataset(tmp_path / 'src').filenames == [str(tmp_path / f'src/{name}.png') for name in expected]


def test_plates_are_paired_in_the_order_of_the_numbers_in_names(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', *(f'IMG_{i}.jpg' for i in range(1, 13)))
    bgr = make(tmp_path / 'bgr', *(f'plate_{i:02}.png' for i in range(1, 13)))
    found, problems, (note,) = plates_of(src, bgr)
    assert (found, problems) == ({f'IMG_{i}.jpg': f'plate_{i:02}.png' for i in range(1, 13)}, [])
    assert f'{src}/IMG_1.jpg with {bgr}/plate_01.png ... {src}/IMG_12.jpg with {bgr}/plate_12.png' in note
    (bgr / 'plate_03.png').unlink()
    _, (problem,), notes = plates_of(src, bgr)
    assert 'or as many plates as pictures, not 11 and 12' in problem
    assert notes == []


def test_samples_of_a_run_stay_in_the_order_that_they_had(tmp_path: Path) -> None:
    names = ['a10', 'a2', f'{NFD}1', 'b/c', 'b-c', 'B']
    fgr, pha, bgr = (make(tmp_path / kind, *(f'{name}.png' for name in names)) for kind in ('fgr', 'pha', 'bgr'))
    report = check_files(DataPaths(fgr, pha, fgr, pha, bgr, bgr))
    expected = [fgr / f'{name}.png' for name in ('B', f'{NFD}1', 'a10', 'a2', 'b-c', 'b/c')]
    assert [pair[0] for pair in report.train_pairs] == expected
    assert report.train_bgr == [bgr / path.relative_to(fgr) for path in expected]


# Letters


def test_letters_with_accents_are_matched_however_they_are_stored(tmp_path: Path) -> None:
    src = make(tmp_path / 'src', f'{NFD}.png', 'Ana.png')
    bgr = make(tmp_path / 'bgr', f'{NFC}.png', 'Ana.png')
    assert plates_of(src, bgr)[:2] == ({f'{NFD}.png': f'{NFC}.png', 'Ana.png': 'Ana.png'}, [])
    jobs = find_jobs(src, bgr, tmp_path / 'out', False)[0]
    assert {job.name for job in jobs} == {NFD, 'Ana'}  # outputs are named as their sources
    report = check_files(DataPaths(src, bgr, src, bgr, bgr, bgr))
    assert (src.absolute() / f'{NFD}.png', bgr.absolute() / f'{NFC}.png') in report.train_pairs
    make(tmp_path / 'set/pha', f'{NFC}.png')
    make(tmp_path / 'pred', f'{NFD}.png')
    assert find_predictions(tmp_path / 'pred', find_truth(tmp_path / 'set')).problems == []


def test_names_that_only_look_alike_are_refused_by_name(tmp_path: Path) -> None:
    src, bgr = make(tmp_path / 'src', f'{NFD}.png', f'{NFC}.jpg'), make(tmp_path / 'bgr', 'plate.png')
    escaped = (r'Zoe\u0308.png', r'Zo\xeb.png')
    (src / f'{NFC}.jpg').rename(src / f'{NFC}.png')
    found = check_files(DataPaths(src, src, src, src, bgr, bgr)).findings
    (problem,) = plates_of(src, bgr)[1]
    with pytest.raises(ValueError, match='of one name') as refusal:
        find_truth(src)
    for message in (problem, found[0], str(refusal.value)):
        assert all(name in message for name in escaped)


def test_a_test_set_may_have_been_on_a_disk_that_stores_letters_in_another_way(tmp_path: Path) -> None:
    sources = make_sources(tmp_path)
    for folder in (sources.fgr, sources.pha):
        (folder / 'ann.png').rename(folder / f'{NFC}.png')
    assert script(sources, tmp_path / 'set') == 0
    for path in (tmp_path / 'set').rglob(f'{NFC}*'):
        path.rename(path.with_name(unicodedata.normalize('NFD', path.name)))
    assert f'{NFC}-00' in [truth.name for truth in find_testset(tmp_path / 'set')]


# Rigs


def test_a_rig_stored_by_time_is_matched_by_the_last_parts_of_paths(tmp_path: Path) -> None:
    names = [f'frame_{time:05}/images/cam_{camera}.png' for time in range(2) for camera in 'AB']
    src = make(tmp_path / 'set/src', *names)
    bgr = make(tmp_path / 'set/bgr', 'cam_A.png', 'cam_B.png')
    found, problems, (note,) = plates_of(src, bgr)
    assert (found, problems) == ({name: Path(name).name for name in names}, [])
    assert '4 pictures are matched by the last parts of their paths' in note
    make(tmp_path / 'set/pha', *names, kind='L')
    truths = find_testset(tmp_path / 'set')
    times = ['frame_00000/images/cam', 'frame_00001/images/cam']
    assert [(x.name, x.clip) for x in truths] == [(f'{x}_{c}', f'cam_{c}') for c in 'AB' for x in times]
    assert [x.bgr for x in truths] == [bgr / f'cam_{c}.png' for c in 'AABB']


def test_last_parts_count_only_where_they_are_one_files_and_no_path_agrees(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert by_last_parts(['t/x/a', 't/x/b', 'c'], ['a', 'x/a', 'y/b', 'z/b']) == {'t/x/a': 'x/a'}
    src, bgr = make(tmp_path / 'src', 't/a.png', 't/b.png'), make(tmp_path / 'bgr', 'x/a.png', 'y/a.png', 'z/a.png')
    assert 'no plate for 2 of 2 pictures (t/a, t/b)' in plates_of(src, bgr)[1][0]
    make(bgr, 't/b.png')
    assert 'no plate for 1 of 2 pictures (t/a)' in plates_of(src, bgr)[1][0]
    truths = find_truth(make(tmp_path / 'set', 'pha/1.png', 'pha/2.png', kind='L'))
    predicted = make(tmp_path / 'pred', 'run/1.png', 'run/2.png', kind='L')
    found = find_predictions(predicted, truths)
    assert (found.pha, found.problems) == ({name: predicted / f'run/{name}.png' for name in '12'}, [])
    assert 'matched by the last parts of their paths: run/1.png belongs to 1' in caplog.text
    truths = find_truth(make(tmp_path / 'other', 'pha/s/1.png', 'pha/t/1.png', kind='L'))
    assert '2 of 2 pictures are missing' in find_predictions(make(tmp_path / 'one', '1.png'), truths).problems[0]


def test_a_lone_plate_serves_all_unless_it_is_that_of_some(tmp_path: Path) -> None:
    names = [f'f{time}/images/{camera}.png' for time in range(2) for camera in 'AB']
    src, bgr = make(tmp_path / 'src', *names), make(tmp_path / 'bgr', 'A.png')
    found, (problem,), _ = plates_of(src, bgr)
    assert found == {name: 'A.png' if name.endswith('A.png') else None for name in names}
    assert 'no plate for 2 of 4 pictures (f0/images/B, f1/images/B)' in problem
    assert problem.endswith('--skip-unmatched does the others')
    assert find_jobs(src, bgr, tmp_path / 'out', False, skip_unmatched=True)[1] == []
    (bgr / 'A.png').rename(bgr / 'wall.png')
    assert plates_of(src, bgr) == (dict.fromkeys(names, 'wall.png'), [], [])


def test_numbers_alone_are_no_reason_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    src = make(tmp_path / 'src', *(f'subj/{i:04}.png' for i in range(1, 6)))
    bgr = make(tmp_path / 'bgr', *(f'bg/{i:04}.png' for i in range(3, 8)))
    _, (problem,), _ = plates_of(src, bgr)
    assert 'no plate for 2 of 5 pictures (subj/0001, subj/0002)' in problem
    assert problem.endswith('the others have no more than a number in common with theirs, which may be chance')
    truths = find_truth(make(tmp_path / 'set', 'pha/0001.png', 'pha/0002.png', kind='L'))
    predicted = make(tmp_path / 'pred', 'a/0001.png', 'b/0002.png', kind='L')
    assert '2 of 2 pictures are missing' in find_predictions(predicted, truths).problems[0]
    assert not caplog.records


# Names that are no text


def test_lines_reach_any_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, shown in (('ascii', rb'caf\udce9 Zo\xeb'), ('utf-8', r'caf\udce9 Zoë'.encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors='strict')
        monkeypatch.setattr(sys, 'stdout', stream)
        say(f'{NOT_TEXT} {NFC}', to_stdout=True)
        stream.flush()
        assert stream.buffer.getvalue() == shown + b'\n'


def test_training_says_what_its_files_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding='utf-8', errors='strict')
    monkeypatch.setattr(sys, 'stdout', stream)
    record = logging.LogRecord('training', logging.INFO, '', 0, 'saved %s', (NOT_TEXT,), None)
    logs._TqdmHandler().emit(record)
    assert stream.buffer.getvalue() == b'saved caf\\udce9\n'


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have no such names')
def test_names_that_are_no_text_go_through(tmp_path: Path) -> None:
    sources = make_sources(tmp_path)
    for folder in (sources.fgr, sources.pha):
        (folder / 'ann.png').rename(folder / f'{NOT_TEXT}.png')
    assert script(sources, tmp_path / 'set') == 0
    assert f'{NOT_TEXT}-00' in [truth.name for truth in find_testset(tmp_path / 'set')]
    before = list_sizes(sources.fgr, [sources.fgr / f'{NOT_TEXT}.png'])
    other = pictures.save(sources.fgr / (os.fsdecode(b'caf\xe8') + '.png'), room(0))
    assert describe_changes(before, before + list_sizes(sources.fgr, [other])).startswith('1 added')
    (tmp_path / NOT_TEXT).write_bytes(b'content')
    assert path_or_content(tmp_path / NOT_TEXT) == b'content'
    assert path_or_content(tmp_path / NFC) == str(tmp_path / NFC)


def test_a_name_that_is_too_long_costs_its_picture_alone(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    long = 'x' * 251
    for name in (long, 'a'):
        save(case.src / f'{name}.png', photo(room(0), 1))
    case.bgr = save(case.bgr / 'plate.png', room(0))
    assert case.run('--picture-format', 'pha=webp') == 1
    assert files(case.out) == {'pha/a.webp'}
    captured = capsys.readouterr()
    assert f'{long}.webp: cannot be written: File name too long' in captured.err
    assert '1 pictures done, 1 failed' in captured.out


def test_a_test_set_whose_names_would_be_too_long_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = make_sources(tmp_path)
    for folder in (sources.fgr, sources.pha):
        (folder / 'ann.png').rename(folder / f'{"x" * 250}.png')
    assert script(sources, tmp_path / 'set') == 2
    assert '1 names are too long for what is added to them: xxx' in capsys.readouterr().err
    assert not (tmp_path / 'set').exists()


# Folders that go on


def test_a_folder_goes_on_with_what_is_missing(pair: Case, capsys: pytest.CaptureFixture[str]) -> None:
    types = ('pha', 'fgr')
    assert pair.run(types=types) == 0
    whole = {path: path.read_bytes() for path in pair.out.rglob('*.jpg')}
    assert len(whole) == 4
    times = {path: path.stat().st_mtime_ns for path in whole}
    (pair.out / 'pha/a.jpg').unlink()
    (pair.out / 'fgr/shots/b.0001.jpg').write_bytes(whole[pair.out / 'fgr/shots/b.0001.jpg'][:-9])
    pair_again = ('--skip-existing',)
    assert pair.run(*pair_again, types=types) == 0
    assert '0 of 2 pictures are there already and skipped' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in pair.out.rglob('*.jpg')} == whole
    kept = [path.relative_to(pair.out).as_posix() for path in whole if path.stat().st_mtime_ns == times[path]]
    assert sorted(kept) == ['fgr/a.jpg', 'pha/shots/b.0001.jpg']
    assert pair.run(*pair_again, types=types) == 0
    captured = capsys.readouterr()
    assert '2 of 2 pictures are there already and skipped' in captured.err
    assert '0 pictures done, 0 failed' in captured.out
    assert pair.run(*pair_again, '-y', types=types) == 2
    assert '--skip-existing: not together with -y' in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp'])
def test_what_is_cut_is_not_whole(tmp_path: Path, suffix: str) -> None:
    writer = PictureWriter(tmp_path, {'pha': suffix})
    writer.write_picture('pha', 'a', room(0))
    path = writer.path('pha', 'a')
    assert is_whole(path)
    whole = path.read_bytes()
    zero_filled = whole[: len(whole) // 2].ljust(len(whole), b'\0')
    for part in (whole[:-1], whole[:9], b'', bytes(len(whole)), zero_filled):
        path.write_bytes(part)
        assert not is_whole(path)


def test_an_even_picture_is_whole(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path, {'pha': 'webp'})
    writer.write_picture('pha', 'a', np.zeros((1080, 1920), np.uint8))
    path = writer.path('pha', 'a')
    assert path.read_bytes().endswith(bytes(100))
    assert is_whole(path)


def test_a_folder_that_was_cut_is_refused_with_the_way_on(tmp_path: Path) -> None:
    writer = PictureWriter(tmp_path, {'pha': 'png'})
    writer.write_picture('pha', 'a', room(0))
    (problem,) = overwriting_problems(writer, [], [], False)
    assert problem.endswith('or --skip-existing to write only what a run that was cut left out')


def test_what_is_there_is_counted_over_all_processes(
    pair: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr('inference.backend_options.find', lambda *_: None)
    words = ['--model-checkpoint', str(pair.checkpoints['mattingbase']), '--model-type', 'mattingbase',
             '--model-backbone', 'mobilenetv2', '--images-src', str(pair.src), '--images-bgr', str(pair.bgr),
             '--output-dir', str(pair.out), '--output-types', 'pha', '--skip-existing']  # fmt: skip
    writer = PictureWriter(pair.out, {'pha': 'jpg'})
    for name in ('a', 'shots/b.0001'):
        writer.write_picture('pha', name, room(0))
    for rank in range(2):
        assert inference_images.prepare(inference_images.parse(words), Shard(rank, 2))[0] == []
    assert capsys.readouterr().err.count('2 of 2 pictures are there already and skipped') == 1


def test_pictures_without_a_plate_cost_the_others_nothing_if_that_is_asked_for(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    for camera in ('cam1', 'cam2', 'cam3'):
        save(case.src / f'{camera}/1.png', photo(room(0), 1))
    save(case.bgr / 'cam1.png', room(0))
    save(case.bgr / 'cam3.png', room(0))
    assert case.run() == 2
    message = capsys.readouterr().err
    assert 'no plate for 1 of 3 pictures (cam2/1)' in message
    assert message.endswith('--skip-unmatched does the others\n')
    assert case.run('--skip-unmatched') == 1
    captured = capsys.readouterr()
    assert f'failed: {case.src}/cam2/1.png: it has no plate' in captured.err
    assert '2 pictures done, 1 failed' in captured.out
    assert files(case.out) == {'pha/cam1/1.jpg', 'pha/cam3/1.jpg'}


# PNG files


@pytest.mark.parametrize(
    ('rows', 'depth', 'colour', 'transparent'),
    [
        (np.array([[10, 150]], np.uint8), 8, 0, struct.pack('>H', 10)),
        (np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8), 8, 2, struct.pack('>3H', 1, 2, 3)),
        (np.array([[0x0102, 0x0103]], '>u2'), 16, 0, struct.pack('>H', 0x0102)),
        (np.array([[[0x0102] * 3, [0x0103] * 3]], '>u2'), 16, 2, struct.pack('>3H', *[0x0102] * 3)),
        (np.array([[0x1A]], np.uint8), 4, 0, struct.pack('>H', 1)),
        (np.array([[0b01101010]], np.uint8), 2, 0, struct.pack('>H', 1)),
        (np.array([[0b10000000]], np.uint8), 1, 0, struct.pack('>H', 1)),
    ],
)
def test_a_transparent_colour_is_alpha(
    tmp_path: Path, rows: np.ndarray, depth: int, colour: int, transparent: bytes
) -> None:
    path = tmp_path / 'matte.png'
    path.write_bytes(png(rows, depth, colour, transparent))
    assert alpha_source(path) == 'alpha'
    alpha = read_alpha(path)
    assert alpha[0].tolist() == [0] + [255] * (alpha.shape[1] - 1)
    assert read_rgb(path).shape == (*alpha.shape, 3)


def test_a_transparent_colour_is_turned_as_the_picture_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.fromarray(np.array([[10, 150], [150, 150]], np.uint8))
    image.save(tmp_path / 'matte.png', transparency=10, exif=exif)
    assert read_alpha(tmp_path / 'matte.png').tolist() == [[255, 0], [255, 255]]


def test_a_long_text_or_profile_costs_nothing(tmp_path: Path) -> None:
    pixels, text = pictures.noise(4, 4, 3), PngInfo()
    text.add_text('history', 'x' * 3_000_000, zip=True)
    text.add_itxt('XML:com.adobe.xmp', 'y' * 70_000_000, zip=True)
    path = tmp_path / 'a.png'
    Image.fromarray(pixels).save(path, pnginfo=text, icc_profile=bytes(2_000_000))
    assert path.stat().st_size < 200_000
    np.testing.assert_array_equal(read_rgb(path), pixels)
    assert read_alpha(path).shape == (4, 4)


def test_the_refusal_of_a_folder_without_pictures_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    testset = make_set(tmp_path / 'set')
    pictures.save(tmp_path / 'pred/pha/other.png', disc())
    assert '3 of 3 pictures are missing' in refused(capsys, '--predictions', tmp_path / 'pred', '--truth', testset)
