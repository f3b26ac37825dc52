"""What a run on a GPU leaves behind: it leaves the device without a wait, and loads where there is no GPU."""

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from support.runs import assert_same
from support.simulated_cuda import simulated_cuda
from support.small_run import CUT, END, finish, make_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from checkpointing.content import Content, HostCopy, read_content
from checkpointing.manager import Checkpoints, Point
from checkpointing.record import read_records
from training import sheets
from training.logs import Logger

GPU = torch.device('cuda', 0)


@pytest.fixture
def gpu():
    with simulated_cuda() as ledger:
        yield ledger


def layouts():
    """Tensors as training has them, and odd ones."""
    torch.manual_seed(0)
    return {
        'weights': torch.rand(8, 4, 3, 3).to(memory_format=torch.channels_last),
        'half': torch.rand(3).half(), 'step': torch.tensor(3.0), 'batches': torch.tensor(7),
        'flags': torch.tensor([True]), 'none': torch.empty(0, 3), 'part': torch.rand(4, 6)[:, 2:4],
        'large': torch.rand(600, 3000),
    }  # fmt: skip


def moved(content, device):
    return {k: moved(v, device) if isinstance(v, dict) else v.to(device) for k, v in content.items()}


def test_tensors_of_every_layout_arrive_as_they_were_when_they_left(gpu):
    there = {'a': moved(layouts(), GPU), 'b': {'x': torch.ones(2, device=GPU), 'n': 5, 'cpu': torch.zeros(3)}}
    with gpu.forbid_waits():
        copy = HostCopy(there)
        for tensor in (*there['a'].values(), there['b']['x'], there['b']['cpu']):
            tensor.zero_() if tensor.dtype is torch.bool else tensor.add_(1)  # as the next step does
    found = copy.arrived()
    assert_same(found, {'a': layouts(), 'b': {'x': torch.ones(2), 'n': 5, 'cpu': torch.zeros(3)}})
    assert found['a']['weights'].stride() == layouts()['weights'].stride()


def test_a_copy_takes_few_transfers_and_no_room_of_a_full_gpu(gpu, monkeypatch):
    tensors = {str(i): torch.full((100,), float(i), device=GPU) for i in range(40)}
    gpu.clear()
    HostCopy(tensors)
    assert gpu.copies == {('D2H', True, True): [1, 40 * 400]}

    def full(*_, **__):
        raise torch.OutOfMemoryError('CUDA out of memory')

    for name in ('cat', 'stack', 'clone', 'contiguous'):
        monkeypatch.setattr(torch, name, full, raising=False)
    found = HostCopy(tensors).arrived()
    assert all((found[str(i)] == i).all() for i in range(40))


def test_a_save_of_a_gpu_waits_for_nothing_and_equals_that_of_a_cpu(gpu, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3))
    network = network.to(memory_format=torch.channels_last)
    moments = {name: {'exp_avg': p.detach() * 2, 'step': torch.tensor(1.0)} for name, p in network.named_parameters()}
    files = {}
    for place in ('cpu', 'cuda'):
        network, moments = network.to(place), moved(moments, place)
        checkpoints = Checkpoints(tmp_path / place, 'base', 'run', {})
        content = Content(network.state_dict(), {'optimizer': moments}, dict(network.state_dict()))
        gpu.clear()
        with gpu.forbid_waits():
            checkpoints.save({'a': 'interval'}, Point(1, 0), content)
            if place == 'cuda':  # the next step changes everything
                for tensor in content.weights.values():
                    tensor.zero_()
        checkpoints.close()
        files[place] = {path.name: path.read_bytes() for path in (tmp_path / place).glob('a*.pth')}
    assert files['cpu'] == files['cuda']
    assert len(files['cpu']) == 3
    copies, _ = gpu.copies['D2H', True, True]
    assert copies == 1
    assert set(gpu.copies) == {('D2H', True, True)}
    torch.load(tmp_path / 'cuda/a.state.pth', weights_only=True)


def test_a_run_of_a_gpu_saves_resumes_and_ends_as_that_of_a_cpu(tmp_path):
    expected = finish(make_run(tmp_path / 'cpu', seed=0))
    with simulated_cuda() as ledger:
        found = finish(make_run(tmp_path / 'whole', seed=0, device=GPU))
        again, resume = (
            make_run(tmp_path / 'cut', seed=1, device=GPU),
            read_content(tmp_path / 'whole', whole_record(tmp_path)),
        )
        again.state.load_state_dict(resume.state, resume.weights, resume.ema)
        resumed = finish(again)
        assert not any(kind.startswith('D2H save') for kind, *_ in ledger.copies)
    for step in expected:
        assert_same(vars(found[step]), vars(expected[step]), f'step {step}')
    for step in resumed:
        assert_same(vars(resumed[step]), vars(expected[step]), f'step {step}')
    assert len(resumed) == END - CUT


def whole_record(folder):
    """The record of the step before the cut."""
    return next(record for record in read_records(folder / 'whole') if record.step == CUT - 1)


@pytest.mark.parametrize('sides', [(1100, 800), (40, 30)])
def test_pictures_are_made_small_on_the_device_and_drawn_beside_training(gpu, tmp_path, sides, monkeypatch):
    logger = Logger(tmp_path / 'log', 0, 10)
    drawn = threading.Event()
    real = sheets.grid
    monkeypatch.setattr(sheets, 'grid', lambda batch: drawn.wait(10) and real(batch))
    down, across = (torch.linspace(0, 1, side) for side in sides)
    a = torch.stack([down[:, None].expand(sides), across.expand(sides), down[:, None] * across])
    batches = {'a': torch.stack([a, 1 - a]), 'b': torch.stack([a, 1 - a])[:, 2:]}
    there = {tag: x.to(GPU) for tag, x in batches.items()}
    gpu.clear()
    with gpu.forbid_waits():
        logger.pictures(3, there)
    drawn.set()
    for x in there.values():
        x.zero_()
    logger.flush()
    logger.close()
    (kind, (count, size)), *others = gpu.copies.items()
    assert (kind, count, others) == (('D2H', True, True), 1, [])
    assert size <= 2 * 4 * 512 * 512
    events = EventAccumulator(str(tmp_path / 'log'), size_guidance={'images': 0}).Reload()
    for tag, x in batches.items():
        (event,) = events.Images(tag)
        found = Image.open(io.BytesIO(event.encoded_image_string))
        assert (event.step, found.width) == (3, event.width)
        width, height = (found.width - 6) // 2, found.height - 4
        assert abs(width / height - sides[1] / sides[0]) < 0.01
        first = np.asarray(found.convert('RGB'), dtype=float)[2 : 2 + height, 2 : 2 + width]
        small = torch.nn.functional.interpolate(x[:1], (height, width), mode='area').expand(1, 3, -1, -1)[0]
        assert np.abs(first - small.permute(1, 2, 0).numpy() * 255).mean() < 6
