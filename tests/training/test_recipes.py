"""Recipes: what they weigh, which one a run takes, and that a run keeps its own."""

import json

import pytest
import torch
from support import sabotage
from support.runs import flags

import train_base
import train_refine
from training.losses import base_loss, refine_loss
from training.recipes import PUBLISHED, RECIPES, settle
from training.settings import TrainingSettings

NAMES = ('ema_decay', 'monitor')


def settled(before=(), script=train_base, recipe=None, **given):
    stage = script.__name__.removeprefix('train_')
    more = {} if stage == 'base' else {'from_scratch': True}
    settings = TrainingSettings.from_options(vars(script.parse(flags('run', recipe=recipe, **given, **more))))
    recipe, settings = settle(settings, stage, dict(before))
    assert (settings.run.ema_decay or None) == settings.options['ema_decay']
    assert settings.policy.monitor == settings.loop.monitor == settings.options['monitor']
    return settings.options['recipe'], recipe, [settings.options[name] for name in NAMES]


def test_the_published_recipe_is_the_papers():
    name, recipe, values = settled(recipe='published')
    assert (name, recipe, RECIPES[name]) == ('published', PUBLISHED, PUBLISHED)
    assert values == [None, 'valid_loss']
    assert (PUBLISHED.fgr, PUBLISHED.fgr_edge, PUBLISHED.pha_edge) == (1, 0, 0)


@pytest.mark.parametrize(
    ('chosen', 'expected'),
    [
        ({}, 'matte-edges'),
        ({'script': train_refine}, 'refine-edges'),
        ({'script': train_refine, 'recipe': 'edges'}, 'edges'),
        ({'recipe': 'published'}, 'published'),
        ({'before': {'recipe': 'edges'}}, 'edges'),
        ({'before': {'recipe': 'published'}}, 'published'),
        ({'before': {'recipe': 'published'}, 'recipe': 'edges'}, 'edges'),
    ],
    ids=str,
)
def test_a_run_takes_the_flags_recipe_else_its_own_else_the_stages(chosen, expected):
    name, recipe, _ = settled(**chosen)
    assert (name, recipe) == (expected, RECIPES[expected])


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, [0.999, 'valid_ema_loss']),
        ({'ema_decay': 0.9}, [0.9, 'valid_ema_loss']),
        ({'ema_decay': 0}, [None, 'valid_loss']),
        ({'monitor': 'sad'}, [0.999, 'valid_sad']),
        ({'recipe': 'published', 'ema_decay': 0.9}, [0.9, 'valid_loss']),
        ({'before': {'ema_decay': None}}, [None, 'valid_loss']),
        ({'before': {'recipe': 'edges'}}, [None, 'valid_loss']),
        ({'before': {'ema_decay': 0.5}}, [0.5, 'valid_ema_loss']),
        ({'before': {'ema_decay': 0.5}, 'recipe': 'published'}, [0.5, 'valid_loss']),
        ({'before': {'ema_decay': 0.5}, 'ema_decay': 0}, [None, 'valid_loss']),
        ({'checkpoint_best_name': 'best-{step}-{valid_loss:.4f}'}, [0.999, 'valid_loss']),
        ({'checkpoint_best_name': 'best-{step}'}, [0.999, 'valid_ema_loss']),
        ({'checkpoint_best_name': '{valid_loss}-{valid_ema_loss}'}, [0.999, 'valid_ema_loss']),
        ({'checkpoint_best_name': '{valid_loss}', 'monitor': 'ema_sad'}, [0.999, 'valid_ema_sad']),
    ],
    ids=str,
)
def test_flags_and_the_average_of_a_run_overrule_a_recipe(given, expected):
    assert settled(**{'recipe': 'edges', **given})[2] == expected


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
    assert taken == [
        (RECIPES['matte-edges'], True, 1e-4),
        (PUBLISHED, True, 2e-4),
        (PUBLISHED, True, pytest.approx(3e-4)),
    ]
    out = capsys.readouterr().out
    assert [out.count(f'base stage by the recipe {name} on') for name in ('matte-edges', 'published')] == [1, 2]
    assert out.count('--recipe matte-edges -> published (the loss weighs other things)') == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / 'checkpoint/run').glob('*.json')]
    found = {record['step']: record['options'] for record in records}
    assert [found[step]['recipe'] for step in range(3)] == ['matte-edges', 'published', 'published']
    assert [found[step]['monitor'] for step in range(3)] == ['valid_ema_loss', 'valid_loss', 'valid_loss']


def test_zero_ends_the_average_of_a_run(tmp_path, monkeypatch, capsys):
    sabotage.tiny(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    for step, decay in enumerate((0.9, 0, 0, None), 1):
        words = flags('run', model_last_checkpoint='auto', max_steps=step, ema_decay=decay)
        assert train_base.main(words) == 0
    assert len(list((tmp_path / 'checkpoint/run').glob('*.ema.pth'))) == 1
    out = capsys.readouterr().out
    assert '--ema-decay 0.9 -> none (the average forgets at another rate; none ends it)' in out
    assert out.count('--ema-decay') == 1


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

    for recipe in RECIPES.values():
        assert term(0, recipe) == 0
        assert term(1, recipe) == pytest.approx(recipe.fgr * 0.1)
        assert term(2, recipe) == pytest.approx(recipe.fgr * (1 + recipe.fgr_edge) * 0.1)
    assert RECIPES['edges'].fgr_edge > 0


@pytest.mark.parametrize('loss', [base_loss, refine_loss])
def test_a_recipe_weighs_alpha_around_the_soft_edge(loss):
    """The same error of alpha at each column; 8 and 9 are soft, and two more on either side are near."""
    true_pha = torch.tensor([0.0] * 8 + [0.3, 0.6] + [1.0] * 8).expand(1, 1, 8, 18)
    true_fgr = torch.full((1, 3, 8, 18), 0.5)

    def term(column, recipe):
        pred_pha = true_pha.clone()
        pred_pha[..., column] += 0.2
        coarse = () if loss is base_loss else (pred_pha, true_fgr)
        return loss(pred_pha, true_fgr, *coarse, true_pha * 0, true_pha, true_fgr, recipe)['pha'].item()

    plain = pytest.approx(0.2 / 18)
    assert [term(column, PUBLISHED) for column in range(18)] == [plain] * 18
    recipe = RECIPES['matte-edges']
    assert recipe.pha_edge > 0
    near = pytest.approx((1 + recipe.pha_edge) * 0.2 / 18)
    assert [term(column, recipe) for column in range(18)] == [plain] * 6 + [near] * 6 + [plain] * 6
