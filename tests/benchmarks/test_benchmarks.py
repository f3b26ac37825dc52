"""The yardsticks of the benchmarks measure what they say, and each benchmark runs from its command line."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.inference_case import photo, read, room, save

import inference_images
from benchmarks.published import inference as published_inference
from benchmarks.published.network import Published
from benchmarks.published.reading import pillow_affine, published_sample
from dataset.geometry import Affine, warp
from dataset.synthetic import SyntheticMattes
from inference import Matting
from model import MattingRefine

ROOT = Path(__file__).parents[2]
SETTINGS = {'backbone_scale': 1 / 4, 'refine_sample_pixels': 128 * 96 // 2}


def tensors(*pictures):
    return (torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 for picture in pictures)


@pytest.fixture
def weights(script, tmp_path):
    file = tmp_path / 'weights.pth'
    torch.save(script('helpers.drawings').random_weights('mobilenetv2'), file)
    return file


def test_the_published_network_gives_our_results(weights):
    ours, published = (network('mobilenetv2', **SETTINGS).eval() for network in (MattingRefine, Published))
    for network in (ours, published):
        network.load_state_dict(torch.load(weights))
    plates = [room(seed, 128, 96) for seed in (0, 1)]
    bgr = torch.cat([*tensors(*plates)])
    src = torch.cat([*tensors(*(photo(plate, 2) for plate in plates))])
    with torch.no_grad():
        expected, given = ours(src, bgr), published(src.clone(), bgr.clone())
    names = ('pha', 'fgr', 'pha_sm', 'fgr_sm', 'err_sm', 'ref_sm')
    for name, x, y in zip(names, expected, given, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=0, msg=name)
    pha, fgr, _, _, err_sm, ref_sm = given
    assert err_sm.min() > 0
    assert ref_sm.sum((1, 2, 3)).tolist() == [SETTINGS['refine_sample_pixels'] // 16] * 2
    # Cells at the border read the padding, and what was refined differs from what was not.
    assert ref_sm[..., 0, :].any()
    coarse = torch.nn.functional.interpolate(given[2], pha.shape[2:], mode='bilinear')
    assert (pha - coarse).abs().max() > 0.05
    assert fgr.std() > 0.05


@pytest.mark.parametrize(('stage', 'side'), [('base', 64), ('refine', 128)])
def test_published_sample(script, tmp_path, stage, side):
    files = script('helpers.drawings').training_files(tmp_path)
    assert [Image.open(file).size for file in files] == [(1920, 1080), (1920, 1080), (2400, 1600)]
    fgr, pha, bgr = published_sample(*files, side, stage, np.random.default_rng(1))
    assert (fgr.shape, pha.shape, bgr.shape) == ((3, side, side), (1, side, side), (3, side, side))
    for picture in (fgr, pha, bgr):
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() < 0.2 < picture.max() <= 1
    again = published_sample(*files, side, stage, np.random.default_rng(1))
    other = published_sample(*files, side, stage, np.random.default_rng(2))
    assert torch.equal(pha, again[1])
    assert not torch.equal(pha, other[1])


def test_pillow_warps_as_we_do():
    picture = SyntheticMattes(1).read(0, (192, 192))[:128, :, :3].copy()
    affine = Affine(angle=5, shift_x=0.1, shift_y=-0.05, scale=0.8, shear=-4, flip=False)
    ours = warp(picture, affine, 160, 160, cv2.BORDER_CONSTANT)
    coefficients = pillow_affine(affine.matrix(192, 128, 160, 160))
    pillows = np.asarray(
        Image.fromarray(picture).transform((160, 160), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    )
    # Pillow leaves out the last half pixel at a border, which OpenCV fades to black.
    inside = cv2.erode(warp(np.full_like(picture, 255), affine, 160, 160, cv2.BORDER_CONSTANT), np.ones((3, 3)))[..., 0]
    difference = np.abs(ours.astype(int) - pillows)[inside == 255]
    assert len(difference) > 160 * 160 / 3
    assert difference.max() <= 8
    assert difference.mean() < 0.5


def test_published_inference_writes_our_mattes(tmp_path, weights):
    src, plate = tmp_path / 'src', save(tmp_path / 'plate.png', room(0, 128, 96))
    for i in range(2):
        save(src / f'{i}.png', photo(room(0, 128, 96), i))
    arguments = {'images-src': src, 'images-bgr': plate, 'checkpoint': weights, 'output-dir': tmp_path / 'out',
                 'backbone': 'mobilenetv2', 'refine-sample-pixels': SETTINGS['refine_sample_pixels']}  # fmt: skip
    published_inference.main([word for name, value in arguments.items() for word in (f'--{name}', str(value))])
    matte = Matting.from_checkpoint(weights, device='cpu', **SETTINGS)(src / '1.png', plate)
    for kind, suffix in published_inference.SUFFIXES.items():
        files = sorted(path.name for path in (tmp_path / 'out' / kind).iterdir())
        assert files == [f'0.{suffix}', f'1.{suffix}']
    com = read(tmp_path / 'out/com/1.png').astype(int)
    assert np.abs(com[..., 3] - matte.pha).max() <= 1
    assert np.abs(com[..., :3] - matte.fgr)[(com[..., 3] > 1)].max() <= 1
    assert 0.05 < (com[..., 3] > 0).mean() < 0.95


def test_sample_rate(script, tmp_path, capsys):
    arguments = ['--train-resolution', '64', '--repeats', '1', '--workers', '1', '999', '--seconds', '0.1']
    script('sample_rate').main([*arguments, '--json', str(tmp_path / 'a.json')])
    told = capsys.readouterr().out
    assert told.startswith(script('helpers.machine').describe())
    assert '999 workers: skipped' in told
    numbers = json.loads((tmp_path / 'a.json').read_text())
    for stage in ('base', 'refine'):
        row = numbers[stage]
        assert row['published_over_ours'] == pytest.approx(row['published_ms'] / row['ours_ms'])
        assert row['ours_over_decode'] == pytest.approx(row['ours_ms'] / row['decode_ms'])
        assert 0 < row['reading_share'] < 1
        assert list(row['samples_per_second']) == ['1']
        assert row['samples_per_second']['1'] > 0


def test_sample_rate_of_drawings_alone(script, tmp_path, capsys):
    script('sample_rate').main(['--drawn', '--repeats', '1', '--json', str(tmp_path / 'a.json')])
    numbers = json.loads((tmp_path / 'a.json').read_text())
    del numbers['machine']
    assert list(numbers) == ['matte', 'background']
    assert f'{1000 / sum(numbers.values()):.1f} samples/s of a core' in capsys.readouterr().out


def test_plots(script, tmp_path):
    pytest.importorskip('matplotlib')
    script('helpers.machine').log_plot(tmp_path / 'a.png', 'samples/s', 'processes', {'base': [(2, 90), (1, 44)]})
    assert read(tmp_path / 'a.png').std() > 5


def test_a_plot_without_matplotlib_is_refused(script, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='2'):
        script('sample_rate').main(['--num-workers', '1', '--plot', 'a.png'])
    assert '--plot: matplotlib is not installed for ' in capsys.readouterr().err


def test_trivial_predictors(script, capsys, weights):
    arguments = ['--dataset-name', 'synthetic', '--synthetic-size', '4', '--valid-samples', '2']
    arguments += ['--train-resolution', '64', '--model-refine-sample-pixels', '64', '--refine', str(weights)]
    script('trivial_predictors').main(arguments)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == '2 composites of 64 x 64'
    names = [' '.join(line.split()[:2]) for line in told[2:]]
    assert names == ['alpha =', 'mean difference', 'largest difference', 'MattingRefine in']
    assert all(float(number) > 0 for line in told[2:] for number in line[32:].split())


@pytest.mark.parametrize(
    'name',
    ['checkpoint_save', 'forward', 'pipeline', 'resolution_curve', 'resume', 'training_step', 'trivial_predictors',
     'video_memory'],
)  # fmt: skip
def test_what_computes_can_be_told_where(script, capsys, name):
    with pytest.raises(SystemExit, match='0'):
        script(name).main(['--help'])
    assert '--device {auto,cuda,mps,cpu}' in capsys.readouterr().out


def run_pipeline(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('GOMP_SPINCOUNT', '100000')
    plate = save(tmp_path / 'plate.jpg', room(0))
    save(tmp_path / 'src/a.jpg', photo(room(0), 1))
    arguments = {'images-src': tmp_path / 'src', 'images-bgr': plate, 'pictures': 3, 'few': 1, 'repeats': 1,
                 'device': 'cpu', 'json': tmp_path / 'a.json'}  # fmt: skip
    script('pipeline').main([word for name, value in arguments.items() for word in (f'--{name}', str(value))])
    assert capsys.readouterr().out.startswith(script('helpers.machine').describe())
    numbers = json.loads((tmp_path / 'a.json').read_text())
    assert set(numbers['ways']) == {'published float32', 'ours float32'}
    return numbers


def test_pipeline(script, tmp_path, capsys, monkeypatch):
    runs = script('helpers.folder_runs')

    def in_this_process(command, pictures, folder, _environment):
        out, count = folder / 'out', len(list(pictures.iterdir()))
        where = ['--images-src', str(pictures), '--output-dir', str(out)]
        if command[:2] == ['-m', 'benchmarks.published.inference']:
            return runs.Run(7, 0.6 * count, 7 + 0.6 * count, 10**9)
        assert command[0] == str(ROOT / 'inference_images.py')
        if count > 1:
            assert inference_images.main([*command[1:], *where]) == 0
            assert len([path for path in out.rglob('*') if path.is_file()]) == 3 * count
            shutil.rmtree(out)
        return runs.Run(7, 0.2 * count, 7 + 0.2 * count, 10**9)

    monkeypatch.setattr(script('pipeline'), 'run', in_this_process)
    monkeypatch.setattr(
        script('helpers.drawings'), 'cut_out', lambda *_: np.zeros((4, 6, 4), np.uint8)
    )  # draws for seconds
    numbers = run_pipeline(script, tmp_path, capsys, monkeypatch)
    published, ours = numbers['ways'].values()
    assert published['seconds_a_picture'] == pytest.approx(0.6)
    assert ours['seconds_a_picture'] == pytest.approx(0.2)
    assert (published['published_over_this'], ours['published_over_this']) == pytest.approx((1, 3))
    assert ours['seconds_to_first_file'] == 7
    assert ours['seconds_in_all'] == pytest.approx(7.6)
    assert ours['peak_bytes'] == 10**9
    stages = numbers['stages']['float32']
    assert set(stages['seconds']) == {'decode', 'compute', 'encode com', 'encode pha', 'encode fgr'}
    clocks = {name: cost['clock'] for name, cost in stages['seconds'].items()}
    encode = sum(clock for name, clock in clocks.items() if name.startswith('encode'))
    assert stages['pipeline_over_slowest'] == pytest.approx(0.2 / max(clocks['decode'], clocks['compute'], encode))
    assert set(numbers['png']) == {'Pillow', 'OpenCV, level 1'}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pipeline_in_processes(script, tmp_path, capsys, monkeypatch):
    for way in run_pipeline(script, tmp_path, capsys, monkeypatch)['ways'].values():
        assert 0 < way['seconds_to_first_file'] < way['seconds_in_all']
        assert 1e8 < way['peak_bytes'] < 1e10


def test_a_run_that_writes_too_little_is_no_measurement(script, tmp_path):
    (tmp_path / 'pictures').mkdir()
    save(tmp_path / 'pictures/a.png', room(0))
    write = 'import sys, pathlib; d = pathlib.Path(sys.argv[-1]); d.mkdir(); (d / "a").touch(); print("told")'
    with pytest.raises(SystemExit, match=r'exit code 0, 1 of 3 files\ntold'):
        script('helpers.folder_runs').run(['-c', write], tmp_path / 'pictures', tmp_path, {})
    shutil.rmtree(tmp_path / 'out')
    with pytest.raises(SystemExit, match='exit code 3, 0 of 3 files'):
        script('helpers.folder_runs').run(['-c', 'raise SystemExit(3)'], tmp_path / 'pictures', tmp_path, {})


def test_peak_is_the_commands_own(script, tmp_path):
    (tmp_path / 'pictures').mkdir()
    save(tmp_path / 'pictures/a.png', room(0))
    write = (
        'import sys, pathlib; x = bytearray(200_000_000); x[::4096] = x[::4096]; d = pathlib.Path(sys.argv[-1]); '
        'd.mkdir(); [(d / str(i)).touch() for i in range(3)]'
    )
    measured = script('helpers.folder_runs').run(['-c', write], tmp_path / 'pictures', tmp_path, {})
    assert 2e8 < measured.peak_bytes < 2.8e8  # this process, with torch, has more
    assert 0 < measured.startup <= measured.whole


@pytest.mark.parametrize('stage', [pytest.param('base', marks=pytest.mark.slow), 'refine'])
def test_training_step(script, tmp_path, capsys, stage):
    file = tmp_path / 'numbers.json'
    arguments = ['--stage', stage, '--train-resolution', '64', '--batch-size', '2', '--steps', '1', '--device', 'cpu']
    script('training_step').main([*arguments, '--json', str(file)])
    assert capsys.readouterr().out.startswith(script('helpers.machine').describe())
    numbers = json.loads(file.read_text())
    whole = {name: sum(parts.values()) for name, parts in numbers['seconds_of_a_step'].items()}
    assert numbers['published_over_ours'] == pytest.approx(whole['published'] / whole['ours'])
    for parts in numbers['seconds_of_a_step'].values():
        assert set(parts) == {'composite', 'forward', 'loss', 'backward', 'optimizer'}


@pytest.mark.slow
def test_forward_in_processes(script, tmp_path, capsys):
    file = tmp_path / 'numbers.json'
    script('forward').main(['--resolution', 'tiny', '--threads', '1', '--repeats', '2', '--json', str(file)])
    rows = {row['variant']: row for row in json.loads(file.read_text())['rows']}
    assert set(rows) == {'published', 'float32', 'bfloat16'}
    for row in rows.values():
        assert row['ratio'] == pytest.approx(rows['published']['seconds'] / row['seconds'])
        assert row['peak_mib'] > 100


@pytest.mark.slow
def test_resolution_curve_in_processes(script, tmp_path):
    pytest.importorskip('matplotlib')
    arguments = ['--resolution', '64', '48', '128', '96', '--precision', 'float32', '--repeats', '2', '--device', 'cpu']
    script('resolution_curve').main([*arguments, '--plot', str(tmp_path / 'curve')])
    for what in ('time', 'memory'):
        assert cv2.imread(str(tmp_path / f'curve-{what}.png')).std() > 5


@pytest.mark.slow
def test_checkpoint_save(script, tmp_path, capsys):
    arguments = ['--model-backbone', 'mobilenetv2', '--repeats', '1', '--folder', str(tmp_path)]
    script('checkpoint_save').main(arguments)
    told = capsys.readouterr().out.splitlines()
    assert [line.partition('  ')[0] for line in told[2:]] == [
        'torch.save', 'torch.save and fsync', 'a checkpoint: training waits', 'a checkpoint: then, in the background',
        'a checkpoint: start to commit',
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_record_growth(script, in_tmp, capsys):
    script('record_growth').main(['--counts', '3', '12', '--repeats', '1'])
    told = capsys.readouterr().out.splitlines()
    assert told[2].split() == ['checkpoints', 'to', 'go', 'on', 'a', 'save', 'list', '--fast']
    assert [line.split()[0] for line in told[3:]] == ['3', '12']
    assert all(float(figure) > 0 for line in told[3:] for figure in line.split()[1:])
    assert list(in_tmp.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resume_in_processes(script, in_tmp, capsys):
    script('resume').main(['--steps', '3', '7', '--repeats', '1'])
    told = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0].strip() for line in told[1:3]] == ['3 steps done', '7 steps done']


@pytest.mark.slow
def test_video_memory_in_processes(script, tmp_path, capsys):
    file = tmp_path / 'numbers.json'
    script('video_memory').main(['--frames', '4', '9', '--output-types', 'pha', '--json', str(file)])
    few, many = json.loads(file.read_text())['rows']
    assert (few['frames_written'], many['frames_written']) == (4, 9)
    assert 100 < few['peak_mib'] < 10_000
    ratio = many['peak_mib'] / few['peak_mib']
    assert f'{ratio:.3f} x that of 4 frames; 9 written' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments', [('pipeline', '--few', '24'), ('pipeline', '--images-src', '.'), ('sample_rate', '--plot', 'a.png')]
)
def test_wrong_flags_are_refused(script, arguments, capsys):
    name, *words = arguments
    with pytest.raises(SystemExit, match='2'):
        script(name).main(words)
    assert words[0] in capsys.readouterr().err


def test_warnings_about_plates_are_counted(script, capsys):
    script('plate_warnings').main(['--drawings', '1', '--show', 'exposed by 0.7'])
    lines = capsys.readouterr().out.splitlines()
    rates = {line[:28].rstrip(): line[28:].split() for line in lines}
    assert rates['as it is'] == ['0.0'] * 6
    assert rates['exposed by 0.7'] == ['0.0', '100.0*', '0.0', '100.0', '-', '-']
    assert sum('is exposed otherwise than the plate' in line for line in lines) == 1
