"""BatchNorm that keeps its statistics in training: which layers, in which runs, and that a run goes on with it."""

import json
from pathlib import Path

import pytest
import torch
from support import sabotage
from support.runs import assert_same_run, flags, load, record
from torch import nn

import train_base
import train_refine
from checkpointing.record import _sealed
from model import MattingRefine
from training.batch_norm import freeze_batch_norm
from training.state import EMA


def statistics(weights):
    return {name: tensor for name, tensor in weights.items() if name.split('.')[-1].startswith(('running', 'num'))}


def changed(before, after):
    """The children of the network whose statistics differ."""
    return {name.split('.')[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ('part', 'learning'),
    [('none', {'backbone', 'aspp', 'decoder', 'refiner'}), ('coarse', {'refiner'}), ('all', set())],
)
def test_what_is_frozen_keeps_its_statistics_and_learns_its_weights(part, learning):
    torch.manual_seed(0)
    network = MattingRefine('mobilenetv2', backbone_scale=0.5, refine_sample_pixels=500)
    freeze_batch_norm(network, part)
    before = {name: tensor.clone() for name, tensor in statistics(network.state_dict()).items()}
    assert len(before) > 150
    network.eval().train()  # as after a validation
    outputs = network(*torch.rand(2, 2, 3, 128, 128))
    assert changed(before, statistics(network.state_dict())) == learning
    sum(output.float().mean() for output in outputs[:5]).backward()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.weight.grad is not None and layer.bias.grad is not None for layer in layers)


def test_the_average_of_a_frozen_network_is_frozen():
    network = MattingRefine('mobilenetv2', backbone_scale=0.5, refine_sample_pixels=500)
    freeze_batch_norm(network, 'all')
    average = EMA(network, 0.9).module.train()
    average(*torch.rand(2, 2, 3, 128, 128))
    assert not changed(statistics(network.state_dict()), statistics(average.state_dict()))


def test_a_frozen_network_normalises_in_training_as_in_evaluation():
    torch.manual_seed(0)
    network = MattingRefine('mobilenetv2', backbone_scale=0.5, refine_sample_pixels=500)
    freeze_batch_norm(network, 'all')
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0
    pictures = torch.rand(2, 2, 3, 128, 128)
    with torch.no_grad():
        pairs = zip(network.train()(*pictures), network.eval()(*pictures))
        for trained, evaluated in pairs:
            torch.testing.assert_close(trained.clamp(0, 1), evaluated.clamp(0, 1))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Weights of a small coarse network that was trained."""
    sabotage.tiny(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    assert train_base.main(flags('before', max_steps=3)) == 0
    return tmp_path / 'checkpoint/before/last.pth'


@pytest.mark.parametrize(
    ('given', 'frozen'),
    [
        ({'recipe': None}, 'all'),
        ({'recipe': 'published'}, 'none'),
        ({'recipe': 'published', 'freeze_batch_norm': 'all'}, 'all'),
        ({'recipe': None, 'freeze_batch_norm': 'none'}, 'none'),
    ],
    ids=str,
)
def test_a_run_from_weights_keeps_their_statistics(trained, capsys, given, frozen):
    assert train_base.main(flags('run', model_last_checkpoint=trained, max_steps=2, **given)) == 0
    before, after = (statistics(load(path)) for path in (trained, 'checkpoint/run/last.pth'))
    assert before.keys() == after.keys()
    assert changed(before, after) == (set() if frozen == 'all' else {'backbone', 'aspp'})
    assert record('checkpoint/run', 'epoch-0-iter-1')['options']['freeze_batch_norm'] == frozen
    assert (', keeping BatchNorm statistics, on cpu' in capsys.readouterr().out) == (frozen == 'all')


def test_new_weights_learn_their_statistics(tmp_path, monkeypatch):
    sabotage.tiny(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    assert train_base.main(flags('run', max_steps=2, recipe=None)) == 0
    assert record('checkpoint/run', 'epoch-0-iter-1')['options']['freeze_batch_norm'] == 'none'
    assert load('checkpoint/run/last.pth')['backbone.1.num_batches_tracked'] == 2


def test_a_run_that_goes_on_is_the_uninterrupted_one(trained, capsys):
    words = {'model_start_weights': trained, 'model_last_checkpoint': 'auto', 'recipe': None}
    assert train_base.main(flags('whole', **words)) == 0
    for step in (3, None):
        assert train_base.main(flags('parts', max_steps=step, **words)) == 0
    assert_same_run(Path('checkpoint/whole'), Path('checkpoint/parts'))
    before, after = (statistics(load(path)) for path in (trained, 'checkpoint/parts/last.pth'))
    assert not changed(before, after)
    assert '--freeze-batch-norm' not in capsys.readouterr().out


def test_a_run_of_a_version_without_the_flag_goes_on_with_statistics_that_learn(trained, capsys):
    words = {'model_last_checkpoint': 'auto', 'recipe': None}
    weights = {'model_start_weights': trained, 'freeze_batch_norm': 'none'}
    assert train_base.main(flags('run', max_steps=1, **words, **weights)) == 0
    for path in Path('checkpoint/run').glob('*.json'):
        content = json.loads(path.read_text())
        del content['sha256'], content['options']['freeze_batch_norm']
        path.write_bytes(_sealed(content))
    assert train_base.main(flags('run', max_steps=2, **words)) == 0
    assert load('checkpoint/run/last.pth')['backbone.1.num_batches_tracked'] == 5
    assert record('checkpoint/run', 'epoch-0-iter-1')['options']['freeze_batch_norm'] == 'none'
    assert '--freeze-batch-norm' not in capsys.readouterr().out
    assert train_base.main(flags('run', max_steps=3, freeze_batch_norm='all', **words)) == 0
    assert '--freeze-batch-norm none -> all (BatchNorm normalises by other statistics)' in capsys.readouterr().out
    assert load('checkpoint/run/last.pth')['backbone.1.num_batches_tracked'] == 5


def test_another_part_than_before_is_said(trained, capsys):
    words = {'model_last_checkpoint': 'auto', 'recipe': None}
    assert train_base.main(flags('run', max_steps=1, model_start_weights=trained, **words)) == 0
    assert train_base.main(flags('run', max_steps=2, freeze_batch_norm='none', **words)) == 0
    said = 'from step 1 on: --freeze-batch-norm all -> none (BatchNorm normalises by other statistics)'
    assert said in capsys.readouterr().out
    assert load('checkpoint/run/last.pth')['backbone.1.num_batches_tracked'] == 4


def test_a_new_refiner_learns_its_statistics_and_a_trained_one_keeps_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = {'recipe': None, 'max_steps': 1, 'model_backbone_scale': 0.5, 'model_refine_sample_pixels': 400}
    words = flags('whole', from_scratch=True, **small)
    assert train_refine.main(words) == 0
    whole = load('checkpoint/whole/last.pth')
    assert record('checkpoint/whole', 'epoch-0-iter-0')['options']['freeze_batch_norm'] == 'none'
    torch.save({name: tensor for name, tensor in whole.items() if not name.startswith('refiner.')}, 'base.pth')
    for weights, frozen, learning in (('base.pth', 'coarse', {'refiner'}), ('checkpoint/whole/last.pth', 'all', set())):
        assert train_refine.main(flags(frozen, model_last_checkpoint=weights, **small)) == 0
        assert record(f'checkpoint/{frozen}', 'epoch-0-iter-0')['options']['freeze_batch_norm'] == frozen
        assert changed(statistics(whole), statistics(load(f'checkpoint/{frozen}/last.pth'))) == learning
    assert load('checkpoint/coarse/last.pth')['refiner.bn1.num_batches_tracked'] == 1
    assert ", keeping the coarse network's BatchNorm statistics, on cpu" in capsys.readouterr().out
    more = {**small, 'model_last_checkpoint': 'base.pth', 'freeze_batch_norm': 'all'}
    assert train_refine.main(flags('more', **more)) == 2
    said = '--freeze-batch-norm all: of BatchNorm statistics the first weights bring those of the coarse network alone'
    assert said in capsys.readouterr().err
    assert not Path('checkpoint/more').exists()


def test_statistics_that_nobody_has_learned_are_not_kept(tmp_path, monkeypatch, capsys):
    sabotage.tiny(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    assert train_base.main(flags('run', freeze_batch_norm='coarse')) == 2
    said = 'error: --freeze-batch-norm coarse: of BatchNorm statistics the first weights bring none\n'
    assert capsys.readouterr().err == said
