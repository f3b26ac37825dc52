"""inference_speed_test.py: rows and file, what is counted and timed, and one clear line where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.inference_case import photo, room, save
from torch import Tensor

import inference_speed_test
from inference import Matting
from inference.speed import measure as speed
from inference.speed import sweep

pytestmark = pytest.mark.usefixtures('one_thread')
FLAGS = ['--model-type', 'mattingrefine', '--model-backbone', 'mobilenetv2', '--device', 'cpu', '--repeats', '2']


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, 'WARM_UP_SECONDS', 0)
    monkeypatch.setattr(speed, 'MOST_WARM_UPS', 1)


def run(*flags: object) -> int:
    return inference_speed_test.main([*FLAGS, *map(str, flags)])


def rows(text: str) -> list[list[str]]:
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('model  '))
    return [line.split() for line in lines[start + 1 :]]


def test_a_sweep_prints_its_rows_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'speed.json'
    flags = ['--resolution', '64', '48', '96', '64', '--precision', 'float32', 'bfloat16', '--json', file]
    assert run(*flags, '--batch-size', 2) == 0
    text = capsys.readouterr().out
    header = text.splitlines()[0]
    assert f'1 threads; torch {torch.__version__}; on cpu; batch 2, random weights' in header
    names = [row[:5] for row in rows(text)]
    sizes = [(size, precision) for size in ('64x48', '96x64') for precision in ('float32', 'bfloat16')]
    assert names == [['mattingrefine', 'mobilenetv2', *pair, 'pytorch'] for pair in sizes]

    report = json.loads(file.read_text())
    assert report['machine']['torch'] == torch.__version__
    assert report['machine']['threads'] == 1
    assert report['flags']['resolution'] == ['64', '48', '96', '64']
    assert len(report['rows']) == 4
    for printed, row in zip(rows(text), report['rows']):
        assert f'{row["width"]}x{row["height"]}' == printed[2]
        assert row['precision'] == printed[3]
        assert row['p10_ms'] <= row['median_ms'] <= row['p90_ms']
        assert printed[5:7] == [f'{row["median_ms"]:.2f}', f'{row["p10_ms"]:.2f}-{row["p90_ms"]:.2f}']
        assert row['fps'] == pytest.approx(2000 / row['median_ms'])
        assert printed[7:] == [f'{row["fps"]:.2f}', f'{row["gmac"]:.1f}', f'{row["peak_mib"]:.1f}']
        assert (row['runs'], row['batch_size'], row['backend'], row['compiled']) == (2, 2, 'pytorch', False)
        assert (row['backbone_scale'], row['refine_sample_pixels'], row['checkpoint']) == (0.5, 80_000, None)
    assert report['rows'][0]['gmac'] == report['rows'][1]['gmac'] < report['rows'][2]['gmac']


def test_what_a_precision_costs_your_weights_on_your_picture(
    tmp_path: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    src, bgr = save(tmp_path / 'src.png', room(1, 96, 64)), save(tmp_path / 'bgr.png', room(0, 96, 64))
    flags = ['--images-src', src, '--images-bgr', bgr, '--model-checkpoint', checkpoints['mattingrefine']]
    assert run(*flags, '--precision', 'bfloat16', 'float32', '--json', tmp_path / 'speed.json') == 0
    text = capsys.readouterr().out
    assert 'alpha mean alpha max' in text
    half, full = json.loads((tmp_path / 'speed.json').read_text())['rows']
    assert (full['alpha_mean'], full['alpha_max']) == (0, 0)
    assert 0 < half['alpha_mean'] < half['alpha_max'] <= 1
    assert rows(text)[0][-2:] == [f'{half["alpha_mean"]:.1e}', f'{half["alpha_max"]:.1e}']


def test_your_weights_on_your_picture(
    tmp_path: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    plain = Matting.predict

    def watched(matting: Matting, src: Tensor, bgr: Tensor) -> dict[str, Tensor]:
        seen.update(matting=matting, src=src, bgr=bgr)
        return plain(matting, src, bgr)

    monkeypatch.setattr(Matting, 'predict', watched)
    bgr = room(0)
    src = photo(bgr, 1)
    files = save(tmp_path / 'src.png', src), save(tmp_path / 'bgr.png', bgr)
    flags = ['--images-src', files[0], '--images-bgr', files[1], '--model-checkpoint', checkpoints['mattingrefine']]
    assert run(*flags, '--batch-size', 2) == 0
    text = capsys.readouterr().out
    about = f'{checkpoints["mattingrefine"]}: mattingrefine with mobilenetv2; '
    assert text.startswith(f'{about}no record, so as published for 512px: backbone scale 0.5')
    assert [row[2] for row in rows(text)] == ['96x64']
    for name, picture in (('src', src), ('bgr', bgr)):
        expected = torch.from_numpy(picture).permute(2, 0, 1).expand(2, -1, -1, -1) / 255
        torch.testing.assert_close(seen[name], expected)
        assert seen[name].stride()[1:] == (1, 96 * 3, 3)  # channels last, as the pipeline gives them
    own = torch.load(checkpoints['mattingrefine'])['refiner.conv4.weight']
    torch.testing.assert_close(seen['matting'].model.refiner.conv4.weight, own, check_stride=False)


@pytest.mark.slow
def test_torchscript_is_traced_without_a_flood_of_warnings(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert run('--resolution', '64', '48', '--backend', 'torchscript', 'pytorch') == 0
    assert [row[4] for row in rows(capsys.readouterr().out)] == ['torchscript', 'pytorch']
    assert not [w for w in recwarn if 'torch.jit' in str(w.message) or 'trace' in str(w.message)]


def test_a_trace_that_fails_costs_its_row_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError('Tracer cannot do this\nand a long story')

    monkeypatch.setattr(torch.jit, 'trace', fails)
    flags = ['--resolution', '64', '48', '--backend', 'torchscript', 'pytorch', '--json', tmp_path / 's.json']
    assert run(*flags) == 1
    first, second = capsys.readouterr().out.splitlines()[2:]
    reason = f'failed: --backend torchscript: torch {torch.__version__} cannot trace it: Tracer cannot do this'
    assert first.endswith(reason)
    assert 'failed' not in second
    assert [row['backend'] for row in json.loads((tmp_path / 's.json').read_text())['rows']] == ['pytorch']


def test_too_little_memory_costs_its_row_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Matting.predict

    def large_fails(matting: Matting, src: Tensor, bgr: Tensor) -> dict[str, Tensor]:
        if src.shape[3] > 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return plain(matting, src, bgr)

    monkeypatch.setattr(Matting, 'predict', large_fails)
    assert run('--resolution', '96', '64', '64', '48') == 1
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert first.endswith('failed: too little memory')
    assert 'failed' not in second


def test_settings_follow_the_size_unless_given() -> None:
    sizes = ['hd', '4K', '2560', '1440', '1080', '1920', 'HD']
    flags = [*FLAGS, '--model-backbone', 'all', '--resolution', *sizes]

    def settings(*more: str) -> list[tuple[Any, ...]]:
        works, *_ = inference_speed_test.prepare(inference_speed_test.parse([*flags, *more]))
        refiners = [work.network.refiner for work in works]
        assert all(refiners)
        return [
            (work.network.backbone, work.size, refiner.backbone_scale, refiner.refine_sample_pixels)
            for work, refiner in zip(works, refiners)
        ]

    hd, large = (0.25, 80_000), (0.125, 320_000)
    expected = [((1920, 1080), *hd), ((3840, 2160), *large), ((2560, 1440), *hd), ((1080, 1920), *hd)]
    assert settings() == [(b, *row) for b in ('resnet101', 'resnet50', 'mobilenetv2') for row in expected]
    given = settings('--model-backbone-scale', '0.5', '--model-refine-sample-pixels', '1600')
    assert {row[2:] for row in given} == {(0.5, 1600)}
    alone, *_ = inference_speed_test.prepare(inference_speed_test.parse(FLAGS))
    assert [(work.size, work.precision, work.backend) for work in alone] == [((1920, 1080), 'auto', 'pytorch')]


def test_all_problems_are_reported_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    existing = tmp_path / 's.json'
    existing.write_text('mine')
    flags = ['--model-backbone', 'all', '--model-backbone-scale', 0.7, '--batch-size', 0, '--repeats', 0]
    flags += ['--seconds', -1, '--resolution', 640, '--images-src', 'no.png', '--json', existing, '--compile']
    flags += ['--backend', 'torchscript', '--model-checkpoint', 'no.pth', '--precision', 'float16', 'float32']
    assert run(*flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    lines = captured.err.splitlines()
    assert lines[0] == f'error: {len(lines) - 1} problems:'
    expected = ['--batch-size 0', '--repeats 0', '--seconds -1.0', '--images-src no.png', '--images-src']
    expected += ['--resolution 640', f'--json {existing}', '--resolution 640', '--backend torchscript']
    expected += ['--model-checkpoint no.pth', '--model-backbone-scale 0.7', '--precision float16']
    expected += ['--model-checkpoint no.pth']
    assert [line.split(':')[0].strip() for line in lines[1:]] == expected
    assert existing.read_text() == 'mine'


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--resolution', '64', 'hd'], '--resolution 64 hd: must be hd, 4k, or width and height'),
        (['--resolution', '64', '15'], '--resolution 64 15: must be'),
        (['--resolution', '64', '16', '--model-backbone-scale', '0.05'], '--resolution 64 16: too small for'),
        (['--json', 'nowhere/s.json'], '--json nowhere/s.json: there is no folder '),
        (['--json', '.', '-y'], '--json .: is a folder; choose another name'),
        (['--device', 'auto', '--precision', 'float16'], '--precision float16: needs a GPU'),
        (['--model-checkpoint', 'base.pth'], 'base.pth holds weights of mattingbase with mobilenetv2, not of'),
        (['--model-checkpoint', 'src.png'], '--model-checkpoint src.png: a picture, not weights'),
        (
            ['--images-src', 'src.png', '--images-bgr', 'bgr.png'],
            '--images-src is 96x64, --images-bgr is 64x48: must be of',
        ),
        (['--images-src', 'base.pth', '--images-bgr', 'bgr.png'], 'base.pth'),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason='float16 is fine on a GPU')
def test_one_problem_is_one_line(
    in_tmp: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    Path('base.pth').write_bytes(checkpoints['mattingbase'].read_bytes())
    save(Path('src.png'), room(0))
    save(Path('bgr.png'), room(0, 64, 48))
    assert run(*flags) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f'error: {message}')
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ''


def test_an_existing_file_is_replaced_when_asked(tmp_path: Path) -> None:
    file = tmp_path / 's.json'
    file.write_text('old')
    assert run('--resolution', '64', '48', '--json', file, '-y') == 0
    assert len(json.loads(file.read_text())['rows']) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['s.json']


def test_an_interrupt_keeps_the_rows_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Matting.predict

    def interrupted(matting: Matting, src: Tensor, bgr: Tensor) -> dict[str, Tensor]:
        if src.shape[3] > 64:
            raise KeyboardInterrupt
        return plain(matting, src, bgr)

    monkeypatch.setattr(Matting, 'predict', interrupted)
    file = tmp_path / 's.json'
    assert run('--resolution', '64', '48', '96', '64', '--json', file) == 130
    assert capsys.readouterr().err.startswith('stopped: ')
    assert [row['width'] for row in json.loads(file.read_text())['rows']] == [64]


def test_sizes_are_names_and_pairs() -> None:
    assert sweep.read_sizes(['100', '200', '4k', '16', '16', 'HD']) == [
        (100, 200), (3840, 2160), (16, 16), (1920, 1080)
    ]  # fmt: skip
