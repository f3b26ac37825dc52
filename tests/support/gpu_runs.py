"""Runs of the training scripts on simulated GPUs, with the small encoder."""

import pytest
import torch

import train_base
import train_refine
from common.devices import choose_device
from common.signals import StopRequest
from support import small_encoder
from support.runs import flags
from support.simulated_cuda import simulated_cuda
from training import loop
from training.distributed import Ranks

SCRIPTS = {'base': train_base, 'refine': train_refine}
SMALL = {'device': 'cuda', 'ema_decay': 0.9, 'clip_grad': 1, 'precision': 'float32', 'batch_size': 2}


@pytest.fixture
def gpu(in_tmp):
    """The ledger of the one GPU that there is."""
    with small_encoder.used(), simulated_cuda() as ledger:
        yield ledger


@pytest.fixture
def gpus(in_tmp):
    """The ledger of two GPUs."""
    with small_encoder.used(), simulated_cuda(2) as ledger:
        yield ledger


def words(stage, name='run', **changed):
    """The command line of a small run on a GPU."""
    more = {'from_scratch': True, 'model_refine_sample_pixels': 300} if stage == 'refine' else {}
    return flags(name, **{**SMALL, **more, **changed})


def begun(stage, device='cuda', **changed):
    """A run as it is before its first step, on any device."""
    args = SCRIPTS[stage].parse(words(stage, **changed))
    torch.manual_seed(args.seed)
    return SCRIPTS[stage].make_run(args, Ranks(choose_device(device)))


def trained(run, step=lambda make: make()):
    """The results of a run's steps, without validations and checkpoints; `step` makes each by a call."""
    results, real = [], loop._train_step

    def kept(*arguments):
        results.append(step(lambda: real(*arguments)))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, '_train_step', kept)
        for name, done in (('rehearse', None), ('_finish_step', True), ('summary', '')):
            patch.setattr(loop, name, lambda *_, done=done: done)
        assert loop.fit(run, StopRequest()) == 0
    return results
