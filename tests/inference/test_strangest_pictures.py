"""A folder of the strangest pictures goes through inference, plates, training data and evaluation.

`support.strange_pictures` is its table: over a hundred files that are read, with what is right at two pixels of each,
and those that are refused, with the reason.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.inference_case import Case, files
from support.pictures import noise, save
from support.strange_pictures import HEIGHT, PROBES, SCENE, WIDTH, Strange, good, left_out, refused

import evaluate
import make_shards
from dataset.checks import DataReport, check_files
from dataset.pairing import composed
from dataset.paths import DataPaths, find_images
from dataset.readers import ImageError, read_alpha, read_rgb
from dataset.sources import BackgroundFiles, MatteFiles
from dataset.stores import open_folder
from evaluation.tables import read_json
from inference.images.inputs import find_jobs
from inference.video.plate import read_plate
from model import MattingBase

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.filterwarnings('ignore:Corrupt EXIF data')]

GOOD, BAD = good(), refused()
FALSE_SIZE = 'other-size.png'  # of its plate
TOO_SMALL = 'too-small.png'


def stem(name: str) -> str:
    return os.path.splitext(name)[0]


def respelled(name: str) -> str:
    """The same name from a disk that stores letters with accents in the other way."""
    other = 'NFD' if unicodedata.is_normalized('NFC', name) else 'NFC'
    return unicodedata.normalize(other, name)


def write(path: Path, content: bytes | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.symlink_to('void')
    else:
        path.write_bytes(content)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/ has the pictures that are read, bad/ those that are refused, other/ what is not looked at."""
    root = tmp_path_factory.mktemp('strange')
    for kind, listed in (('good', GOOD), ('bad', BAD)):
        for each in listed:
            write(root / kind / each.name, each.content)
    for name, content in left_out().items():
        write(root / 'other' / name, content)
    return root


def linked(source: Path, target: Path, spelled: Callable[[str], str] = str) -> Path:
    """The same files in another folder."""
    for path in source.rglob('*'):
        if not path.is_dir():
            place = target / spelled(path.relative_to(source).as_posix())
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place, follow_symlinks=False)
    return target


def colours_of(pixels: np.ndarray) -> tuple[tuple[int, ...], ...]:
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    return tuple(tuple(pixels[probe].tolist()) for probe in PROBES)


def alphas_of(pixels: np.ndarray) -> tuple[int, ...]:
    assert pixels.shape == (HEIGHT, WIDTH)
    return tuple(pixels[probe].item() for probe in PROBES)


def differing(read: Callable[[Strange], object], expected: Callable[[Strange], object], more: int = 0) -> list[str]:
    """What is not as the table has it, or lies further from it than its levels and `more`."""
    pairs = ((ascii(row.name), read(row), expected(row), row.off + more) for row in GOOD)
    return [
        f'{name}: {found}, not {right}'
        for name, found, right, off in pairs
        if not np.abs(np.subtract(found, right)).max() <= off
    ]


def colours(row: Strange) -> object:
    return row.colours


def alphas(row: Strange) -> object:
    return row.alphas


def halves(left: object, right: object) -> np.ndarray:
    """A picture of two colours or levels."""
    return np.array([left, right], np.uint8)[np.tile(np.arange(WIDTH) >= WIDTH // 2, (HEIGHT, 1)).astype(int)]


def test_the_folder_is_strange_enough(folder: Path) -> None:
    assert len(GOOD) > 60
    found = find_images(folder / 'good')
    assert {path.as_posix() for path in found} == {row.name for row in GOOD}
    assert found.index(Path('IMG_10.png')) == found.index(Path('IMG_2.png')) + 1
    assert {path.as_posix() for path in find_images(folder / 'bad')} == {bad.name for bad in BAD}
    assert find_images(folder / 'other') == []


@torch.no_grad()
def copying_network(folder: Path) -> Path:
    """Weights whose alpha is 1, and whose foreground is the picture."""
    network = MattingBase('mobilenetv2')
    network.decoder.conv4.weight.zero_()
    assert network.decoder.conv4.bias is not None
    network.decoder.conv4.bias.copy_(torch.eye(37)[0])
    torch.save(network.state_dict(), folder / 'copy.pth')
    return folder / 'copy.pth'


def test_pictures_and_their_plates(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is its own plate, under the other spelling of its name; what is refused has a plate that is whole."""
    case = Case(tmp_path, {'mattingbase': copying_network(tmp_path)})
    for kind in ('good', 'bad', 'other'):
        linked(folder / kind, case.src)
    linked(folder / 'good', case.bgr, respelled)
    for bad in BAD:
        save(case.bgr / f'{stem(bad.name)}.png', SCENE)
    save(case.src / FALSE_SIZE, noise(32, 32, 3))
    save(case.bgr / FALSE_SIZE, SCENE)
    save(case.src / TOO_SMALL, noise(8, 8, 3))
    save(case.bgr / TOO_SMALL, noise(8, 8, 3))
    save(case.src / 'without-plate.png', SCENE)

    def run(*flags: str) -> int:
        return case.run(*flags, '--batch-size', 32, '--picture-format', 'fgr=png', 'pha=png', model_type='mattingbase',
                        types=('fgr', 'pha'))  # fmt: skip

    assert run() == 2
    message = capsys.readouterr().err
    assert f'no plate for 1 of {len(GOOD) + len(BAD) + 3} pictures (without-plate)' in message
    assert f'{case.src / FALSE_SIZE} is 32x32, its plate {case.bgr / FALSE_SIZE} {WIDTH}x{HEIGHT}' in message
    assert not case.out.exists()

    assert run('--skip-unmatched', '--resize-bgr') == 1
    said, lines = capsys.readouterr()
    assert f'{len(GOOD) + 1} pictures done, {len(BAD) + 2} failed' in said
    failed = [line for line in lines.splitlines() if line.startswith('failed: ')]
    for name, cause in [(bad.name, bad.cause) for bad in BAD] + [
        ('without-plate.png', 'it has no plate'), (TOO_SMALL, 'pictures must be at least 16 x 16'),
    ]:  # fmt: skip
        assert [cause in line for line in failed if line.startswith(f'failed: {case.src / name}: ')] == [True], name
    assert len(failed) == len(BAD) + 2
    assert 'so left out: 1 .' in lines
    written = {f'{kind}/{stem(name)}.png' for kind in ('fgr', 'pha') for name in [FALSE_SIZE, *(x.name for x in GOOD)]}
    assert files(case.out) == written

    def output(kind: str, row: Strange) -> Path:
        return case.out / kind / f'{stem(row.name)}.png'

    assert differing(lambda row: colours_of(read_rgb(output('fgr', row))), colours, 1) == []
    assert differing(lambda row: alphas_of(read_alpha(output('pha', row))), lambda _: (255, 255)) == []


def test_plates_alone(folder: Path, tmp_path: Path) -> None:
    assert differing(lambda row: colours_of(read_plate(folder / 'good' / row.name)), colours) == []
    for bad in BAD:
        with pytest.raises((ImageError, FileNotFoundError)) as refusal:
            read_plate(folder / 'bad' / bad.name)
        assert str(refusal.value).startswith(f'{folder / "bad" / bad.name}: ')
        assert bad.cause in str(refusal.value)
        save(tmp_path / f'src/{stem(bad.name)}.png', SCENE)
    _, problems, _ = find_jobs(tmp_path / 'src', folder / 'bad', tmp_path / 'out', False)
    expected = {f'--images-bgr: {folder / "bad" / bad.name}' for bad in BAD if bad.at_once}
    assert {problem[: problem.index(': ', 14)] for problem in problems} == expected
    assert len(problems) == len(expected)


def test_training_data(folder: Path, tmp_path: Path) -> None:
    mattes, both = tmp_path / 'pha', tmp_path / 'both'
    for listed in (GOOD, BAD):
        for each in listed:
            save(mattes / f'{stem(respelled(each.name))}.png', halves(0, 255))
    linked(folder / 'bad', linked(folder / 'good', both))
    valid = save(tmp_path / 'valid/a.png', halves(0, 255)).parent

    def checked() -> DataReport:
        return check_files(DataPaths(both, mattes, valid, valid, both, valid), sample=len(GOOD) + len(BAD))

    findings = checked().findings
    heads = [f'{part}: {len(BAD)} of the sampled pictures cannot be read: ' for part in ('train', 'train backgrounds')]
    assert [line[: len(head)] for line, head in zip(findings, heads, strict=True)] == heads
    for bad in BAD:
        (both / bad.name).unlink()
        (mattes / f'{stem(bad.name)}.png').unlink()
    report = checked()
    assert report.findings == []
    assert len(report.train_pairs) == len(report.train_bgr) == len(GOOD)

    subjects, backgrounds = MatteFiles(report.train_pairs), BackgroundFiles(report.train_bgr)
    of_pairs = {os.path.relpath(fgr, both): subjects.read(i) for i, (fgr, _) in enumerate(report.train_pairs)}
    assert {alphas_of(pixels[..., 3]) for pixels in of_pairs.values()} == {(0, 255)}
    assert differing(lambda row: of_pairs[row.name][PROBES[1]][:3], lambda row: row.colours[1]) == []
    order = {os.path.relpath(path, both): i for i, path in enumerate(report.train_bgr)}
    assert differing(lambda row: colours_of(backgrounds.read(order[row.name])), colours) == []
    small = {name: backgrounds.read(i, (WIDTH // 4, HEIGHT // 4)) for name, i in order.items()}
    assert {pixels.shape for pixels in small.values()} == {(HEIGHT // 4, WIDTH // 4, 3)}
    assert differing(lambda row: [small[row.name][y // 4, x // 4] for y, x in PROBES], colours, 1) == []
    alone = MatteFiles([(both / row.name, both / row.name) for row in GOOD])
    own = {row.name: alone.read(i)[..., 3] for i, row in enumerate(GOOD)}
    assert differing(lambda row: alphas_of(own[row.name]), alphas) == []


def test_tar_shards_of_training_data(folder: Path, tmp_path: Path) -> None:
    assert make_shards.main(['--bgr', str(folder / 'good'), '--output-dir', str(tmp_path / 'shards')]) == 0
    names, shards = find_images(folder / 'good'), open_folder('shards', tmp_path)
    assert find_images(shards) == names
    for read in (read_alpha, partial(read_rgb, min_size=(WIDTH // 4, HEIGHT // 4))):
        for name in names:
            np.testing.assert_array_equal(read(shards / name), read(folder / 'good' / name), ascii(str(name)))


def test_evaluation(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As predictions and as the truth, beside what is right around the probes."""
    near = np.zeros((HEIGHT, WIDTH), np.uint8)
    for y, x in PROBES:
        near[y - 2 : y + 3, x - 2 : x + 3] = 1
    plain, strange = tmp_path / 'plain', tmp_path / 'strange'
    for kind in ('pha', 'fgr'):
        linked(folder / 'good', strange / kind, respelled)
    for row in GOOD:
        name = f'{stem(row.name)}.png'
        save(plain / 'pha' / name, halves(*row.alphas) * near)
        save(plain / 'fgr' / name, halves(*row.colours))
        for truth in (plain, strange):
            save(truth / 'trimap' / name, near * 128)

    def levels_off(truth: Path, predicted: Path) -> dict[str, dict[str, float]]:
        flags = {'--truth': truth, '--predictions': predicted, '--scaling': 'raw', '--json': tmp_path / 'found.json'}
        words = [str(word) for pair in flags.items() for word in pair]
        assert evaluate.main([*words, '-y', '--metrics', 'mad', 'fg_mse']) == 0
        (found,) = read_json(tmp_path / 'found.json')
        figures = {row.name: found.figures[composed(stem(row.name))] for row in GOOD}
        return {name: {'pha': 255 * x['mad'], 'fgr': 255 * x['fg_mse'] ** 0.5} for name, x in figures.items()}

    off = levels_off(plain, strange)
    note = capsys.readouterr().err.splitlines()[0]
    assert '.jpeg, .jpg, ' in note
    assert '.tif' not in note  # it loses nothing
    assert differing(lambda row: off[row.name]['pha'], lambda _: 0) == []
    assert differing(lambda row: off[row.name]['fgr'], lambda _: 0, 1) == []
    off = levels_off(strange, plain)
    assert differing(lambda row: off[row.name]['pha'], lambda _: 0) == []

    for bad in BAD:
        truth = save(tmp_path / f'{bad.name}.truth/{stem(bad.name)}.png', near * 255).parent
        predicted = write(tmp_path / f'{bad.name}.predicted' / bad.name, bad.content)
        flags = ('--truth', str(truth), '--predictions', str(predicted.parent))
        assert evaluate.main([*flags]) == (2 if bad.at_once else 1)
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f'error: {"--predictions" if bad.at_once else "stopped:"} {predicted}: ')
        assert bad.cause in line
