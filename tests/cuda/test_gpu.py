"""What only a GPU can prove; skipped where there is none, or where there are too few."""

import cv2
import numpy as np
import pytest
import torch
from support.inference_case import photo, room, spread_out
from support.runs import ROOT, assert_same, flags, load, names, server

import train_base
import train_refine
from common.network import PUBLISHED, SIZES
from inference import Matting
from model import MattingRefine
from model.cells import EAGER
from training import loop
from training.distributed import launch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
ONE = {'device': 'cuda', 'max_steps': 3, 'ema_decay': 0.9, 'clip_grad': 1}
PRECISIONS = ('float32', 'bfloat16', 'float16')


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)


@pytest.mark.parametrize('precision', PRECISIONS)
def test_both_stages_train_and_learn_finite_weights(in_tmp, one_gpu, precision):
    assert train_base.main(flags('base', precision=precision, **ONE)) == 0
    arguments = flags('refine', precision=precision, model_last_checkpoint='checkpoint/base/last.pth', **ONE)
    assert train_refine.main(arguments) == 0
    state = load('checkpoint/refine/last.pth')
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_resume_keeps_the_loss_scale(in_tmp, one_gpu):
    assert train_base.main(flags('run', precision='float16', **ONE)) == 0
    arguments = flags('run', precision='float16', model_last_checkpoint='auto', **{**ONE, 'max_steps': 4})
    assert train_base.main(arguments) == 0
    scales = [load(f'checkpoint/run/epoch-{n}.state.pth')['scaler'] for n in ('0', '1-iter-3')]
    assert scales[0]['scale'] >= scales[1]['scale'] > 0
    assert scales[1]['_growth_tracker'] <= 4


@pytest.mark.parametrize('precision', PRECISIONS)
def test_a_resumed_deterministic_run_is_the_uninterrupted_one(in_tmp, precision):
    same = {**ONE, 'precision': precision, 'deterministic': True}
    environment = {'CUDA_VISIBLE_DEVICES': '0'}
    for words in (
        flags('whole', **{**same, 'max_steps': 4}),
        flags('cut', **{**same, 'max_steps': 2}),
        flags('cut', **{**same, 'max_steps': 4}, model_last_checkpoint='auto'),
    ):
        code, text = server().run(in_tmp, words, environment=environment, seconds=120)
        assert code == 0, text
    for kind in ('pth', 'ema.pth', 'state.pth'):
        whole, cut = (load(f'checkpoint/{name}/epoch-1-iter-3.{kind}') for name in ('whole', 'cut'))
        assert_same(whole, cut, kind)


def test_a_resumed_run_is_as_near_to_another_as_two_equal_runs(in_tmp, one_gpu):
    same = {**ONE, 'precision': 'float32', 'max_steps': 4}
    for name in ('one', 'two'):
        assert train_base.main(flags(name, **same)) == 0
    assert train_base.main(flags('cut', **{**same, 'max_steps': 2})) == 0
    assert train_base.main(flags('cut', **same, model_last_checkpoint='auto')) == 0
    one, two, cut = (load(f'checkpoint/{name}/last.pth') for name in ('one', 'two', 'cut'))
    equal, resumed = (max((one[key] - run[key]).abs().max().item() for key in one) for run in (two, cut))
    assert resumed <= 10 * equal + 1e-5


def test_weights_of_a_gpu_load_where_there_is_none(in_tmp, one_gpu):
    assert train_base.main(flags('run', **ONE)) == 0
    for name in ('last.pth', 'epoch-0.ema.pth', 'epoch-0.state.pth'):
        state = load(f'checkpoint/run/{name}')
        tensors, _ = torch.utils._pytree.tree_flatten(state)
        assert {x.device.type for x in tensors if isinstance(x, torch.Tensor)} <= {'cpu'}, name


def test_out_of_memory_is_one_line_and_the_last_step_is_saved(in_tmp, one_gpu, monkeypatch, capsys):
    step = loop._train_step

    def greedy(run, *arguments):
        if run.state.progress.step == 2:
            torch.empty(2**50, dtype=torch.uint8, device='cuda')
        return step(run, *arguments)

    monkeypatch.setattr(loop, '_train_step', greedy)
    assert train_base.main(flags('run', **ONE)) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith('error'))
    assert 'memory' in line
    assert '--batch-size' in line
    assert 'step 1 is saved' in line
    assert 'epoch-0-iter-1.pth' in names('checkpoint/run')


def test_a_dry_run_tells_the_memory_of_the_gpu(in_tmp, one_gpu, capsys):
    assert train_base.main(flags('run', dry_run=True, precision='float16', **ONE)) == 0
    total = torch.cuda.get_device_properties(0).total_memory / 1e9
    assert f' GB of {total:.2f} GB, at that crop' in capsys.readouterr().out
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize('one_plate', [True, False])
@pytest.mark.parametrize(
    ('precision', 'name', 'count'), [*((precision, 'hd', 8) for precision in PRECISIONS), ('float16', '4k', 4)]
)
def test_graphs_and_kernels_give_what_is_computed_without(precision, one_plate, name, count):
    size, (scale, pixels) = SIZES[name], PUBLISHED[name]
    torch.manual_seed(0)
    network = MattingRefine('mobilenetv2', scale, refine_sample_pixels=pixels).eval()
    spread_out(network)
    rooms = [room(seed, *size) for seed in range(1 if one_plate else count)]
    batches = [[photo(rooms[i % len(rooms)], seed + i) for i in range(count)] for seed in (0, 50)]
    plain, recorded = (Matting(network, 'cuda', precision, graphs=graphs) for graphs in (False, True))
    assert recorded.model.refiner.ops is not EAGER, 'Triton was not taken'
    plain.model.refiner.ops = EAGER
    expected = [plain.batch(batch, rooms, err=True, ref=True) for batch in batches]
    for turn in range(4):
        found = recorded.batch(batches[turn % 2], rooms, err=True, ref=True)
        for one, other in zip(found, expected[turn % 2]):
            for kind in ('pha', 'fgr', 'err', 'ref'):
                far = cv2.absdiff(getattr(one, kind), getattr(other, kind))
                # Where predicted errors are nearly equal, rounding decides which cells are refined.
                assert (far > 2).mean() < 0.01, (turn, kind)
    assert len(recorded._graphs._graphs) == 1, 'no graph was recorded'


@two_gpus
def test_two_gpus_with_synchronised_batchnorm_train(in_tmp):
    shared = {'device': 'cuda', 'max_steps': 2, 'precision': 'float32', 'batch_size': 4}
    assert launch([str(ROOT / 'train_base.py'), *flags('two', **shared)], 2) == 0
    assert 'epoch-0-iter-1.pth' in names('checkpoint/two')
    state = load('checkpoint/two/epoch-0-iter-1.pth')
    assert all(tensor.isfinite().all() for tensor in state.values())


@two_gpus
def test_the_second_gpu_gives_the_mattes_of_the_first():
    torch.manual_seed(0)
    network = MattingRefine('mobilenetv2', refine_sample_pixels=80_000).eval()
    spread_out(network)
    plate = room(0, 1920, 1080)
    pictures = [photo(plate, seed) for seed in range(8)]
    first, second = (Matting(network, f'cuda:{i}', 'float32') for i in range(2))
    for _ in range(4):  # results that are read before they arrived are right now and then
        for one, two in zip(first.batch(pictures, [plate]), second.batch(pictures, [plate])):
            far = np.abs(one.pha.astype(int) - two.pha)
            assert (far > 1).mean() < 0.001
