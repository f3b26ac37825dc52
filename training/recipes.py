"""Recipes by name: what a training's loss weighs, and whether it has an average. Nothing here imports torch.

What a name means never changes, since runs go on by it: a better recipe gets another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from checkpointing.links import template_fields

from .settings import TrainingSettings


@dataclass(frozen=True)
class Recipe:
    """The parts of a recipe, as published where nothing else is said.

    Attributes:
        ema_decay: of the average of the weights, as the flag, which overrules it. Where there is one, `best.pth` is of
            it.
        fgr: weight of the foreground's loss.
        fgr_edge: how much more a pixel of the soft edge counts in that loss than an opaque one.
        pha_edge: how much more a pixel counts in alpha's L1 loss that is at most two from one of the soft edge.
    """

    ema_decay: float | None = None
    fgr: float = 1.0
    fgr_edge: float = 0.0
    pha_edge: float = 0.0


PUBLISHED = Recipe()
RECIPES = {
    'published': PUBLISHED,
    'edges': Recipe(ema_decay=0.999, fgr=0.3, fgr_edge=9.0),
    'soft-edges': Recipe(ema_decay=0.999, fgr_edge=9.0, pha_edge=4.0),
    'matte-edges': Recipe(ema_decay=0.999, fgr=0.3, fgr_edge=9.0, pha_edge=4.0),
    'refine-edges': Recipe(ema_decay=0.999, fgr=0.3, fgr_edge=9.0, pha_edge=1.5),
}
# Whose BatchNorm may keep its statistics in training, in rising order, and how that is said behind the recipe.
FROZEN = {
    'none': '',
    'coarse': ", keeping the coarse network's BatchNorm statistics,",
    'all': ', keeping BatchNorm statistics,',
}
# Of a new run. In the larger pictures of the refine stage less of all that counts lies along an edge.
DEFAULTS = {'base': 'matte-edges', 'refine': 'refine-edges'}


def settle(settings: TrainingSettings, stage: str, before: Mapping[str, Any]) -> tuple[Recipe, TrainingSettings]:
    """Choose the recipe, the average, the monitor and whose BatchNorm is frozen, where their flags were left out.

    The recipe is that of the run which goes on, else the stage's default. A run that goes on keeps its average or goes
    on without one, whatever the recipe; 0 ends it, and None is recorded. Where the best are named after figures of
    the weights themselves, these figures decide. None is left as whose BatchNorm is frozen where a new run's weights
    decide.

    Args:
        settings: the flags.
        stage: 'base' or 'refine'.
        before: options in the record of the run that goes on; none of a new one.

    Raises:
        ValueError: the run has a recipe of a later version.
    """
    given = settings.options
    name = given['recipe'] or before.get('recipe', DEFAULTS[stage])
    if name not in RECIPES:
        raise ValueError(f'--recipe: the run has {name}, which this version does not know; it is from a later one')
    recipe = RECIPES[name]
    own = before.get('ema_decay') if before else recipe.ema_decay
    decay = own if given['ema_decay'] is None else given['ema_decay']
    named = [field for field in template_fields(given['checkpoint_best_name'] or '') if field.startswith('valid_')]
    averaged = recipe.ema_decay and decay and (not named or any(field.startswith('valid_ema_') for field in named))
    monitor = given['monitor'] or ('valid_ema_loss' if averaged else 'valid_loss')
    frozen = given['freeze_batch_norm']
    if frozen is None and (before or recipe == PUBLISHED):
        frozen = before.get('freeze_batch_norm', 'none')
    settled = {'recipe': name, 'ema_decay': decay or None, 'monitor': monitor, 'freeze_batch_norm': frozen}
    return recipe, replace(
        settings,
        loop=replace(settings.loop, monitor=monitor),
        run=replace(settings.run, ema_decay=decay),
        policy=replace(settings.policy, monitor=monitor),
        options={**given, **settled},
    )
