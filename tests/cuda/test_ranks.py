"""Several GPUs, as far as one process can tell: the device of a rank's group, and a BatchNorm without waits."""

import pytest
import torch
import torch.distributed as dist
from support.simulated_cuda import simulated_cuda
from torch import nn

from training import distributed
from training.distributed import Ranks, distribute, join_ranks

GPU = torch.device('cuda', 1)


@pytest.fixture
def gpus():
    with simulated_cuda(2) as ledger:
        yield ledger


@pytest.fixture
def one_rank(monkeypatch):
    """Collectives of a group that has one rank."""
    monkeypatch.setattr(dist, 'get_world_size', lambda: 1)
    monkeypatch.setattr(dist, 'get_rank', lambda: 0)
    monkeypatch.setattr(dist, 'all_reduce', lambda tensor: None)


class Ddp(nn.Module):
    """Stands for DistributedDataParallel, which needs a group; of versions before and from 2.15."""

    def __init__(self, module, device_ids, gradient_as_bucket_view, broadcast_buffers=True):
        super().__init__()
        self.module, self.given = module, (device_ids, broadcast_buffers)


class NewDdp(nn.Module):
    def __init__(self, module, device_ids, gradient_as_bucket_view, broadcast_buffers=True, forward_sync_buffers=True):
        super().__init__()
        self.module, self.given = module, (device_ids, forward_sync_buffers)
        assert broadcast_buffers, 'a warning says that this is deprecated'


@pytest.mark.parametrize('kind', [Ddp, NewDdp])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_batchnorm_over_gpus_is_that_of_one_without_a_wait(gpus, one_rank, monkeypatch, kind, dtype):
    monkeypatch.setattr(distributed, 'DistributedDataParallel', kind)
    torch.manual_seed(0)
    alone = nn.Sequential(nn.BatchNorm2d(5))
    nn.init.uniform_(alone[0].weight)
    net = nn.Sequential(nn.BatchNorm2d(5))
    net.load_state_dict(alone.state_dict())
    net = distribute(net.to(GPU), Ranks(GPU, rank=0, world=2))
    assert net.given == ([1], False)
    x = torch.randn(3, 5, 4, 6).to(dtype=dtype, memory_format=torch.channels_last)
    there = x.to(GPU).requires_grad_()
    x.requires_grad_()
    expected = alone(x)
    weight = torch.rand_like(expected)
    with gpus.forbid_waits():
        found = net.module(there)
        (found * weight.to(GPU, non_blocking=True)).sum().backward()
    (expected * weight).sum().backward()
    wide = {'rtol': 1e-4, 'atol': 1e-5} if dtype is torch.float32 else {'rtol': 0.05, 'atol': 0.05}
    torch.testing.assert_close(found.cpu(), expected, **wide)
    torch.testing.assert_close(there.grad.cpu(), x.grad, **wide)
    for (name, mine), other in zip(net.module.named_parameters(), alone.parameters()):
        torch.testing.assert_close(mine.grad.cpu(), other.grad, msg=name, **wide)
    for (name, mine), other in zip(net.module.named_buffers(), alone.buffers()):
        torch.testing.assert_close(mine.cpu(), other, msg=name, **wide)
    alone.eval(), net.eval()
    torch.testing.assert_close(net.module(there).cpu(), alone(x), **wide)


def test_a_group_of_gpus_knows_the_device_of_its_rank(gpus, monkeypatch):
    given = {}
    for name, value in {'WORLD_SIZE': '2', 'LOCAL_RANK': '1'}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, 'is_nccl_available', lambda: True)
    monkeypatch.setattr(dist, 'rendezvous', lambda _, **more: iter([(dist.HashStore(), 1, 2)]))
    monkeypatch.setattr(dist, 'init_process_group', lambda backend, **more: given.update(backend=backend, **more))
    ranks = join_ranks('cuda')
    assert (given['backend'], given['device_id'], ranks.device) == ('nccl', GPU, GPU)
    monkeypatch.setattr(dist, 'is_nccl_available', lambda: False)
    join_ranks('cuda')
    assert (given['backend'], given['device_id']) == ('gloo', None)
