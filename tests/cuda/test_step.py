"""What a training step does on a GPU that is not there: few copies, beside the computation, and few launches."""

import pytest
import torch
from support import small_encoder
from support.runs import flags
from support.simulated_cuda import simulated_cuda
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import train_base
import train_refine
from dataset.geometry import AffineRange
from dataset.loaders import Batch, TrainingBatches, WarpedPairs, copied_ahead
from dataset.sampling import SamplingPlan, StepSampler, default_multiple
from dataset.synthetic import SyntheticBackgrounds, SyntheticMattes
from model import MattingBase, MattingRefine
from training.distributed import Ranks, autocast_forward, distribute
from training.loop import _train_step
from training.meters import BadSteps, Meter
from training.state import EMA

STAGES = {'base': (train_base, []), 'refine': (train_refine, ['--from-scratch', '--model-refine-sample-pixels', '800'])}
CUDA = torch.device('cuda', 0)


def begin(stage):
    script, more = STAGES[stage]
    words = flags('run', ema_decay=0.9, clip_grad=1, batch_size=2, accumulate=2, device='cuda', precision='float32')
    with small_encoder.used():
        return script.make_run(script.parse([*words, *more]), Ranks(CUDA))


@pytest.mark.parametrize('stage', STAGES)
def test_a_batch_takes_three_copies_and_no_wait_in_training_and_its_scores(in_tmp, stage):
    with simulated_cuda() as ledger:
        run = begin(stage)
        batches, bad_steps = copied_ahead(run.batches, CUDA), BadSteps(run.state)
        ledger.clear()
        with ledger.forbid_waits():
            result = _train_step(run, batches, bad_steps, Meter())
        # In each of two parts: mattes, backgrounds and random numbers.
        assert {kind: count for kind, (count, _) in ledger.copies.items()} == {('H2D', True, True): 6}
        assert result.losses['total'].isfinite().item()
        batch = next(copied_ahead(run.valid_batches, CUDA))
        ledger.clear()
        with torch.no_grad(), ledger.forbid_waits():
            run.step(run.net, batch).scores()
        assert not ledger.copies


def read(count=5):
    data = WarpedPairs(SyntheticMattes(8), SyntheticBackgrounds(8), AffineRange((0.4, 1)), AffineRange((1, 2)))
    return TrainingBatches(data, StepSampler(SamplingPlan(8, 8, 2, 64), 0, count), 0, pin=True)


def composed(batches):
    return [batch.compose().src.mean((1, 2, 3)) for batch in batches]


def test_batches_are_copied_beside_the_computation(monkeypatch):
    expected, streams, real = composed(read()), set(), Batch.to
    monkeypatch.setattr(Batch, 'to', lambda *a: streams.add(torch.cuda.current_stream()) or real(*a))
    with simulated_cuda() as ledger:
        with ledger.forbid_waits():
            found = composed(copied_ahead(read(), CUDA))
        torch.testing.assert_close([x.cpu() for x in found], expected)
        assert len(streams - {torch.cuda.current_stream()}) == len(streams) == 1


@pytest.mark.parametrize(
    ('left_out', 'message'),
    [('wait_stream', 'does not wait for another'), ('wait_event', 'memory that another stream may still use')],
)
def test_a_copy_that_is_not_waited_for_or_does_not_wait_is_noticed(monkeypatch, left_out, message):
    with simulated_cuda():
        monkeypatch.setattr(torch.cuda.Stream, left_out, lambda *_: None)
        with pytest.raises(RuntimeError, match=message):
            composed(copied_ahead(read(), CUDA))


def test_an_average_is_renewed_by_one_launch_for_each_type():
    copied = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket is torch.ops.aten._foreach_copy_:
                copied.append({x.dtype for x in args[0]})
            return func(*args, **(kwargs or {}))

    network = torch.nn.Sequential(*(torch.nn.BatchNorm2d(3) for _ in range(3)))
    ema = EMA(network, 0.9)
    network(torch.rand(2, 3, 4, 4))
    with Watch():
        ema.update(network)
    assert sorted(copied, key=str) == [{torch.float32}, {torch.int64}]
    assert all(torch.equal(own, new) for own, new in zip(ema.module.buffers(), network.buffers()))


@torch.fx.experimental._config.patch(use_duck_shape=True)  # pytest's would delete it
@pytest.mark.parametrize('stage', ['base', pytest.param('refine', marks=pytest.mark.slow)])
def test_compiled_the_network_is_one_graph_for_all_crops(monkeypatch, stage):
    counter, compiler = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, 'compile', lambda net, **options: compiler(net, **options, backend=counter))
    torch._dynamo.reset()
    counters.clear()
    with small_encoder.used():
        net = MattingBase('mobilenetv2') if stage == 'base' else MattingRefine('mobilenetv2', refine_sample_pixels=400)
    model = autocast_forward(
        distribute(net.train(), Ranks(torch.device('cpu')), True), torch.device('cpu'), torch.float32
    )
    unit = 4 if stage == 'refine' else 1
    plan = SamplingPlan(9, 9, 2, 64 * unit, default_multiple(64 * unit, unit), unit=unit)
    # The first crop is a square; so is one of four.
    sizes = sorted({plan.crop(step) for step in range(40)}, key=lambda size: size[0] != size[1])
    for height, width in [*sizes[:2], *sizes[-2:]]:
        outputs = model(torch.rand(2, 3, height, width), torch.rand(2, 3, height, width))
        assert outputs[0].shape == (2, 1, height, width)
    assert counter.frame_count == 1
    assert not counters['graph_break']
