"""Recipes: what they weigh, which one a run takes, and that a run keeps its own."""

import json
from dataclasses import replace

import pytest
import torch
from support import sabotage
from support.runs import flags

import train_base
import train_refine
from training.losses import base_loss, refine_loss
from training.recipes import PUBLISHED, RECIPES, settle
from training.settings import TrainingSettings

NAMES = ('lr_schedule', 'warmup_steps', 'learning_rate_scale', 'ema_decay', 'monitor')


def settled(before=None, script=train_base, recipe=None, **given):
    stage = script.__name__.removeprefix('train_')
    more = {} if stage == 'base' else {'from_scratch': True}
    settings = TrainingSettings.from_options(vars(script.parse(flags('run', recipe=recipe, **given, **more))))
    recipe, settings = settle(settings, stage, before)
    assert settings.run.ema_decay == settings.options['ema_decay']
    assert settings.policy.monitor == settings.loop.monitor == settings.options['monitor']
    return settings.options['recipe'], recipe, [settings.options[name] for name in NAMES]


def test_the_published_recipe_is_the_papers():
    name, recipe, values = settled(recipe='published')
    assert (name, recipe, RECIPES[name]) == ('published', PUBLISHED, PUBLISHED)
    assert values == ['constant', 0, 1.0, None, 'valid_loss']
    assert (PUBLISHED.fgr, PUBLISHED.fgr_edge) == (1, 0)


@pytest.mark.parametrize(
    ('chosen', 'expected'),
    [
        ({}, 'edges'),
        ({'script': train_refine}, 'published'),
        ({'script': train_refine, 'recipe': 'edges'}, 'edges'),
        ({'recipe': 'published'}, 'published'),
        ({'before': {'recipe': 'edges'}}, 'edges'),
        ({'before': {'recipe': 'published'}}, 'published'),
        ({'before': {'recipe': 'published'}, 'recipe': 'edges'}, 'edges'),
        ({'before': {}}, 'published'),
    ],
    ids=str,
)
def test_a_run_takes_the_flags_recipe_else_its_own_else_the_stages(chosen, expected):
    name, recipe, _ = settled(**chosen)
    assert (name, recipe) == (expected, RECIPES[expected])


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, ['cosine', 7, 1, 0.9, 'valid_ema_loss']),
        ({'lr_schedule': 'constant', 'learning_rate_scale': 3}, ['constant', 7, 3, 0.9, 'valid_ema_loss']),
        ({'ema_decay': 0, 'warmup_steps': 0}, ['cosine', 0, 1, 0, 'valid_loss']),
        ({'monitor': 'sad'}, ['cosine', 7, 1, 0.9, 'valid_sad']),
        ({'recipe': 'published', 'ema_decay': 0.9}, ['constant', 0, 1, 0.9, 'valid_loss']),
        ({'before': {'ema_decay': None}}, ['cosine', 7, 1, None, 'valid_loss']),
        ({'before': {'ema_decay': 0.5}, 'recipe': 'published'}, ['constant', 0, 1, 0.5, 'valid_loss']),
    ],
    ids=str,
)
def test_flags_and_the_average_of_a_run_overrule_a_recipe(monkeypatch, given, expected):
    monkeypatch.setitem(RECIPES, 'other', replace(PUBLISHED, lr_schedule='cosine', warmup_steps=7, ema_decay=0.9))
    assert settled(**{'recipe': 'other', **given})[2] == expected


def test_a_recipe_of_a_later_version_is_refused():
    with pytest.raises(ValueError, match='the run has glow, which this version does not know'):
        settled(before={'recipe': 'glow'})


def test_a_run_keeps_its_recipe_and_another_one_is_said(tmp_path, monkeypatch, capsys):
    sabotage.tiny(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    taken, make_run = [], train_base.make_run

    def noting(args, ranks):
        run = make_run(args, ranks)
        taken.append((run.step.args[0], run.state.ema is not None, run.state.optimizer.param_groups[0]['initial_lr']))
        return run

    monkeypatch.setattr(train_base, 'make_run', noting)
    for step, recipe in enumerate((None, 'published', None), 1):
        words = flags('run', model_last_checkpoint='auto', recipe=recipe, max_steps=step, learning_rate_scale=step)
        assert train_base.main(words) == 0
    assert taken == [(RECIPES['edges'], True, 1e-4), (PUBLISHED, True, 2e-4), (PUBLISHED, True, pytest.approx(3e-4))]
    out = capsys.readouterr().out
    assert [out.count(f'base stage by the recipe {name} on') for name in ('edges', 'published')] == [1, 2]
    assert out.count('--recipe edges -> published (the loss weighs other things)') == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / 'checkpoint/run').glob('*.json')]
    found = {record['step']: record['options'] for record in records}
    assert [found[step]['recipe'] for step in range(3)] == ['edges', 'published', 'published']
    assert [found[step]['monitor'] for step in range(3)] == ['valid_ema_loss', 'valid_loss', 'valid_loss']


@pytest.mark.parametrize('loss', [base_loss, refine_loss])
def test_a_recipe_weighs_colours_of_the_soft_edge(loss):
    """The same error of colour in the background, in the subject, and on its edge."""
    true_pha = torch.tensor([0, 1, 0.5]).repeat_interleave(8).expand(1, 1, 8, 24)
    true_fgr = torch.full((1, 3, 8, 24), 0.5)

    def term(part, recipe):
        pred_fgr = true_fgr.clone()
        pred_fgr[..., 8 * part : 8 * part + 8] += 0.3
        coarse = () if loss is base_loss else (true_pha, pred_fgr)
        terms = loss(true_pha, pred_fgr, *coarse, true_pha * 0, true_pha, true_fgr, recipe)
        return terms['fgr'].item()

    for recipe in (PUBLISHED, RECIPES['edges']):
        assert term(0, recipe) == 0
        assert term(1, recipe) == pytest.approx(recipe.fgr * 0.1)
        assert term(2, recipe) == pytest.approx(recipe.fgr * (1 + recipe.fgr_edge) * 0.1)
    assert RECIPES['edges'].fgr_edge > 0
