"""Recipes by name: what a training's loss weighs, and how its learning rates go. Nothing here imports torch.

What a name means never changes, since runs go on by it: a better recipe gets another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .settings import TrainingSettings


@dataclass(frozen=True)
class Recipe:
    """The parts of a recipe, as published where nothing else is said.

    Attributes:
        lr_schedule, warmup_steps, learning_rate_scale, ema_decay: as the flags of these names, which overrule them. The
            average, where there is one, is what `best.pth` is of.
        fgr: weight of the foreground's loss.
        fgr_edge: how much more a pixel of the soft edge counts in that loss than an opaque one.
    """

    lr_schedule: str = 'constant'
    warmup_steps: int = 0
    learning_rate_scale: float = 1.0
    ema_decay: float | None = None
    fgr: float = 1.0
    fgr_edge: float = 0.0


PUBLISHED = Recipe()
RECIPES = {'published': PUBLISHED, 'edges': Recipe(ema_decay=0.999, fgr=0.3, fgr_edge=9.0)}
# Of a new run. The refine stage has shown no better recipe yet.
DEFAULTS = {'base': 'edges', 'refine': 'published'}


def settle(settings: TrainingSettings, stage: str, before: Mapping[str, Any] | None) -> tuple[Recipe, TrainingSettings]:
    """Choose the recipe, and give the flags that were left out its values.

    It is that of the flag, else that of the run which goes on, else the stage's default. A run that goes on keeps its
    average or goes on without one, whatever the recipe.

    Args:
        settings: the flags.
        stage: 'base' or 'refine'.
        before: options in the record of the run that goes on; versions without the flag trained the published way.

    Raises:
        ValueError: the run has a recipe of a later version.
    """
    name = settings.options['recipe'] or (DEFAULTS[stage] if before is None else before.get('recipe', 'published'))
    if name not in RECIPES:
        raise ValueError(f'--recipe: the run has {name}, which this version does not know; it is from a later one')
    recipe = RECIPES[name]
    chosen = {'recipe': name, **{key: value for key, value in vars(recipe).items() if key in settings.options}}
    if before is not None:
        chosen['ema_decay'] = before.get('ema_decay')
    chosen |= {key: settings.options[key] for key in chosen if settings.options[key] is not None}
    averaged = recipe.ema_decay and chosen['ema_decay']
    chosen['monitor'] = settings.options['monitor'] or ('valid_ema_loss' if averaged else 'valid_loss')
    return recipe, settings.changed(chosen)
