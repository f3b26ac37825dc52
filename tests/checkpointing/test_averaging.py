"""Averages, BatchNorm statistics, differences and conversions in hand-worked numbers; scoring on a trained run."""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.runs import train_in
from torch import nn

import checkpoints
from checkpointing.average import average, estimating_batch_norm
from checkpointing.convert import convert_state, write_state
from checkpointing.diff import compare, flatten, summarize
from checkpointing.record import Record, refiner_identity
from checkpoints import STAGES
from common.network import RefinerSettings
from model import MattingRefine
from training import scoring

NAN, INF = math.nan, math.inf


def state(*values, count=0, dtype=torch.float32):
    return {'w': torch.tensor(values, dtype=dtype), 'n': torch.tensor(count)}


def test_the_mean_and_the_newest_counters():
    mean = average([state(1, 2, count=3), state(3, 6, count=5), state(5, 1, count=4)])
    assert mean['w'].tolist() == [3, 3]
    assert mean['n'] == 4
    assert [t.dtype for t in mean.values()] == [torch.float32, torch.int64]


def test_sums_are_taken_in_float64():
    # In float32 the ones are lost beside 2 ** 24, and the mean is 5592405.5.
    assert average([state(2.0**24), state(1), state(1)])['w'].item() == 5592406


def test_the_newest_decides_about_dtypes_and_nothing_is_shared():
    old, new = state(1, 2), state(2, 4, dtype=torch.bfloat16)
    mean = average(iter([old, new]))
    assert mean['w'].dtype == torch.bfloat16
    assert mean['w'].tolist() == [1.5, 3]
    mean['n'] += 1
    assert new['n'] == 0


@pytest.mark.parametrize(
    ('states', 'message'),
    [
        ([state(1)], 'at least two sets of weights, not 1'),
        ([], 'not 0'),
        ([state(1), {**state(1), 'x': torch.zeros(1)}], 'b is of another network than a: 1 tensors .* x in b'),
        ([{**state(1), 'x': torch.zeros(1)}, state(1)], 'x in a'),
        ([state(1), state(1, 2)], r'a and b have tensors of other shapes: w \(\[1\] and \[2\]\)'),
        ([state(1), {'w': torch.tensor([1]), 'n': torch.tensor(0)}], r'w \(\[1\] and \[1\] of whole numbers\)'),
        ([state(1), state(1), state(NAN)], 'c has values that are not finite, in w'),
        ([state(INF), state(1)], 'a has values that are not finite, in w'),
    ],
)
def test_what_cannot_be_averaged_is_refused(states, message):
    with pytest.raises(ValueError, match=message):
        average(states, ['a', 'b', 'c'])


def network():
    layers = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1, momentum=0.3), nn.Linear(1, 1)).train()
    layers[2].requires_grad_(False)
    layers[1].running_mean.fill_(7)
    layers[1].num_batches_tracked.fill_(9)
    return layers


def test_statistics_are_plain_means_over_batches_without_dropout():
    layers = network()
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    with estimating_batch_norm(layers):
        for batch in ([0.0, 2.0], [4.0, 8.0]):
            layers(torch.tensor(batch)[:, None])
    # The batches' means are 1 and 6, their unbiased variances 2 and 8.
    assert layers[1].running_mean.tolist() == [3.5]
    assert layers[1].running_var.tolist() == [5]
    assert (layers[1].momentum, layers[1].num_batches_tracked.item()) == (0.3, 9)
    assert [m.training for m in layers.modules()] == [True] * 4
    changed = [name for name, tensor in layers.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ['1.running_mean', '1.running_var']


def estimate(layers, reached):
    with estimating_batch_norm(layers):
        if reached:
            layers(torch.tensor([[4.0], [8.0]]))
            raise ValueError('mine')


@pytest.mark.parametrize('reached', [False, True])
def test_statistics_come_back_after_an_error(reached):
    layers = network()
    layers.eval()
    with pytest.raises(ValueError, match='mine' if reached else 'no pass has reached the BatchNorm layer 1'):
        estimate(layers, reached)
    assert layers[1].running_mean.tolist() == [7]
    assert (layers[1].momentum, layers[1].num_batches_tracked.item()) == (0.3, 9)
    assert not any(m.training for m in layers.modules())


def test_differences_in_numbers():
    first = {'a': torch.tensor([1.0, NAN, INF, -4.0]), 'b': torch.tensor([1.0, 2.0]), 'c': torch.tensor(3)}
    second = {'a': torch.tensor([1.0, NAN, INF, -3.0]), 'b': torch.tensor([1.0, 7.0]), 'c': torch.tensor(5)}
    found = compare(first, second)
    rows = [(d.name, d.largest, d.relative, d.share, d.counter) for d in found.different]
    assert rows == [('b', 5, 5 / 7, 0.5, False), ('c', 2, 0.4, 1, True), ('a', 1, 0.25, 0.25, False)]
    assert not found.equal
    assert compare(first, dict(first)).equal


@pytest.mark.parametrize(('a', 'b'), [(NAN, 1.0), (1.0, NAN), (INF, -INF), (INF, 1.0)])
def test_what_is_not_finite_differs_without_limit(a, b):
    (found,) = compare({'w': torch.tensor([a, 2.0])}, {'w': torch.tensor([b, 2.0])}).different
    assert (found.largest, found.share) == (INF, 0.5)


def test_other_names_shapes_and_dtypes_are_no_equality():
    first = {'a': torch.zeros(2), 'b': torch.zeros(2), 'c': torch.zeros(1)}
    second = {'a': torch.zeros(2, 1), 'b': torch.zeros(2, dtype=torch.float16), 'd': torch.zeros(1)}
    found = compare(first, second)
    assert (found.only_first, found.only_second, found.different) == (('c',), ('d',), ())
    assert (found.shapes, found.dtypes) == ({'a': ('[2]', '[2, 1]')}, {'b': ('float32', 'float16')})
    for name in 'ab':
        assert not compare({name: first[name]}, {name: second[name]}).equal


def test_large_counters_are_compared_exactly():
    (found,) = compare({'n': torch.tensor(2**60)}, {'n': torch.tensor(2**60 + 1)}).different
    assert found.share == 1


def test_a_summary_counts():
    weights = {
        'w': torch.tensor([1.0, NAN, INF]),
        'bn.running_mean': torch.zeros(2),
        'bn.num_batches_tracked': torch.tensor(1),
    }
    about = summarize(weights)
    assert (about.tensors, about.parameters, about.statistics) == (3, 3, 3)
    assert (about.dtypes, about.non_finite) == ({'float32': 2, 'int64': 1}, {'w': 2})
    nested = {'a': {'b': torch.ones(1), 'c': 3}, 'd': [torch.zeros(1)]}
    assert sorted(flatten(nested)) == ['a/b', 'd/0']


def test_only_floating_tensors_are_cast_and_what_vanishes_is_counted():
    done = convert_state({'w': torch.tensor([1.0, 1e-9, 0.0, 65504.0]), 'n': torch.tensor(70000)}, torch.float16)
    assert done.state['w'].dtype == torch.float16
    assert done.state['w'].tolist() == [1, 0, 0, 65504]
    assert done.state['n'] == 70000
    assert (done.cast, done.vanished) == (1, {'w': 1})


@pytest.mark.parametrize(
    ('dtype', 'value'), [(torch.float16, 65520.0), (torch.float16, -7e4), (torch.bfloat16, 3.4e38)]
)
def test_values_that_a_dtype_cannot_hold_are_refused_by_name(dtype, value):
    with pytest.raises(ValueError, match=r'layer\.w: 1 values are too large for b?float16'):
        convert_state({'fine': torch.ones(1), 'layer.w': torch.tensor([1.0, value, INF])}, dtype)
    assert convert_state({'w': torch.tensor([INF, NAN])}, dtype).cast == 1


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_written_and_read_again(tmp_path, suffix):
    memory = torch.arange(1000.0)
    given = {'a': memory[:4].view(2, 2).T, 'b': memory[:4], 'n': torch.tensor(3)}
    with (tmp_path / 'file').open('wb') as file:
        write_state(file, convert_state(given).state, suffix)
    assert (tmp_path / 'file').stat().st_size < 3000
    read = torch.load if suffix == '.pth' else load_file
    assert compare(given, read(tmp_path / 'file')).equal


def test_who_wins_in_words():
    scores = {'mean': {'loss': 0.5}, 'a': {'loss': 1.0}, 'b': {'loss': 0.25}, 'c': {'loss': NAN}}
    assert scoring.winner(scores, 'mean', ['a', 'c'], 'loss') == (
        'mean wins over its best member: loss 0.5 against 1 of a, 50 % lower'
    )
    assert scoring.winner(scores, 'mean', ['a', 'b'], 'loss') == (
        'mean LOSES to its best member: loss 0.5 against 0.25 of b, 1e+02 % higher; use b'
    )
    assert 'is no better' in scoring.winner({'mean': {'loss': 1}, 'a': {'loss': 1}}, 'mean', ['a'], 'loss')
    assert 'LOSES' in scoring.winner({'mean': {'loss': NAN}, 'a': {'loss': 1}}, 'mean', ['a'], 'loss')


TRAINING = [
    '--dataset-name', 'synthetic', '--model-backbone', 'mobilenetv2', '--model-name', 'whole', '--synthetic-size', '12',
    '--batch-size', '4', '--train-resolution', '64', '--num-workers', '0', '--valid-samples', '2', '--epoch-end', '2',
    '--device', 'cpu', '--recipe', 'published',
]  # fmt: skip


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a base run of 6 steps in checkpoint/whole."""
    return train_in(tmp_path_factory.mktemp('trained'), TRAINING)


def load(path):
    return torch.load(path, weights_only=True)


SMALL = ['--dataset-name', 'synthetic', '--device', 'cpu', '--num-workers', '0']


def test_members_score_what_training_measured_and_the_average_is_judged(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert checkpoints.main(['average', '--last', '2', '-o', 'mean.pth', *SMALL]) == 0
    made = json.loads(Path('mean.provenance.json').read_text())
    measured = json.loads(Path('checkpoint/whole/epoch-1.json').read_text())['metrics']
    newest = made['members'][-1]['path']
    assert made['scores'][newest] == {name.removeprefix('valid_'): value for name, value in measured.items()}
    first, second = (load(member['path']) for member in made['members'])
    key = 'decoder.conv4.weight'
    assert torch.equal(load('mean.pth')[key], ((first[key].double() + second[key].double()) / 2).float())
    losses = {name: scores['loss'] for name, scores in made['scores'].items()}
    best = min(losses[member['path']] for member in made['members'])
    out = capsys.readouterr().out
    assert ('the average wins' if losses['the average'] < best else 'the average LOSES') in out
    assert f'{losses["the average"]:.6g}' in out
    assert made['batch_norm'] == 'BatchNorm statistics averaged'
    assert [path.name for path in Path('checkpoint').iterdir()] == ['whole']


def test_statistics_are_estimated_anew_and_both_kinds_are_scored(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    files = ['checkpoint/whole/epoch-0.pth', 'checkpoint/whole/epoch-1.pth']
    words = ['--batch-norm', 'reestimate', '--reestimate-batches', '2', '--monitor', 'valid_sad']
    assert checkpoints.main(['average', *files, '-o', 'plain.pth']) == 0
    assert checkpoints.main(['average', *files, '-o', 'new.pth', *words, *SMALL]) == 0
    plain, new = load('plain.pth'), load('new.pth')
    changed = {name.rpartition('.')[2] for name in plain if not torch.equal(plain[name], new[name])}
    assert changed == {'running_mean', 'running_var'}
    made = json.loads(Path('new.provenance.json').read_text())
    assert list(made['scores']) == [
        'the average, BatchNorm re-estimated', 'the average, BatchNorm averaged', *files,
        f'{min(files, key=lambda f: made["scores"][f]["sad"])}, BatchNorm re-estimated',
    ]  # fmt: skip
    assert (
        made['batch_norm'] == 'BatchNorm statistics re-estimated over 2 training batches of synthetic, without dropout'
    )
    words = [line for line in capsys.readouterr().out.splitlines() if ': sad ' in line]
    assert [line.split(' of ')[1].partition(', BatchNorm')[1] != '' for line in words] == [False, False, True]


def test_a_metric_that_is_not_scored_is_refused_before_the_members(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    files = ['checkpoint/whole/epoch-0.pth', 'checkpoint/whole/epoch-1.pth']
    assert checkpoints.main(['average', *files, '-o', 'odd.pth', '--monitor', 'valid_iou', *SMALL]) == 2
    known = 'valid_fg_mse, valid_grad, valid_loss, valid_mad, valid_mse, valid_sad'
    assert f'--monitor valid_iou: not one of {known}' in capsys.readouterr().err
    assert not Path('odd.pth').exists()


def given(**flags):
    parser = argparse.ArgumentParser()
    scoring.add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args(SMALL)), **flags})


def test_the_refine_stage_takes_its_settings_from_weights_then_flags_then_the_record(caplog):
    weights = MattingRefine('mobilenetv2', 0.5, 'sampling', 160, 0.5, 1).state_dict()
    options = {
        'train_resolution': 128, 'valid_samples': 2, 'synthetic_size': 4, 'batch_size': 2, 'epoch_end': 9,
        'data_config': None, 'model_backbone': 'resnet50', 'precision': 'bfloat16',
    }  # fmt: skip
    identity = refiner_identity(RefinerSettings(0.5, 'full', refine_kernel_size=3))
    record = Record('r', 'refine', 'epoch-0', 1, 0, {}, 'epoch', identity, {}, options)
    bench = scoring.prepare(STAGES, given(train_resolution=64, precision='float32'), weights, record)
    assert not caplog.records  # nothing of a run without a base checkpoint: none begins
    args = bench.args
    assert (args.train_resolution, args.valid_samples, args.batch_size, args.epoch_end) == (64, 2, 2, 1)
    assert (args.model_backbone, args.model_backbone_scale) == ('mobilenetv2', 0.5)
    assert (args.model_refine_mode, args.model_refine_kernel_size) == ('full', 1)
    assert (bench.run.dtype, bench.run.checkpoints.stage) == (torch.float32, 'refine')
    assert bench.score(weights).keys() == {'loss', 'sad', 'mse', 'mad', 'grad', 'fg_mse'}
    defaults = scoring.prepare(STAGES, given(valid_samples=2, synthetic_size=4), weights, None).args
    assert (defaults.train_resolution, defaults.model_refine_sample_pixels) == (2048, 80_000)


def test_nothing_is_averaged_for_scores(trained):
    base = load(trained / 'checkpoint/whole/epoch-0.pth')
    bench = scoring.prepare(STAGES, given(), base, None)
    assert (bench.args.recipe, bench.run.state.ema) == (None, None)


def test_weights_of_nothing_known_and_flags_of_the_other_stage_are_refused(trained):
    with pytest.raises(ValueError, match='weights of no matting network'):
        scoring.prepare(STAGES, given(), {'w': torch.zeros(1)}, None)
    base = load(trained / 'checkpoint/whole/epoch-0.pth')
    with pytest.raises(ValueError, match='--model-refine-mode: these are weights of the base stage'):
        scoring.prepare(STAGES, given(model_refine_mode='full'), base, None)
