"""Recipes are trained once each, begin alike and are compared; unknown ones are refused."""

import argparse
import json

import numpy as np
import pytest
import torch

from model import MattingBase


def test_recipes_are_trained_once_and_compared(script, tmp_path, capsys, monkeypatch):
    frozen = []
    monkeypatch.setattr('training.stage.freeze_batch_norm', lambda _, part: frozen.append(part))
    variant = 'edges,laplacian,fringes,plain-clamp,lr_schedule=cosine,max_steps=1'
    arguments = ['--tiny', '--random-stem', '--output-dir', str(tmp_path), '--variants', variant]
    script('recipe').main(arguments)
    first = capsys.readouterr().out
    assert frozen == ['none']  # as in the published script
    assert [line for line in first.splitlines() if line.endswith('...')] == [
        f'{name}, seed 0 ...' for name in ('published script', 'published script, stem at random', variant)
    ]
    row = first.splitlines()[first.splitlines().index(variant) + 1].split()
    file = tmp_path / f'{variant}-0.json'
    run = json.loads(file.read_text())
    figures = run['figures']
    assert (len(figures), len(run['losses'])) == (12, 1)
    assert float(row[1]) == pytest.approx(np.nanmean([each['sad'] for each in figures.values()]), abs=1e-3)
    script('recipe').main(arguments)
    again = capsys.readouterr().out
    assert '...' not in again
    assert again.splitlines()[1:] == [line for line in first.splitlines() if not line.endswith('...')][1:]
    run['settings']['steps'] = 9
    file.write_text(json.dumps(run))
    with pytest.raises(ValueError, match='has --steps 9, not 2; give another --output-dir'):
        script('recipe').main(arguments)
    run['settings']['steps'] = 2
    file.write_text(json.dumps(run))
    other = ['--model-pretrain-initialization', str(file)]
    with pytest.raises(ValueError, match=r'has --model-pretrain-initialization None, not [0-9a-f]{64}; give another'):
        script('recipe').main([*arguments, *other])


def test_a_recipe_begins_with_whole_weights_of_its_own(script, tmp_path):
    recipe, name = script('recipe'), 'features.0.1.weight'
    torch.manual_seed(3)
    expected = MattingBase('mobilenetv2').backbone.state_dict()
    encoder = {key: value + 1 for key, value in expected.items()}
    encoder['features.0.0.weight'] = encoder['features.0.0.weight'][:, :3]
    torch.save(encoder, tmp_path / 'encoder.pth')
    (tmp_path / 'start-3.pth').write_bytes(b'cut')
    args = argparse.Namespace(output_dir=tmp_path, model_backbone='mobilenetv2')
    for args.model_pretrain_initialization, added in ((None, 0), (tmp_path / 'encoder.pth', 1), (None, 0)):
        found = torch.load(recipe.first_weights(args, 3))
        torch.testing.assert_close(found[f'backbone.{name}'], expected[name] + added)
    other = torch.load(recipe.first_weights(args, 3, random_stem=True))
    assert [key for key in found if not found[key].equal(other[key])] == ['backbone.features.0.0.weight']


@pytest.mark.parametrize(
    ('variant', 'problem'),
    [
        ('glow', '--variants glow: glow is no recipe; there are '),
        ('edges,glow=1', '--variants edges,glow=1: glow is no part; there are '),
        ('edges,glow', '--variants edges,glow: glow is no ablation; there are '),
        ('edges,lr_schedule=cosin', '--lr-schedule cosin: must be one of constant, cosine'),
        ('edges,warmup_steps=1.5', '--warmup-steps 1.5: must be a whole number'),
        ('edges,ema_decay=2', '--ema-decay 2'),
        ('edges,fgr=abc', "--variants edges,fgr=abc: could not convert string to float: 'abc'"),
    ],
)
def test_an_unknown_variant_is_refused(script, capsys, variant, problem):
    with pytest.raises(SystemExit, match='2'):
        script('recipe').main(['--tiny', '--variants', variant])
    assert problem in capsys.readouterr().err
