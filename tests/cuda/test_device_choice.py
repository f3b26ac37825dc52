"""`--device cuda:1`: which GPU is chosen, and that all goes there."""

import pytest
import torch
from support.simulated_cuda import simulated_cuda

import inference_webcam
import train_base
from common.devices import choose_device, on_device
from training.distributed import join_ranks


@pytest.fixture
def ledger():
    with simulated_cuda(2) as found:
        yield found


def test_one_gpu_of_several_can_be_named(ledger):
    assert choose_device('cuda:1') == torch.device('cuda', 1)
    with pytest.raises(ValueError, match='--device cuda:2: there are 2 GPUs, from cuda:0 on'):
        choose_device('cuda:2')
    for script, more in (
        (inference_webcam, ['--model-checkpoint', 'x']),
        (train_base, ['--dataset-name', 'synthetic', '--model-backbone', 'mobilenetv2', '--model-name', 'x']),
    ):
        assert script.parse([*more, '--device', 'cuda:1']).device == 'cuda:1'
        with pytest.raises(SystemExit):
            script.parse([*more, '--device', 'cuda:x'])


def test_training_makes_the_gpu_that_was_named_the_current_one(ledger):
    before = torch.cuda.current_device()
    try:
        assert join_ranks('cuda:1').device == torch.device('cuda', 1)
        assert torch.cuda.current_device() == 1
    finally:
        torch.cuda.set_device(before)


def test_a_device_is_current_inside_its_block_alone(ledger):
    with on_device(torch.device('cuda', 1)):
        assert torch.cuda.current_device() == 1
    assert torch.cuda.current_device() == 0
    with on_device(torch.device('cpu')):
        assert torch.cuda.current_device() == 0
