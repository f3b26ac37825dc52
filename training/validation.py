"""The mean of a score over fixed samples, shared over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .distributed import Forward, Ranks, autocast_forward

Score = Callable[[Forward, Any], dict[str, torch.Tensor]]


@torch.no_grad()
def validate(
    module: nn.Module,
    batches: Iterable[Any],
    score: Score,
    ranks: Ranks,
    dtype: torch.dtype,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Scores a module in evaluation mode and puts it back into the mode it was in.

    Args:
        module: the network itself, not its wrapper: ranks may hold different numbers of batches.
        batches: of this rank; `len(batch)` samples each.
        score: takes the network as a function and a batch on the device; returns means over the batch.
        ranks: over which the mean is taken.
        dtype: precision of the network.
        stop: asked before each batch. Several ranks finish what they began, since each would hear of it elsewhere.

    Returns:
        The mean of each score over the samples of all ranks, or None if it was stopped.
    """
    training = module.training
    module.eval()
    model = autocast_forward(module, ranks.device, dtype)
    names: list[str] = []
    sums: torch.Tensor | None = None
    count = 0
    for batch in batches:
        if ranks.world == 1 and stop():
            module.train(training)
            return None
        scores = score(model, batch.to(ranks.device))
        names = sorted(scores)
        values = torch.stack([scores[name] for name in names]).cpu().double() * len(batch)
        sums = values if sums is None else sums + values
        count += len(batch)
    module.train(training)
    if sums is None:
        raise ValueError('there are fewer validation samples than ranks')
    *totals, count = ranks.total(torch.cat([sums, torch.tensor([float(count)], dtype=torch.float64)])).tolist()
    return {name: total / count for name, total in zip(names, totals)}
