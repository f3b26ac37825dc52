"""A training step on a GPU: nothing in it waits for the device, mixes devices or copies from pageable memory."""

from dataclasses import replace

import pytest
import torch
from support.gpu_runs import begun, gpu, trained

import training.loop
from dataset.loaders import Batch
from training.loop import TrainingStopped

__all__ = ['gpu']
PRECISIONS = ('float32', 'bfloat16', 'float16')


def check(ledger, run):
    """Train; no step may wait or copy from pageable memory. Return the losses."""

    def watched(make):
        ledger.clear()
        with ledger.forbid_waits():
            result = make()
        if {*ledger.copies} != {('H2D', True, True)}:
            raise AssertionError(f'copies are not all pinned and without waiting: {dict(ledger.copies)}')
        return result

    return torch.stack([result.losses['total'] for result in trained(run, watched)]).tolist()


@pytest.mark.parametrize('stage', ['base', 'refine'])
@pytest.mark.parametrize('precision', PRECISIONS)
def test_a_step_waits_for_nothing(gpu, stage, precision):
    run = begun(stage, precision=precision, accumulate=2, max_steps=1)
    if precision == 'float16':
        run.state.scaler = torch.amp.GradScaler('cuda', init_scale=16.0)  # a new network overflows at first
    before = [x.cpu() for x in run.state.module.parameters()]
    assert torch.tensor(check(gpu, run)).isfinite().all()
    assert run.state.progress.step == 1
    after = [x.cpu() for x in run.state.module.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, after))


def step_with(spoil):
    """What spoils a step: does something with the stage's prediction."""

    def mutate(run, monkeypatch):
        real = run.step

        def step(model, batch):
            prediction = real(model, batch)
            return replace(prediction, losses={**prediction.losses, 'total': spoil(prediction)})

        run.step = step

    return mutate


def with_losses(spoil):
    return step_with(lambda prediction: spoil(prediction.losses['total']))


def pictures_are_waited_for(run, monkeypatch):
    monkeypatch.setattr(Batch, 'to', lambda self, device: replace(self, mattes=self.mattes.to(device)))


def pictures_are_pageable(run, monkeypatch):
    monkeypatch.setattr(Batch, 'pin_memory', lambda self: self)


def the_norm_is_looked_at(run, monkeypatch):
    real = training.loop.get_total_norm
    monkeypatch.setattr(training.loop, 'get_total_norm', lambda x: real(x) if real(x) > 0 else None)


def the_average_is_on_the_cpu(run, monkeypatch):
    run.state.ema.module.to('cpu')


@pytest.mark.parametrize(
    ('mutate', 'message'),
    [
        (with_losses(lambda total: total * (total.item() > 0)), '_local_scalar_dense at tests/cuda'),
        (with_losses(lambda total: total + torch.ones(3).mean(0, keepdim=True)), 'expected all tensors on one device'),
        (with_losses(lambda total: total * torch.tensor([1.0, 2.0], device=total.device).mean()), 'H2D copy at'),
        (step_with(lambda found: found.pha[found.true.pha > 0].mean()), 'by a mask'),
        (with_losses(lambda total: total + total.detach().cpu().to('cuda', non_blocking=True)), 'D2H copy'),
        (pictures_are_waited_for, 'H2D copy'),
        (pictures_are_pageable, 'copies are not all pinned'),
        (the_norm_is_looked_at, 'is_nonzero|_local_scalar_dense'),
        (the_average_is_on_the_cpu, 'expected all tensors on one device'),
    ],
)
def test_the_guard_notices(gpu, monkeypatch, mutate, message):
    run = begun('base', max_steps=1)
    mutate(run, monkeypatch)
    with pytest.raises(TrainingStopped, match=message):
        check(gpu, run)


@pytest.mark.parametrize('stage', ['base', 'refine'])
def test_a_gpu_learns_what_a_cpu_learns(gpu, stage):
    losses = check(gpu, begun(stage, max_steps=2))
    run = begun(stage, name='cpu', max_steps=2, device='cpu')
    expected = [result.losses['total'].item() for result in trained(run)]
    assert losses == pytest.approx(expected, rel=1e-3)
