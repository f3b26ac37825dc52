"""The model that comes with the toolkit: it is whole, runs where no weights are named, and training begins from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import sabotage
from support.inference_case import photo, read, room, save, spread_out
from support.runs import flags

import checkpoints
import evaluate
import export_onnx
import inference_images
import inference_video
import inference_webcam
import train_base
import train_refine
from checkpointing.convert import convert_state, write_weights
from checkpointing.verify import Verifier
from common import network
from common.network import STARTER, weights_path
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
from inference import Matting
from model import MattingRefine

SIDE = 256
PAIR = ['--images-src', 'photo.png', '--images-bgr', 'plate.png', '--output-dir', 'out', '--device', 'cpu']
TRAIN = ['--dataset-name', 'synthetic', '--model-backbone', 'mobilenetv2', '--model-name', 'run']
MISSING = 'starter.pth: no such file; the starter model is missing from this copy of the toolkit'
DAMAGED = 'starter.pth: damaged: does not have the size and sha256 of its provenance'


def drawn(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture of a drawn subject that no training saw, its plate and its alpha, 0 to 255."""
    subject = SyntheticMattes(100, seed=1007).read(index, (SIDE, SIDE))
    plate = SyntheticBackgrounds(100, seed=1007).read(index, (SIDE, SIDE))
    alpha = subject[..., 3:] / 255
    return np.round(subject[..., :3] * alpha + plate * (1 - alpha)).astype(np.uint8), plate, subject[..., 3]


@pytest.fixture
def pair(in_tmp):
    plate = room(0)
    source = photo(plate, 1)
    save(in_tmp / 'photo.png', source)
    save(in_tmp / 'plate.png', plate)
    return source, plate


@pytest.fixture
def elsewhere(in_tmp, monkeypatch):
    """Where the starter model would be; nothing is there."""
    path = in_tmp / 'weights/starter.pth'
    path.parent.mkdir()
    monkeypatch.setattr(network, 'STARTER', path)
    return path


@pytest.fixture
def new(elsewhere):
    """A starter model with new weights, whose alpha varies over a picture."""
    torch.manual_seed(3)
    model = MattingRefine('mobilenetv2', refine_sample_pixels=800).eval()
    spread_out(model)
    write_weights(elsewhere, convert_state(model.state_dict(), torch.float16).state, {'how': 'new weights'})
    return elsewhere


# These read weights/starter.pth itself.


def test_it_is_whole_by_what_is_written_beside_it_and_small():
    verdict = Verifier().check(STARTER)
    assert (verdict.damaged, verdict.text) == (False, 'whole, by the sha256 of its provenance')
    assert STARTER.stat().st_size <= 12_000_000
    assert {x.dtype for x in torch.load(STARTER, weights_only=True).values()} <= {torch.float16, torch.int64}


def test_it_cuts_out_what_it_never_saw():
    matting, errors, nothing = Matting(device='cpu'), [], []
    for index in range(12):
        source, plate, alpha = drawn(index)
        errors.append(np.abs(matting(source, plate).pha.astype(int) - alpha).mean() / 255)
        nothing.append(alpha.mean() / 255)
    assert np.mean(nothing) > 0.1  # the error of an alpha of 0
    assert np.mean(errors) < 0.03


# These hold whatever its weights are.


@pytest.mark.usefixtures('new')
def test_pictures_are_cut_out_by_it_where_no_weights_are_named(pair, in_tmp, capsys):
    assert inference_images.main(PAIR) == 0
    assert capsys.readouterr().out.startswith('the starter model: mattingrefine with mobilenetv2; ')
    assert [path.name for path in (in_tmp / 'out').iterdir()] == ['com']
    expected = Matting(device='cpu')
    assert expected.about.startswith('the starter model: ')
    assert expected.loaded.percent == 100
    assert expected(*pair).pha.std() > 10
    assert np.array_equal(read(in_tmp / 'out/com/photo.png')[..., 3], expected(*pair).pha)
    assert np.array_equal(Matting.from_checkpoint('starter', device='cpu')(*pair).pha, expected(*pair).pha)


def test_flags_know_it_by_its_name():
    assert inference_images.parse(PAIR).model_checkpoint == STARTER
    assert inference_video.parse(['--video-src', 'a.mp4', '--output-dir', 'out']).model_checkpoint == STARTER
    assert inference_webcam.parse([]).model_checkpoint == STARTER
    assert evaluate.parse(['--checkpoint', 'starter', 'other.pth']).checkpoint == [STARTER, Path('other.pth')]
    args = train_refine.parse([*TRAIN, '--model-last-checkpoint', 'starter'])
    assert args.model_last_checkpoint == STARTER
    args = train_refine.parse([*TRAIN, '--model-last-checkpoint', 'auto', '--model-start-weights', 'starter'])
    assert (args.model_last_checkpoint, args.model_start_weights) == ('auto', STARTER)


def test_a_file_of_its_name_is_meant_by_a_path(monkeypatch):
    monkeypatch.setenv('HOME', '/home/someone')
    assert weights_path('starter') == STARTER
    assert [weights_path(name) for name in ('./starter', Path('starter'))] == [Path('starter')] * 2
    assert weights_path('~/starter') == Path('/home/someone/starter')


@pytest.mark.usefixtures('pair', 'new')
def test_another_network_than_its_own_is_one_line_that_names_it(capsys):
    assert inference_images.main([*PAIR, '--model-backbone', 'resnet50']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: the starter model holds weights of mattingrefine with mobilenetv2, not of ')


@pytest.mark.usefixtures('new')
def test_tools_know_it_by_its_name(capsys):
    assert checkpoints.main(['show', 'starter']) == 0
    assert 'whole, by the sha256 of its provenance' in capsys.readouterr().out


def test_what_is_shipped_is_named(capsys):
    with pytest.raises(SystemExit):
        export_onnx.main(['--output', 'model.onnx'])
    assert '--model-checkpoint' in capsys.readouterr().err


def test_training_begins_with_its_weights_at_step_0(elsewhere, monkeypatch, capsys):
    sabotage.tiny(monkeypatch.setattr)
    held = convert_state(sabotage.Tiny().state_dict(), torch.float16).state
    write_weights(elsewhere, held | {'refiner.conv1.weight': torch.zeros(24, 42, 3, 3)}, {'how': 'by a test'})
    words = flags('run', model_last_checkpoint='starter', max_steps=1, learning_rate_scale=1e-9)
    assert train_base.main(words) == 0
    out = capsys.readouterr().out
    assert 'new run with weights from the starter model (state_dict): ' in out
    assert '100.0 % of the parameters; not used: refiner.conv1.weight' in out
    assert 'steps 0 to 1' in out
    learned = torch.load('checkpoint/run/best.pth', weights_only=True)
    assert torch.allclose(learned['decoder.weight'], held['decoder.weight'].float(), atol=1e-6)
    words = flags('other', model_last_checkpoint='auto', model_start_weights='starter', max_steps=1)
    assert train_base.main(words) == 0
    assert 'new run with weights from the starter model' in capsys.readouterr().out
    assert train_base.main([*words, '--max-steps', '2']) == 0
    assert 'continuing this run from epoch-0-iter-0.pth: step 1' in capsys.readouterr().out


@pytest.mark.usefixtures('pair', 'elsewhere')
def test_missing_it_is_one_line(capsys):
    def said(main, words):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert MISSING in said(inference_images.main, PAIR)
    assert MISSING.removeprefix('starter.pth: ') in said(checkpoints.main, ['show', 'starter'])
    assert MISSING in said(train_base.main, [*TRAIN, '--model-last-checkpoint', 'starter'])
    auto = ['--model-last-checkpoint', 'auto', '--model-start-weights', 'starter']
    assert MISSING in said(train_refine.main, [*TRAIN, *auto])
    with pytest.raises(FileNotFoundError, match=MISSING):
        Matting(device='cpu')


@pytest.mark.usefixtures('pair')
def test_damaged_it_is_one_line(new, capsys):
    content = bytearray(new.read_bytes())
    content[len(content) // 2] ^= 1
    new.write_bytes(content)
    for main, words in (
        (inference_images.main, PAIR),
        (train_refine.main, flags('run', model_last_checkpoint='starter', recipe=None)),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(DAMAGED)
    with pytest.raises(ValueError, match=DAMAGED):
        Matting(device='cpu')
    assert not Path('checkpoint/run').exists() or not any(Path('checkpoint/run').glob('epoch*'))
