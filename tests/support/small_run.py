"""The real loop on a network of which a step takes microseconds, in this process."""

import torch
from torch import nn

from checkpointing.content import read_content
from checkpointing.manager import Checkpoints
from checkpointing.record import read_records
from checkpointing.retention import Policy
from common.signals import StopRequest
from training.distributed import Ranks
from training.logs import Logger
from training.loop import Run, fit
from training.schedule import Schedule
from training.settings import LoopSettings, ScheduleSettings
from training.state import EMA, TrainingState

CPU = torch.device('cpu')


class Net(nn.Module):
    """A network with BatchNorm, of which a step takes microseconds."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, src, bgr):
        return (self.last(self.norm(self.first(src - bgr)).relu()),)


class Batch:
    """Four samples that follow from the step."""

    share = 1.0

    def __init__(self, step):
        g = torch.Generator().manual_seed(step)
        self.src, self.bgr, self.names, self.step = *torch.rand(2, 4, 3, 5, 5, generator=g), [f'{step}'], step

    def __len__(self):
        return 4

    def to(self, device):
        self.src, self.bgr = self.src.to(device, non_blocking=True), self.bgr.to(device, non_blocking=True)
        return self


# Step 2 overflows at any scale, step 7 at the scale that a forgetful run would have. Steps 3 and 4 have no finite loss:
# a run that is cut after step 3 is cut in a row of bad steps.
LOUD = {2: 1e3, 3: float('nan'), 4: float('nan'), 7: 300.0}
CUT, END = 4, 9


class Loud:
    """What the stage predicts, as far as the loop looks at it."""

    def __init__(self, losses):
        self.losses = losses

    def scores(self, _):
        return {'loss': torch.zeros(())}


def step(model, batch):
    (out,) = model(batch.src, batch.bgr)
    return Loud({'total': (out**2).mean() * LOUD.get(batch.step, 1.0)})


def make_run(folder, seed, interval=1, device=CPU):
    """A run of the real loop on the small network: a checkpoint after every `interval` steps, all kept."""
    torch.manual_seed(seed)
    net = Net().to(device)
    groups = [{'params': list(net.parameters()), 'lr': 0.01, 'initial_lr': 0.01, 'name': 'all'}]
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**120, growth_interval=2)
    state = TrainingState(net, torch.optim.Adam(groups), scaler, EMA(net, 0.9))
    settings = LoopSettings(
        seed=0, accumulate=1, clip_grad=None, log_train_loss_interval=100, log_train_images_interval=100,
        monitor='valid_loss', checkpoint_best_name=None, checkpoint_minutes=None, requeue=False,
    )  # fmt: skip
    schedule = Schedule(ScheduleSettings(1, END, 100, interval, 100, 'cosine', 2), steps_per_epoch=100)
    policy = Policy(states=END)
    return Run(
        state, net, [], [Batch(1000)], step, settings, schedule,
        Ranks(device), torch.float32, Checkpoints(folder, 'base', 'run', {}, policy),
        Logger(folder / 'log', 0, END, first=False),
    )  # fmt: skip


def finish(run):
    """Trains to the end; returns the content of the checkpoint after each step."""
    run.batches = map(Batch, range(run.state.progress.step, END))
    assert fit(run, StopRequest()) == 0
    folder = run.checkpoints.folder
    run.checkpoints.close()
    return {record.step: read_content(folder, record) for record in read_records(folder)}
