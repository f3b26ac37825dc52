"""Which share of the time a GPU waits for data: of its own time, not of the host's, which runs ahead of it."""

import time

import pytest
import torch
from support.simulated_cuda import simulated_cuda

from training.meters import Meter

GPU = torch.device('cuda', 0)


@pytest.fixture
def gpu():
    with simulated_cuda() as ledger:
        yield ledger


def test_a_host_that_waits_beside_a_busy_gpu_counts_as_no_wait(gpu):
    meter, work = Meter(GPU), torch.ones(3, device=GPU)
    with gpu.forbid_waits():
        for _ in range(3):
            work += 1
            with meter.waiting():
                time.sleep(0.03)
            meter.count(4)
    torch.cuda.synchronize()
    with meter.waiting():
        pass
    rate, waiting = meter.reported.rates()
    assert rate > 0
    assert waiting < 0.1  # the host waited nearly all of the time
    assert meter.shown.waited == meter.reported.waited > 0


def test_the_time_between_a_gpus_last_work_and_its_next_counts(gpu):
    meter, work = Meter(GPU), torch.ones(3, device=GPU)
    with meter.waiting():
        for _ in range(500):  # stands for 5 ms on the device's clock
            work += 1
    torch.cuda.synchronize()
    meter._count_pauses()
    assert meter.reported.waited == pytest.approx(0.005, rel=0.1)
    meter.restart()
    assert meter.reported.waited == meter.shown.waited == 0


def test_what_the_gpu_has_not_reached_is_counted_later_and_never_twice(gpu):
    meter, work = Meter(GPU), torch.ones(3, device=GPU)
    for _ in range(20):
        with meter.waiting():
            work += 1
    pending = len(meter.pauses)
    counted = meter.reported.waited
    torch.cuda.synchronize()
    meter._count_pauses()
    assert not meter.pauses
    assert meter.reported.waited - counted == pytest.approx(pending * 2 / 100_000, rel=0.01)


def test_on_a_cpu_it_is_the_hosts_time():
    meter = Meter(torch.device('cpu'))
    with meter.waiting():
        time.sleep(0.02)
    assert 0.02 <= meter.reported.waited == pytest.approx(meter.shown.waited)
