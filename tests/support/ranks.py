"""One optimizer step of a rank, for test_distributed: what it saw and the gradient that it took.

BatchNorm is frozen, since torch synchronises it on GPUs only; a plain SGD step of length 1 leaves the gradient in
the weights.
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
    ranks = distributed.join_ranks('cpu')
    torch.manual_seed(0)
    module = Tiny().eval()
    optimizer = torch.optim.SGD([{'params': list(module.parameters()), 'lr': 1.0, 'initial_lr': 1.0, 'name': 'all'}])
    state = TrainingState(module, optimizer, make_scaler(ranks.device, torch.float32))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    data = WarpedPairs(SyntheticMattes(10), SyntheticBackgrounds(10), AffineRange((0.4, 1)), AffineRange((1, 2)))
    # 10 samples in one step: over 3 parts they are 3, 3 and 4.
    sampler = StepSampler(SamplingPlan(10, 10, 10, 64), 0, 1, accumulate, ranks.rank, ranks.world)
    batches = TrainingBatches(data, sampler, 0, pin=False)
    settings = LoopSettings(0, accumulate, None, 1, 1, 'valid_loss', None, None, False)
    schedule = Schedule(ScheduleSettings(1, 1, 1, 1, 1, 'constant', 0), steps_per_epoch=1)
    run = Run(
        state, distributed.distribute(module, ranks), batches, [], step, settings, schedule, ranks, torch.float32,
        Checkpoints(Path(folder), 'base', 'run', {}), Logger(Path(folder), 0, 1, first=False),
    )  # fmt: skip
    result = _train_step(run, iter(batches), BadSteps(state), Meter())
    gradient = {name: before[name] - p.detach() for name, p in module.named_parameters()}
    torch.save(
        {'gradient': gradient, 'names': result.names}, Path(folder) / f'{ranks.world}-{accumulate}-{ranks.rank}.pt'
    )
    distributed.leave_ranks()


if __name__ == '__main__':
    one_step(sys.argv[1], int(sys.argv[2]))
