"""One optimizer step of a rank, for test_distributed: what it saw, the gradient that it took, BatchNorm statistics.

A plain SGD step of length 1 leaves the gradient in the weights. There is no dropout, which each rank draws for itself.
"""

import sys
from pathlib import Path

import torch

from checkpointing.manager import Checkpoints
from dataset.geometry import AffineRange
from dataset.loaders import TrainingBatches, WarpedPairs
from dataset.sampling import SamplingPlan, StepSampler
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
from support.sabotage import Tiny
from training import distributed
from training.batch_norm import freeze_batch_norm
from training.logs import Logger
from training.loop import Run, _train_step
from training.losses import base_loss
from training.meters import BadSteps, Meter
from training.schedule import Schedule
from training.settings import LoopSettings, ScheduleSettings
from training.state import TrainingState, make_scaler
from training.validation import Prediction


def step(model, batch):
    true = batch.compose()
    pha, fgr, err, _ = model(true.src, true.bgr)
    return Prediction(base_loss(pha, fgr, err, true.pha, true.fgr), pha, fgr, {}, true)


def one_step(folder, accumulate):
    """Make the step with BatchNorm frozen and, unless its samples come in several parts, with BatchNorm that learns."""
    ranks = distributed.join_ranks('cpu')
    for norm in ('frozen', 'learning')[: 1 + (accumulate == 1)]:
        path = Path(folder) / f'{norm}-{ranks.world}-{accumulate}-{ranks.rank}.pt'
        torch.save(make_step(folder, accumulate, ranks, norm == 'learning'), path)
    distributed.leave_ranks()


def make_step(folder, accumulate, ranks, learning):
    torch.manual_seed(0)
    module = Tiny().train()
    freeze_batch_norm(module, 'none' if learning else 'all')
    module.aspp[-1].p = 0
    optimizer = torch.optim.SGD([{'params': list(module.parameters()), 'lr': 1.0, 'initial_lr': 1.0, 'name': 'all'}])
    state = TrainingState(module, optimizer, make_scaler(ranks.device, torch.float32))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    data = WarpedPairs(SyntheticMattes(11), SyntheticBackgrounds(11), AffineRange((0.4, 1)), AffineRange((1, 2)))
    # 11 samples in one step: over 2 parts they are 5 and 6, over 3 parts 3, 4 and 4.
    sampler = StepSampler(SamplingPlan(11, 11, 11, 64), 0, 1, accumulate, ranks.rank, ranks.world)
    batches = TrainingBatches(data, sampler, 0, pin=False)
    settings = LoopSettings(0, accumulate, None, 1, 1, 'valid_loss', None, None, False)
    schedule = Schedule(ScheduleSettings(1, 1, 1, 1, 1, 'constant', 0), steps_per_epoch=1)
    run = Run(
        state, distributed.distribute(module, ranks), batches, [], step, settings, schedule, ranks, torch.float32,
        Checkpoints(Path(folder), 'base', 'run', {}), Logger(Path(folder), 0, 1, first=False),
    )  # fmt: skip
    result = _train_step(run, iter(batches), BadSteps(state), Meter())
    gradient = {name: before[name] - p.detach() for name, p in module.named_parameters()}
    return {'gradient': gradient, 'names': result.names, 'statistics': dict(module.named_buffers())}


if __name__ == '__main__':
    one_step(sys.argv[1], int(sys.argv[2]))
