"""What only a GPU can prove; skipped where there is none, or where there are too few."""

import pytest
import torch
from support.runs import ROOT, flags, load, names

import train_base
import train_refine
from training.distributed import launch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
ONE = {'device': 'cuda', 'max_steps': 3, 'ema_decay': 0.9, 'clip_grad': 1}


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16', 'float16'])
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


def test_a_dry_run_tells_the_memory_of_the_gpu(in_tmp, one_gpu, capsys):
    assert train_base.main(flags('run', dry_run=True, precision='float16', **ONE)) == 0
    total = torch.cuda.get_device_properties(0).total_memory / 1e9
    assert f' GB of {total:.2f} GB, at that crop' in capsys.readouterr().out
    assert list(in_tmp.iterdir()) == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two GPUs')
def test_two_gpus_with_synchronised_batchnorm_train(in_tmp):
    shared = {'device': 'cuda', 'max_steps': 2, 'precision': 'float32', 'batch_size': 4}
    assert launch([str(ROOT / 'train_base.py'), *flags('two', **shared)], 2) == 0
    assert 'epoch-0-iter-1.pth' in names('checkpoint/two')
    state = load('checkpoint/two/epoch-0-iter-1.pth')
    assert all(tensor.isfinite().all() for tensor in state.values())
