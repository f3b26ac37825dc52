"""The simulated device refuses what a GPU refuses, waits where one waits, and forgives nothing."""

import pickle
import threading

import pytest
import torch
from support.simulated_cuda import simulated_cuda


@pytest.fixture
def gpus():
    with simulated_cuda(2) as ledger:
        yield ledger


def ones(index=0, size=4):
    return torch.ones(size, device=f'cuda:{index}')


def test_there_is_no_device_outside_of_the_block():
    before = torch.cuda.is_available()
    with simulated_cuda():
        assert torch.cuda.is_available()
        assert ones().device == torch.device('cuda:0')
    assert torch.cuda.is_available() == before


@pytest.mark.parametrize(
    'mix',
    [
        lambda x: x + torch.ones(4),
        lambda x: x + ones(1),
        lambda x: x.add_(torch.ones(4)),
        lambda x: torch.cat([x, torch.ones(4)]),
        lambda x: torch.nn.functional.l1_loss(x, ones(1)),
        lambda x: torch.ones(4)[x.long()],
        lambda x: torch.randn(4, generator=torch.Generator(), device='cuda'),
        lambda x: torch.randn(4, generator=torch.Generator('cuda')),
        lambda x: torch.ones(1, device='cuda:2'),
        lambda x: x.numpy(),
    ],
)
@pytest.mark.parametrize('inference', [False, True])
def test_devices_do_not_mix(gpus, mix, inference):
    with torch.inference_mode(inference), pytest.raises((RuntimeError, TypeError)):
        mix(ones())


def test_what_a_gpu_allows_passes(gpus):
    x = ones()
    x[1:] = x[1:] * torch.tensor(3.0) + ones(1)[1:].to('cuda:0')
    x.copy_(ones(1))
    assert (x + 1).tolist() == [2, 2, 2, 2]
    assert torch.zeros_like(x, device='cpu').device.type == 'cpu'
    assert x.to('cuda') is x
    assert x.to('cuda:1').device.index == 1


@pytest.mark.parametrize(
    'wait',
    [
        lambda x: x[0].item(),
        lambda x: bool(x.sum() > 1),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to('cpu', torch.float16),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x[[0, 1]],
        lambda x: torch.tensor([1.0, 2.0], device='cuda'),
        lambda x: torch.ones(4).pin_memory().to('cuda'),
        lambda x: torch.ones(40000).to('cuda', non_blocking=True),
        lambda x: x.copy_(torch.ones(4)),
        lambda x: torch.empty(4).copy_(x, non_blocking=True),
        lambda x: torch.cuda.synchronize(),
        lambda x: torch.cuda.current_stream().synchronize(),
        lambda x: torch.cuda.current_stream().record_event().synchronize(),
        lambda x: torch._foreach_copy_([torch.empty(4)], [x]),
        lambda x: pickle.dumps(x),
    ],
)
@pytest.mark.parametrize('inference', [False, True])
def test_a_wait_names_its_line(gpus, wait, inference):
    x = ones()
    gpus.clear()
    with torch.inference_mode(inference), gpus.forbid_waits(), pytest.raises(AssertionError, match='test_simulated_'):
        wait(x)
    [(_, line)] = gpus.waits
    assert line.startswith('tests/cuda/test_simulated_cuda.py:')


@pytest.mark.parametrize('inference', [False, True])
def test_a_step_that_waits_for_nothing_passes(gpus, inference):
    with gpus.forbid_waits(), torch.inference_mode(inference):
        x = ones() * 2 + torch.tensor(1.0)
        x += torch.ones(4).pin_memory().to('cuda', non_blocking=True)
        x += torch.ones(4).to('cuda', non_blocking=True)
        torch.where(x > 1, x, 0).clamp_(0, 1).sum().to(torch.float16)
        x.to('cpu', non_blocking=True)
        torch._foreach_copy_([torch.empty(4, pin_memory=True)], [x], non_blocking=True)
    kinds = {('H2D', True, True): [1, 16], ('H2D', False, True): [1, 16], ('D2H', True, True): [2, 32]}
    assert dict(gpus.copies) == kinds


@pytest.mark.parametrize('inference', [False, True])
def test_a_copy_arrives_when_something_ordered_after_it_is_waited_for(gpus, inference):
    with torch.inference_mode(inference):
        other, x = torch.cuda.Event(), ones(1)
        there = torch.empty(4, pin_memory=True).copy_(x, non_blocking=True)
        x.zero_()
        other.record()  # of cuda:0, which is the current device
        other.synchronize()
        assert there.isnan().all()
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream('cuda:1'))
        x = torch.empty(4, dtype=torch.uint8, pin_memory=True).copy_(x, non_blocking=True)
    assert there.isnan().all()
    assert not event.query()
    event.synchronize()
    assert event.query()
    assert there.tolist() == [1, 1, 1, 1]
    assert x.tolist() == [255, 255, 255, 255]  # copied after the event


def test_an_event_measures_once_it_is_done(gpus):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    ones().add_(1)
    end.record()
    with pytest.raises(RuntimeError, match='not ready'):
        begin.elapsed_time(end)
    end.synchronize()
    assert begin.elapsed_time(end) > 0


def test_contexts_are_where_something_was_done(gpus):
    with torch.cuda.device(1):
        torch.empty(1, pin_memory=True)
    ones(1).add_(1)
    assert gpus.contexts == {1}
    torch.cuda.Event().record()
    assert gpus.contexts == {0, 1}


def test_the_current_device_and_stream_are_those_of_a_thread(gpus):
    found = []

    def look():
        found.append((torch.cuda.current_device(), torch.zeros(1, device='cuda').device.index))

    with torch.cuda.device(1), torch.cuda.stream(torch.cuda.Stream()) as _:
        assert torch.zeros(1, device='cuda').device.index == 1
        assert torch.cuda.current_stream() is not torch.cuda.default_stream()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert found == [(0, 0)]
    assert torch.cuda.current_device() == 0


def test_pinned_memory_must_not_change_under_a_copy(gpus):
    host = torch.ones(4).pin_memory()
    x = host.to('cuda', non_blocking=True)
    torch.cuda.synchronize()
    host.zero_()
    x = host.to('cuda', non_blocking=True)
    host.fill_(2)
    with pytest.raises(RuntimeError, match='pinned memory was changed'):
        x.tolist()


def test_pinned_memory_must_not_change_until_the_end():
    def change():
        with simulated_cuda():
            host = torch.ones(4).pin_memory()
            host.to('cuda', non_blocking=True)
            host.zero_()

    with pytest.raises(RuntimeError, match='pinned memory was changed'):
        change()


def test_streams_must_wait_for_each_other(gpus):
    side, x = torch.cuda.Stream(), ones()
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match='does not wait'):
        x.add(1)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y = x + 1
    with pytest.raises(RuntimeError, match='does not wait'):
        y.sum()
    with pytest.raises(RuntimeError, match='does not wait'):
        x.add_(1)  # the side stream may still read it
    side.record_event().wait()
    assert y.sum().item() == 8


@pytest.mark.parametrize('recorded', [False, True])
def test_memory_of_a_stream_is_not_taken_again_while_another_one_reads_it(gpus, recorded):
    side = torch.cuda.Stream()
    for _ in range(2):
        with torch.cuda.stream(side):
            x = ones()
        torch.cuda.current_stream().wait_stream(side)
        if recorded:
            x.record_stream(torch.cuda.current_stream())
        x.add(1)
        del x
        if not recorded:
            with torch.cuda.stream(side), pytest.raises(RuntimeError, match='taken again'):
                ones()
            break


def capture(function):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


@pytest.mark.parametrize('inference', [False, True])
def test_a_graph_does_it_all_again_on_the_same_memory(gpus, inference):
    with torch.inference_mode(inference), torch.cuda.device(1):
        weight, inputs, total = ones(1), [ones(1)], ones(1)
        frozen = [3.0]
        host = torch.empty(4, pin_memory=True)

        def work():
            y = (inputs[0] * weight + frozen[0]).view(2, 2)
            total.add_(1)
            host.copy_(total, non_blocking=True)
            return y.T * 2

        graph, y = capture(work)
        assert total.tolist() == [1, 1, 1, 1]
        assert y.isnan().all()
        graph.replay()
        assert total.tolist() == [2, 2, 2, 2]
        assert host.tolist() == [2, 2, 2, 2]
        assert y.tolist() == [[8, 8], [8, 8]]
        inputs[0].fill_(5)
        frozen[0] = 100
        graph.replay()
        assert y.tolist() == [[16, 16], [16, 16]]
        assert gpus.launches['graph'] == 2
        inputs.clear()
        with pytest.raises(RuntimeError, match='freed'):
            graph.replay()


@pytest.mark.parametrize(
    'work',
    [
        lambda x: x[0].item(),
        lambda x: torch.ones(4).to('cuda', non_blocking=True),
        lambda x: torch.empty(4, pin_memory=True),
        lambda x: torch.cuda.Event().query(),
        lambda x: ones(1) + 1,
        lambda x: x[x > 0],
    ],
)
def test_a_capture_refuses_what_a_graph_cannot_do(gpus, work):
    x = ones()
    with pytest.raises(RuntimeError, match='captur'):
        capture(lambda: work(x))
    graph, y = capture(lambda: x + 1)
    graph.replay()
    assert y.tolist() == [2, 2, 2, 2]


def test_another_thread_spoils_a_capture_that_is_everybodys(gpus):
    x, problems = ones(), []

    def elsewhere():
        try:
            x.cpu()
        except RuntimeError as error:
            problems.append(error)

    def work():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return x + 1

    capture(work)
    assert len(problems) == 1
    with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode='thread_local'):
        work()
    assert len(problems) == 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_training_works(gpus, dtype):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.1)).to('cuda:1')
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    scaler = torch.amp.GradScaler('cuda', init_scale=4.0)
    before = net[0].weight.tolist()
    with gpus.forbid_waits():
        with torch.autocast('cuda', dtype):
            y = net(torch.rand(2, 3, 8, 8, device='cuda:1'))
        scaler.scale(y.float().square().mean()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert net[0](torch.rand(2, 3, 8, 8, device='cuda:1')).dtype == torch.float32
    assert net[0].weight.grad.device.index == 1
    assert net[0].weight.tolist() != before
    assert scaler.get_scale() == 4
