"""`--deterministic`: what a step launches on a GPU then, against torch's list of what can differ from run to run."""

import os

import pytest
import torch
from support.runs import flags
from support.simulated_cuda import simulated_cuda

import train_base
import train_refine
from common import devices
from common.signals import StopRequest
from dataset.loaders import copied_ahead
from training.distributed import Ranks
from training.loop import _train_step
from training.meters import BadSteps, Meter
from training.stage import run_script

GPU = torch.device('cuda', 0)

# What has no deterministic form on CUDA, as `torch.use_deterministic_algorithms` documents; by names of operations.
UNSURE = {
    'avg_pool3d_backward', '_adaptive_avg_pool2d_backward', '_adaptive_avg_pool3d_backward',
    'adaptive_max_pool2d_backward', 'fractional_max_pool2d_backward', 'fractional_max_pool3d_backward',
    'max_unpool2d', 'max_unpool3d',
    'upsample_linear1d_backward', 'upsample_bilinear2d_backward', 'upsample_bicubic2d_backward',
    'upsample_trilinear3d_backward', '_upsample_bilinear2d_aa_backward', '_upsample_bicubic2d_aa_backward',
    'reflection_pad1d_backward', 'reflection_pad2d_backward', 'reflection_pad3d_backward',
    'replication_pad1d_backward', 'replication_pad2d_backward', 'replication_pad3d_backward',
    'nll_loss_forward', 'nll_loss2d_forward', '_ctc_loss_backward', '_embedding_bag_per_sample_weights_backward',
    'put_', 'put', 'histc', 'bincount', 'median', 'nanmedian', 'grid_sampler_2d_backward', 'grid_sampler_3d_backward',
    'scatter_reduce', 'scatter_reduce_', 'index_reduce', 'index_reduce_', 'kthvalue',
}  # fmt: skip


@pytest.fixture
def as_before(monkeypatch):
    """What the flag sets for the whole process ends with the test."""
    import torch.utils.deterministic as more

    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', 'x')
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
    cudnn, fill = torch.backends.cudnn, more.fill_uninitialized_memory
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark = True
    yield
    torch.use_deterministic_algorithms(False)
    more.fill_uninitialized_memory, (cudnn.benchmark, cudnn.deterministic) = fill, before


@pytest.mark.parametrize('stage', ['base', 'refine'])
def test_a_deterministic_step_launches_nothing_that_may_differ(in_tmp, as_before, stage):
    script, more = (train_base, []) if stage == 'base' else (
        train_refine, ['--from-scratch', '--model-refine-sample-pixels', '800']
    )  # fmt: skip
    args = script.parse([*flags('run', device='cuda', precision='float32', batch_size=2), *more])
    devices.compute_deterministically()
    with simulated_cuda() as ledger:
        run = script.make_run(args, Ranks(GPU))
        run.state.module.train()
        bad_steps, meter = BadSteps(run.state), Meter(GPU)
        ledger.clear()
        _train_step(run, copied_ahead(run.batches, GPU), bad_steps, meter)
        run.checkpoints.close()
    assert len(ledger.launches) > 20
    assert not UNSURE & ledger.launches.keys()


@pytest.mark.parametrize('script', [train_base, train_refine])
@pytest.mark.parametrize('asked', [True, False])
def test_the_flag_sets_torch_up_before_anything_is_computed(in_tmp, as_before, script, asked):
    seen = []

    def train(*_):
        cudnn = torch.backends.cudnn
        seen.append((torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, not cudnn.benchmark))
        seen.append('CUBLAS_WORKSPACE_CONFIG' in os.environ)
        raise ValueError('enough')

    more = [] if script is train_base else ['--from-scratch']
    args = script.parse([*flags('run', **({'deterministic': True} if asked else {})), *more])
    assert run_script(args, train, StopRequest(), []) == 2
    assert seen == [(asked,) * 3, asked]


def test_a_cpu_computes_the_same_with_the_flag(in_tmp, as_before):
    """Nothing in a step is refused."""
    script = train_refine
    more = ['--from-scratch', '--model-refine-sample-pixels', '800', '--deterministic']
    args = script.parse([*flags('run', batch_size=2), *more])
    losses = []
    for prepare in (lambda: None, devices.compute_deterministically):
        prepare()
        torch.manual_seed(0)
        run = script.make_run(args, Ranks(torch.device('cpu')))
        run.state.module.train()
        losses.append(_train_step(run, iter(run.batches), BadSteps(run.state), Meter()).losses['total'])
        run.checkpoints.close()
    assert torch.equal(*losses)
