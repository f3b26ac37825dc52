"""Inference on each of two GPUs: pictures, films and cameras give what the CPU gives, and wait for results alone."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from support import small_encoder
from support.gpu_runs import gpus
from support.inference_case import photo, read, room, save, spread_out
from support.simulated_streams import Event
from support.videos import moving, write_video

import inference_images
import inference_video
from inference import Matting, predictor
from inference.matte import Pending
from inference.webcam.camera import CameraFrame
from inference.webcam.live import Live
from model import MattingBase, MattingRefine

__all__ = ['gpus']
REFINE = {'refine_sample_pixels': 800, 'refine_threshold': 0.35}
MODES = ('base', 'sampling', 'thresholding', 'full')


@pytest.fixture(scope='module')
def networks():
    """Networks of the small encoder, by mode of the refiner; 'base' is the coarse one."""
    torch.manual_seed(1)
    with small_encoder.used():
        made = {'base': MattingBase('mobilenetv2')}
        made |= {mode: MattingRefine('mobilenetv2', refine_mode=mode, **REFINE) for mode in MODES[1:]}
    for mode, network in made.items():
        network.eval()
        if mode in MODES[:2]:
            spread_out(network)
        else:
            network.load_state_dict(made['sampling'].state_dict())
    return made


@pytest.fixture(scope='module')
def weights(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'refine.pth'
    torch.save(networks['sampling'].state_dict(), path)
    return path


def kinds(mode):
    return ('pha', 'fgr', 'err') if mode == 'base' else ('pha', 'fgr', 'err', 'ref')


def assert_alike(found, expected, names):
    for name in names:
        assert np.abs(getattr(found, name).astype(int) - getattr(expected, name)).max() <= 1, name


def check(ledger, network, mode, device, plates):
    """Matte batches of two, and of these plates; raises where devices, waits or copies are not as they should be."""
    index, ref = torch.device(device).index, mode != 'base'
    rooms = [room(seed) for seed in range(plates)]
    pairs = [([photo(rooms[0], seed), photo(rooms[-1], seed + 1)], rooms) for seed in (1, 5, 9)]
    on_cpu, on_gpu = Matting(network, 'cpu', 'float32'), Matting(network, device, 'float32')
    taken = [on_gpu.plate(bgr) for bgr in rooms]
    taken = taken * (2 // len(taken))
    pendings = []
    ledger.clear()
    for number, (srcs, _) in enumerate(pairs):
        staged = [on_gpu.staged(src) for src in srcs]
        # What waits in between may be a graph that is captured. Thresholding waits for the number of its cells.
        forbidden = ledger.forbid_waits() if number in (0, 2) and mode != 'thresholding' else contextlib.nullcontext()
        with forbidden:
            pendings.append(on_gpu.submit(staged, taken, err=True, ref=ref))
    assert set(ledger.copies) <= {('H2D', True, True), ('D2H', True, True)}
    for (srcs, bgrs), pending in zip(pairs, pendings):
        for found, expected in zip(pending.result(), on_cpu.batch(srcs, bgrs, err=True, ref=ref), strict=True):
            assert_alike(found, expected, kinds(mode))
    assert {where for _, where in ledger.events} == {index}
    assert ledger.contexts == {index}


@pytest.mark.parametrize(
    ('mode', 'device', 'plates'),
    [
        ('base', 'cuda:1', 1),
        ('sampling', 'cuda:0', 2),
        ('sampling', 'cuda:1', 1),
        ('thresholding', 'cuda:1', 2),
        ('full', 'cuda:0', 1),
    ],
)
def test_each_mode_gives_what_the_cpu_gives(gpus, networks, mode, device, plates):
    check(gpus, networks[mode], mode, device, plates)


def events_of_the_first_gpu(patch):
    record = Event.record
    patch.setattr(Event, 'record', lambda self, stream=None: record(self, torch.cuda.default_stream(0)))


def pictures_are_pageable(patch):
    patch.setattr(Matting, 'staged', lambda self, pixels: torch.from_numpy(pixels))


def results_are_waited_for(patch):
    patch.setattr(Pending, '_downloaded', lambda self, x: x.cpu())


def results_are_looked_at(patch):
    chosen = predictor._chosen
    patch.setattr(predictor, '_chosen', lambda found, *kinds: chosen(found, *kinds) if found[0].max() > 0 else {})


def the_plate_is_on_the_cpu(patch):
    patch.setattr(Matting, '_uploaded', lambda self, pixels, size: predictor.Plate(pixels, self.staged(pixels)))


@pytest.mark.parametrize(
    ('mutate', 'message'),
    [
        (events_of_the_first_gpu, 'not finite|pha'),
        (pictures_are_pageable, "'H2D', False, True"),
        (results_are_waited_for, 'D2H copy'),
        (results_are_looked_at, 'is_nonzero|_local_scalar_dense'),
        (the_plate_is_on_the_cpu, 'expected all tensors on one device'),
    ],
)
def test_the_guard_notices(gpus, networks, monkeypatch, mutate, message):
    mutate(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, ValueError), match=message):
        check(gpus, networks['sampling'], 'sampling', 'cuda:1', 1)


def test_a_camera_is_matted_while_the_last_picture_is_shown(gpus, networks):
    bgr, shown = room(0), []
    frames = [CameraFrame(photo(bgr, seed), seed) for seed in range(6)]
    live = Live(Matting(networks['sampling'], 'cuda:1', 'float32'), np.zeros_like(bgr), 'pha')
    live.take_plate(bgr)
    for number, frame in enumerate(frames):
        with gpus.forbid_waits() if number in (0, 5) else contextlib.nullcontext():
            live.put(frame)
        shown += live.done(more=number < 5)
        assert len(shown) == (number if number < 5 else 6)
    expected = Matting(networks['sampling'], 'cpu', 'float32')
    assert len(shown) == len(frames)
    for frame, found in zip(frames, shown):
        assert np.abs(found.picture[..., 0].astype(int) - expected(frame.picture, bgr).pha).max() <= 1
    assert gpus.contexts == {1}


def run(script, weights, device, *flags):
    words = ['--model-checkpoint', weights, '--device', device, '--precision', 'float32', *flags]
    words += ['--model-type', 'mattingrefine', '--model-backbone', 'mobilenetv2', '--model-refine-sample-pixels', 800]
    assert script.main([*map(str, words)]) == 0


def check_script(ledger, device):
    """Its files are the CPU's; it used one GPU, and waited for nothing but the network and results."""
    files = sorted(path.relative_to('cpu') for path in Path('cpu').rglob('*') if path.suffix in ('.jpg', '.png'))
    assert files
    for file in files:
        found, expected = (read(Path(folder) / file).astype(int) for folder in ('gpu', 'cpu'))
        assert np.abs(found - expected).max() <= 1, file
    assert ledger.contexts == {torch.device(device).index}
    assert set(ledger.copies) == {('H2D', False, False), ('H2D', True, True), ('D2H', True, True)}
    assert {what for what, _ in ledger.waits} <= {'H2D copy', 'Event.synchronize', 'torch.cuda.synchronize'}
    assert len({line for what, line in ledger.waits if what == 'H2D copy'}) == 1, 'more than the network was waited for'


def test_a_folder_of_pictures(gpus, weights, in_tmp):
    bgr = room(0)
    for seed in range(4):
        save(in_tmp / f'src/{seed}.png', photo(bgr, seed))
    more = ['--images-src', 'src', '--images-bgr', save(in_tmp / 'plate.png', bgr), '--batch-size', 2]
    for device, out in (('cpu', 'cpu'), ('cuda:1', 'gpu')):
        run(inference_images, weights, device, *more, '--output-dir', out, '--output-types', *kinds('sampling'))
    check_script(gpus, 'cuda:1')


def test_a_film(gpus, weights, in_tmp):
    plate = save(in_tmp / 'plate.png', np.median(moving(36), axis=0).astype(np.uint8))
    more = ['--video-src', write_video(in_tmp / 'src.mp4', moving(5)), '--video-bgr', plate, '--batch-size', 2]
    for device, out in (('cpu', 'cpu'), ('cuda', 'gpu')):
        types = ['--output-types', 'pha', '--output-format', 'image_sequences']
        run(inference_video, weights, device, *more, '--output-dir', out, *types)
    check_script(gpus, 'cuda:0')
