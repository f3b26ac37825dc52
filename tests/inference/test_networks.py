"""What a file says of its network, and how that is run: as given, as trained or exported, else as published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support import published, small_encoder
from support.inference_case import Case, files, photo, read, room, save_networks, with_record

import checkpoints as checkpoints_script
import inference_images
from common.files import digest
from common.network import RefinerSettings, published_size
from common.stores import StoreError
from inference import Matting
from inference.networks import find_network
from model import MattingBase

TRAINED = RefinerSettings(0.5, refine_sample_pixels=320)


@pytest.fixture(scope='module')
def small(tmp_path_factory: pytest.TempPathFactory, checkpoints: object) -> Iterator[Path]:
    """Weights of a refine network with a small encoder, which is in use; those that all tests share are made before."""
    with small_encoder.used():
        yield save_networks(tmp_path_factory.mktemp('small'))['mattingrefine']


@pytest.fixture
def trained(small: Path, tmp_path: Path) -> Path:
    return with_record(small, tmp_path / 'run/epoch-3.pth', 64, TRAINED)


@pytest.mark.parametrize(
    ('size', 'video', 'still'),
    [
        ((512, 512), '512px', '512px'),
        ((96, 64), '512px', '512px'),
        ((1080, 1920), 'hd', 'hd'),
        ((1024, 721), 'hd', 'hd'),
        ((1024, 720), '512px', '512px'),
        ((3840, 1080), 'hd', 'hd'),
        ((3840, 1081), '4k', 'photographs'),
        ((6000, 4000), '4k', 'photographs'),
    ],
)
def test_the_nearest_published_size_counts(size: tuple[int, int], video: str, still: str) -> None:
    assert (published_size(size), published_size(size, still=True)) == (video, still)


def test_weights_in_a_mirror_run_as_they_were_trained(trained: Path, tmp_path: Path) -> None:
    (tmp_path / 'store').mkdir()
    url = f'file://{tmp_path}/store/refine'
    assert checkpoints_script.main(['sync', str(trained.parent), url]) == 0
    here = find_network(trained, sizes=[(96, 64)])
    found = find_network(f'{url}/epoch-3.pth', sizes=[(96, 64)])
    assert str(found) == str(here).replace(str(trained), f'{url}/epoch-3.pth')
    assert found.path.name == 'epoch-3.pth'
    assert found.weights is not None
    assert found.weights.origin.sha256 == digest(trained)
    Matting.from_checkpoint(f'{url}/epoch-3.pth', device='cpu')
    with pytest.raises(StoreError, match=f'^{url}: holds no best.pth; there are epoch-3.pth$'):
        find_network(f'{url}/best.pth')


def test_weights_with_a_record_run_as_they_were_trained(trained: Path) -> None:
    found = find_network(trained, sizes=[(96, 64)])
    assert (found.backend, found.settings.refiner, found.by_size) == ('pytorch', TRAINED, False)
    assert str(found) == (
        f'{trained}: mattingrefine with mobilenetv2; as trained: backbone scale 0.5, refine mode sampling, '
        'refine sample pixels 320'
    )
    found = find_network(trained, 'mattingrefine', 'mobilenetv2', backbone_scale=0.25, refine_mode=None)
    assert found.settings.refiner == RefinerSettings(0.25, refine_sample_pixels=320)
    assert 'as given: backbone scale 0.25 (0.5 as trained); as trained: refine mode sampling' in str(found)
    assert '(0.5' not in str(find_network(trained, backbone_scale=0.5))


def test_given_settings_that_nothing_reads_are_told_of(trained: Path, in_tmp: Path) -> None:
    assert str(find_network(trained, refine_threshold=0.5)).endswith('; given, but of no effect: refine threshold')
    thresholding = str(find_network(trained, refine_threshold=0.5, refine_mode='thresholding'))
    assert 'as given: refine mode thresholding (sampling as trained), refine threshold 0.5 (' in thresholding
    assert 'no effect' not in thresholding
    torch.save(MattingBase('mobilenetv2').state_dict(), 'base.pth')
    line = 'base.pth: mattingbase with mobilenetv2; given, but of no effect: backbone scale'
    assert str(find_network('base.pth', backbone_scale=0.5)) == line
    with pytest.raises(TypeError, match='scale'):
        Matting.from_checkpoint('base.pth', device='cpu', scale=0.5)


def test_pictures_far_from_the_trained_size_are_told_of(trained: Path) -> None:
    flags = '--model-backbone-scale 0.25 --model-refine-sample-pixels 80000'
    note = f'it was trained on 64x64; for 1920x1080 try {flags}, as published'
    assert note in str(find_network(trained, sizes=[(96, 64), (1920, 1080)]))
    assert 'try' not in str(find_network(trained, sizes=[(1920, 1080)], backbone_scale=0.4))


def test_weights_without_a_record_run_as_published_for_each_size(small: Path) -> None:
    found = find_network(small, sizes=[(1920, 1080), (512, 512), (1920, 1080)])
    assert found.by_size
    assert found.settings.refiner == RefinerSettings(0.25, refine_sample_pixels=80_000)
    assert str(found) == (
        f'{small}: mattingrefine with mobilenetv2; '
        'no record, so as published for 512px: backbone scale 0.5, refine mode sampling, refine sample pixels 80000; '
        'no record, so as published for hd: backbone scale 0.25, refine mode sampling, refine sample pixels 80000'
    )
    given = find_network(small, sizes=[(3840, 2160)], still=False, refine_sample_pixels=1600)
    assert given.settings.refiner == RefinerSettings(0.125, refine_sample_pixels=1600)
    assert not find_network(small, backbone_scale=0.5, refine_sample_pixels=1600).by_size


def test_what_is_made_of_weights_keeps_their_settings(small: Path, in_tmp: Path) -> None:
    members = [with_record(small, Path(f'run/epoch-{i}.pth'), 64, TRAINED) for i in range(2)]
    assert checkpoints_script.main(['average', *map(str, members), '-o', 'mean.pth', '--batch-norm', 'average']) == 0
    assert find_network('mean.pth').settings.refiner == TRAINED
    for source, target in (('run/epoch-1.pth', 'half.safetensors'), ('half.safetensors', 'back.pth')):
        assert checkpoints_script.main(['convert', source, '-o', target, '--precision', 'float16']) == 0
        assert find_network(target).settings.refiner == TRAINED


@pytest.mark.parametrize('precision', ['float32', 'float16'])
@pytest.mark.filterwarnings('ignore:.torch.jit')
def test_a_published_archive_is_known_by_its_tensors(pair: Case, small: Path, capsys, precision: str) -> None:
    network, _ = find_network(small).build()
    path = small.with_name(f'torchscript_mobilenetv2_{precision}.pth')
    published.save_archive(network, path, getattr(torch, precision))  # type: ignore[arg-type]
    flags = ['--model-checkpoint', path, '--images-src', pair.src, '--images-bgr', pair.bgr, '--output-dir', pair.out,
             '--output-types', 'pha', '--output-format', 'pha=png', '--device', 'cpu']  # fmt: skip
    assert inference_images.main(list(map(str, flags))) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(
        f'{path}: mattingrefine with mobilenetv2, TorchScript; no record, so as published for 512px: '
    )
    assert find_network(path, backend='pytorch').by_size
    bgr = room(0)
    own = Matting.from_checkpoint(path, device='cpu')(photo(bgr, 1), bgr).pha.astype(int)
    assert np.abs(read(pair.out / 'pha/a.png').astype(int) - own).max() <= 1
    assert own.std() > 5


def test_a_predictor_follows_each_size_and_shares_its_weights(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The middle size has the place of HD."""
    monkeypatch.setattr('common.network.SIZES', {'512px': (48, 48), 'hd': (96, 96), '4k': (400, 400)})
    matting = Matting.from_checkpoint(small, device='cpu')
    for size, settings in (((48, 40), (0.5, 80_000)), ((96, 88), (0.25, 80_000))):
        bgr = room(0, *size)
        own = Matting.from_checkpoint(
            small, device='cpu', **dict(zip(('backbone_scale', 'refine_sample_pixels'), settings))
        )
        for name in ('pha', 'fgr'):
            assert np.array_equal(getattr(matting(photo(bgr, 1), bgr), name), getattr(own(photo(bgr, 1), bgr), name))
        src, plate = (torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (photo(bgr, 1), bgr))
        assert torch.equal(matting.predict(src, plate)['pha'], own.predict(src, plate)['pha'])
    assert matting.about.endswith('; other sizes as published for them')
    networks = [matting.network_for(sides) for sides in ((40, 48), (88, 96))]
    assert networks[0] is not networks[1]
    weights = [{x.data_ptr() for x in network.parameters()} for network in networks]
    assert weights[0] == weights[1]


def test_a_predictor_takes_the_settings_of_the_record(trained: Path) -> None:
    bgr = room(0)
    as_trained, other = (
        Matting.from_checkpoint(trained, device='cpu', **given)(photo(bgr, 1), bgr).pha
        for given in ({}, {'backbone_scale': 0.25})
    )
    explicit = Matting.from_checkpoint(trained, device='cpu', backbone_scale=0.5, refine_sample_pixels=320)
    assert np.array_equal(as_trained, explicit(photo(bgr, 1), bgr).pha)
    assert not np.array_equal(as_trained, other)
    assert 'as trained: backbone scale 0.5' in Matting.from_checkpoint(trained, device='cpu').about
    with pytest.raises(TypeError, match='scale'):
        Matting.from_checkpoint(trained, device='cpu', scale=0.5)


def test_a_script_needs_no_flag_of_the_network(pair: Case, trained: Path, capsys) -> None:
    def run(name: str, *flags: object) -> tuple[np.ndarray, str]:
        # fmt: off
        words = ['--model-checkpoint', trained, '--images-src', pair.src, '--images-bgr', pair.bgr, '--output-dir',
                 pair.out / name, '--output-types', 'pha', '--output-format', 'pha=png', '--device', 'cpu', *flags]
        # fmt: on
        assert inference_images.main(list(map(str, words))) == 0
        return read(pair.out / name / 'pha/a.png'), capsys.readouterr().out.splitlines()[0]

    settings = ['--model-backbone-scale', 0.5, '--model-refine-sample-pixels', 320]
    explicit, _ = run('explicit', '--model-type', 'mattingrefine', '--model-backbone', 'mobilenetv2', *settings)
    found, line = run('found')
    assert np.array_equal(found, explicit)
    pattern = rf'{trained}: mattingrefine with mobilenetv2; as trained: backbone scale 0\.5, .*; on cpu in float32'
    assert re.fullmatch(pattern, line)
    other, line = run('other', '--model-backbone-scale', 0.25)
    assert 'as given: backbone scale 0.25 (0.5 as trained)' in line
    assert not np.array_equal(other, explicit)
    assert files(pair.out / 'found') == {'pha/a.png', 'pha/shots/b.0001.png'}
